"""Does what makes the step fast change what is learned?

    python -m experiments.speed.unchanged [--config=paper] [--batch_size=16] [--steps=100]
        [--precision=float32] [--width=1]

Trains on batches of random images and labels, once as every run does and once with the network's
pieces written plainly (plain.py) and compiled by XLA as it likes, and prints the largest relative
difference of an update's loss, every ten updates.
"""

from collections.abc import Iterator

import jax
import numpy as np
from absl import app, flags

from alexnet_jax import configs, large_pages, mesh, model, state
from alexnet_jax.benchmarks import steps
from alexnet_jax.config import Config
from alexnet_jax.progress import Progress
from experiments.speed import plain

SHOWN = 10  # updates between two lines


def losses(config: Config, count: int) -> Iterator[float]:
    """Yields the loss of each update."""
    program = steps.compiled_training(config)
    network = model.build(config.model, config.num_classes, config.precision)
    now = state.create_state(config, network, mesh.build(config.mesh))
    for n in range(count):
        now, figures = program(now, steps.random_batch(config, seed=n))
        loss = jax.device_get(figures["sums"]["loss"])
        yield float(loss.total) / float(loss.count)


def _run(_: list[str]) -> None:
    config = configs.get(flags.FLAGS.config)
    config.batch_size, config.precision = flags.FLAGS.batch_size, flags.FLAGS.precision
    config.model.width *= flags.FLAGS.width
    jax.config.update("jax_enable_x64", config.precision == "float64")
    config = steps.prepared(config)
    what, count = f"{flags.FLAGS.config}, batch {config.batch_size}", flags.FLAGS.steps
    with Progress(f"{what}, as it runs", 0, count, "update") as bar:
        fast = []
        for loss in losses(config, count):
            fast.append(loss)
            bar.advance()
    with plain.instead(), Progress(f"{what}, plainly", 0, count, "update") as bar:
        slow = []
        for loss in losses(config, count):
            slow.append(loss)
            bar.advance()
            if len(slow) % SHOWN == 0 or len(slow) == count:
                apart = np.abs(np.array(fast[: len(slow)]) / np.array(slow) - 1).max()
                bar.say(f"apart by {apart:.1e} in the first {len(slow)} (loss {loss:.4f})")
    print(f"{what}, {config.precision}: loss {slow[0]:.4f} to {slow[-1]:.4f}")


def define_flags() -> None:
    """Declares the command's flags."""
    flags.DEFINE_string("config", "paper", "the recipe")
    flags.DEFINE_integer("batch_size", 16, "images")
    flags.DEFINE_integer("steps", 100, "updates")
    flags.DEFINE_float("width", 1, "times the recipe's", lower_bound=0)
    flags.DEFINE_string("precision", "float32", "float32 or float64")


if __name__ == "__main__":
    large_pages.start_again_with_them()
    define_flags()
    app.run(_run)
