"""python -m experiments.reliability.save_cost [--rounds=5]: what digests add to a save.

Measures saves with digests and without, in turns, at the size of `paper` (parameters and velocity:
488 MB): the seconds that the loop waits, the seconds until the checkpoint is sealed, and a matrix
product's rate while the thread reads back and seals, or while only Orbax writes.
"""

import argparse
import contextlib
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from alexnet_jax import configs
from alexnet_jax.steps import digests
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import create_state
from alexnet_jax.training import checkpoint, seal


@contextlib.contextmanager
def without_digests() -> Iterator[None]:
    """Disables digests: on the devices, of the values read back, and of the files."""
    originals = digests.StateDigests.start, digests.StateDigests.finished
    finish = checkpoint.Checkpoints._finish

    def rename(self: checkpoint.Checkpoints, step: int, *_: object) -> None:
        self._orbax.wait_until_finished()
        (self.path / f"{step}{checkpoint.UNSEALED}").replace(self.path / str(step))

    digests.StateDigests.start = lambda self, tree: None  # type: ignore
    digests.StateDigests.finished = lambda self, sums: {}  # type: ignore
    checkpoint.Checkpoints._finish = rename  # type: ignore
    try:
        yield
    finally:
        digests.StateDigests.start, digests.StateDigests.finished = originals
        checkpoint.Checkpoints._finish = finish


def work(matrix: jax.Array, until: object) -> float:
    """Multiplies matrices until a save is complete; returns products a second."""
    started, count = time.perf_counter(), 0
    while count == 0 or not until():  # type: ignore
        jax.block_until_ready(matrix @ matrix)
        count += 1
    return count / (time.perf_counter() - started)


def main() -> None:
    """Measures in turns; prints medians and ranges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", default="paper")
    options = parser.parse_args()
    config = configs.get(options.config)
    config.mesh.data = 1
    state = jax.block_until_ready(create_state(Setup.of(config, config.num_classes or 1000)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(f"{options.config}: {size / 1e6:.0f} MB on {jax.devices()[0].device_kind}")
    measured: dict[str, list[float]] = {}
    matrix = jnp.ones((2048, 2048), jnp.float32)
    with tempfile.TemporaryDirectory() as folder:
        with checkpoint.Checkpoints(pathlib.Path(folder), 2, {}) as checkpoints:
            checkpoints.prepare(state)
            for step in range(2 * options.rounds + 2):
                with_them = step % 2 == 0
                name = "with" if with_them else "without"
                with contextlib.nullcontext() if with_them else without_digests():
                    started = time.perf_counter()
                    checkpoints.save(step, state)
                    waited = time.perf_counter() - started
                    rate = work(matrix, lambda: all(f.done() for f in checkpoints._under_way))
                    checkpoints.wait()
                    total = time.perf_counter() - started
                if step < 2:
                    continue  # the first pair warms up
                for what, value in (("waits", waited), ("total", total), ("rate", rate)):
                    measured.setdefault(f"{what} {name}", []).append(value)
        assert seal.FILE == "digests.json"
    alone = []
    for _ in range(options.rounds):
        end = time.perf_counter() + 2
        alone.append(work(matrix, lambda end=end: time.perf_counter() > end))
    measured["rate alone"] = alone
    for name, values in measured.items():
        unit = "products/s" if "rate" in name else "s"
        print(
            f"{name:14} {statistics.median(values):7.3f} {unit} "
            f"({min(values):.3f} to {max(values):.3f})"
        )


if __name__ == "__main__":
    main()
