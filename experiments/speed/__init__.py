"""The speed of the step, and a check that its optimisations change nothing."""
