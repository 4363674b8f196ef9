"""Files of a workdir that describe its run: config.json, dataset.json and its colours."""

import dataclasses
import json
import pathlib
import shutil
import sys
from typing import Any

from alexnet_jax.config import Config, ConfigError, flatten, to_json
from alexnet_jax.configs.earlier_versions import config_of
from alexnet_jax.configs.validation import validate
from alexnet_jax.data import statistics as colour
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.errors import printable
from alexnet_jax.host import files, paths
from alexnet_jax.steps.communication import Collective
from alexnet_jax.training import history
from alexnet_jax.training.answers_file import ANSWERS_FILE
from alexnet_jax.training.rows import METRICS, read_rows

CONFIG_FILE = "config.json"
DATASET_FILE = "dataset.json"
SUMMARY_FILE = "summary.json"
EXCHANGES_FILE = "exchanges.json"  # of its compiled step
FINGERPRINT = "data set"  # in a seal

# Fields that may change when a run resumes: where and how it computes, what it reports, and how
# long it goes on. A new length stretches the schedule over the whole run, which
# `Run.say_stretched` reports. A data set is compared by its contents instead (`pin_dataset`).
RESUMABLE = (
    "mesh.data",
    "mesh.model",
    "mesh.scheme",
    "mesh.zero",
    "kernels",
    "matmul_precision",
    "log_every_steps",
    "checkpoint_every_steps",
    "eval_views",
    "dataset",
    "data_dir",
    "read_threads",
    "read_ahead",
    "feed",
    "resident_gib",
    "steps_per_dispatch",
    "num_epochs",
    "num_steps",
    "stuck_after_seconds",
    "report_every_minutes",
    "join_seconds",
    "check_replicas_every",
    "replay_every",
)


# What a run leaves in its workdir, but for the lock that is held.
LEFT = ("checkpoints", "tensorboard", "plots", "profile")
LEFT_FILES = (
    *(CONFIG_FILE, DATASET_FILE, "environment.json", METRICS, SUMMARY_FILE),
    *("checkpoints.json", "init.json", history.FILE, EXCHANGES_FILE, ANSWERS_FILE, "report.html"),
)


def remove_run(workdir: pathlib.Path) -> None:
    """Removes what a run left in its workdir, and nothing else; config.json last.

    If a folder is a link (to another disk, say), it removes the contents and keeps the link.
    """
    for name in LEFT:
        folder = workdir / name
        if folder.is_symlink():
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif folder.is_dir():
            shutil.rmtree(folder)
    traces = [
        path.name for kind in ("native_crash*.txt", "stuck.*.txt") for path in workdir.glob(kind)
    ]
    for name in (colour.FILE, *traces, *reversed(LEFT_FILES)):
        (workdir / name).unlink(missing_ok=True)


def read_config(workdir: pathlib.Path) -> Config:
    """Returns the config that a workdir was run with.

    Raises:
      ConfigError: there is none, it is of another version, or it holds what no run had.
    """
    path = workdir / CONFIG_FILE
    try:
        config = config_of(path.read_text())
        validate(config)
        return config
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: is not a run's config ({error}); restore it") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{path}: not found; is {workdir} the workdir of a run?") from error


def refuse_changes(workdir: pathlib.Path, config: Config) -> Config:
    """Checks that `config` may continue the run in `workdir`; returns the run's own.

    Raises:
      ConfigError: names a field that may not change, with both values.
    """
    old = read_config(workdir)
    changed = changed_fields(old, config)
    # A run that older code began knows its data by name only.
    known = "fingerprint" in read_dataset(workdir)
    if old.dataset != config.dataset and not known:
        changed["dataset"] = (old.dataset, config.dataset)
    if changed:
        rows = "; ".join(
            f"{name}: {was!r} there, {now!r} here" for name, (was, now) in changed.items()
        )
        raise ConfigError(f"{workdir} holds another run ({rows}); use another workdir")
    return old


