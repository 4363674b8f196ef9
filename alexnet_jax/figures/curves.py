"""Learning curves: of one run over its steps, and of several runs over epochs."""

from typing import Any

from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture
from alexnet_jax.steps.metrics import series_of

Row = dict[str, Any]  # of metrics.jsonl


def draw_run(rows: list[Row]) -> Picture:
    """Draws loss, error and learning rate over steps, training and evaluation together.

    Args:
      rows: of the run's metrics.jsonl.
    """
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        by_split.setdefault(series_of(row), []).append(row)
    figure = Picture(figsize=(12, 4), layout="constrained", dpi=110)
    axes = figure.subplots(1, 3)
    for split, points in by_split.items():
        steps = [row["step"] for row in points]
        style = {"linewidth": 1, "alpha": 0.7} if split == "train" else {"marker": "o", "ms": 3}
        nan = float("nan")  # of a row that does not have it
        axes[0].plot(steps, [row.get("loss", nan) for row in points], label=split, **style)
        errors = [100 * row.get("top1_error", nan) for row in points]
        axes[1].plot(steps, errors, label=split, **style)
    rates = [(row["step"], row["learning_rate"]) for row in rows if "learning_rate" in row]
    axes[2].plot(*zip(*rates, strict=True) if rates else ([], []), color=colours.GREEN)
    measured = next((row for row in reversed(rows) if row["split"] != "train"), {})
    ends = f" ends at {100 * measured['top1_error']:.2f} %" if "top1_error" in measured else ""
    lost = f" ends at {measured['loss']:.3g}" if "loss" in measured else ""
    names = ((f"loss{lost}", "nats"), (f"top-1 error{ends}", "%"), ("learning rate", ""))
    for axis, (title, unit) in zip(axes, names, strict=True):
        axis.set(title=title, xlabel="step", ylabel=unit)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(bottom=0)
    axes[1].set_ylim(bottom=0)
    axes[0].legend()
    return figure


def draw(runs: dict[str, list[Row]]) -> Picture:
    """Draws training loss and evaluation error of runs over epochs.

    Args:
      runs: name -> rows of its metrics.jsonl.
    """
    figure = Picture(figsize=(12, 4.6), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    for number, (name, rows) in enumerate(runs.items()):
        colour = colours.of(number)
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
    return figure


def _smooth(values: list[float], share: float = 0.05) -> list[float]:
    """Returns the moving average over the preceding `share` of the curve's points."""
    span = max(1, round(share * len(values)))
    return [
        sum(values[max(0, i - span + 1) : i + 1]) / len(values[max(0, i - span + 1) : i + 1])
        for i in range(len(values))
    ]
