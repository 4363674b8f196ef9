"""Weights in the formats that others keep them in: files to standard trees, and back."""
