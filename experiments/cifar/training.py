"""Trains a small network on CIFAR-10, all of which stays on the device."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from alexnet_jax.config import AugmentConfig, Config
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.order import batch_positions
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.ops import compilation
from alexnet_jax.steps import augment, metrics

BATCH, MOMENTUM, SIDE = 128, 0.9, 32
REPORTED = 50  # updates of one dispatch; what they counted is then reported


@dataclasses.dataclass(frozen=True)
class Split:
    """One split on the device: `image` (N, 32, 32, 3) uint8 and `label` (N,) int32."""

    image: jax.Array
    label: jax.Array

    @classmethod
    def read(cls, split: str, data_dir: str) -> "Split":
        """Reads a split of TFDS's cifar10."""
        source = open_dataset(Config(dataset="cifar10", data_dir=data_dir)).open(split)
        reader = ImageReader(source, SIDE)
        image = np.empty((len(reader), SIDE, SIDE, 3), np.uint8)
        label, _ = reader.read(np.arange(len(reader)), image)
        return cls(jnp.asarray(image), jnp.asarray(label))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
      net: the module.
      rate: of kernels at first; biases learn twice as fast, as in the authors' parameter files.
      epochs: in all.
      stages: (share of the epochs, what the rates are multiplied by from there on).
      decay: weight cost of each layer's kernel; none where a layer is not named.
      image_size: side of the crop.
      moving: crop and flip at random; else the centre.
      pixel_std: what centred pixels are divided by.
    """

    net: nn.Module
    rate: float
    epochs: float
    stages: tuple[tuple[float, float], ...] = ()
    decay: tuple[tuple[str, float], ...] = ()
    image_size: int = 24
    moving: bool = False
    pixel_std: float = 1.0

    def rate_at(self, epoch: float) -> float:
        """Returns the kernels' rate."""
        factors = [factor for share, factor in self.stages if epoch >= share * self.epochs]
        return self.rate * (factors[-1] if factors else 1.0)


