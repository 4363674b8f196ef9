"""The compiled steps: update and evaluation, and their parts."""
