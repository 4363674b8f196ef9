"""What happens to a run when machines, disks and people do what they do."""
