"""What a trained network says of each image of a split; the command of `alexnet_jax.evaluate`.

python -m alexnet_jax.evaluate --workdir=W [--split=S] [--views=10] [--predictions=FILE]

Several --workdir average what their networks say (paper, table 2).
FILE.csv and FILE.jsonl have a row for each image; FILE.txt is a submission: five labels a line.
"""

import csv
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from alexnet_jax import compilation, evaluate, feeds, startup, trained
from alexnet_jax import mesh as meshes
from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.feeding import Fed
from alexnet_jax.progress import Progress
from alexnet_jax.trained import TrainedNetwork

BEST = 5  # classes that are kept of each image


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Of every image of a split, in its order.

    Attributes:
      names: what the source calls the images.
      labels: (N,) int32, -1 where they are not known.
      readable: (N,) bool.
      classes: (N, 5) int32, likeliest first.
      probabilities: (N, 5) float32.
    """

    names: list[str]
    labels: np.ndarray
    readable: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray

    def wrong(self, best: int) -> np.ndarray:
        """Returns which images do not have their label among the `best` likeliest, (N,) bool."""
        return ~(self.classes[:, :best] == self.labels[:, None]).any(axis=1)

    @property
    def counted(self) -> np.ndarray:
        """Which images have a label and can be read, (N,) bool."""
        return self.readable & (self.labels >= 0)


def predict_split(
    networks: Sequence[TrainedNetwork], split: str, views: int, progress: bool = True
) -> Predictions:
    """Computes the likeliest classes of every image of a split, once.

    Args:
      networks: from `trained.load`, on one mesh; the probabilities of several are averaged, and the
        first says how the split is read.
      split: of the data set in its config.
      views: 1 or 10.
      progress: show a bar.

    Raises:
      DataError: no such split, or an image that cannot be read.
    """
    first = networks[0]
    c = first.config
    reader = ImageReader(open_dataset(c).open(split), c.resize, c.exif_orientation, c.on_bad_image)
    feed = feeds.HostFeed(c, first.mesh, reader, evaluate.eval_batch_size(c))
    step = _compile(networks, feed.feeding, views)
    params = tuple(network.params for network in networks)
    rows: list[Any] = []
    with Progress(f"evaluate {split}", 0, len(reader), "image", not progress) as bar:
        for fed in feed.evaluation():
            rows.append(step(params, fed))
            if len(rows) > 1:  # the batch of two before is used again
                rows[-2] = jax.device_get(rows[-2])
            bar.advance(feed.feeding.batch_size)
    joined = [
        np.concatenate(part)[: len(reader)] for part in zip(*jax.device_get(rows), strict=True)
    ]
    label, mask, classes, probabilities = joined
    for message in reader.bad_images:
        print(f"skipped: {message}", flush=True)
    names = [reader.name(i) if mask[i] else reader.where(i) for i in range(len(reader))]
    return Predictions(names, label, mask > 0, classes, probabilities)


def _compile(networks: Sequence[TrainedNetwork], feeding: Any, views: int) -> jax.stages.Compiled:
    mesh, shares = networks[0].mesh, networks[0].config.mesh
    params = tuple(network.params for network in networks)
    specs = meshes.specs(params, mesh, shares)
    best = min(BEST, networks[0].network.num_classes)

    def best_of(params: tuple[Any, ...], fed: Fed) -> tuple[jax.Array, ...]:
        batch = feeding.evaluation(fed)
        said = [
            evaluate.average_probabilities(n.scheme, own, batch["image"], views, n.views)
            for n, own in zip(networks, params, strict=True)
        ]
        probabilities, classes = jax.lax.top_k(sum(said) / len(said), best)
        return batch["label"], batch["mask"], classes.astype(jnp.int32), probabilities

    mapped = meshes.per_device(best_of, mesh, specs, feeding.specs, meshes.batch_spec(shares))
    return compilation.compiled(mapped, params, feeding.abstract(mesh))


def write_predictions(path: pathlib.Path, found: Predictions, network: TrainedNetwork) -> None:
    """Writes a row for each readable image: name, label, five classes, five probabilities.

    FILE.jsonl gets lines of JSON, every other file CSV.
    """
    best = found.classes.shape[1]
    names = [f"class_{k}" for k in range(1, best + 1)]
    likely = [f"probability_{k}" for k in range(1, best + 1)]
    rows = [
        {"image": found.names[i], "label": _name(network, int(found.labels[i]))}
        | dict(zip(names, map(network.class_name, found.classes[i].tolist()), strict=True))
        | dict(zip(likely, found.probabilities[i].tolist(), strict=True))
        for i in np.flatnonzero(found.readable)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        writer = csv.DictWriter(file, ["image", "label", *names, *likely])
        writer.writeheader()
        writer.writerows(rows)


def _name(network: TrainedNetwork, label: int) -> str:
    return network.class_name(label) if label >= 0 else ""


def write_submission(path: pathlib.Path, found: Predictions, numbers: list[int]) -> None:
    """Writes five labels a line, in the order of the images.

    Args:
      path: of the file.
      found: of a split in the order that its judges want.
      numbers: what the judges call each of the network's classes: `label_numbers`.

    Raises:
      ConfigError: an image could not be read.
    """
    if not found.readable.all():
        unreadable = found.names[int(np.flatnonzero(~found.readable)[0])]
        raise ConfigError(f"--predictions: {unreadable} cannot be read; every image needs a line")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (" ".join(str(numbers[k]) for k in row) for row in found.classes)
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
    names = class_names + [f"class {k}" for k in range(len(class_names), classes)]
    missing = [name for name in names if name not in numbers]
    if missing:
        raise ConfigError(f"--label_order: does not name {missing[0]} ({len(missing)} are missing)")
    return [numbers[name] for name in names]


def class_errors(found: Predictions, network: TrainedNetwork) -> list[dict[str, Any]]:
    """Returns images, errors and the worst confusion of each class that has images."""
    counted, rows = found.counted, []
    top1, top5 = found.wrong(1), found.wrong(BEST)
    for label in np.unique(found.labels[counted]):
        own = counted & (found.labels == label)
        taken_for = np.bincount(found.classes[own & top1, 0])
        worst = int(taken_for.argmax()) if taken_for.size else -1
        rows.append(
            {
                "class": network.class_name(int(label)),
                "images": int(own.sum()),
                "top1_error": float(top1[own].mean()),
                "top5_error": float(top5[own].mean()),
                "taken_for": _name(network, worst),
                "times": int(taken_for[worst]) if worst >= 0 else 0,
            }
        )
    return rows


def draw_confusions(found: Predictions, network: TrainedNetwork, path: pathlib.Path) -> None:
    """Draws the classes with the largest error and the commonest confusions."""
    from matplotlib.figure import Figure

    rows = sorted(class_errors(found, network), key=lambda row: row["top1_error"])[-20:]
    wrong = found.counted & found.wrong(1)
    pairs, times = np.unique(
        np.stack([found.labels[wrong], found.classes[wrong, 0]], axis=1), axis=0, return_counts=True
    )
    order = np.argsort(times, kind="stable")[-20:]
    figure = Figure(figsize=(13, 1.4 + 0.26 * max(len(rows), len(order), 4)), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars = left.barh(
        [row["class"][:28] for row in rows],
        [100 * row["top1_error"] for row in rows],
        color="tab:blue",
    )
    left.bar_label(bars, fmt="%.0f", padding=3)
    left.set(title="classes with the largest top-1 error", xlabel="%", xlim=(0, 108))
    names = [
        f"{network.class_name(int(a))[:22]} \N{RIGHTWARDS ARROW} {network.class_name(int(b))[:22]}"
        for a, b in pairs[order]
    ]
    bars = right.barh(names, times[order], color="tab:red")
    right.bar_label(bars, padding=3)
    right.set(title="commonest confusions: what it is, what it is taken for", xlabel="images")
    right.margins(x=0.1)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _networks(workdirs: list[pathlib.Path]) -> list[TrainedNetwork]:
    """Loads the networks to average.

    Raises:
      ConfigError: they do not see the same images, or have other classes.
    """
    networks = [_network(workdir) for workdir in workdirs]
    first = networks[0]
    for workdir, other in zip(workdirs, networks, strict=True):
        pairs = {
            "resize": (other.config.resize, first.config.resize),
            "exif_orientation": (other.config.exif_orientation, first.config.exif_orientation),
            "classes": (other.class_names, first.class_names),
            "num_classes": (other.network.num_classes, first.network.num_classes),
        }
        for name, (own, wanted) in pairs.items():
            if own != wanted:
                raise ConfigError(
                    f"--workdir: {workdir} has another {name} than {workdirs[0]}; networks that "
                    "are averaged must see the same images and classes"
                )
    return networks


def _network(workdir: pathlib.Path) -> TrainedNetwork:
    network = trained.load(workdir, MeshConfig(-1, 1), flags.FLAGS.checkpoint)
    config, devices = network.config, network.mesh.devices.size
    config.dataset = flags.FLAGS.dataset or config.dataset
    config.data_dir = flags.FLAGS.data_dir or config.data_dir
    size = flags.FLAGS.batch_size or evaluate.eval_batch_size(config)
    config.eval_batch_size = -(-size // devices) * devices
    return network


def _evaluate() -> None:
    workdirs = [pathlib.Path(name).expanduser() for name in flags.FLAGS.workdir]
    networks, order = _networks(workdirs), None
    workdir, network = workdirs[0], networks[0]
    if flags.FLAGS.label_order:
        order = pathlib.Path(flags.FLAGS.label_order).expanduser().read_text().splitlines()
    numbers = label_numbers(network.class_names, network.network.num_classes, order)
    split = (
        flags.FLAGS.split or network.config.eval_split or open_dataset(network.config).eval_split()
    )
    found = predict_split(networks, split, int(flags.FLAGS.views))
    if flags.FLAGS.predictions:
        path = pathlib.Path(flags.FLAGS.predictions).expanduser()
        if path.suffix == ".txt":
            write_submission(path, found, numbers)
            whose = flags.FLAGS.label_order or "the classes' own order (see --label_order)"
            print(f"{path}: {len(found.names):,} lines of labels from 1, by {whose}")
        else:
            write_predictions(path, found, network)
            print(f"{path}: {found.readable.sum():,} images")
    if not found.counted.any():
        print(f"{split}: {len(found.names):,} images without labels; no errors to report")
        return
    rows = class_errors(found, network)
    safe = "".join(letter if letter.isalnum() else "_" for letter in split).strip("_")
    table = workdir / "plots" / f"class_errors_{safe}.csv"
    picture = workdir / "plots" / f"confusions_{safe}.png"
    draw_confusions(found, network, picture)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    top1, top5 = (found.wrong(k)[found.counted].mean() for k in (1, BEST))
    bad = len(found.names) - int(found.readable.sum())
    views = f"{flags.FLAGS.views} view{'s' if flags.FLAGS.views != '1' else ''}"
    print(
        f"{split}: top-1 error {100 * top1:.2f} %, top-5 {100 * top5:.2f} % over "
        f"{found.counted.sum():,} images{f', {bad} unreadable' if bad else ''}, "
        f"{views}, {_which(networks)}\n"
        f"by class in {table}, drawn in {picture}"
    )


def _which(networks: list[TrainedNetwork]) -> str:
    steps = ", ".join(f"{network.step:,}" for network in networks)
    return f"step {steps}" if len(networks) == 1 else f"{len(networks)} networks averaged"


def _run(arguments: list[str]) -> None:
    if len(arguments) > 1:
        sys.exit(f"error: {arguments[1]}: what is that? Every argument is a --flag")
    with startup.errors_as_one_line():
        _evaluate()


def define_flags() -> None:
    """Declares the command's flags; not at import, for another command has the same."""
    flags.DEFINE_multi_string(
        "workdir", None, "the folder of a run; several are averaged", required=True
    )
    flags.DEFINE_string("split", "", "split or slice; empty: the run's own")
    flags.DEFINE_enum("views", "10", ["1", "10"], "views whose probabilities are averaged")
    flags.DEFINE_string("dataset", "", "another data set than the run's")
    flags.DEFINE_string("data_dir", "", "another data_dir than the run's")
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step")
    flags.DEFINE_integer("batch_size", 0, "images a step; 0: the run's", lower_bound=0)
    flags.DEFINE_string(
        "predictions",
        "",
        "FILE.csv or FILE.jsonl: the five best classes of each image, and its own",
    )
    flags.DEFINE_string(
        "label_order",
        "",
        "of FILE.txt: a file that names label 1, 2, ... a line each; else the classes' own order",
    )


def main() -> None:
    """Parses the flags and evaluates."""
    define_flags()
    app.run(_run)
