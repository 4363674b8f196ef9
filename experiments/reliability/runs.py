"""A data set and a network small enough to train within a test or a trial, and what a run left."""

import contextlib
import io
import pathlib
from collections.abc import Callable
from typing import Any

import cv2
import jax
import numpy as np

from alexnet_jax import configs
from alexnet_jax.config import Config
from alexnet_jax.steps import state
from alexnet_jax.steps.setup import Setup
from alexnet_jax.training import run_files
from alexnet_jax.training.rows import read_rows
from alexnet_jax.training.stored import Stored

TIMES = {"time_of_day", "images_per_second", "step_seconds", "data_wait_fraction", "mfu"}
OF_PROCESSES = {"step_seconds_least", "step_seconds_median", "step_seconds_most"}


def write_folder(path: pathlib.Path, train: int = 20, val: int = 14, side: int = 80) -> None:
    """Writes split/class/image with two classes, one dark and one light."""
    rng = np.random.default_rng(7)
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            folder = path / split / ("dark", "light")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            low = 20 + 110 * (i % 2)
            image = rng.integers(low, low + 100, (side, side + i, 3), dtype=np.uint8)
            # Not cv2.imwrite, which ends the process if a path is not valid text.
            (folder / f"{i:03}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())


def config(dataset: pathlib.Path) -> Config:
    """Returns the smallest network that has every part: two columns, LRN, dropout."""
    c = configs.get("default")
    c.dataset = str(dataset)
    c.resize, c.image_size = 71, 67
    c.model.width = 1 / 16
    c.batch_size, c.num_epochs = 8, 2
    c.log_every_steps = 1
    c.checkpoint_every_steps = 2
    c.mesh.data = 1
    c.feed = "host"
    c.report_every_minutes = 0.0  # no pages, which other processes would make
    return c


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns what metrics.jsonl says, less times and rates."""
    return [
        {k: v for k, v in row.items() if k not in TIMES | OF_PROCESSES}
        for row in read_rows(workdir / "metrics.jsonl")
    ]


def final_state(workdir: pathlib.Path, at: int) -> dict[str, np.ndarray]:
    """Returns parameters and velocity of a checkpoint, as numpy arrays by path."""
    config = run_files.read_config(workdir)
    config.mesh.data = 1
    stored = Stored(workdir, run_files.identity(workdir, config))
    tree = stored.restore(at, state.abstract_state(Setup.of(config, 2)))
    return {
        jax.tree_util.keystr(p): np.asarray(v) for p, v in jax.tree_util.tree_leaves_with_path(tree)
    }


def quietly(action: Callable[..., Any], *arguments: Any, **more: Any) -> tuple[Any, str, str]:
    """Calls a function; returns its result and what it printed on both streams."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        result = action(*arguments, **more)
    return result, out.getvalue(), error.getvalue()
