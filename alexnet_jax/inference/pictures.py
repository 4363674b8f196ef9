"""Pictures of trained networks, as figures: what `python -m alexnet_jax.visualize` saves.

Most take what `inference.load` returns; `augment` and `split` take a config, `curves` workdirs. A
notebook shows a figure where a cell ends with it.
"""

import copy
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import train
from alexnet_jax.config import CONVOLUTIONS, Config, ConfigError
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.words import spoken
from alexnet_jax.figures import activations as activations_figure
from alexnet_jax.figures import answers as answers_figure
from alexnet_jax.figures import class_errors as class_errors_figure
from alexnet_jax.figures import confusion as confusion_figure
from alexnet_jax.figures import curves as curves_figure
from alexnet_jax.figures import kernels as kernels_figure
from alexnet_jax.figures import neighbours as neighbours_figure
from alexnet_jax.figures import occlusion as occlusion_figure
from alexnet_jax.figures import split as split_figure
from alexnet_jax.figures import views as views_figure
from alexnet_jax.figures.picture import Picture
from alexnet_jax.host import paths
from alexnet_jax.host.progress import Progress
from alexnet_jax.inference import features, predictions
from alexnet_jax.inference import occlusion as covering
from alexnet_jax.inference.images import AnyImage, squares
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.trained import TrainedNetwork
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import communication
from alexnet_jax.steps.augment import Views
from alexnet_jax.steps.communication import Collective
from alexnet_jax.training.rows import read_rows


def kernels(network: Network) -> Picture:
    """Draws conv1's kernels by column, and their colour selectivity (figure 3).

    >>> kernels(network)
    <Picture size 1430x455 with 4 Axes>
    """
    kernel, columns = _conv1(network), network.config.model.columns
    return kernels_figure.draw(kernel, columns, f"conv1 after {network.step:,} updates")


def specialisation(networks: Sequence[Network]) -> Picture:
    """Draws how far the halves of conv1 are apart in colour selectivity, by kind of network.

    >>> specialisation([network, network])
    <Picture size 910x234 with 1 Axes>
    """
    kinds: dict[str, list[float]] = {}
    for network in networks:
        c = network.config.model
        name = f"{c.columns} columns{'' if c.columns_meet else ', no communication'}"
        kinds.setdefault(name if c.columns > 1 else "one column, in halves", []).append(
            colour_gap(network)
        )
    return kernels_figure.draw_distribution(kinds)


def colour_gap(network: Network) -> float:
    """Returns how far the halves of conv1 are apart in mean colour selectivity.

    >>> 0 <= colour_gap(network) < 1
    True
    """
    return kernels_figure.specialisation(_conv1(network))


def answers(network: Network, split: str = "", images: int = 8, seed: int = 0) -> Picture:
    """Draws images of a split with their five likeliest classes (figure 4, left).

    Args:
      network: from `inference.load`.
      split: or a slice; empty: the run's evaluation split.
      images: how many.
      seed: of the choice.

    >>> answers(network, images=2)
    <Picture size 744x516 with 4 Axes>
    """
    reader, _ = _reader(network, split)
    shown = [_read(reader, index) for index in _chosen(reader, images, seed)]
    predicted = network.predict(np.stack([image for image, _ in shown]))
    rows = [[(spoken(name), p) for name, p in one.best] for one in predicted]
    return answers_figure.draw([i for i, _ in shown], [label for _, label in shown], rows)


def activations(network: Network, image: AnyImage) -> Picture:
    """Draws the maps of each layer and column that answer most to a photograph.

    Args:
      network: from `inference.load`.
      image: a path, an image of PIL's, or pixels.

    >>> activations(network, photograph)
    <Picture size 1122x462 with 12 Axes>
    """
    c = network.config
    pixels, names = squares(image, c.resize, c.exif_orientation)
    layers = [layer for layer in CONVOLUTIONS if layer in network.params]
    by_layer = network.layers(pixels[:1], layers)
    columns = network.config.model.columns
    maps = {}
    for layer in layers:
        channels = len(network.params[layer]["bias"])
        values = np.asarray(by_layer[layer])[0]
        side = round((values.size / channels) ** 0.5)
        maps[layer] = values.reshape(side, side, channels)
    return activations_figure.draw(pixels[0], maps, columns, _title(image, names))


def occlusion(network: Network, images: AnyImage | Sequence[AnyImage]) -> Picture:
    """Draws which part of a photograph the answer depends on, by covering one square at a time.

    Args:
      network: from `inference.load`.
      images: a path, an image of PIL's, or pixels; or several.

    >>> occlusion(network, photograph)
    <Picture size 1056x385 with 4 Axes>
    """
    pixels, _ = squares(images, network.config.resize, network.config.exif_orientation)
    return occlusion_figure.draw([covering.covered(network, image) for image in pixels])


