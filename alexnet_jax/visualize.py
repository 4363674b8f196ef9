"""python -m alexnet_jax.visualize WHAT --workdir=W: pictures of a run, or of several.

kernels      figure 3 of the paper: conv1's kernels by column, and their colour selectivity; of
             several runs also how far their columns are apart
answers      figure 4, left: images with their five likeliest classes
neighbours   figure 4, right: the training images nearest to some images in fc7
confusion    the confusion matrix of a split
curves       learning curves of several runs
features     a layer's activations of every image of a split, as FILE.npz
"""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

from alexnet_jax import cli
from alexnet_jax.config import ConfigError
from alexnet_jax.errors import unknown


def define_flags() -> None:
    """Declares the command's flags; not at import, for another command has the same."""
    flags.DEFINE_multi_string("workdir", None, "the folder of a run; may be given several times")
    flags.DEFINE_string("out", "", "the picture or file; empty: in the first workdir's plots")
    flags.DEFINE_string("split", "", "split or slice; empty: the run's evaluation split")
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step")
    flags.DEFINE_string("layer", "fc7", "of neighbours and features: conv1 .. fc8")
    flags.DEFINE_integer("images", 8, "answers, neighbours: how many images", lower_bound=1)
    flags.DEFINE_integer("neighbours", 6, "of each image", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of the choice of images", lower_bound=0)
    flags.DEFINE_string("dataset", "", "another data set than the run's")
    flags.DEFINE_string("data_dir", "", "another data_dir than the run's")


def _workdirs() -> list[pathlib.Path]:
    if not flags.FLAGS.workdir:
        raise ConfigError("--workdir: name the folder of a run")
    return [pathlib.Path(name).expanduser() for name in flags.FLAGS.workdir]


def _out(name: str) -> pathlib.Path:
    given = flags.FLAGS.out
    return pathlib.Path(given).expanduser() if given else _workdirs()[0] / "plots" / name


def _load(workdir: pathlib.Path) -> Any:
    from alexnet_jax.inference import trained

    network = trained.load(workdir, which=flags.FLAGS.checkpoint)
    network.config.dataset = flags.FLAGS.dataset or network.config.dataset
    network.config.data_dir = flags.FLAGS.data_dir or network.config.data_dir
    return network


def _reader(network: Any, split: str) -> tuple[Any, str]:
    """Opens a split of a run's data set; empty: its evaluation split. Returns its name too."""
    source, split = network.source(split)
    return network.reader(source), split


def _read(reader: Any, index: int) -> tuple[np.ndarray, str]:
    """Returns an image and its class in words, "" where that is not known."""
    from alexnet_jax.data.words import spoken

    image = np.empty((1, reader.side, reader.side, 3), np.uint8)
    label, _ = reader.read(np.array([index]), image)
    return image[0], spoken(reader.class_name(int(label[0])))


def _chosen(reader: Any) -> list[int]:
    """Returns some images of a split, the same for the same seed."""
    rng = np.random.default_rng(flags.FLAGS.seed)
    count = min(flags.FLAGS.images, len(reader))
    return rng.choice(len(reader), count, replace=False).tolist()


def kernels() -> pathlib.Path:
    """Draws figure 3 for the first run; for several also the distribution of specialisation."""
    from alexnet_jax.figures import kernels as figure
    from alexnet_jax.parallel import processes

    kinds: dict[str, list[float]] = {}
    path = _out("kernels.png")
    for number, workdir in enumerate(_workdirs()):
        network = _load(workdir)
        columns = network.config.model.columns
        kernel = np.asarray(network.params["conv1"]["kernel"])
        apart = figure.specialisation(kernel)
        meets = network.config.model.columns_meet
        kind = f"{columns} columns{'' if meets else ', no communication'}"
        kinds.setdefault(kind if columns > 1 else "one column, in halves", []).append(apart)
        processes.say(f"{workdir}: halves of conv1 are {apart:.3f} apart in colour selectivity")
        if number == 0:
            figure.draw(kernel, columns, path, f"conv1 after {network.step:,} updates")
    if len(_workdirs()) > 1:
        figure.draw_distribution(kinds, path.with_stem(f"{path.stem}_specialisation"))
    return path


def answers() -> pathlib.Path:
    """Draws figure 4, left."""

    from alexnet_jax.data.words import spoken
    from alexnet_jax.figures import answers as figure
    from alexnet_jax.ops import compilation
    from alexnet_jax.steps import evaluation

    network = _load(_workdirs()[0])
    reader, split = _reader(network, flags.FLAGS.split)
    forward, views = network.forward, network.setup.views
    ten = compilation.jit(
        lambda params, image: evaluation.average_probabilities(forward, params, image, 10, views),
        network.config.kernels,
    )
    images, labels, rows = [], [], []
    for index in _chosen(reader):
        image, label = _read(reader, index)
        p = np.asarray(ten(network.params, image[None])[0])
        order = np.argsort(-p, kind="stable")[: figure.BARS]
        images.append(image)
        labels.append(label)
        rows.append([(spoken(network.class_name(int(k))), float(p[k])) for k in order])
    path = _out("answers.png")
    figure.draw(images, labels, rows, path)
    return path


def neighbours() -> pathlib.Path:
    """Draws figure 4, right: exact search over the whole training split, on the device."""
    from alexnet_jax.figures import neighbours as figure
    from alexnet_jax.inference import features

    network, layer = _load(_workdirs()[0]), flags.FLAGS.layer
    reader, split = _reader(network, flags.FLAGS.split)
    train, train_split = _reader(network, network.config.train_split)
    count = flags.FLAGS.neighbours
    if len(train) < count:
        raise ConfigError(f"--neighbours: {count} is more than the {len(train)} of {train_split}")
    compute = features.activations(network, layer)
    shown = [_read(reader, index) for index in _chosen(reader)]
    queries = compute(np.stack([image for image, _ in shown]))
    with _progress(f"{layer} of {train_split}", len(train)) as bar:
        found, compared = features.nearest_of_split(
            network, train, layer, queries, count, bar.advance
        )

    rows = [[_read(train, int(number)) for number in row] for row in found]
    path = _out("neighbours.png")
    title = f"{split}, and the nearest of {train_split} in {layer} ({compared:,} images)"
    figure.draw(shown, rows, path, title)
    return path


def confusion() -> pathlib.Path:
    """Draws the confusion matrix of a split, by ten views."""
    from alexnet_jax.data.words import spoken
    from alexnet_jax.figures import confusion as figure
    from alexnet_jax.inference import predictions

    network = _load(_workdirs()[0])
    _, split = _reader(network, flags.FLAGS.split)
    found = predictions.predict_split([network], split, 10)
    counted, names = found.counted, network.class_names
    if not counted.any():
        raise ConfigError(f"--split: {split} has no labels")
    classes = max(len(names), int(found.classes[counted, 0].max()) + 1)
    counts = figure.matrix(found.labels[counted], found.classes[counted, 0], classes)
    error = 100 * found.wrong(1)[counted].mean()
    path = _out("confusion.png")
    names = [spoken(network.class_name(k)) for k in range(classes)]
    figure.draw(counts, names, path, f"{split}: top-1 error {error:.2f} %, ten views")
    return path


def curves() -> pathlib.Path:
    """Draws the learning curves of all runs that are named."""
    from alexnet_jax.figures import curves as figure
    from alexnet_jax.training.writers import read_rows

    runs = {}
    workdirs = _workdirs()
    alike = len({workdir.name for workdir in workdirs}) < len(workdirs)
    for workdir in workdirs:
        rows = read_rows(workdir / "metrics.jsonl")
        if not rows:
            raise ConfigError(f"--workdir: {workdir} has no metrics.jsonl with rows")
        runs[str(workdir) if alike else workdir.name] = rows
    path = _out("curves.png")
    figure.draw(runs, path)
    return path


def features() -> pathlib.Path:
    """Writes `features` (N, D) float32, `label` (N,), `image` names (N,) and what can be read."""
    from alexnet_jax.inference import features as inside

    network, layer = _load(_workdirs()[0]), flags.FLAGS.layer
    reader, split = _reader(network, flags.FLAGS.split)
    values, labels = np.zeros((0, 0), np.float32), np.zeros(len(reader), np.int32)
    readable, seen = np.zeros(len(reader), bool), 0
    with _progress(f"{layer} of {split}", len(reader)) as bar:
        for own, label, mask in inside.of_split(network, reader, layer):
            if not seen:
                values = np.zeros((len(reader), own.shape[1]), np.float32)
            here = slice(seen, seen + len(own))
            values[here], labels[here], readable[here] = own, label, mask
            seen += len(own)
            bar.advance(len(own))
    names = [reader.name(i) if readable[i] else reader.where(i) for i in range(len(reader))]
    path = _out(f"{layer}.npz")
    if path.suffix != ".npz":
        raise ConfigError(f"--out: {path} must end in .npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, features=values, label=labels, readable=readable, image=np.array(names))
    return path


def _progress(text: str, total: int) -> Any:
    from alexnet_jax.host.progress import Progress

    return Progress(text, 0, total, "image")


KINDS: dict[str, Callable[[], pathlib.Path]] = {
    "kernels": kernels,
    "answers": answers,
    "neighbours": neighbours,
    "confusion": confusion,
    "curves": curves,
    "features": features,
}


def _run(arguments: list[str]) -> None:
    if len(arguments) != 2:
        sys.exit(f"error: name one of {', '.join(KINDS)}")
    with cli.errors_as_one_line():
        if arguments[1] not in KINDS:
            raise ConfigError(f"visualize: {unknown(arguments[1], KINDS)}")
        print(f"written: {KINDS[arguments[1]]()}")


if __name__ == "__main__":
    define_flags()
    app.run(_run)
