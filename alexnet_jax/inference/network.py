"""A run's network as an object to use from Python: predict, evaluate, features."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from alexnet_jax.config import ConfigError
from alexnet_jax.data.words import spoken
from alexnet_jax.errors import interruptible
from alexnet_jax.host import paths
from alexnet_jax.inference import features as inside
from alexnet_jax.inference import predictions, trained
from alexnet_jax.inference.images import AnyImage, squares
from alexnet_jax.inference.trained import TrainedNetwork
from alexnet_jax.layers import standard_tree
from alexnet_jax.ops import compilation
from alexnet_jax.steps import evaluation
from alexnet_jax.steps.packing import Packing
from alexnet_jax.steps.setup import Setup

BATCH = 16  # images that are computed at once


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A network's prediction for one image.

    Attributes:
      image: its path, or its number.
      probabilities: of every class, (K,) float32.
      best: the five likeliest: class and probability, likeliest first.
    """

    image: str
    probabilities: np.ndarray
    best: list[tuple[str, float]]

    def __str__(self) -> str:
        rows = (f"  {100 * p:6.2f} %  {in_words(name)}" for name, p in self.best)
        return "\n".join([self.image, *rows])


def in_words(class_name: str) -> str:
    """Returns a class's name, after its everyday name if that differs.

    >>> in_words("n02056570"), in_words("dark")
    ('king penguin (n02056570)', 'dark')
    """
    words = spoken(class_name)
    return f"{words} ({class_name})" if words != class_name else class_name


class Network(TrainedNetwork):
    """A run's network; `config`, `params` and `class_names` say what it is.

    From `load`.
    """

    def predict(self, images: AnyImage | Iterable[AnyImage], views: int = 10) -> list[Prediction]:
        """Names what is on images, prepared as the run's own evaluation prepares them.

        Args:
          images: paths, images of PIL's, or pixels of any size, (H, W, 3) uint8: one, several, or
            a batch (N, H, W, 3).
          views: 1, or 10 whose probabilities are averaged (paper section 4.1).

        Returns:
          One for each image.

        Raises:
          DataError: names an image that cannot be read.
          ConfigError: another number of views.

        >>> network = load(workdir)
        >>> [one] = network.predict(photograph)
        >>> [name for name, p in one.best]
        ['dark', 'light']
        """
        pixels, names = self._squares(images)
        compute = self._probabilities(_checked(views))
        with interruptible("predict"):
            probabilities = np.concatenate([compute(part) for part in _batches(pixels)])[
                : len(names)
            ]
        return [
            Prediction(name, p, best_five(p, self.class_name))
            for name, p in zip(names, probabilities, strict=True)
        ]

    def probabilities(self, images: np.ndarray, views: int = 10) -> np.ndarray:
        """Computes the probabilities of a batch of squares; each size of batch compiles once.

        Args:
          images: (N, R, R, 3) uint8, R the side that the run resized to.
          views: 1 or 10.

        Returns:
          (N, K) float32.

        >>> load(workdir).probabilities(np.zeros((1, 71, 71, 3), np.uint8), views=1).shape
        (1, 2)
        """
        return self._probabilities(_checked(views))(images)

    def compiled(self, images: int, views: int = 1) -> Callable[[np.ndarray], np.ndarray]:
        """Compiles `probabilities` for one size of batch, for frequent callers such as a server.

        Compiling takes seconds, and on a CPU every later process compiles again. Each call is then
        faster, by a third for 16 images, because the kernels are packed.

        Args:
          images: of each call.
          views: 1 or 10.

        Returns:
          Maps (images, R, R, 3) uint8 to (images, K) float32.

        Raises:
          ConfigError: another number of views.

        >>> load(workdir).compiled(4)(np.zeros((4, 71, 71, 3), np.uint8)).shape
        (4, 2)
        """
        compute, side = self._computation(_checked(views)), self.config.resize
        batch = jax.ShapeDtypeStruct((images, side, side, 3), np.uint8)
        numerics = compilation.Numerics.of(self.config)
        program = compilation.compiled(compute, self._packed, batch, numerics=numerics)
        return lambda batch: np.asarray(program(self._packed, batch))

    def evaluate(self, split: str = "", views: int = 10) -> dict[str, Any]:
        """Evaluates every image of a split once.

        Args:
          split: or a slice such as train[:10%]; empty: the run's evaluation split.
          views: 1 or 10.

        Returns:
          `split`, `views`, `count`, and `top1_error`, `top5_error` as fractions.

        Raises:
          DataError: no such split, or no label in it.
          ConfigError: another number of views.

        >>> load(workdir).evaluate(views=1)["count"]
        14
        """
        _, split = self.source(split)
        with interruptible("evaluate"):
            predicted = predictions.predict_split([self], split, _checked(views))
        return {"split": split, "views": views} | predictions.errors(predicted, split)

    def features(self, images: AnyImage | Iterable[AnyImage], layer: str = "fc7") -> np.ndarray:
        """Computes a layer's activations of images' centre views, after its ReLU.

        Args:
          images: as for `predict`.
          layer: conv1 .. conv5, fc6 .. fc8 (fc8: the logits).

        Returns:
          (N, D) float32.

        Raises:
          DataError: names an image that cannot be read.
          ConfigError: no such layer.

        >>> load(workdir).features(photograph, "fc7").shape
        (1, 256)
        """
        pixels, names = self._squares(images)
        if layer not in self._programs:
            self._programs[layer] = inside.activations(self, layer)
        compute = self._programs[layer]
        with interruptible("features"):
            values = [np.asarray(compute(part)) for part in _batches(pixels)]
        return np.concatenate(values)[: len(names)]

    def layers(self, images: np.ndarray, layers: Sequence[str]) -> dict[str, jax.Array]:
        """Computes the activations of several layers of a batch of squares in one pass.

        Args:
          images: (N, R, R, 3) uint8, R the side that the run resized to.
          layers: as of `features`.

        Returns:
          By layer, (N, D) float32.

        >>> found = load(workdir).layers(np.zeros((1, 71, 71, 3), np.uint8), ["fc6", "fc7"])
        >>> {layer: values.shape for layer, values in found.items()}
        {'fc6': (1, 256), 'fc7': (1, 256)}
        """
        key = tuple(layers)
        if key not in self._programs:
            self._programs[key] = inside.of_layers(self, layers)
        return self._programs[key](images)

    def _squares(self, images: AnyImage | Iterable[AnyImage]) -> tuple[np.ndarray, list[str]]:
        return squares(images, self.config.resize, self.config.exif_orientation)

    def __repr__(self) -> str:
        c, parameters = self.config, standard_tree.count_parameters(self.params)
        return (
            f"<Network of {c.dataset}: {self.num_classes} classes, {parameters:,} parameters, "
            f"after {self.step:,} updates>"
        )

    @functools.cached_property
    def _programs(self) -> dict[int | str | tuple[str, ...], Callable[[np.ndarray], Any]]:
        """Compiled functions, keyed by the number of views, a layer, or a tuple of layers."""
        return {}

    def _probabilities(self, views: int) -> Callable[[np.ndarray], np.ndarray]:
        """Maps (B, R, R, 3) uint8 to probabilities, (B, K); compiled once for each B."""
        if views not in self._programs:
            numerics = compilation.Numerics.of(self.config)
            jitted = compilation.jit(self._computation(views), numerics)
            self._programs[views] = lambda image: np.asarray(jitted(self.params, image))
        return self._programs[views]

    def _of_one_image(self, views: int) -> jax.stages.Compiled:
        """Compiles `_probabilities` for one image; the parameters may be abstract."""
        image = jax.ShapeDtypeStruct((1, self.config.resize, self.config.resize, 3), np.uint8)
        numerics = compilation.Numerics.of(self.config)
        return compilation.kept(self._computation(views), self.params, image, numerics=numerics)

    def _use(self, views: int, program: jax.stages.Compiled) -> None:
        """Lets `_probabilities` call what was compiled for one image."""
        of_any, shape = self._probabilities(views), (1, self.config.resize, self.config.resize, 3)

        def of_one(image: np.ndarray) -> np.ndarray:
            if image.shape != shape or image.dtype != np.uint8:
                return of_any(image)
            return np.asarray(program(self.params, image))

        self._programs[views] = of_one

    def _computation(self, views: int) -> Callable[[Any, jax.Array], jax.Array]:
        forward, how = self.forward, self.setup.views

        def compute(weights: Any, image: jax.Array) -> jax.Array:
            return evaluation.average_probabilities(forward, weights, image, views, how)

        return compute

    @functools.cached_property
    def _packed(self) -> Any:
        return Packing(self.setup, self.params)(self.params)


