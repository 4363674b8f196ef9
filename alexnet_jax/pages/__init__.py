"""Pages: a run, or several, as one file of HTML."""