def changed_fields(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the fields that forbid a resume, each with both values."""
    before, after = flatten(old), flatten(new)
    return {
        name: (before[name], after[name])
        for name in after
        if before[name] != after[name] and name not in RESUMABLE
    }


def read_dataset(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns what dataset.json knows of a run's data; nothing where there is no such file.

    Raises:
      ConfigError: it is damaged.
    """
    path = workdir / DATASET_FILE
    try:
        about = files.read_object(path)
    except FileNotFoundError:
        return {}
    except files.DamagedFileError as error:
        raise ConfigError(f"{error}; restore it") from error
    names = about.get("class_names")
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ConfigError(f"{path}: has no names of classes; restore it")
    return about


def read_class_names(workdir: pathlib.Path) -> list[str]:
    """Returns the names of a run's classes, in label order.

    Raises:
      ConfigError: dataset.json is missing or damaged.
    """
    about = read_dataset(workdir)
    if not about:
        raise ConfigError(f"{workdir / DATASET_FILE}: not found; restore it")
    return list(about["class_names"])


def identity(workdir: pathlib.Path, config: Config) -> dict[str, Any]:
    """Returns the run's identity, which the seals of its checkpoints carry.

    Raises:
      ConfigError: dataset.json is damaged.
    """
    fixed = {name: value for name, value in flatten(config).items() if name not in RESUMABLE}
    about = read_dataset(workdir)
    if "fingerprint" in about:
        fixed[FINGERPRINT] = about["fingerprint"]
    return json.loads(json.dumps(fixed))


def read_statistics(workdir: pathlib.Path) -> colour.Statistics | None:
    """Returns the colour statistics of a run's store, or None where it read no store.

    Raises:
      DataError: they are damaged.
    """
    return colour.Statistics.load(workdir) if (workdir / colour.FILE).exists() else None


def read_own_statistics(workdir: pathlib.Path, config: Config) -> colour.Statistics | None:
    """Returns the colour statistics that came with a run's initial weights.

    Raises:
      ConfigError: they are lost; those of the data set are different.
    """
    statistics = read_statistics(workdir)
    if statistics is None and config.augment.statistics == "auto":
        raise ConfigError(
            f"{workdir / colour.FILE}: is missing, and nothing else has the colours that "
            "normalise the run's images; restore it"
        )
    return statistics


def pin_dataset(
    workdir: pathlib.Path,
    dataset: Dataset,
    num_train: int,
    begun: bool,
    sealed_with: str | None,
    statistics: colour.Statistics | None,
) -> None:
    """Keeps what a resume relies on, and refuses to go on with other data.

    Args:
      workdir: of the run.
      dataset: that it reads.
      num_train: training examples.
      begun: is there anything to resume?
      sealed_with: the fingerprint that its newest checkpoint knows.
      statistics: colours that its images are normalised by, if they are not the config's.

    Raises:
      ConfigError: the data are not those that the run began with.
    """
    path = workdir / DATASET_FILE
    now = _about(dataset, num_train)
    before = read_dataset(workdir) if begun else {}
    if begun and not before and sealed_with is not None:
        before = {"fingerprint": sealed_with}
        warning = printable(f"warning: {path}: is missing; it is written again")
        print(warning, file=sys.stderr, flush=True)
    _refuse_another(workdir, dataset, before, now)
    if statistics:
        statistics.save(workdir)
    else:  # of a run that ended before it saved anything
        (workdir / colour.FILE).unlink(missing_ok=True)
    files.replace_text(path, json.dumps(now, indent=0) + "\n")


def refuse_other_data(workdir: pathlib.Path, dataset: Dataset, num_train: int) -> None:
    """Refuses data that a run did not begin with; changes nothing.

    Raises:
      ConfigError: they are others, or dataset.json is damaged.
    """
    _refuse_another(workdir, dataset, read_dataset(workdir), _about(dataset, num_train))


def _about(dataset: Dataset, num_train: int) -> dict[str, Any]:
    """Returns what dataset.json keeps."""
    statistics = dataset.statistics
    return {
        "class_names": dataset.class_names,
        "train_examples": num_train,
        "colour_means": statistics.channel_mean.tolist() if statistics else [],
        "fingerprint": dataset.fingerprint(),
    }


def _refuse_another(
    workdir: pathlib.Path, dataset: Dataset, before: dict[str, Any], now: dict[str, Any]
) -> None:
    for name, value in before.items():
        if now.get(name) != value:
            was = {
                "class_names": f"{len(before.get('class_names', []))} names",
                "fingerprint": "of its files' names and some of their bytes",
            }
            raise ConfigError(
                f"dataset: {dataset.name} has another {name} than {workdir} began with "
                f"({was.get(name, value)}); a resumed run needs the same data, wherever it "
                "lies: restore it, or use another workdir"
            )


def write_summary(workdir: pathlib.Path, row: dict[str, Any]) -> None:
    """Writes summary.json; warns if it replaces a damaged one."""
    path = workdir / SUMMARY_FILE
    try:
        files.read_object(path)
    except FileNotFoundError:
        pass
    except files.DamagedFileError as error:
        print(printable(f"warning: {error}; it is written anew"), file=sys.stderr, flush=True)
    files.replace_text(path, json.dumps(row, indent=2) + "\n")


def refuse_past_end(workdir: pathlib.Path, start: int, last: int) -> None:
    """Refuses to end a run before the step that it is at.

    Args:
      workdir: of the run.
      start: its finished updates.
      last: the updates that are asked for.

    Raises:
      ConfigError: says both.
    """
    if last < start:
        raise ConfigError(
            f"num_steps: {workdir} is at step {start:,}, past the end at {last:,}; ask for at "
            f"least {start:,}"
        )


def refuse_nested(workdir: pathlib.Path, config: Config) -> None:
    """Refuses a workdir inside its data set (it would become a class), or the reverse.

    Raises:
      PathError: says which lies in which.
    """
    data = paths.local(config.dataset, "--config.dataset")
    if not data.is_dir():
        return  # a TFDS name, or missing, which is reported later
    ours, theirs = workdir.resolve(), data.resolve()
    if ours == theirs or theirs in ours.parents:
        raise paths.PathError(
            f"--workdir: {workdir} lies in the data set {data}, and would become a part of it; use "
            "a folder elsewhere"
        )
    if ours in theirs.parents:
        raise paths.PathError(
            f"--config.dataset: {data} lies in the workdir {workdir}; use a workdir elsewhere"
        )


def refuse_lost_checkpoints(workdir: pathlib.Path) -> None:
    """Refuses to begin anew in a run's workdir whose checkpoint folder is missing.

    Raises:
      ConfigError: says what may have happened, and what to do.
    """
    if (workdir / "checkpoints").is_dir():
        return
    rows = read_rows(workdir / METRICS)
    if rows or (workdir / "checkpoints.json").exists():
        at = f" up to step {rows[-1]['step']:,}" if rows else ""
        raise ConfigError(
            f"{workdir / 'checkpoints'}: is missing, while {METRICS} has rows{at}; is its disk not "
            "mounted? Restore it, or begin anew with --overwrite (overwrite=True), which removes "
            "what that run left"
        )


def write_exchanges(
    workdir: pathlib.Path, shape: dict[str, int], exchanges: list[Collective]
) -> None:
    """Writes what the devices of a mesh send each other in a step.

    Args:
      workdir: of the run.
      shape: of the mesh, by axis.
      exchanges: from `communication.compiled`.
    """
    about = {"mesh": shape, "exchanges": [dataclasses.asdict(one) for one in exchanges]}
    files.replace_text(workdir / EXCHANGES_FILE, json.dumps(about) + "\n")


def read_exchanges(workdir: pathlib.Path) -> tuple[dict[str, int], list[Collective]]:
    """Returns what `write_exchanges` wrote; nothing where it did not, or the file is damaged."""
    try:
        about = files.read_object(workdir / EXCHANGES_FILE)
        exchanges = [Collective(**one) for one in about["exchanges"]]
        return {name: int(size) for name, size in about["mesh"].items()}, exchanges
    except (FileNotFoundError, files.DamagedFileError, KeyError, TypeError, ValueError):
        return {}, []


def write_class_names(workdir: pathlib.Path, class_names: list[str]) -> None:
    """Writes dataset.json for a network that was trained elsewhere: only class names are known."""
    about = {"class_names": class_names, "train_examples": 0, "colour_means": []}
    files.replace_text(workdir / DATASET_FILE, json.dumps(about, indent=0) + "\n")


def write_config(workdir: pathlib.Path, config: Config) -> None:
    """Writes config.json atomically."""
    files.replace_text(workdir / CONFIG_FILE, to_json(config))
