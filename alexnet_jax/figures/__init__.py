"""Pictures of what a trained network has learnt; `python -m alexnet_jax.visualize` draws them."""
