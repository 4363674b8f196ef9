"""The paper's experiments on CIFAR-10: figure 1, and what normalisation is worth (3.1, 3.3)."""
