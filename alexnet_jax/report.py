"""python -m alexnet_jax.report --workdir=W [--workdir=V ...]: a page of a run, or of several.

One self-contained HTML file: results, curves, answers, time, devices, recipe. For one run it is
W/report.html; several runs are compared, with means over seeds. The train command makes its run's
page at the end; at saves and evaluations it makes one without answers, if the last is ten minutes
old (report_every_minutes).
"""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import pathlib
import sys

from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import ConfigError
from alexnet_jax.host import paths

MOST_WITH_ANSWERS = 6  # of several runs: each has up to 0.7 MB of pictures


def define_flags() -> None:
    """Declares the command's flags."""
    flags.DEFINE_multi_string("workdir", None, "the folder of a run; may be given several times")
    flags.DEFINE_string("out", "", "the file; empty: report.html in the first workdir")
    flags.DEFINE_bool("answers", True, "what the network answers to images of its split")


def _run(arguments: list[str]) -> None:
    cli.take_no_arguments(arguments)
    values = flags.FLAGS
    with cli.errors_as_one_line():
        from alexnet_jax.ops import platform

        platform.leave_devices()  # the run may be at them
        if not values.workdir:
            raise ConfigError("--workdir: name the folder of a run")
        workdirs = [paths.local(name, "--workdir") for name in values.workdir]
        out = paths.local(values.out, "--out") if values.out else workdirs[0] / "report.html"
        path = make(workdirs, out, values.answers)
    cli.say(f"written: {path} ({path.stat().st_size / 2**20:.1f} MiB)")


def make(workdirs: list[pathlib.Path], out: pathlib.Path, with_answers: bool) -> pathlib.Path:
    """Writes the page of some runs.

    Args:
      workdirs: of the runs.
      out: the file.
      with_answers: load each network, and show its answers. If that fails, a line says why, and the
        page has none.
    """
    from alexnet_jax.pages import page, run

    runs = run.read_all(workdirs)
    shown = {}
    pictured = runs[:MOST_WITH_ANSWERS] if with_answers else []
    if with_answers and len(pictured) < len(runs):
        cli.say(
            f"only the first {MOST_WITH_ANSWERS} runs have pictures of answers, to keep the page "
            "under 5 MB; name fewer runs to see the others'",
            file=sys.stderr,
        )
    for one in pictured:
        from alexnet_jax import inference
        from alexnet_jax.pages import answers

        try:
            shown[one.name] = answers.shown(inference.load(one.workdir), one.workdir)
        except Exception as error:  # of the network or its data; the rest of the page needs neither
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            cli.say(f"{one.workdir}: a page without answers ({reason})", file=sys.stderr)
    page.write(page.render(runs, shown), out)
    return out


def main() -> None:
    """Parses the flags and writes the page."""
    define_flags()
    cli.run(_run)


if __name__ == "__main__":
    main()