def _checked(views: int) -> int:
    if views not in (1, 10):
        raise ConfigError(f"views: {views} must be 1 or 10")
    return views


def _batches(pixels: np.ndarray) -> Iterable[np.ndarray]:
    """Yields images a batch at a time; the last is filled up, so that nothing compiles twice."""
    if len(pixels) == 1:
        yield pixels
        return
    for first in range(0, len(pixels), BATCH):
        part = pixels[first : first + BATCH]
        missing = BATCH - len(part)
        yield np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])


def best_five(
    probabilities: np.ndarray, class_name: Callable[[int], str]
) -> list[tuple[str, float]]:
    """Returns the five likeliest classes with their probabilities, likeliest first.

    >>> best_five(np.array([0.25, 0.75]), "ab".__getitem__)
    [('b', 0.75), ('a', 0.25)]
    """
    order = np.argsort(-probabilities, kind="stable")[:5]
    return [(class_name(int(i)), float(probabilities[i])) for i in order]


def load(
    workdir: str | os.PathLike[str],
    checkpoint: str | int = "best",
    kernels: str = "",
    ahead: int = 0,
) -> Network:
    """Reads a run's network, ready to be used.

    Args:
      workdir: of the run; it may be training.
      checkpoint: best (least validation error), latest, or its step.
      kernels: auto or reference; empty: as the run computed.
      ahead: 1 or 10: compile `predict` for one image with so many views while files are read; 0:
        compile at its first call.

    Raises:
      ConfigError: not the workdir of a run, or without that checkpoint; or other kernels.
      CheckpointError: the checkpoint is damaged.

    >>> load(workdir).config.batch_size
    8
    """
    folder = paths.local(workdir, "workdir")
    programs: list[jax.stages.Compiled] = []
    views = _checked(ahead) if ahead else 0

    def compile_one(setup: Setup, abstract: Any) -> None:
        programs.append(Network(setup, [], 0, abstract)._of_one_image(views))

    meanwhile = compile_one if ahead else None
    loaded = trained.load(folder, which=str(checkpoint), kernels=kernels, meanwhile=meanwhile)
    network = Network(loaded.setup, loaded.class_names, loaded.step, loaded.params)
    if programs:
        network._use(views, programs[0])
    return network
