"""What is compiled: the update, the evaluation, and what they are made of."""
