"""Do the columns specialise in colour (paper 6.1)?

    python -m experiments.ablations.colour --out=FOLDER [--arms=base,no_communication,one_column]

Reads conv1's kernels from the workdirs that `experiments.ablations.run` made in FOLDER, and writes
FOLDER/colour.md and FOLDER/colour.png: each run's mean colour selectivity by half of conv1, the
halves' difference, and the difference by chance, when the same kernels are dealt into halves at
random. In a one-column network the halves are the first and the second half of the kernels.
"""

import pathlib

import numpy as np
from absl import app, flags

from alexnet_jax import cli
from alexnet_jax.figures import kernels as figure
from alexnet_jax.host import files
from experiments.statistics import shown

DEALS = 2000


def chance(kernels: np.ndarray) -> float:
    """Returns the mean difference in selectivity between two random halves of the kernels.

    Args:
      kernels: (h, w, 3, K).
    """
    rng, selectivity = np.random.default_rng(0), figure.colour_selectivity(kernels)
    dealt = rng.permuted(np.tile(selectivity, (DEALS, 1)), axis=1)
    halves = figure.by_column(dealt, 2).mean(axis=-1)
    return float(np.abs(halves[0] - halves[1]).mean())


def conv1(workdir: pathlib.Path) -> np.ndarray:
    """Returns the kernels of a run's last checkpoint, (11, 11, 3, K)."""
    from alexnet_jax.inference import trained

    return np.asarray(trained.load(workdir, which="latest").params["conv1"]["kernel"])


def table(by_arm: dict[str, dict[str, np.ndarray]]) -> str:
    """Returns the halves' selectivity of every run, Markdown.

    Args:
      by_arm: arm -> seed -> kernels.
    """
    lines = ["| network | seed | first half | second half | apart | by chance |", "|---" * 6 + "|"]
    summary = []
    for arm, runs in by_arm.items():
        beyond = []
        for seed, kernels in runs.items():
            halves = figure.by_column(figure.colour_selectivity(kernels), 2).mean(axis=1)
            apart, dealt = figure.specialisation(kernels), chance(kernels)
            beyond.append(apart - dealt)
            cells = (*halves, apart, dealt)
            lines.append(f"| {arm} | {seed} | " + " | ".join(f"{c:.3f}" for c in cells) + " |")
        summary.append(f"{arm}: apart by {shown(beyond)} beyond chance over {len(beyond)} runs")
    return "\n".join([*lines, "", *(f"- {line}" for line in summary)]) + "\n"


def _run(_: list[str]) -> None:
    out = pathlib.Path(flags.FLAGS.out).expanduser()
    with cli.errors_as_one_line():
        by_arm = {
            arm: {
                path.name: conv1(path)
                for path in sorted((out / arm).iterdir())
                if (path / "summary.json").is_file()
            }
            for arm in flags.FLAGS.arms
        }
        files.replace_text(out / "colour.md", table(by_arm))
        apart = {
            arm: list(map(figure.specialisation, runs.values())) for arm, runs in by_arm.items()
        }
        figure.draw_distribution(apart).save(out / "colour.png")
    print((out / "colour.md").read_text())


def define_flags() -> None:
    """Declares the command's flags; not at import, for other commands have the same."""
    flags.DEFINE_string("out", None, "folder of the workdirs", required=True)
    flags.DEFINE_list("arms", "base,no_communication,one_column", "kinds of network")


if __name__ == "__main__":
    define_flags()
    app.run(_run)
