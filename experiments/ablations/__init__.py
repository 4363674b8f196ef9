"""The paper's ablations, and those of the authors' notebook, on any data set."""