def augment(config: Config, image: AnyImage, seed: int = 0) -> Picture:
    """Draws what training sees of one photograph: its views, and colour noise at both scales.

    Args:
      config: of a run: its crop, and what is drawn.
      image: a path, an image of PIL's, or pixels.
      seed: of the draws.

    >>> augment(network.config, photograph).axes[0].get_title()
    '71 pixels, the first and the last crop of 67'
    """
    pixels, names = squares(image, config.resize, config.exif_orientation)
    rows = {"as this recipe trains": _views(config, pixels[0], seed)}
    for name, lighting in LIGHTINGS.items():
        changed = copy.deepcopy(config)
        changed.augment.lighting, changed.augment.chunk = lighting, 1
        changed.augment.random_crop = changed.augment.flip = lighting == "none"
        rows[name] = _views(changed, pixels[0], seed)
    border = config.resize - config.image_size
    count = 2 * (border + 1) ** 2
    title = f"{_title(image, names)}: {count:,} views of it".removeprefix(": ")
    if (config.resize, config.image_size) == (256, 224):
        title += "; the paper counts 32 x 32 x 2 = 2,048"
    return views_figure.draw(pixels[0], config.image_size, rows, title)


def _title(image: AnyImage, names: list[str]) -> str:
    """Returns the name of a photograph's file; pixels have none."""
    return os.path.basename(names[0]) if isinstance(image, str | os.PathLike) else ""


SHOWN = 8  # views in a row
LIGHTINGS = {
    "crops and mirror images alone": "none",
    "colour noise by the axes' standard deviations (the authors' code)": "stddev",
    "colour noise by their eigenvalues on [0, 1] (fb.resnet.torch)": "eigenvalue_unit_range",
}


def _views(config: Config, image: np.ndarray, seed: int) -> np.ndarray:
    """Draws random views as training does, one an epoch, as images, (N, S, S, 3) uint8."""
    plain = copy.deepcopy(config)
    plain.augment.mean_image, plain.augment.pixel_std = "none", (1.0,)
    plain.augment.lighting_rescale = 1.0
    views = Views.of(plain)
    epochs = np.arange(SHOWN, dtype=np.int32)
    batch = {"image": np.repeat(image[None], SHOWN, axis=0), "epoch": epochs}
    batch |= {"index": np.zeros_like(epochs), "position": epochs * plain.augment.chunk}
    drawn = views.training({k: jnp.asarray(v) for k, v in batch.items()}, jax.random.key(seed))
    return np.clip(np.asarray(drawn) + views.mean, 0, 255).round().astype(np.uint8)


def neighbours(
    network: Network,
    split: str = "",
    layer: str = "fc7",
    images: int = 8,
    neighbours: int = 6,
    seed: int = 0,
) -> Picture:
    """Draws images with the training images nearest to them in a layer (figure 4, right).

    The search is exact, over the whole training split, on the device.

    Args:
      network: from `inference.load`.
      split: or a slice of the images; empty: the run's evaluation split.
      layer: conv1 .. fc8.
      images: how many.
      neighbours: of each.
      seed: of the choice.

    Raises:
      ConfigError: more neighbours than there are images.

    >>> neighbours(network, images=2, neighbours=3)
    <Picture size 816x528 with 8 Axes>
    """
    reader, split = _reader(network, split)
    train, train_split = _reader(network, network.config.train_split)
    if len(train) < neighbours:
        raise ConfigError(
            f"neighbours: {neighbours} is more than the {len(train)} of {train_split}"
        )
    compute = features.activations(network, layer)
    shown = [_read(reader, index) for index in _chosen(reader, images, seed)]
    queries = compute(np.stack([image for image, _ in shown]))
    with Progress(f"{layer} of {train_split}", 0, len(train), "image") as bar:
        nearest, compared = features.nearest_of_split(
            network, train, layer, queries, neighbours, bar.advance
        )
    rows = [[_read(train, int(number)) for number in row] for row in nearest]
    title = f"{split}, and the nearest of {train_split} in {layer} ({compared:,} images)"
    return neighbours_figure.draw(shown, rows, title)


def confusion(network: Network, split: str = "", views: int = 10) -> Picture:
    """Draws which classes are taken for which.

    Args:
      network: from `inference.load`.
      split: or a slice; empty: the run's evaluation split.
      views: of each image, 1 or 10.

    Raises:
      ConfigError: a split without labels.

    >>> confusion(network, views=1)
    <Picture size 588x468 with 2 Axes>
    """
    predicted, split = _labelled(network, split, views)
    counted = predicted.counted
    taken_for = predicted.classes[counted, 0]
    classes = max(len(network.class_names), int(taken_for.max()) + 1)
    counts = confusion_figure.matrix(predicted.labels[counted], taken_for, classes)
    names = [spoken(network.class_name(k)) for k in range(classes)]
    number = "ten views" if views == 10 else "one view"
    error = 100 * predicted.wrong(1)[counted].mean()
    return confusion_figure.draw(counts, names, f"{split}: top-1 error {error:.2f} %, {number}")


