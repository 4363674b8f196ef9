"""A data set and a network small enough to train within a test."""

from experiments.reliability.runs import TIMES, config, final_state, quietly, rows, write_folder

__all__ = ["TIMES", "config", "final_state", "quietly", "rows", "write_folder"]
