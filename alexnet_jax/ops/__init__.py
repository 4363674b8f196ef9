"""Pure functions of arrays with their gradients, and how each back end computes them."""
