"""Studies: each a script, a table and pictures."""
