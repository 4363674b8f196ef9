"""Pictures of what a trained network has learnt: functions of arrays that return a figure."""
