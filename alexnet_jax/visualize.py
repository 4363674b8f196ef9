"""python -m alexnet_jax.visualize WHAT --workdir=W [PHOTO ...]: pictures of a run, or of several.

kernels      figure 3 of the paper: conv1's kernels by column, and their colour selectivity; of
             several runs also how far their columns are apart
answers      figure 4, left: images with their five likeliest classes
neighbours   figure 4, right: the training images nearest to some images in fc7
confusion    the confusion matrix of a split
curves       learning curves of several runs
activations  what is left of a photograph after each layer, by column
occlusion    which part of a photograph carries the answer: a square is covered at each place
augment      what training sees of a photograph; of a run or of a recipe, --config=NAME
features     a layer's activations of every image of a split, as FILE.npz
split        figure 2: what each device of a mesh computes, and what the compiled step sends; of
             --config=NAME --config.mesh.model=2 (the recipe `paper`) or of a run, as SVG and PNG

activations, occlusion and augment take photographs; without any, they choose from --split.
In a notebook, call the same functions in `alexnet_jax.inference.pictures`.
"""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import pathlib
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import ConfigError
from alexnet_jax.configs import flags as config_flags
from alexnet_jax.configs.by_hand import by_hand
from alexnet_jax.errors import unknown
from alexnet_jax.host import paths


def define_flags() -> None:
    """Declares the command's flags; not at import, for another command has the same."""
    flags.DEFINE_multi_string("workdir", None, "the folder of a run; may be given several times")
    flags.DEFINE_string("out", "", "the picture or file; empty: in the first workdir's plots")
    flags.DEFINE_string("split", "", "split or slice; empty: the run's evaluation split")
    cli.define_network_flags()
    flags.DEFINE_string("layer", "fc7", "neighbours, features: the layer, conv1 .. fc8")
    flags.DEFINE_integer("images", 8, "answers, neighbours: how many images", lower_bound=1)
    flags.DEFINE_integer("neighbours", 6, "neighbours: how many per image", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "seed of the random choice of images", lower_bound=0)
    flags.DEFINE_string("dataset", "", "another data set than the run's")
    flags.DEFINE_string("data_dir", "", "another data_dir than the run's")
    config_flags.define()


def _workdirs() -> list[pathlib.Path]:
    if not flags.FLAGS.workdir:
        raise ConfigError("--workdir: name the folder of a run")
    return [paths.local(name, "--workdir") for name in flags.FLAGS.workdir]


def _out(name: str) -> pathlib.Path:
    out = flags.FLAGS.out
    return paths.local(out, "--out") if out else _workdirs()[0] / "plots" / name


def _load(workdir: pathlib.Path) -> Any:
    from alexnet_jax import inference

    network = inference.load(workdir, flags.FLAGS.checkpoint, flags.FLAGS.kernels)
    network.config.dataset = flags.FLAGS.dataset or network.config.dataset
    network.config.data_dir = flags.FLAGS.data_dir or network.config.data_dir
    return network


def _kernels() -> pathlib.Path:
    from alexnet_jax.inference import pictures

    networks, path = [_load(workdir) for workdir in _workdirs()], _out("kernels.png")
    for workdir, network in zip(_workdirs(), networks, strict=True):
        apart = pictures.colour_gap(network)
        cli.say(f"{workdir}: halves of conv1 are {apart:.3f} apart in colour selectivity")
    pictures.kernels(networks[0]).save(path)
    if len(networks) > 1:
        spread = path.with_stem(f"{path.stem}_specialisation")
        pictures.specialisation(networks).save(spread)
    return path


def _answers() -> pathlib.Path:
    from alexnet_jax.inference import pictures

    f, path = flags.FLAGS, _out("answers.png")
    pictures.answers(_load(_workdirs()[0]), f.split, f.images, f.seed).save(path)
    return path


def _neighbours() -> pathlib.Path:
    from alexnet_jax.inference import pictures

    f, path, network = flags.FLAGS, _out("neighbours.png"), _load(_workdirs()[0])
    figure = pictures.neighbours(network, f.split, f.layer, f.images, f.neighbours, f.seed)
    figure.save(path)
    return path


def _confusion() -> pathlib.Path:
    from alexnet_jax.inference import pictures

    path = _out("confusion.png")
    pictures.confusion(_load(_workdirs()[0]), flags.FLAGS.split).save(path)
    return path


def _curves() -> pathlib.Path:
    from alexnet_jax.inference import pictures

    path = _out("curves.png")
    pictures.curves(_workdirs()).save(path)
    return path


def _features() -> pathlib.Path:
    from alexnet_jax.inference import features

    network, layer = _load(_workdirs()[0]), flags.FLAGS.layer
    path = _out(f"{layer}.npz")
    features.write(network, path, layer, flags.FLAGS.split)
    return path


