"""python -m alexnet_jax.checkpoints --workdir=W [--verify]: a run's checkpoints, and their state.

Lists the step, the size and the validation error of each checkpoint. --verify reads every byte and
compares it with the digests that the save stored. The exit code is 1 if something is damaged.
"""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import os
import pathlib
import sys

from absl import flags

from alexnet_jax import cli
from alexnet_jax.host import files, paths


def _run(arguments: list[str]) -> None:
    cli.take_no_arguments(arguments)
    with cli.errors_as_one_line():
        workdir = paths.local(flags.FLAGS.workdir, "--workdir")
        damaged = listed(workdir, flags.FLAGS.verify)
    sys.exit(1 if damaged else 0)


def listed(workdir: pathlib.Path, verify: bool) -> bool:
    """Prints a line for each checkpoint of a workdir.

    Args:
      workdir: of a run, which may be training.
      verify: read all of them.

    Returns:
      Is one damaged?

    Raises:
      ConfigError: it is no run's.
    """
    from alexnet_jax.training import run_files
    from alexnet_jax.training.stored import DAMAGED, Stored

    stored = Stored(workdir, run_files.identity(workdir, run_files.read_config(workdir)))
    steps, best, damaged = stored.steps(), None, False
    if stored.record.errors and steps:
        best = stored.candidates("best")[0]
    if (lost := stored.missing()) is not None:
        cli.say(f"{lost:>10,}  damaged: is missing")
        damaged = True
    for step in steps:
        size = files.size_of(stored.path / str(step))
        error = stored.record.errors.get(step)
        top1 = "" if error is None else f"top-1 error {100 * error:6.2f} %"
        state = stored.state(step, verify)
        if not os.path.lexists(stored.path / str(step)):
            continue  # the run has removed it meanwhile
        damaged = damaged or state.startswith("damaged")
        mark = ", the best" if step == best else ""
        cli.say(f"{step:>10,}  {size / 2**20:9,.1f} MiB  {top1:>21}  {state}{mark}", flush=True)
    for path in sorted(stored.path.glob(f"{DAMAGED}*")):
        cli.say(f"{path.name}: was moved aside; remove it when nobody needs it")
    if not steps:
        cli.say(f"{workdir}: no checkpoint yet")
    return damaged


def define_flags() -> None:
    """Declares the command's flags."""
    flags.DEFINE_string("workdir", None, "the folder of a run", required=True)
    flags.DEFINE_bool("verify", False, "read every byte, and compare it with what was saved")


def main() -> None:
    """Parses the flags and lists."""
    define_flags()
    cli.run(_run)


if __name__ == "__main__":
    main()