class Training:
    """One run: the authors' update over a stream of batches that the seed decides."""

    def __init__(self, recipe: Recipe, train: Split, seed: int) -> None:
        self._recipe, self._train, self._seed = recipe, train, seed
        drawn = AugmentConfig(
            random_crop=recipe.moving,
            flip=recipe.moving,
            lighting="none",
            mean_image="centre",
            pixel_std=(recipe.pixel_std,),
        )
        mean = np.asarray(train.image).mean(axis=0, dtype=np.float64).astype(np.float32)
        self._views = augment.Views(drawn, recipe.image_size, mean, np.zeros((3, 3), np.float32))
        example = jnp.zeros((1, recipe.image_size, recipe.image_size, 3))
        self.params: Any = recipe.net.init(jax.random.key(seed), example)["params"]
        self._velocity = jax.tree.map(jnp.zeros_like, self.params)
        self._done = 0
        self._updates = compilation.jit(self._steps, donate_argnums=(0, 1))
        self._evaluate = compilation.jit(self._sums, static_argnums=3)

    def _steps(
        self, params: Any, velocity: Any, split: dict[str, jax.Array], where: Any, rates: jax.Array
    ) -> tuple[Any, Any, metrics.Sums]:
        """Does one update for each rate, without returning to the host between them."""

        def one(carried: tuple[Any, Any], now: tuple[Any, jax.Array]) -> tuple[Any, metrics.Sums]:
            params, velocity, sums = self._step(*carried, split, *now)
            return (params, velocity), sums

        (params, velocity), sums = jax.lax.scan(one, (params, velocity), (where, rates))
        return params, velocity, jax.tree.map(lambda leaf: leaf.sum(axis=0), sums)

    def _step(
        self, params: Any, velocity: Any, split: dict[str, jax.Array], where: Any, rate: jax.Array
    ) -> tuple[Any, Any, metrics.Sums]:
        """v <- 0.9 v - rate (decay w + g); w <- w + v."""
        batch = {"image": split["image"][where["index"]], **where}
        label = split["label"][where["index"]]
        views = self._views.training(batch, jax.random.key(self._seed))

        def loss(params: Any) -> tuple[jax.Array, metrics.Sums]:
            log_p = jax.nn.log_softmax(self._recipe.net.apply({"params": params}, views))
            sums = metrics.classification(log_p, label, jnp.ones(len(label)))
            return sums["loss"].total / len(label), sums

        grads, sums = jax.grad(loss, has_aux=True)(params)
        costs = dict(self._recipe.decay)

        def moved(path: Any, v: jax.Array, g: jax.Array, w: jax.Array) -> jax.Array:
            if path[-1].key == "bias":
                return MOMENTUM * v - 2 * rate * g
            return MOMENTUM * v - rate * (costs.get(path[0].key, 0.0) * w + g)

        velocity = jax.tree_util.tree_map_with_path(moved, velocity, grads, params)
        return jax.tree.map(jnp.add, params, velocity), velocity, sums

    def run(self) -> Iterator[tuple[float, dict[str, float]]]:
        """Trains on from the current state; yields epochs done and a dispatch's mean figures."""
        split = {"image": self._train.image, "label": self._train.label}
        count = len(self._train.label)
        total = math.ceil(self._recipe.epochs * count / BATCH)
        for first in range(self._done, total, REPORTED):
            numbers = range(first + 1, min(first + REPORTED, total) + 1)
            places = [batch_positions(self._seed, n, BATCH, count) for n in numbers]
            where = {
                "index": np.stack([at.index for at in places]),
                "epoch": np.stack([at.epoch for at in places]),
                "position": np.stack([at.position for at in places]),
            }
            where = {name: jnp.asarray(values, jnp.int32) for name, values in where.items()}
            rates = jnp.asarray([self._recipe.rate_at(n * BATCH / count) for n in numbers])
            self.params, self._velocity, sums = self._updates(
                self.params, self._velocity, split, where, rates
            )
            self._done = numbers[-1]
            figures = metrics.compute(jax.device_get(sums))
            if not math.isfinite(figures["loss"]):
                raise FloatingPointError(f"update {self._done}: the loss is {figures['loss']}")
            yield self._done * BATCH / count, figures

    def state(self) -> dict[str, np.ndarray]:
        """Returns what `go_on` needs, by name: parameters, velocity and the updates done."""
        return {name: np.asarray(leaf) for name, leaf in self._leaves().items()}

    def go_on(self, state: dict[str, np.ndarray]) -> None:
        """Resumes from the `state` of a run with the same recipe, data and seed."""
        order = list(self._leaves())
        trees = jax.tree.structure(self._trees())
        trees_read = jax.tree.unflatten(trees, [jnp.asarray(state[name]) for name in order])
        self.params, self._velocity = trees_read["params"], trees_read["velocity"]
        self._done = int(trees_read["done"])

    def _trees(self) -> dict[str, Any]:
        return {"params": self.params, "velocity": self._velocity, "done": self._done}

    def _leaves(self) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(self._trees())
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}

    def _sums(self, params: Any, image: jax.Array, label: jax.Array, views: int) -> metrics.Sums:
        each = self._views.evaluation(image, views)
        softmax = [jax.nn.softmax(self._recipe.net.apply({"params": params}, v)) for v in each]
        p = sum(softmax) / views
        return metrics.classification(jnp.log(jnp.maximum(p, 1e-37)), label, jnp.ones(len(label)))

    def test_error(self, test: Split, views: int) -> float:
        """Returns the share of a split's images that is taken for another class."""
        parts = [
            self._evaluate(self.params, test.image[i : i + 500], test.label[i : i + 500], views)
            for i in range(0, len(test.label), 500)
        ]
        return metrics.compute(jax.device_get(functools.reduce(metrics.merge, parts)))["top1_error"]


class Results:
    """A file of finished runs, one JSON object a line; a run in it is not made again."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self.rows = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )

    def find(self, **key: Any) -> dict[str, Any] | None:
        """Returns the run with these fields."""
        return next((r for r in self.rows if all(r.get(k) == v for k, v in key.items())), None)

    def add(self, row: dict[str, Any]) -> None:
        """Appends a run."""
        self.rows.append(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
