"""history.jsonl: a run's starts, saves and ends, and what its time went to.

Goodput is the share of a run's time spent on updates that the current network contains. The rest
is reading, compiling, evaluating, saving, waiting, lost work, and the time when the machine was
away.
"""

import contextlib
import datetime
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from alexnet_jax.errors import Interrupted, printable
from alexnet_jax.host import files
from alexnet_jax.host.stopwatch import Stopwatch

FILE = "history.jsonl"

# What the time of a process goes to, in the order in which it is shown.
KINDS = {
    "step": "updates, with what their collectives wait for",
    "input": "waiting for a batch",
    "compile": "compiling",
    "evaluate": "evaluating, and drawing the curves",
    "save": "saving, as far as the loop waits for it",
    "wait": "waiting for other processes",
    "start": "opening the data, reading checkpoints",
}
FINISHED, KILLED = "finished", "killed, or its machine was"

Event = dict[str, Any]


class History(contextlib.AbstractContextManager):
    """The events of one run, and the stopwatch of this start of it."""

    def __init__(self, workdir: pathlib.Path, stopwatch: Stopwatch, writes: bool = True) -> None:
        """Prepares a history; `begin` writes its first event.

        Args:
          workdir: of the run.
          stopwatch: begun when this start of the run was.
          writes: is this the process that writes?
        """
        self.stopwatch, self._writes = stopwatch, writes
        self._path, self._workdir = workdir / FILE, workdir
        self._file: TextIO | None = None
        self._counted: dict[str, float] = {}
        self._step = 0
        self.events: list[Event] = []

    def begin(self, step: int, processes: int, devices: str) -> None:
        """Records a start after update `step`; before that, the end of one that was killed."""
        self._step = step
        if not self._writes:
            return
        self.events = read(self._path)
        with files.named(self._path):
            self._file = self._path.open("a")
            written = self._path.read_bytes()
            if not written.endswith(b"\n"):  # a kill cut the last event short
                self._file.truncate(written.rfind(b"\n") + 1)
        if self.events and self.events[-1]["event"] != "end":
            self._add("end", reason=KILLED, at=_last_sign_of_life(self._workdir, self.events[-1]))
        self._add("start", step=step, processes=processes, devices=devices)

    def reached(self, step: int) -> None:
        """Notes the last update whose figures are known."""
        self._step = step

    def saved(self, step: int) -> None:
        """Notes a checkpoint, and what the time until then went to."""
        self._add("save", step=step, spent=self._span())

    def evaluated(self, step: int) -> None:
        """Notes an evaluation."""
        self._add("evaluate", step=step)

    def finish(self) -> None:
        """Notes the end of a run that has reached its last step and is evaluated."""
        self._add("end", step=self._step, reason=FINISHED, spent=self._span())

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        try:
            if error is not None and self._file is not None:
                self._add("end", step=self._step, reason=_reason(error), spent=self._span())
        finally:
            if self._file is not None:
                self._file.close()

    def account(self) -> dict[str, float]:
        """Returns `account` of the events until now."""
        now = {"event": "now", "at": _now(), "step": self._step, "spent": self._since_counted()}
        return account([*self.events, now]) if self.events else {}

    def _add(self, event: str, at: str = "", **about: Any) -> None:
        if self._file is None:
            return
        line = {"event": event, "at": at or _now()} | about
        self.events.append(line)
        with files.named(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def _since_counted(self) -> dict[str, float]:
        spent = self.stopwatch.spent()
        return {
            kind: round(seconds - self._counted.get(kind, 0.0), 4)
            for kind, seconds in spent.items()
        }

    def _span(self) -> dict[str, float]:
        counted = self._since_counted()
        for kind, seconds in counted.items():
            self._counted[kind] = self._counted.get(kind, 0.0) + seconds
        return {kind: seconds for kind, seconds in counted.items() if seconds}


def read(path: pathlib.Path) -> list[Event]:
    """Returns the events of a history.jsonl; warns of lines that are no events, and skips them."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    events, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line) if line.strip() else None
            if event is not None:
                events.append(_checked(event))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError, OverflowError):
            if number < len(lines):  # the last one may have been cut short by a kill
                damaged.append(number)
    if damaged:
        warning = f"warning: {path}: line {damaged[0]} is no event"
        if len(damaged) > 1:
            warning += f", nor are {len(damaged) - 1} others"
        print(
            printable(f"{warning}; the breakdown of the run's time skips damaged lines"),
            file=sys.stderr,
        )
    return events


def _checked(event: Event) -> Event:
    """Checks that an event has what `account` needs; returns it.

    Raises:
      ValueError, TypeError, KeyError, AttributeError, OverflowError: it lacks something.
    """
    if event["event"] not in ("start", "save", "evaluate", "end"):
        raise ValueError("another event")
    if seconds_of(event["at"]) < 0:
        raise ValueError("a time before all")
    needs_step = event["event"] != "end" or "spent" in event
    if type(event["step"] if needs_step else event.get("step", 0)) is not int:
        raise ValueError("no step")
    if not all(0 <= float(seconds) < 1e9 for seconds in event.get("spent", {}).values()):
        raise ValueError("no time")
    return event


def account(events: Sequence[Event]) -> dict[str, float]:
    """Returns what a run's time went to.

    Args:
      events: of a run, in their order.

    Returns:
      `goodput`: the share of all seconds that went to updates that were kept; `seconds`: all of
      them since the first start, without the time when the run was finished; the seconds of each
      of KINDS; `lost`: seconds of work that a kill or an error undid; `away`: seconds between an
      end and the next start; `starts`.
    """
    work: list[tuple[int, dict[str, float]]] = []  # spans of work, by the step that they led to
    away = lost = starts = 0.0
    ended_at: float | None = None
    finished = False
    for event in events:
        at, spent = seconds_of(event["at"]), event.get("spent", {})
        if event["event"] == "start":
            starts += 1
            if ended_at is not None and not finished:
                away += max(0.0, at - ended_at)
            undone = [span for step, span in work if step > event["step"]]
            lost += sum(sum(span.values()) for span in undone)
            work = [(step, span) for step, span in work if step <= event["step"]]
            ended_at = at
        elif event["event"] == "evaluate":
            continue  # its time is in the next event's
        elif "spent" in event:
            work.append((event["step"], spent))
            ended_at = at
        else:  # the end of a killed start: all since the last save was lost
            lost += max(0.0, at - (ended_at if ended_at is not None else at))
            ended_at = at
        finished = event.get("reason") == FINISHED
    each = {kind: sum(span.get(kind, 0.0) for _, span in work) for kind in KINDS}
    seconds = sum(each.values()) + lost + away
    share = each["step"] / seconds if seconds else 0.0
    totals = {"goodput": share, "seconds": seconds} | each | {"lost": lost, "away": away}
    return {name: round(value, 3) for name, value in totals.items()} | {"starts": int(starts)}


def described(totals: dict[str, float]) -> str:
    """Says in one line what a run's time went to."""
    parts = [
        f"{name} {totals[name]:,.0f} s"
        for name in (*KINDS, "lost", "away")
        if totals[name] >= 0.5 and name != "step"
    ]
    starts = f" in {totals['starts']:,} starts" if totals["starts"] > 1 else ""
    return f"{100 * totals['goodput']:.0f} % of {totals['seconds']:,.0f} s{starts} were updates" + (
        f" ({', '.join(parts)})" if parts else ""
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, Interrupted):
        return f"{error} (exit {error.code})"
    lines = str(error).strip().splitlines()
    return printable(": ".join([type(error).__name__, *lines[:1]])[:300])


def _last_sign_of_life(workdir: pathlib.Path, last: Event) -> str:
    """Returns when a run that was killed last wrote anything, as the next start sees it."""
    signs = [seconds_of(last["at"])]
    for name in ("metrics.jsonl", FILE):
        with contextlib.suppress(FileNotFoundError):
            signs.append((workdir / name).stat().st_mtime)
    return _text(max(signs))


def _now() -> str:
    return _text(datetime.datetime.now(datetime.UTC).timestamp())


def _text(seconds: float) -> str:
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return at.isoformat(timespec="milliseconds")


def seconds_of(text: str) -> float:
    """Returns the seconds of a time as the events have it.

    Raises:
      ValueError, TypeError: it is none.
    """
    return datetime.datetime.fromisoformat(text).timestamp()
