"""Rows of metrics.jsonl: their fields, and how to read them."""

import dataclasses
import json
import pathlib
from typing import Any

from alexnet_jax.errors import UserError

Row = dict[str, Any]


class MetricsError(UserError, RuntimeError):
    """A metrics.jsonl that cannot be continued; the message names the line."""


METRICS = "metrics.jsonl"

# Fields of a row. Training figures are means over the updates since the previous row; evaluation
# figures cover all images of the split.
FIELDS = {
    "step": "finished updates",
    "split": "train, or the split that was evaluated",
    "time_of_day": "seconds since 1970 began in Greenwich",
    "epoch": "images seen, over those of the training split",
    "views": "of an evaluation: 1, or 10 whose probabilities are averaged",
    "loss": "cross-entropy in nats, without weight decay",
    "top1_error": "share of images whose likeliest class is wrong, 0 to 1",
    "top5_error": "share whose class is not among the five likeliest",
    "count": "images of an evaluation",
    "bad_images": "images that could not be read, and are in no figure",
    "learning_rate": "of the update, before factors of layers",
    "gradient_norm": "of the whole gradient",
    "images_per_second": "since the row before, evaluations and saves left out",
    "step_seconds": "of an update, in the same time",
    "mfu": "share of the FLOP/s that the devices' makers name that products of layers reach",
    "data_wait_fraction": "share of that time that the loop waited for a batch",
    "step_seconds_least": "of several processes: the fastest one's step_seconds",
    "step_seconds_median": "the median",
    "step_seconds_most": "the slowest one's",
    "weights/": "of an evaluation: mean |w| of each tensor, weights/conv1.kernel and so on",
    "updates/": "mean |v|, the velocity, which is what the next update begins with",
}


@dataclasses.dataclass(frozen=True)
class Line:
    """A whole line of metrics.jsonl."""

    text: str
    row: Row


def read_lines(path: pathlib.Path) -> list[Line]:
    """Returns the whole lines of a metrics.jsonl; a last one cut short is left out.

    Raises:
      MetricsError: a line that is no row, and not the last.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text().split("\n")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise MetricsError(f"{path}: line {number} is no text; restore the file") from error
    checked: list[Line] = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is cut short
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MetricsError(f"{path}: line {number} is not JSON; restore the file") from error
        if not (isinstance(row, dict) and type(row.get("step")) is int and _is_row(row)):
            raise MetricsError(f"{path}: line {number} is no row of metrics; restore the file")
        if checked and row["step"] < checked[-1].row["step"]:
            raise MetricsError(
                f"{path}: line {number} is of step {row['step']}, after one of step "
                f"{checked[-1].row['step']}; restore the file"
            )
        checked.append(Line(line + "\n", row))
    return checked


def _is_row(row: dict[str, Any]) -> bool:
    numbers = (value for name, value in row.items() if name != "split")
    return (
        isinstance(row.get("split"), str)
        and bool(row.keys() & {"loss", "top1_error"})
        and all(type(number) in (int, float) for number in numbers)
    )


def read_rows(path: pathlib.Path) -> list[Row]:
    """Returns the rows of a metrics.jsonl; a last line cut short is left out.

    Raises:
      MetricsError: a line that is no row, and not the last.
    """
    return [line.row for line in read_lines(path)]


def validation_errors(path: pathlib.Path) -> dict[int, float]:
    """Returns the top-1 error of each one-view evaluation, by step; none if any line is broken."""
    try:
        rows = read_rows(path)
    except MetricsError:
        return {}
    return {
        row["step"]: float(row["top1_error"])
        for row in rows
        if row.get("views") == 1 and "top1_error" in row
    }
