"""A check that the step's optimisations do not change what is learned.

    python -m experiments.speed.unchanged [--config=paper] [--batch_size=16] [--steps=100]
        [--precision=float32] [--width=1] [--num_examples=N] [--dataset=FOLDER|NAME --data_dir=D]

Trains three times on batches of random images and labels, or on those of a data set: as every run
does; from a start with each parameter at the next number of its precision; and with
`kernels=reference`, that is XLA's own convolutions and products, the formulas of normalisation and
pooling, and JAX's own gradients. Every ten updates it prints the largest relative difference of an
update's loss from the first run's: the effect of one rounding at the start, and of the kernels.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from alexnet_jax import cli, configs
from alexnet_jax.benchmarks import steps
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.order import batch_positions
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.host import large_pages
from alexnet_jax.host.progress import Progress
from alexnet_jax.steps import state
from alexnet_jax.steps.setup import IMAGENET_TRAIN, Setup

SHOWN = 10  # updates between two lines


Batches = Callable[[int], Any]  # of an update's number, from 0


def of_noise(config: Config) -> Batches:
    """Returns batches of random images and labels."""
    return lambda n: steps.random_batch(config, seed=n)


def of_dataset(config: Config) -> Batches:
    """Returns the batches that a run on `config.dataset` begins with."""
    reader = ImageReader(open_dataset(config).open(config.train_split), config.resize)

    def batch(n: int) -> Any:
        made = steps.random_batch(config, seed=n)
        places = batch_positions(config.seed, n + 1, config.batch_size, len(reader))
        image = np.empty(made["image"].shape, np.uint8)
        label, _ = reader.read(places.index, image)
        fields = {"image": image, "label": label.astype(made["label"].dtype)}
        for name in ("index", "epoch", "position"):  # what crops, flips and colours are drawn from
            fields[name] = np.asarray(getattr(places, name), made[name].dtype)
        return made | {name: jax.device_put(fields[name], made[name].sharding) for name in fields}

    return batch


def losses(
    config: Config,
    count: int,
    batches: Batches | None = None,
    nudged: bool = False,
    num_examples: int = IMAGENET_TRAIN,
) -> Iterator[float]:
    """Yields the loss of each update; `nudged` raises each first parameter to the next number."""
    batches = batches or of_noise(config)
    program = steps.compiled_training(config, num_examples)
    now = state.create_state(Setup.of(config, config.num_classes))
    if nudged:
        now = now.replace(params=jax.tree.map(lambda w: jnp.nextafter(w, jnp.inf), now.params))
    for n in range(count):
        now, figures = program(now, batches(n))
        loss = jax.device_get(figures["sums"]["loss"])
        yield float(loss.total) / float(loss.count)


def compared(what: str, others: Iterator[float], first: list[float]) -> None:
    """Prints how far apart the losses of another run are from the first one's."""
    values = []
    with Progress(what, 0, len(first), "update") as bar:
        for loss in others:
            values.append(loss)
            bar.advance()
            if len(values) % SHOWN == 0 or len(values) == len(first):
                apart = np.abs(np.array(values) / np.array(first[: len(values)]) - 1).max()
                bar.say(f"{what}: apart by {apart:.1e} in the first {len(values)}")


def _images_of_an_epoch(config: Config) -> int:
    """Returns how many images a schedule counts to an epoch; a warm-up's rate depends on it.

    Raises:
      ConfigError: the recipe warms up over epochs, and nothing says how long one is.
    """
    if flags.FLAGS.dataset:
        return open_dataset(config).size(config.train_split)
    if config.optimizer.schedule.warmup_epochs and not flags.FLAGS.num_examples:
        raise ConfigError(
            f"--num_examples: {flags.FLAGS.config} warms up over epochs; give the images of one, "
            "such as 6000 for the default's own data"
        )
    return flags.FLAGS.num_examples or IMAGENET_TRAIN


def _run(_: list[str]) -> None:
    with cli.errors_as_one_line():
        _compare()


def _compare() -> None:
    config = configs.get(flags.FLAGS.config)
    config.batch_size, config.precision = flags.FLAGS.batch_size, flags.FLAGS.precision
    config.model.width *= flags.FLAGS.width
    jax.config.update("jax_enable_x64", config.precision == "float64")
    if flags.FLAGS.dataset:
        config.dataset, config.data_dir = flags.FLAGS.dataset, flags.FLAGS.data_dir
        config.num_classes = config.num_classes or len(open_dataset(config).class_names)
    config, count, first = steps.prepared(config), flags.FLAGS.steps, []
    examples = _images_of_an_epoch(config)
    batches = of_dataset(config) if flags.FLAGS.dataset else of_noise(config)
    run = functools.partial(losses, count=count, batches=batches, num_examples=examples)
    with Progress("as it runs", 0, count, "update") as bar:
        for loss in run(config):
            first.append(loss)
            bar.advance()
    what = f"{flags.FLAGS.config}, batch {config.batch_size}, {config.precision}"
    print(f"{what}: loss {first[0]:.4f} to {first[-1]:.4f}", flush=True)
    compared("from the next numbers", run(config, nudged=True), first)
    reference = dataclasses.replace(config, kernels="reference")
    compared("with kernels=reference", run(reference), first)


def define_flags() -> None:
    """Declares the command's flags."""
    flags.DEFINE_string("config", "paper", "the recipe")
    flags.DEFINE_integer("batch_size", 16, "images")
    flags.DEFINE_integer("steps", 100, "updates")
    flags.DEFINE_float("width", 1, "times the recipe's", lower_bound=0)
    flags.DEFINE_string("precision", "float32", "float32 or float64")
    flags.DEFINE_integer("num_examples", 0, "images of an epoch of noise; 0: ImageNet's")
    flags.DEFINE_string("dataset", "", "a folder, a store or TFDS's name; none: images of noise")
    flags.DEFINE_string("data_dir", "", "TFDS's")


if __name__ == "__main__":
    large_pages.start_again_with_them()
    define_flags()
    app.run(_run)
