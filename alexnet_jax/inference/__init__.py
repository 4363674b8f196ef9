"""Trained networks: predictions and features."""
