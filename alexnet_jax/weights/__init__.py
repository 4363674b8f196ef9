"""Weights in other programs' formats: files to standard trees, and back."""
