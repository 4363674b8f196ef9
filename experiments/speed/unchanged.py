"""Does what makes the step fast change what is learned?

    python -m experiments.speed.unchanged [--config=paper] [--batch_size=16] [--steps=100]
        [--precision=float32] [--width=1]

Trains on batches of random images and labels, once as every run does and once with the network's
pieces written plainly (plain.py) and compiled by XLA as it likes, and prints the largest relative
difference of a step's loss.
"""

import jax
import numpy as np
from absl import app, flags

from alexnet_jax import configs, large_pages, mesh, model, state
from alexnet_jax.benchmarks import steps
from alexnet_jax.config import Config
from experiments.speed import plain


def losses(config: Config, count: int) -> np.ndarray:
    """Returns the loss of each update, (count,)."""
    program = steps.compiled_training(config)
    network = model.build(config.model, config.num_classes, config.precision)
    now, found = state.create_state(config, network, mesh.build(config.mesh)), []
    for n in range(count):
        now, figures = program(now, steps.random_batch(config, seed=n))
        loss = jax.device_get(figures["sums"]["loss"])
        found.append(float(loss.total) / float(loss.count))
    return np.array(found)


def _run(_: list[str]) -> None:
    config = configs.get(flags.FLAGS.config)
    config.batch_size, config.precision = flags.FLAGS.batch_size, flags.FLAGS.precision
    config.model.width *= flags.FLAGS.width
    jax.config.update("jax_enable_x64", config.precision == "float64")
    config = steps.prepared(config)
    fast = losses(config, flags.FLAGS.steps)
    with plain.instead():
        slow = losses(config, flags.FLAGS.steps)
    what = f"{flags.FLAGS.config}, batch {config.batch_size}, {config.precision}"
    apart = np.abs(fast / slow - 1)
    print(f"{what}: loss {slow[0]:.4f} to {slow[-1]:.4f} in {len(slow)} updates")
    for count in sorted({min(n, len(slow)) for n in (10, 30, 100, len(slow))}):
        print(f"apart by {apart[:count].max():.1e} in the first {count}")


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
