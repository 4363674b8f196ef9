"""Training from end to end, reading included, compared with its bare step."""

import dataclasses
import pathlib
import statistics
import tempfile
from typing import Any

import jax

from alexnet_jax import train
from alexnet_jax.benchmarks.rows import Row
from alexnet_jax.benchmarks.steps import contender, prepared, training
from alexnet_jax.config import Config, MeshConfig
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.training.rows import read_rows

# Of each run; the first quarter warms up.
LEAST_STEPS, LEAST_SECONDS = 24, 8.0


def measure(config: Config, rounds: int, dataset: str, data_dir: str) -> list[Row]:
    """Measures runs fed by the host and from the device, in turns with the bare step.

    Args:
      config: of the network, the batch and the precision.
      rounds: of each.
      dataset: a TFDS name, a store or a folder.
      data_dir: TFDS's.
    """
    config.dataset, config.data_dir, config.num_classes = dataset, data_dir, 0
    config.train_split = "train"
    config.num_classes = len(open_dataset(config).class_names)
    config = prepared(config)
    bare = contender(training(config).again, jax.block_until_ready, config.batch_size)
    measured: dict[str, list[Any]] = {"step": [], "host": [], "resident": []}
    for _ in range(rounds):
        speed = bare()
        steps = max(LEAST_STEPS, 4 * round(LEAST_SECONDS * speed / config.batch_size / 4))
        measured["step"].append((speed, 0.0))
        for feed in ("host", "resident"):
            measured[feed].append(_run(config, feed, steps))
    rows = []
    for name, values in measured.items():
        speeds = [speed for speed, _ in values]
        ratios = [value[0] / step[0] for value, step in zip(values, measured["step"], strict=True)]
        more = {
            "batch_size": config.batch_size,
            "precision": config.precision,
            "data_wait_fraction": statistics.median(wait for _, wait in values),
        }
        alone = name == "step"
        if not alone:
            print(f"training, {name}: waited for data {more['data_wait_fraction']:.2%} of the time")
        made = Row("step", statistics.median(speeds), min(speeds), max(speeds), more=more)
        if not alone:
            made.what, made.beside = f"training, {name}", "step"
            made.ratio, made.ratios = statistics.median(ratios), (min(ratios), max(ratios))
        rows.append(made)
    return rows


def _run(config: Config, feed: str, steps: int) -> tuple[float, float]:
    """Trains for some updates; returns the median images per second, and the share waited."""
    c = dataclasses.replace(config)
    c.mesh, c.feed, c.num_steps = MeshConfig(1, 1), feed, steps
    c.steps_per_dispatch = 1  # as the bare step
    c.log_every_steps = steps // 4
    c.eval_every_epochs = c.checkpoint_every_steps = 10**6
    c.eval_split = f"{c.eval_split or open_dataset(c).eval_split()}[:{c.batch_size}]"
    with tempfile.TemporaryDirectory() as folder:
        train.train(c, pathlib.Path(folder) / "run")
        rows = read_rows(pathlib.Path(folder) / "run" / "metrics.jsonl")
    timed = [row for row in rows if row["split"] == "train" and "images_per_second" in row][1:]
    return (
        statistics.median(row["images_per_second"] for row in timed),
        statistics.median(row["data_wait_fraction"] for row in timed),
    )
