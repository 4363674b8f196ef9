"""How far meshes drift apart in float32: python -m experiments.sharding.drift [--seeds=0,1,2]

Trains the default recipe on its own data on every mesh of simulated CPU devices and prints the
largest relative difference of a step's loss from one device's.
"""

import jax
import numpy as np
from absl import app, flags

from alexnet_jax import configs
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.feed.host import HostFeed
from alexnet_jax.feed.protocol import Cut, Dispatches
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import state
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.training import compile_train_step

MESHES = ((1, 1), (1, 2), (2, 2), (4, 2), (2, 4), (1, 8))

_SEEDS = flags.DEFINE_list("seeds", "0,1,2", "of the runs")
_STEPS = flags.DEFINE_integer("steps", 30, "updates of each run")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "TFDS's data_dir")


def losses(shape: tuple[int, int], seed: int, steps: int, data_dir: str) -> np.ndarray:
    """Returns the loss of each update, (steps,)."""
    config = configs.get("default")
    config.seed, config.data_dir = seed, data_dir
    config.mesh.data, config.mesh.model = shape
    dataset, mesh = open_dataset(config), meshes.build(config.mesh)
    reader = ImageReader(dataset.open(config.train_split), config.resize)
    feed = HostFeed(config, mesh, reader, Cut(config.batch_size))
    setup = Setup.of(config, len(dataset.class_names), feed.count, mesh)
    update = compile_train_step(setup, feed.feeding)
    now, values = state.create_state(setup), []
    for fed in feed.training(Dispatches(1, steps), lambda: False):
        now, figures = update(now, fed)
        loss = jax.device_get(figures["sums"]["loss"])
        values.append(float(loss.total) / float(loss.count))
    return np.array(values)


def _run(_: list[str]) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    print(f"| seed | mesh | first 12 | all {_STEPS.value} |\n|---|---|---|---|")
    for seed in map(int, _SEEDS.value):
        alone = losses(MESHES[0], seed, _STEPS.value, _DATA_DIR.value)
        for shape in MESHES[1:]:
            of_arm = losses(shape, seed, _STEPS.value, _DATA_DIR.value)
            apart = np.abs(of_arm / alone - 1)
            print(
                f"| {seed} | {shape[0]}x{shape[1]} | {apart[:12].max():.1e} | {apart.max():.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    app.run(_run)
