"""Where the time of a run's recorded updates went: layers, exchanges, gaps."""

import dataclasses
import json
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from alexnet_jax.config import ConfigError
from alexnet_jax.steps.communication import KINDS
from alexnet_jax.training import profiler

MARK = "update"  # of a dispatch, as `training.profiler` writes it
OTHER = "other"
# Instructions that contain others: only the inner ones are counted.
AROUND = ("while", "conditional", "call", "async-start", "async-done")
_LINE = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?:\(.*?\)|\S+) (?P<kind>[\w\-]+)\(")
_PLACE = re.compile(
    r"(?:conv|relu|relu_norm|norm|pool)\d|fc\d|fc7_linear|views|images|labels|logits"
)


@dataclasses.dataclass(frozen=True)
class Part:
    """What an instruction belongs to.

    Attributes:
      layer: conv1, norm1, fc6, ... or `update` or `other`.
      backward: is it part of the gradient?
      exchange: does it send to other devices?
    """

    layer: str
    backward: bool = False
    exchange: bool = False


@dataclasses.dataclass(frozen=True)
class Trace:
    """A recording; times are wall-clock seconds per update on one device.

    Attributes:
      updates: number recorded.
      step: from one update to the next.
      parts: time of each part; instructions that overlap divide their time among them.
      gap: time in which no instruction ran.
      exchanged: time in which an exchange ran.
      hidden: the part of `exchanged` in which something else ran too.
    """

    updates: int
    step: float
    parts: dict[Part, float]
    gap: float
    exchanged: float
    hidden: float

    def json(self) -> str:
        """Returns the trace as JSON."""
        rows = [dataclasses.asdict(p) | {"seconds": s} for p, s in self.parts.items()]
        about = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps(about | {"parts": rows}, indent=1) + "\n"


def parts_of(text: str) -> dict[str, Part]:
    """Returns what each instruction of a compiled program belongs to, by its name."""
    parts = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match or match["kind"] in AROUND:
            continue
        kind = match["kind"].removesuffix("-start").removesuffix("-done")
        named = re.search(r'op_name="([^"]*)"', line)
        words = re.split(r"[/()]", named[1]) if named else []
        layer = next((word for word in reversed(words) if _PLACE.fullmatch(word)), "")
        exchange = kind in KINDS
        layer = layer or ("update" if words or exchange else OTHER)
        part = Part(layer, "transpose" in words, exchange)
        parts[match["name"]] = part
        if target := re.search(r'custom_call_target="([^"]*)"', line):
            parts[match["name"] + target[1]] = part  # a CPU's client uses this name
    return parts


Span = tuple[float, float, Part]


def read(workdir: pathlib.Path) -> Trace:
    """Reads the newest recording of a workdir.

    Raises:
      ConfigError: there is none, or nothing of the step is in it.
    """
    folder = workdir / profiler.FOLDER
    recorded = sorted(folder.glob("plugins/profile/*/*.xplane.pb"))
    program = folder / profiler.PROGRAM
    if not recorded or not program.is_file():
        raise ConfigError(
            f"{folder}: holds no recording; train with --profile=FROM:TO, such as 20:24"
        )
    text = program.read_text()
    parts = parts_of(text)
    data = jax.profiler.ProfileData.from_file(str(recorded[-1]))
    module = re.search(r"^HloModule ([\w.\-]+)", text)
    spans = list(_spans(data, parts, module[1] if module else ""))
    updates = sum(_marks(data).values())
    if not spans or not updates:
        raise ConfigError(f"{recorded[-1]}: has no instruction of the step; record it again")
    return summed(spans, updates)


def _marks(data: Any) -> dict[int, int]:
    """Returns the number of updates of each dispatch, keyed by its first update."""
    marks: dict[int, int] = {}
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name == MARK:
                    stats = dict(event.stats)
                    if "step_num" in stats:
                        marks[int(stats["step_num"])] = int(stats.get("updates", 1))
    return marks


def _spans(data: Any, parts: dict[str, Part], module: str) -> Iterator[Span]:
    """Finds instructions of the step: the first device's, if the trace has planes of devices.

    On a CPU they are events of the client's threads, which are named after them. A GPU's kernel
    names its instruction in `hlo_op`. Other programs have instructions of the same names, so the
    module of an event is compared where the event names one.
    """
    planes = [plane for plane in data.planes if plane.name.startswith("/device:")]
    planes = [plane for plane in planes if any(list(line.events) for line in plane.lines)]
    for plane in planes[:1] or data.planes:
        for line in plane.lines:
            for event in line.events:
                name, stats = event.name, dict(event.stats)
                if planes:
                    name = str(stats.get("hlo_op", name.partition(" ")[0]))
                part = parts.get(name.lstrip("%"))
                is_of_module = str(stats.get("hlo_module", module)).partition("(")[0] == module
                if part and is_of_module and event.duration_ns:
                    start = event.start_ns / 1e9
                    yield start, start + event.duration_ns / 1e9, part


def summed(spans: Iterable[Span], updates: int) -> Trace:
    """Divides wall time among the parts that ran.

    Args:
      spans: (start, end, part) in seconds; they may overlap.
      updates: how many updates the spans cover.
    """
    spans = list(spans)
    edges: list[tuple[float, int, Part]] = []
    for start, end, part in spans:
        edges += [(start, 1, part), (end, -1, part)]
    edges.sort(key=lambda edge: edge[:2])
    times: defaultdict[Part, float] = defaultdict(float)
    running: Counter[Part] = Counter()
    gap = exchanged = hidden = 0.0
    before = edges[0][0]
    for at, change, part in edges:
        passed, total = at - before, sum(running.values())
        if total:
            for one, count in running.items():
                times[one] += passed * count / total
        else:
            gap += passed
        kinds = {one.exchange for one, count in running.items() if count}
        exchanged += passed if True in kinds else 0.0
        hidden += passed if len(kinds) == 2 else 0.0
        running[part] += change
        if not running[part]:
            del running[part]
        before = at
    whole = (edges[-1][0] - edges[0][0]) / updates
    each = {part: time / updates for part, time in times.items()}
    return Trace(updates, whole, each, gap / updates, exchanged / updates, hidden / updates)


def table(trace: Trace) -> str:
    """Returns layers, exchanges and gaps as lines."""
    groups: dict[str, dict[str, float]] = {}
    for part, seconds in trace.parts.items():
        kind = "exchange" if part.exchange else "backward" if part.backward else "forward"
        row = groups.setdefault(part.layer, dict.fromkeys(("forward", "backward", "exchange"), 0.0))
        row[kind] += seconds
    steps = ("conv", "relu", "relu_norm", "norm", "pool")
    order = ["images", "views", *(f"{step}{n}" for n in range(1, 7) for step in steps)]
    order += ["fc6", "fc7", "fc7_linear", "fc8", "logits", "labels", "update", OTHER]
    lines = [f"{'ms an update':12} {'forward':>9} {'backward':>9} {'exchange':>9} {'share':>7}"]
    for layer in sorted(groups, key=order.index):
        f, b, e = groups[layer].values()
        share = (f + b + e) / trace.step
        lines.append(f"{layer:12} {1e3 * f:9.3f} {1e3 * b:9.3f} {1e3 * e:9.3f} {share:7.1%}")
    lines.append(f"{'gaps':12} {'':9} {'':9} {1e3 * trace.gap:9.3f} {trace.gap / trace.step:7.1%}")
    hidden = f", {trace.hidden / trace.exchanged:.0%} of it hidden" if trace.exchanged else ""
    lines.append(
        f"{trace.updates} updates of {1e3 * trace.step:.2f} ms; devices exchanged for "
        f"{1e3 * trace.exchanged:.2f} ms{hidden}; nothing ran for {1e3 * trace.gap:.2f} ms"
    )
    return "\n".join(lines)
