"""What `python -m alexnet_jax.benchmark MODE` measures; a file for each mode."""
