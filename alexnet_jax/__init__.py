"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) as a JAX/Flax training system."""

__version__ = "0.2.0"
