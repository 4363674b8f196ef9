"""Learning curves of several runs on one plot."""

import pathlib

from matplotlib.figure import Figure

from alexnet_jax.training.writers import Row


def draw(runs: dict[str, list[Row]], path: pathlib.Path) -> None:
    """Draws training loss and evaluation error of runs over epochs.

    Args:
      runs: name -> rows of its metrics.jsonl.
      path: of the picture.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, rows) in enumerate(runs.items()):
        colour = f"C{number % 10}"
        train = [row for row in rows if row["split"] == "train"]
        steps = {row["step"]: row["epoch"] for row in train}
        per_step = max(row["epoch"] / row["step"] for row in train) if train else 1.0
        left.plot(
            [row["epoch"] for row in train],
            _smooth([row["loss"] for row in train]),
            color=colour,
            label=name,
            linewidth=1,
        )
        evaluated = [row for row in rows if row["split"] != "train" and row.get("views", 1) == 1]
        right.plot(
            [steps.get(row["step"], row["step"] * per_step) for row in evaluated],
            [100 * row["top1_error"] for row in evaluated],
            "o-",
            color=colour,
            label=name,
            ms=3,
        )
    left.set(title="training loss", xlabel="epoch", ylabel="nats")
    right.set(title="top-1 error, one view", xlabel="epoch", ylabel="%")
    for axis in (left, right):
        drawn = [value for line in axis.get_lines() for value in line.get_ydata()]
        axis.set_ylim(0, 1.06 * max(drawn, default=1.0) or 1.0)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    right.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _smooth(values: list[float], share: float = 0.05) -> list[float]:
    """Averages over the last `share` of the curve's points."""
    span = max(1, round(share * len(values)))
    return [
        sum(values[max(0, i - span + 1) : i + 1]) / len(values[max(0, i - span + 1) : i + 1])
        for i in range(len(values))
    ]
