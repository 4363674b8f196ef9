"""Feeds: how the images of a split reach the devices, as batches."""
