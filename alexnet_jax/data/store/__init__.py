"""Prepared data sets: images decoded and resized once, in ArrayRecord files that TFDS opens."""
