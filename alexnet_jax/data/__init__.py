"""Data sets, their order and their decoding, on the host. Imports no jax."""
