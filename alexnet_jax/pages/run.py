"""What a page says of one run, read from its workdir."""

import dataclasses
import pathlib
import shlex
from typing import Any

from alexnet_jax import configs
from alexnet_jax.config import Config, ConfigError, flatten
from alexnet_jax.configs.flags import meanings
from alexnet_jax.host import files
from alexnet_jax.training import history, run_files
from alexnet_jax.training.rows import METRICS, read_rows

# SILENT: fields that do not affect the result. KEEPING: where the data lie and what a run keeps.
SILENT = ("report_every_minutes", "stuck_after_seconds", "join_seconds", "read_threads")
KEEPING = (
    *("data_dir", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints"),
    *("check_replicas_every", "replay_every", "feed", "resident_gib", "read_ahead"),
)
LEAST_SHARE = 0.002  # of a time line: the shortest visible stretch


@dataclasses.dataclass(frozen=True)
class Deviation:
    """A field that differs from the paper's."""

    name: str
    value: Any
    papers: Any
    meaning: str


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A part of a time line; places are shares of the whole, 0 to 1."""

    start: float
    length: float
    end: str
    saves: list[float]
    evaluations: list[float]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, as its workdir has it.

    Attributes:
      name: of its folder, or its whole path if two folders have the same name.
      workdir: of it.
      config: of it.
      rows: of metrics.jsonl.
      events: of history.jsonl.
      about: environment.json.
      dataset: dataset.json; {} where it is lost.
      account: what its time went to; {} where older code ran it.
    """

    name: str
    workdir: pathlib.Path
    config: Config
    rows: list[dict[str, Any]]
    events: list[history.Event]
    about: dict[str, Any]
    dataset: dict[str, Any]
    account: dict[str, float]

    @property
    def last(self) -> dict[int, dict[str, Any]]:
        """The last evaluation with each number of views."""
        rows_by_views: dict[int, dict[str, Any]] = {}
        for row in self.rows:
            if row["split"] != "train":
                rows_by_views[row.get("views", 1)] = row
        return rows_by_views

    @property
    def step(self) -> int:
        """The step of the last row."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def command(self) -> str:
        """The command that runs it again, in another workdir."""
        values = flatten(self.config)
        recipe = min(configs.names(), key=lambda name: len(_differing(values, name)))
        fields = [
            f"--config.{field}={values[field]!r}"
            if not isinstance(values[field], str)
            else f"--config.{field}={values[field]}"
            for field in _differing(values, recipe)
        ]
        words = ["--workdir=NEW", f"--config={recipe}", *fields]
        return f"python -m alexnet_jax.main {shlex.join(words)}"

    @property
    def deviations(self) -> list[Deviation]:
        """What differs from the recipe `paper`, with what each field means."""
        ours, papers, meaning = flatten(self.config), flatten(configs.get("paper")), meanings()
        return [
            Deviation(field, ours[field], papers[field], meaning.get(field, ""))
            for field in _differing(ours, "paper")
            if field not in KEEPING
        ]

    @property
    def data(self) -> str:
        """Says what it learns from and is evaluated on."""
        c, dataset = self.config, self.dataset
        sizes = f" ({dataset['train_examples']:,} images)" if "train_examples" in dataset else ""
        measured = next(iter(self.last.values()), None)
        tested = f", {measured['split']} ({measured['count']:,}) to test" if measured else ""
        names = dataset.get("class_names")
        classes = f"; {len(names):,} classes" if names else ""
        known = f"; fingerprint {dataset['fingerprint'][:12]}" if dataset.get("fingerprint") else ""
        return f"{c.dataset}: {c.train_split}{sizes} to learn from{tested}{classes}{known}"

    @property
    def machine(self) -> str:
        """Says what computed it."""
        about, devices = self.about, self.about.get("devices") or []
        if not about:
            return "not known"
        cores = f"{about['processor']}, {about['cores']} cores; " if "processor" in about else ""
        kinds = f"{len(devices)} x {devices[0]}" if devices else "devices not known"
        return f"{cores}{kinds}; {about.get('platform', 'system not known')}"

    @property
    def stretches(self) -> list[Stretch]:
        """The run's time line: a stretch for each start."""
        events = self.events
        if not events:
            return []
        times = [history.seconds_of(event["at"]) for event in events]
        first, whole = times[0], max(times[-1] - times[0], 1e-3)
        stretches: list[Stretch] = []
        for event, at in zip(events, times, strict=True):
            place = (at - first) / whole
            if event["event"] == "start":
                stretches.append(Stretch(place, LEAST_SHARE, "goes on", [], []))
            elif stretches:
                last = stretches[-1]
                length = max(place - last.start, LEAST_SHARE)
                end = str(event.get("reason", last.end))
                stretches[-1] = dataclasses.replace(last, length=length, end=end)
                if event["event"] == "save":
                    last.saves.append(place)
                if event["event"] == "evaluate":
                    last.evaluations.append(place)
        return stretches


def _differing(config: dict[str, Any], recipe: str) -> list[str]:
    theirs = flatten(configs.get(recipe))
    return [name for name in config if config[name] != theirs[name] and name not in SILENT]


def read(workdir: pathlib.Path, name: str = "") -> Run:
    """Reads a run.

    Args:
      workdir: of it.
      name: to show; empty: its folder's.

    Raises:
      ConfigError: it is the workdir of no run.
      MetricsError: its rows are damaged.
    """
    config = run_files.read_config(workdir)
    try:
        about = files.read_object(workdir / "environment.json")
    except (FileNotFoundError, files.DamagedFileError):
        about = {}
    try:
        dataset = run_files.read_dataset(workdir)
    except ConfigError:  # damaged: the page does without it
        dataset = {}
    events = history.read(workdir / history.FILE)
    account = history.account(events) if events else {}
    rows = read_rows(workdir / METRICS)
    return Run(
        name or workdir.resolve().name, workdir, config, rows, events, about, dataset, account
    )


def read_all(workdirs: list[pathlib.Path]) -> list[Run]:
    """Reads several runs, and names each so that no two are alike."""
    alike = len({workdir.resolve().name for workdir in workdirs}) < len(workdirs)
    return [read(workdir, str(workdir) if alike else "") for workdir in workdirs]
