"""Predictions for every image of a split, and the files they are written to."""

import contextlib
import csv
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.config import ConfigError
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.relabelled import labelled_as
from alexnet_jax.data.types import DataError
from alexnet_jax.data.words import name_of
from alexnet_jax.feed import host as host_feed
from alexnet_jax.feed.protocol import Cut, Fed
from alexnet_jax.host.progress import Progress
from alexnet_jax.inference.trained import TrainedNetwork
from alexnet_jax.ops import compilation
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import evaluation
from alexnet_jax.steps.answers import BEST, Answers, Collector, Rows, likeliest
from alexnet_jax.steps.packing import Packing


@dataclasses.dataclass(frozen=True)
class Predictions(Answers):
    """Answers with the images' names.

    Attributes:
      names: what the source calls the images.
    """

    names: list[str]


def predict_split(
    networks: Sequence[TrainedNetwork], split: str, views: int, progress: bool = True
) -> Predictions:
    """Computes the likeliest classes of every image of a split, once.

    Args:
      networks: from `trained.load`, on one mesh; the result averages the probabilities of several,
        and the first's config says how to read the split.
      split: of the data set in that config, whose classes are matched to the network's by name.
      views: 1 or 10.
      progress: show a bar.

    Raises:
      ConfigError: the data set's classes cannot be matched to the network's.
      DataError: no such split, or an image that cannot be read.
    """
    first = networks[0]
    c = first.config
    source, split = first.source(split)
    if not first.class_names and len(source.class_names) not in (0, first.num_classes):
        raise ConfigError(
            f"--dataset: {c.dataset} has {len(source.class_names)} classes, but the network has "
            f"{first.num_classes}, without names; name them with --class_names=FILE, one per line "
            "in the order of its labels"
        )
    reader = first.reader(labelled_as(source, first.class_names))
    feed = host_feed.HostFeed(c, first.setup.mesh, reader, Cut(evaluation.eval_batch_size(c)))
    packings = [Packing(network.setup, network.params) for network in networks]
    params = tuple(pack(network.params) for pack, network in zip(packings, networks, strict=True))
    step = _compile(networks, params, feed.feeding, views)
    answered = Collector()
    with (
        Progress(f"evaluate {split}", 0, len(reader), "image", not progress) as bar,
        contextlib.closing(feed.evaluation()) as batches,
    ):
        for fed in batches:
            answered.add(step(params, fed))
            bar.advance(feed.feeding.batch_size)
    answers = answered.answers(len(reader))
    for message in reader.bad_images:
        print(f"skipped: {message}", flush=True)
    return named(answers, reader)


def refuse_unlike(workdirs: Sequence[pathlib.Path], networks: Sequence[TrainedNetwork]) -> None:
    """Refuses networks whose probabilities cannot be averaged.

    Args:
      workdirs: of the runs.
      networks: of the same runs.

    Raises:
      ConfigError: they do not see the same images, or have other classes.
    """
    first = networks[0]
    for workdir, other in zip(workdirs, networks, strict=True):
        pairs = {
            "resize": (other.config.resize, first.config.resize),
            "exif_orientation": (other.config.exif_orientation, first.config.exif_orientation),
            "classes": (other.class_names, first.class_names),
            "num_classes": (other.num_classes, first.num_classes),
        }
        for name, (ours, wanted) in pairs.items():
            if ours != wanted:
                raise ConfigError(
                    f"--workdir: {workdir} has another {name} than {workdirs[0]}; networks that "
                    "are averaged must see the same images and classes"
                )


def named(
    answers: Answers, reader: ImageReader, chosen: Sequence[int] | None = None
) -> Predictions:
    """Adds names to answers.

    Args:
      answers: of images of a split.
      reader: of the split.
      chosen: which of its images they are of; None: of all.
    """
    indices = range(len(reader)) if chosen is None else chosen
    names = [
        reader.name(index) if good else reader.where(index)
        for index, good in zip(indices, answers.readable, strict=True)
    ]
    return Predictions(**vars(answers), names=names)


def errors(predictions: Predictions, split: str) -> dict[str, Any]:
    """Returns `count`, `top1_error` and `top5_error` over the images with labels.

    Raises:
      DataError: none has one.
    """
    counted = predictions.counted
    if not counted.any():
        raise DataError(f"split {split} has no labels to compare with")
    top1, top5 = (float(predictions.wrong(k)[counted].mean()) for k in (1, BEST))
    return {"count": int(counted.sum()), "top1_error": top1, "top5_error": top5}


