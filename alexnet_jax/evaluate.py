"""Evaluates each image of a split, by one trained network or several.

python -m alexnet_jax.evaluate --workdir=W [--split=S] [--views=10] [--predictions=FILE]

Several --workdir average what their networks say (paper, table 2). FILE.csv and FILE.jsonl have a
row for each image; FILE.txt is a submission: five labels a line.
"""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import dataclasses
import os
import pathlib

import jax
from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import Config, ConfigError, MeshConfig
from alexnet_jax.configs.validation import validate
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.words import read_names
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.host import paths
from alexnet_jax.inference import pictures, trained
from alexnet_jax.inference.predictions import (
    BEST,
    Predictions,
    label_numbers,
    predict_split,
    refuse_unlike,
    write_class_errors,
    write_predictions,
    write_submission,
)
from alexnet_jax.inference.trained import TrainedNetwork
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import evaluation
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import abstract_state

SUBMISSION = ".txt"
MOST_BYTES = 120  # of a data set's name in that of a file


def compile_eval_step(config: Config) -> jax.stages.Compiled:
    """Compiles the evaluation step for the mesh that the config asks for.

    Opens the data set only where `num_classes` is 0.

    Raises:
      ConfigError: a field that cannot be used.
      DataError: a data set that it needs and cannot open.
    """
    validate(config)
    mesh = meshes.build(config.mesh)
    size = evaluation.eval_batch_size(config)
    meshes.check_batch("eval_batch_size", size, 1, mesh, config.mesh)
    setup = Setup.of(config, _num_classes(config), mesh=mesh)
    feeding = HostBatches(config.mesh, size, config.resize)
    weights = abstract_state(setup).weights
    return evaluation.compile_eval_step(setup, feeding, weights, config.eval_views)


def _num_classes(config: Config) -> int:
    """Returns the classes that fc8 has; opens the data set only where the config does not say."""
    if config.num_classes:
        return config.num_classes
    return len(open_dataset(config).class_names)


