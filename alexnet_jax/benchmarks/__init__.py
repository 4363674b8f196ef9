"""Measurements: a file for each mode of `python -m alexnet_jax.benchmark MODE`."""