def _compile(
    networks: Sequence[TrainedNetwork], params: tuple[Any, ...], feeding: Any, views: int
) -> jax.stages.Compiled:
    mesh, shares = networks[0].setup.mesh, networks[0].config.mesh
    specs = meshes.specs(params, mesh, shares)

    def best_of(params: tuple[Any, ...], fed: Fed) -> Rows:
        batch = feeding.evaluation(fed)
        probabilities = [
            evaluation.average_probabilities(
                n.forward, weights, batch["image"], views, n.setup.views
            )
            for n, weights in zip(networks, params, strict=True)
        ]
        about = {"labels": batch["label"], "readable": batch["mask"] > 0}
        return about | likeliest(jnp.asarray(sum(probabilities) / len(probabilities)))

    mapped = meshes.per_device(best_of, mesh, specs, feeding.specs, meshes.batch_spec(shares))
    return compilation.compiled(
        mapped, params, feeding.abstract(mesh), numerics=compilation.Numerics.of(networks[0].config)
    )


def write_predictions(
    path: pathlib.Path, predictions: Predictions, network: TrainedNetwork
) -> None:
    """Writes a row for each readable image: name, label, five classes, five probabilities.

    FILE.jsonl gets lines of JSON, every other file CSV.
    """
    best = predictions.classes.shape[1]
    names = [f"class_{k}" for k in range(1, best + 1)]
    likely = [f"probability_{k}" for k in range(1, best + 1)]
    rows = [
        {"image": predictions.names[i], "label": _name(network, int(predictions.labels[i]))}
        | dict(zip(names, map(network.class_name, predictions.classes[i].tolist()), strict=True))
        | dict(zip(likely, predictions.probabilities[i].tolist(), strict=True))
        for i in np.flatnonzero(predictions.readable)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name may not be valid UTF-8: CSV gets its raw bytes, JSON Python's surrogates.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
            return
        writer = csv.DictWriter(file, ["image", "label", *names, *likely])
        writer.writeheader()
        writer.writerows(rows)


def _name(network: TrainedNetwork, label: int) -> str:
    return network.class_name(label) if label >= 0 else ""


def write_submission(path: pathlib.Path, predictions: Predictions, numbers: list[int]) -> None:
    """Writes five labels a line, in the order of the images.

    Args:
      path: of the file.
      predictions: of a split in the order that its judges want.
      numbers: the judges' number of each of the network's classes, from `label_numbers`.

    Raises:
      ConfigError: an image could not be read.
    """
    if not predictions.readable.all():
        unreadable = predictions.names[int(np.flatnonzero(~predictions.readable)[0])]
        raise ConfigError(f"predictions: {unreadable} cannot be read; every image needs a line")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (" ".join(str(numbers[k]) for k in row) for row in predictions.classes)
    path.write_text("".join(line + "\n" for line in lines))


def label_numbers(class_names: list[str], classes: int, order: list[str] | None) -> list[int]:
    """Returns the labels, from 1, that a submission has for classes 0 .. `classes` - 1.

    Args:
      class_names: of the network's first classes.
      classes: of the network.
      order: the judges' names of labels 1, 2, ...; None: in the order of the classes.

    Raises:
      ConfigError: `order` does not name every class.
    """
    if order is None:
        return list(range(1, classes + 1))
    numbers = {name: i for i, name in enumerate(order, 1)}
    names = [name_of(class_names, k) for k in range(classes)]
    missing = [name for name in names if name not in numbers]
    if missing:
        raise ConfigError(f"label_order: does not name {missing[0]} ({len(missing)} are missing)")
    return [numbers[name] for name in names]


def class_errors(predictions: Predictions, network: TrainedNetwork) -> list[dict[str, Any]]:
    """Returns images, errors and the worst confusion of each class that has images."""
    counted, rows = predictions.counted, []
    top1, top5 = predictions.wrong(1), predictions.wrong(BEST)
    for label in np.unique(predictions.labels[counted]):
        of_class = counted & (predictions.labels == label)
        taken_for = np.bincount(predictions.classes[of_class & top1, 0])
        worst = int(taken_for.argmax()) if taken_for.size else -1
        rows.append(
            {
                "class": network.class_name(int(label)),
                "images": int(of_class.sum()),
                "top1_error": float(top1[of_class].mean()),
                "top5_error": float(top5[of_class].mean()),
                "taken_for": _name(network, worst),
                "times": int(taken_for[worst]) if worst >= 0 else 0,
            }
        )
    return rows


def write_class_errors(
    path: pathlib.Path, predictions: Predictions, network: TrainedNetwork
) -> None:
    """Writes `class_errors` as CSV; at least one image must have a label."""
    rows = class_errors(predictions, network)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def confusions(predictions: Predictions, network: TrainedNetwork) -> list[tuple[str, str, int]]:
    """Returns which class is taken for which other, and how often, commonest last."""
    wrong = predictions.counted & predictions.wrong(1)
    pairs, times = np.unique(
        np.stack([predictions.labels[wrong], predictions.classes[wrong, 0]], axis=1),
        axis=0,
        return_counts=True,
    )
    return [
        (network.class_name(int(pairs[i, 0])), network.class_name(int(pairs[i, 1])), int(times[i]))
        for i in np.argsort(times, kind="stable")
    ]
