"""Prepares a data set once, and verifies what was prepared.

python -m alexnet_jax.prepare --dataset=NAME|FOLDER --out=STORE [--encoding=raw|jpeg] [--resize=256]
python -m alexnet_jax.prepare --verify STORE
"""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import signal
import sys
from typing import Any

from absl import flags
from absl import logging as absl_logging

from alexnet_jax import cli
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.errors import UserError
from alexnet_jax.host import large_pages, machine, mirror, paths, signals

MOST_PIXELS = 4096  # of a side: sums of one take 200 MB in each process, 400 in the parent


def _prepare() -> None:
    from alexnet_jax.data.sources import open_dataset
    from alexnet_jax.data.store.preparation import prepare, refuse_another_folder
    from alexnet_jax.data.store.shard_writer import Options

    f = flags.FLAGS
    if not f.dataset or not f.out:
        raise ConfigError("--dataset, --out: both are needed (or --verify STORE)")
    folder = paths.local(f.out, "--out")
    source = paths.local(f.dataset, "--dataset")
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"--out: {folder} lies inside the data set {f.dataset}")
    options = Options(f.encoding, f.resize, f.exif_orientation, f.on_bad_image, f.shards)
    about = Config(
        dataset=f.dataset,
        data_dir=f.data_dir,
        resize=f.resize,
        exif_orientation=f.exif_orientation,
    )
    refuse_another_folder(folder)  # before a data set is downloaded or scanned for it
    dataset = open_dataset(about, silent=False)
    made = prepare(dataset, folder, options, f.workers or machine.cores())
    if made is None:
        cli.say(f"{f.out}: is finished; --verify checks it")
        return
    for message in made.bad_images:
        cli.say(f"left out: {message}")
    splits = ", ".join(f"{size:,} in {split}" for split, size in sorted(dataset.sizes.items()))
    lost = f", less {len(made.bad_images):,} left out" if made.bad_images else ""
    cli.say(f"{f.out}: {splits}{lost}")
    if cost := made.jpeg_cost():
        cli.say(
            f"jpeg changes a pixel by {cost[0]:.2f} of 255 on average and takes {cost[1]:,.0f} "
            f"bytes an image; raw takes {3 * options.resize**2:,}"
        )


def _verify(store: str) -> None:
    from alexnet_jax.data.store import verification

    folder = paths.local(store, "STORE")
    checked = verification.verify(folder, flags.FLAGS.workers or machine.cores())
    for problem in checked.problems:
        cli.say(f"damaged: {problem}")
    if checked.problems:
        count = len(checked.problems)
        sys.exit(f"error: {folder}: {count} problems; restore these, or prepare it again")
    cli.say(
        f"{folder}: {checked.files} files and {checked.records:,} records are as they were written"
    )


def _run(arguments: list[str]) -> None:
    absl_logging.set_verbosity(absl_logging.ERROR)
    cli.print_any_name()
    try:
        with signals.handled(signal.SIGINT, _interrupt_once):
            _prepare_or_verify(arguments)
            mirror.write_back()  # what TFDS made in a data_dir
    except KeyboardInterrupt:
        cli.say("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")


def _prepare_or_verify(arguments: list[str]) -> None:
    if flags.FLAGS.verify and len(arguments) == 2:
        _verify(arguments[1])
    elif flags.FLAGS.verify or len(arguments) > 1:
        raise ConfigError("--verify STORE: name one store, and nothing without --verify")
    else:
        _prepare()


def _interrupt_once(*_: object) -> None:
    """Stops at the first Ctrl-C; ignores later ones, which would interrupt the shutdown."""
    sys.unraisablehook = _unless_late
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _unless_late(about: Any) -> None:
    """Reports errors that Python cannot raise, except a second Ctrl-C from just before the line
    that ignores it: that one is ignored too."""
    if "ignored due to race condition" not in str(about.exc_value):
        sys.__unraisablehook__(about)


def define_flags() -> None:
    """Declares the command's flags; not at import, for another command has the same."""
    flags.DEFINE_string("dataset", None, "a TFDS data set, or a folder split/class/image")
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir; empty: its default")
    flags.DEFINE_string("out", None, "folder of the store to make, or to go on with")
    flags.DEFINE_enum("encoding", "raw", ["raw", "jpeg"], "raw is exact; jpeg says its cost")
    flags.DEFINE_integer("resize", 256, "side of the squares, in pixels", 1, MOST_PIXELS)
    flags.DEFINE_bool("exif_orientation", False, "turn photographs as their EXIF field says")
    flags.DEFINE_enum(
        "on_bad_image",
        "raise",
        ["raise", "skip"],
        "skip: leave out what cannot be decoded; count it",
    )
    flags.DEFINE_integer("workers", 0, "processes; 0: one for each core", lower_bound=0)
    flags.DEFINE_integer(
        "shards", 0, "files of each split; 0: by its size, a GiB each at most", lower_bound=0
    )
    flags.DEFINE_bool("verify", False, "check every byte and every record of STORE instead")


def main() -> None:
    """Parses the flags and prepares."""
    define_flags()
    large_pages.start_again_with_them()
    cli.run(_run)


if __name__ == "__main__":
    main()
