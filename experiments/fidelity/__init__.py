"""What the recipes have in common with the paper, and where they leave it."""
