"""Rows of a benchmark: medians with their spread, as a table and as JSON."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

from alexnet_jax.host.progress import Progress


@dataclasses.dataclass
class Row:
    """One measurement.

    Attributes:
      what: name of the measurement.
      images_per_second: median over rounds; None if nothing was timed.
      slowest: of the rounds, images per second.
      fastest: of the rounds.
      against: PyTorch's way that it is compared with, or None.
      ratio: its images per second over the other's: the median of the rounds' ratios.
      ratios: the least and the largest of them.
      beside: another figure of this run that it is compared with, or None.
      more: further fields of the JSON row.
    """

    what: str
    images_per_second: float | None
    slowest: float | None
    fastest: float | None
    against: str | None = None
    ratio: float | None = None
    ratios: tuple[float, float] | None = None
    beside: str | None = None
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Returns the row as JSON has it."""
        fields = dataclasses.asdict(self)
        return fields | fields.pop("more")


def alternated(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Lets each contender run once a round, in turns, so that a slow minute slows all of them.

    Args:
      contenders: by name; each returns images per second.
      rounds: how often.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    with Progress("measuring", 0, rounds * len(contenders), "turn") as bar:
        for _ in range(rounds):
            for name, contender in contenders.items():
                rates[name].append(contender())
                bar.advance()
                bar.show(name, f"{rates[name][-1]:,.0f} images/s")
    return rates


TORCH = ("torch-eager", "torch-channels_last", "torch-compile")


def row(what: str, rates: dict[str, list[float]], other: str | None = None, **more: Any) -> Row:
    """Returns the row of one contender of `alternated`, compared with another."""
    measured = rates[what]
    made = Row(what, statistics.median(measured), min(measured), max(measured), more=more)
    if other:
        ratios = [a / b for a, b in zip(measured, rates[other], strict=True)]
        made.ratio, made.ratios = statistics.median(ratios), (min(ratios), max(ratios))
        made.against, made.beside = (other, None) if other in TORCH else (None, other)
    return made


def rate(images: int, action: Callable[[], Any]) -> float:
    """Returns images per second of an action on so many images."""
    start = time.perf_counter()
    action()
    return images / (time.perf_counter() - start)


def table(rows: list[Row]) -> str:
    """Returns rows as a Markdown table."""
    if all("seconds" in r.more for r in rows):
        return _table_of_seconds(rows)
    if all("floor_milliseconds" in r.more for r in rows):
        return _table_of_floors(rows)
    lines = [
        "| what | batch | images/s | slowest to fastest round | against | ratio | its rounds |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        speed, slowest, fastest, ratio = (
            "" if number is None else f"{number:,.{places}f}"
            for number, places in (
                (r.images_per_second, 0),
                (r.slowest, 0),
                (r.fastest, 0),
                (r.ratio, 2),
            )
        )
        spread = f"{slowest} to {fastest}" if slowest else ""
        batch, other = r.more.get("batch_size", ""), r.against or r.beside or ""
        rounds = f"{r.ratios[0]:.2f} to {r.ratios[1]:.2f}" if r.ratios else ""
        lines.append(f"| {r.what} | {batch} | {speed} | {spread} | {other} | {ratio} | {rounds} |")
    return "\n".join(lines)


def _table_of_floors(rows: list[Row]) -> str:
    lines = ["| what | ms | floor, ms | ratio | its rounds |", "|---|---|---|---|---|"]
    for r in rows:
        spent, floor = r.more["milliseconds"], r.more["floor_milliseconds"]
        least, most = r.ratios or (0.0, 0.0)
        lines.append(
            f"| {r.what} | {spent:.2f} | {floor:.2f} | {r.ratio or 0:.2f} | "
            f"{least:.2f} to {most:.2f} |"
        )
    return "\n".join(lines)


def _table_of_seconds(rows: list[Row]) -> str:
    lines = ["| what | seconds | quickest to slowest round |", "|---|---|---|"]
    for r in rows:
        seconds, (least, most) = r.more["seconds"], r.more["rounds"]
        lines.append(f"| {r.what} | {seconds:.2f} | {least:.2f} to {most:.2f} |")
    return "\n".join(lines)