def _photographs(config: Any, named: list[str]) -> list[Any]:
    """Returns what was named on the command line, or some images of the split."""
    if named:
        return [str(paths.local(name, "PHOTO")) for name in named]
    import numpy as np

    from alexnet_jax.data.decode import read_square
    from alexnet_jax.data.sources import open_dataset

    f, dataset = flags.FLAGS, open_dataset(config)
    source = dataset.open(f.split or config.eval_split or dataset.eval_split())
    count = min(f.images if f["images"].present else 1, len(source))
    chosen = np.random.default_rng(f.seed).choice(len(source), count, replace=False)
    return [read_square(source, int(index), config.resize)[0] for index in chosen]


def _each(name: str, photographs: list[Any], draw: Callable[[Any], Any]) -> pathlib.Path:
    """Draws a picture for each photograph; returns the first one's path."""
    first = _out(name) if flags.FLAGS.workdir or flags.FLAGS.out else pathlib.Path(name)
    for number, photograph in enumerate(photographs, 1):
        path = first if number == 1 else first.with_stem(f"{first.stem}_{number}")
        draw(photograph).save(path)
    return first


def _activations(named: list[str]) -> pathlib.Path:
    from alexnet_jax.inference import pictures

    network = _load(_workdirs()[0])
    shown = _photographs(network.config, named)
    return _each("activations.png", shown, lambda one: pictures.activations(network, one))


def _occlusion(named: list[str]) -> pathlib.Path:
    from alexnet_jax.inference import pictures

    network, path = _load(_workdirs()[0]), _out("occlusion.png")
    pictures.occlusion(network, _photographs(network.config, named)).save(path)
    return path


def _augment(named: list[str]) -> pathlib.Path:
    from alexnet_jax.inference import pictures
    from alexnet_jax.training import run_files

    workdirs = _workdirs() if flags.FLAGS.workdir else []
    config = run_files.read_config(workdirs[0]) if workdirs else config_flags.value()
    shown, seed = _photographs(config, named), flags.FLAGS.seed
    return _each("augment.png", shown, lambda one: pictures.augment(config, one, seed))


def _split() -> pathlib.Path:
    from alexnet_jax.ops import platform

    if flags.FLAGS.workdir:
        from alexnet_jax.training import run_files

        workdir = _workdirs()[0]
        config = run_files.read_config(workdir)
        config.num_classes = config.num_classes or len(run_files.read_class_names(workdir))
        config.init.weights = ""  # whatever it began with, the step is the same
    else:
        config = config_flags.value()
    mesh = config.mesh
    if not flags.FLAGS.workdir and not by_hand(mesh) and config.model.columns > 1:
        mesh.model = 2  # as in the paper
    mesh.data = max(1, mesh.data)
    devices = mesh.data * mesh.model
    platform.simulate(devices)
    from alexnet_jax.inference import pictures

    cli.say(f"compiling a step for {devices} simulated devices")
    collectives = pictures.exchanges(config)
    picture = pictures.draw_split(config, collectives)
    path = paths.local(flags.FLAGS.out or "split.svg", "--out")
    picture.save(path)
    picture.save(path.with_suffix(".png" if path.suffix != ".png" else ".svg"))
    sent = sum(one.moved for one in collectives)
    cli.say(f"{len(collectives)} exchanges; each device sends {sent / 1e6:,.1f} MB a step")
    return path


KINDS: dict[str, Callable[[], pathlib.Path]] = {
    "kernels": _kernels,
    "answers": _answers,
    "neighbours": _neighbours,
    "confusion": _confusion,
    "curves": _curves,
    "features": _features,
    "split": _split,
}
OF_PHOTOGRAPHS: dict[str, Callable[[list[str]], pathlib.Path]] = {
    "activations": _activations,
    "occlusion": _occlusion,
    "augment": _augment,
}
OF_RECIPES = ("split", "augment")


def _run(arguments: list[str]) -> None:
    known = [*KINDS, *OF_PHOTOGRAPHS]
    if len(arguments) < 2:
        sys.exit(f"error: name one of {', '.join(known)}")
    _, kind, *named = arguments
    with cli.errors_as_one_line():
        if kind not in known:
            raise ConfigError(f"visualize: {unknown(kind, known)}")
        if named and kind in KINDS:
            raise ConfigError(f"{named[0]}: {kind} takes no photographs")
        if kind not in OF_RECIPES and flags.FLAGS["config"].present:
            raise ConfigError(
                f"--config: {kind} reads a run: use --workdir; {' and '.join(OF_RECIPES)} take it"
            )
        path = KINDS[kind]() if kind in KINDS else OF_PHOTOGRAPHS[kind](named)
        cli.say(f"written: {path}")


def _with_a_recipe(arguments: list[str]) -> list[str]:
    """Resolves --config where it is used."""
    if any(kind in arguments for kind in OF_RECIPES) or any(
        a.startswith(("-config", "--config")) for a in arguments[1:]
    ):
        return config_flags.resolve(arguments, "paper")
    return arguments


def main() -> None:
    """Parses the flags and draws."""
    define_flags()
    cli.run(_run, _with_a_recipe)


if __name__ == "__main__":
    main()