def errors_by_class(network: Network, split: str = "", views: int = 10) -> Picture:
    """Draws the classes that are wrong most often, and the worst confusions.

    Args:
      network: from `inference.load`.
      split: or a slice; empty: the run's evaluation split.
      views: of each image, 1 or 10.

    Raises:
      ConfigError: a split without labels.

    >>> errors_by_class(network, views=1).axes[0].get_xlabel()
    '%'
    """
    predicted, _ = _labelled(network, split, views)
    return draw_errors(network, predicted)


def draw_errors(network: TrainedNetwork, predicted: predictions.Predictions) -> Picture:
    """Draws the errors by class of predictions that are there already.

    >>> found = predictions.predict_split([network], "val", 1, progress=False)
    >>> draw_errors(network, found).axes[0].get_xlabel()
    '%'
    """
    rows = [
        row | {name: spoken(row[name]) for name in ("class", "taken_for")}
        for row in predictions.class_errors(predicted, network)
    ]
    pairs = predictions.confusions(predicted, network)
    return class_errors_figure.draw(rows, [(spoken(a), spoken(b), n) for a, b, n in pairs])


def curves(workdirs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Picture:
    """Draws the learning curves of one run or several, over epochs.

    Raises:
      ConfigError: a workdir without rows.

    >>> curves("w")
    <Picture size 1440x552 with 2 Axes>
    """
    one = isinstance(workdirs, str | os.PathLike)
    folders = [paths.local(w, "workdir") for w in ([workdirs] if one else workdirs)]
    alike = len({folder.name for folder in folders}) < len(folders)
    runs = {}
    for folder in folders:
        rows = read_rows(folder / "metrics.jsonl")
        if not rows:
            raise ConfigError(f"workdir: {folder} has no metrics.jsonl with rows")
        runs[str(folder) if alike else folder.name] = rows
    return curves_figure.draw(runs)


def _labelled(network: Network, split: str, views: int) -> tuple[predictions.Predictions, str]:
    _, split = network.source(split)
    predicted = predictions.predict_split([network], split, views)
    if not predicted.counted.any():
        raise ConfigError(f"split: {split} has no labels")
    return predicted, split


def _conv1(network: Network) -> np.ndarray:
    return np.asarray(network.params["conv1"]["kernel"])


def _reader(network: Network, split: str) -> tuple[ImageReader, str]:
    source, split = network.source(split)
    return network.reader(source), split


def _read(reader: Any, index: int) -> tuple[np.ndarray, str]:
    """Returns an image and its class in words, "" where that is not known."""
    image = np.empty((1, reader.side, reader.side, 3), np.uint8)
    label, _ = reader.read(np.array([index]), image)
    return image[0], spoken(reader.class_name(int(label[0])))


def _chosen(reader: ImageReader, count: int, seed: int) -> list[int]:
    """Returns some images of a split, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return rng.choice(len(reader), min(count, len(reader)), replace=False).tolist()


def split(config: Config) -> Picture:
    """Draws figure 2 of the paper with the devices of a config's mesh, from its compiled step.

    Args:
      config: its `mesh` says which devices; as many must be here, real or simulated
        (`ops.platform.simulate`, before JAX computes anything).

    Raises:
      ConfigError: there are too few; or the config cannot be trained.

    >>> split(network.config).axes[0].texts[0].get_text()[:26]
    'columns on data 1 × model '
    """
    return draw_split(config, exchanges(config))


def exchanges(config: Config) -> list[Collective]:
    """Compiles a config's step, and returns what its devices send each other.

    Raises:
      ConfigError: as of `split`.

    >>> exchanges(network.config)
    []
    """
    return communication.compiled(train.compile_train_step(_with_classes(config)))


def draw_split(config: Config, exchanged: Sequence[Collective]) -> Picture:
    """Draws figure 2 of exchanges that are known already.

    >>> draw_split(network.config, []).axes[0].texts[0].get_text()[:26]
    'columns on data 1 × model '
    """
    config = _with_classes(config)
    data = meshes.data_devices(meshes.build(config.mesh))
    return split_figure.draw(config, config.num_classes, exchanged, data)


def _with_classes(config: Config) -> Config:
    """Returns a copy of the config with `num_classes` set."""
    classes = config.num_classes or len(open_dataset(config).class_names)
    return dataclasses.replace(config, num_classes=classes)
