"""A run in its workdir: set-up, loop, checkpoints, rows and report."""
