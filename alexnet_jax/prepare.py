"""Prepares a data set once, and verifies what was prepared.

python -m alexnet_jax.prepare --dataset=NAME|FOLDER --out=STORE [--encoding=raw|jpeg] [--resize=256]
python -m alexnet_jax.prepare --verify STORE
"""

from alexnet_jax.host import command

command.begin(__name__)  # before what is imported for seconds


import concurrent.futures
import pathlib
import shutil
import signal
import sys
import threading
from typing import Any

from absl import flags
from absl import logging as absl_logging

from alexnet_jax import cli
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.errors import UserError
from alexnet_jax.host import files, large_pages, machine, mirror, paths, signals

MOST_PIXELS = 4096  # of a side: sums of one take 200 MB in each process, 400 in the parent


def prepare() -> None:
    """Makes the store that the flags describe.

    Raises:
      ConfigError: flags that do not fit together.
      DataError: a data set, image or folder that cannot be used; what is finished is kept.
      FolderInUseError: another process makes the same store.
    """
    from alexnet_jax.data.sources import open_dataset
    from alexnet_jax.data.store import store
    from alexnet_jax.data.store.preparation import Preparation
    from alexnet_jax.data.store.shard_writer import Options
    from alexnet_jax.data.store.store_plan import finished_already
    from alexnet_jax.data.types import DataError
    from alexnet_jax.host.progress import Progress

    f = flags.FLAGS
    if not f.dataset or not f.out:
        raise ConfigError("--dataset, --out: both are needed (or --verify STORE)")
    folder = paths.local(f.out, "--out")
    source = paths.local(f.dataset, "--dataset")
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"--out: {folder} lies inside the data set {f.dataset}")
    begun = (folder / store.MANIFEST).is_file() or (folder / store.UNFINISHED).is_dir()
    if folder.is_dir() and not begun and any(folder.iterdir()):  # TFDS's own, perhaps
        raise DataError(f"{folder}: is not empty and holds no store; use another --out")
    options = Options(f.encoding, f.resize, f.exif_orientation, f.on_bad_image, f.shards)
    dataset = open_dataset(
        Config(
            dataset=f.dataset,
            data_dir=f.data_dir,
            resize=f.resize,
            exif_orientation=f.exif_orientation,
        ),
        silent=False,
    )
    if finished_already(dataset, folder, options):
        cli.say(f"{f.out}: is finished; --verify checks it")
        if (folder / store.UNFINISHED).is_dir():  # it was killed at the very end
            with files.only_process(folder / store.UNFINISHED):
                pass
            shutil.rmtree(folder / store.UNFINISHED)
        return
    workers = f.workers or machine.cores()
    with mirror.held(folder) as bucket:
        with files.only_process(folder / store.UNFINISHED):
            preparation = Preparation(dataset, folder, options, bucket.push if bucket else None)
            if preparation.done:
                cli.say(f"going on in {folder}: {preparation.done:,} images are there", flush=True)
            with Progress("prepare", preparation.done, preparation.total, "image") as progress:
                preparation.write(workers, progress.advance)
            preparation.finish()
        shutil.rmtree(folder / store.UNFINISHED)  # its lock is closed, as some disks demand
    _tell(f.out, dataset.sizes, preparation.bad_images)
    if cost := preparation.jpeg_cost():
        cli.say(
            f"jpeg changes a pixel by {cost[0]:.2f} of 255 on average and takes {cost[1]:,.0f} "
            f"bytes an image; raw takes {3 * options.resize**2:,}"
        )


def _tell(store: str, sizes: dict[str, int], left_out: list[str]) -> None:
    """Says what a store that was just finished holds, and what it does not."""
    for message in left_out:
        cli.say(f"left out: {message}")
    splits = ", ".join(f"{size:,} in {split}" for split, size in sorted(sizes.items()))
    cli.say(f"{store}: {splits}" + (f", less {len(left_out):,} left out" if left_out else ""))


def verify(folder: pathlib.Path) -> None:
    """Checks every byte and every record of a store.

    Raises:
      DataError: the store cannot be opened. Damaged files are printed, and end the process with 1.
    """
    from alexnet_jax.data.store import store
    from alexnet_jax.data.store.verification import check_file, record_files
    from alexnet_jax.data.types import DataError
    from alexnet_jax.host.progress import Progress

    manifest = store.read_manifest(folder)
    problems = store.damaged_files(folder, manifest)
    lost = {problem.partition(":")[0] for problem in problems}
    whole = [name for name in manifest["files"] if str(folder / name) not in lost]
    try:
        expected = record_files(folder)
    except DataError as error:
        problems.append(str(error))
        expected = {}
    over = threading.Event()

    def check(name: str) -> list[str]:
        return check_file(folder, name, manifest, expected.get(name), over.is_set)

    pool = concurrent.futures.ThreadPoolExecutor(flags.FLAGS.workers or machine.cores())
    try:
        with Progress("verify", 0, len(whole), "file") as progress:
            for damage in pool.map(check, whole):
                problems += damage
                progress.advance()
    finally:
        over.set()  # after Ctrl-C, of a shard that takes minutes
        pool.shutdown(cancel_futures=True)
    for problem in problems:
        cli.say(f"damaged: {problem}")
    if problems:
        sys.exit(f"error: {folder}: {len(problems)} problems; restore these, or prepare it again")
    records = sum(about.get("records", 0) for about in manifest["files"].values())
    cli.say(f"{folder}: {len(whole)} files and {records:,} records are as they were written")


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
        verify(paths.local(arguments[1], "STORE"))
    elif flags.FLAGS.verify or len(arguments) > 1:
        raise ConfigError("--verify STORE: name one store, and nothing without --verify")
    else:
        prepare()


def _interrupt_once(*_: object) -> None:
    """Stops at the first Ctrl-C; those after it would stop the stopping."""
    sys.unraisablehook = _unless_late
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _unless_late(about: Any) -> None:
    """Reports what Python cannot raise, but for a second Ctrl-C that came just before the line that
    ignores it: it is to be ignored too."""
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