def _network(workdir: pathlib.Path) -> TrainedNetwork:
    mesh, f = MeshConfig(-1, 1), flags.FLAGS
    network = trained.load(workdir, mesh, f.checkpoint, f.kernels)
    config, devices = network.config, network.setup.mesh.devices.size
    config.dataset = flags.FLAGS.dataset or config.dataset
    config.data_dir = flags.FLAGS.data_dir or config.data_dir
    size = flags.FLAGS.batch_size or evaluation.eval_batch_size(config)
    config.eval_batch_size = -(-size // devices) * devices
    if flags.FLAGS.class_names:
        names = read_names(
            paths.local(flags.FLAGS.class_names, "--class_names"), network.num_classes
        )
        network = dataclasses.replace(network, class_names=names)
    return network


def _evaluate() -> None:
    workdirs = [paths.local(name, "--workdir") for name in flags.FLAGS.workdir]
    networks, order = [_network(workdir) for workdir in workdirs], None
    refuse_unlike(workdirs, networks)
    workdir, network = workdirs[0], networks[0]
    if flags.FLAGS.label_order:
        order = _lines(paths.local(flags.FLAGS.label_order, "--label_order"))
    numbers = label_numbers(network.class_names, network.num_classes, order)
    _, split = network.source(flags.FLAGS.split)
    path = _file_of_predictions(network, split)
    predictions = predict_split(networks, split, int(flags.FLAGS.views))
    # Print the errors first: a file that cannot be written must not lose them.
    if predictions.counted.any():
        _say_errors(predictions, split, networks)
    else:
        cli.say(f"{split}: {len(predictions.names):,} images without labels; no errors to report")
    if path and path.suffix == SUBMISSION:
        write_submission(path, predictions, numbers)
        whose = flags.FLAGS.label_order or "the classes' own order (see --label_order)"
        cli.say(f"{path}: {len(predictions.names):,} lines of labels from 1, by {whose}")
    elif path:
        write_predictions(path, predictions, network)
        cli.say(f"{path}: {predictions.readable.sum():,} images")
    if predictions.counted.any():
        _draw(predictions, network, workdir, _file_name(split, len(networks)))


def _file_of_predictions(network: TrainedNetwork, split: str) -> pathlib.Path | None:
    """Returns the file for predictions, if one is asked for; refuses a wrong one at the start.

    Raises:
      ConfigError: not a file of a known form, or a submission that would lack lines.
    """
    if not flags.FLAGS.predictions:
        return None
    path = paths.local(flags.FLAGS.predictions, "--predictions")
    if path.suffix not in (SUBMISSION, ".csv", ".jsonl"):
        raise ConfigError(f"--predictions: {path} must end in .csv, .jsonl or {SUBMISSION}")
    if path.is_dir():
        raise ConfigError(f"--predictions: {path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    left_out = network.dataset.left_out(split)
    if path.suffix == SUBMISSION and left_out:
        raise ConfigError(
            f"--predictions: {left_out} images of {split} were left out when "
            f"{network.config.dataset} was prepared, but every image needs a line; evaluate the "
            "original images instead"
        )
    return path


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"--label_order: {path} is not text ({error.reason})") from error


def _file_name(split: str, networks: int) -> str:
    """Returns a part of a file's name that says which images, networks and views it is of."""
    apart = {"[": "_", "]": "", ":": "to", "%": "pc", "-": "minus"}
    name = "".join(apart.get(letter, letter) for letter in split)
    name = "".join(letter if letter.isalnum() else "_" for letter in name)
    if flags.FLAGS.dataset:  # beside those of the run's own
        dataset = pathlib.PurePath(flags.FLAGS.dataset).name
        dataset = "".join(letter if letter.isalnum() else "_" for letter in dataset)
        while len(os.fsencode(dataset)) > MOST_BYTES:
            dataset = dataset[:-1]
        name += f"_of_{dataset}"
    name += f"_by_{networks}_networks" if networks > 1 else ""
    return name + ("_1_view" if flags.FLAGS.views == "1" else "")


def _say_errors(predictions: Predictions, split: str, networks: list[TrainedNetwork]) -> None:
    top1, top5 = (predictions.wrong(k)[predictions.counted].mean() for k in (1, BEST))
    bad = len(predictions.names) - int(predictions.readable.sum())
    views = f"{flags.FLAGS.views} view{'s' if flags.FLAGS.views != '1' else ''}"
    cli.say(
        f"{split}: top-1 error {100 * top1:.2f} %, top-5 {100 * top5:.2f} % over "
        f"{predictions.counted.sum():,} images{f', {bad} unreadable' if bad else ''}, "
        f"{views}, {_which(networks)}",
        flush=True,
    )


def _draw(
    predictions: Predictions, network: TrainedNetwork, workdir: pathlib.Path, name: str
) -> None:
    """Writes the errors of each class, and a picture of the worst confusions."""
    table = workdir / "plots" / f"class_errors_{name}.csv"
    picture = workdir / "plots" / f"confusions_{name}.png"
    pictures.draw_errors(network, predictions).save(picture)
    write_class_errors(table, predictions, network)
    cli.say(f"by class in {table}, drawn in {picture}")


def _which(networks: list[TrainedNetwork]) -> str:
    steps = ", ".join(f"{network.step:,}" for network in networks)
    return f"step {steps}" if len(networks) == 1 else f"{len(networks)} networks averaged"


def _run(arguments: list[str]) -> None:
    cli.take_no_arguments(arguments)
    with cli.errors_as_one_line():
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
    cli.define_network_flags()
    flags.DEFINE_string("class_names", "", "a file of the network's classes, one a line by label")
    flags.DEFINE_integer("batch_size", 0, "images a step; 0: the run's", lower_bound=0)
    flags.DEFINE_string(
        "predictions",
        "",
        "FILE.csv, FILE.jsonl: each image's class and five likeliest; FILE.txt: a submission",
    )
    flags.DEFINE_string(
        "label_order",
        "",
        "for FILE.txt: file that names labels 1, 2, ... one per line; empty: the classes' order",
    )


def main() -> None:
    """Parses the flags and evaluates."""
    define_flags()
    cli.run(_run)


if __name__ == "__main__":
    main()
