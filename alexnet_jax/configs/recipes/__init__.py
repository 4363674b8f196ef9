"""Recipes: a file each, a small difference from `Config()`."""
