"""The network's layers as linen modules."""
