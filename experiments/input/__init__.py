"""How fast images come, and what data sets of ImageNet's size cost."""
