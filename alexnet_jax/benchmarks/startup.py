"""Start-up time: to a command's help, and to the default run's first update, with and without
programs that an earlier run compiled."""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from alexnet_jax import configs
from alexnet_jax.benchmarks.rows import Row
from alexnet_jax.config import ConfigError
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.host import large_pages

HELP, COLD, WARM = "main --help", "first update, nothing compiled", "first update, compiled before"


def measure(rounds: int, data_dir: str) -> list[Row]:
    """Measures seconds until the help is printed, and until a first update is on the disk.

    Args:
      rounds: of each; the median counts. The data set is drawn before.
      data_dir: TFDS's.
    """
    config = configs.get("default")
    config.data_dir = data_dir
    open_dataset(config)
    rows = [_row(HELP, [_timed([], None) for _ in range(rounds)])]
    cold, warm = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache = pathlib.Path(folder) / "compiled"
            cold.append(_timed(_first_step(folder, "cold", data_dir), cache))
            warm.append(_timed(_first_step(folder, "warm", data_dir), cache))
    return [*rows, _row(COLD, cold), _row(WARM, warm)]


def _row(what: str, seconds: list[float]) -> Row:
    more = {"seconds": statistics.median(seconds), "rounds": (min(seconds), max(seconds))}
    return Row(what, None, None, None, more=more | {"batch_size": 32, "precision": "float32"})


def _first_step(folder: str, name: str, data_dir: str) -> list[str]:
    workdir = pathlib.Path(folder) / name
    return [f"--workdir={workdir}", f"--config.data_dir={data_dir}", "--config.log_every_steps=1"]


def _timed(arguments: list[str], cache: pathlib.Path | None) -> float:
    """Returns seconds from the start of the command to its help, or to its first row of metrics."""
    command = [sys.executable, "-m", "alexnet_jax.main", *(arguments or ["--help"])]
    environment = dict(os.environ)
    if environment.get("GLIBC_TUNABLES") == large_pages.tunables():
        del environment["GLIBC_TUNABLES"]  # set by this process; a user's command sets its own
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        if not arguments:
            process.wait()
            return time.perf_counter() - start
        rows = pathlib.Path(arguments[0].partition("=")[2]) / "metrics.jsonl"
        while process.poll() is None and not (rows.exists() and rows.stat().st_size):
            time.sleep(0.02)
        spent, ended = time.perf_counter() - start, process.poll()
        if ended is not None:
            raise ConfigError(f"startup: `{' '.join(command)}` ended with {ended}; run it yourself")
        process.terminate()
        process.wait()
        return spent
