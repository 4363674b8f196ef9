"""Transfer: published convolutions, and what is learned on top of them."""
