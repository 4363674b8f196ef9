"""Checkpoints by Orbax: asynchronous, atomic, the last few and the best."""

import json
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep_rules

from alexnet_jax import files
from alexnet_jax.config import Config, ConfigError, from_json, to_json
from alexnet_jax.data import statistics as colour
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.errors import UserError
from alexnet_jax.resumable import changed_fields

CONFIG_FILE = "config.json"
DATASET_FILE = "dataset.json"


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be read; the message names its folder and what to do."""


class Checkpoints:
    """The folder `checkpoints` of a workdir.

    A step's folder appears under its name only when it is complete; what a killed save left behind
    is removed at the next start.
    """

    def __init__(self, workdir: pathlib.Path, keep: int, read_only: bool = False) -> None:
        """Opens the folder; `read_only` leaves alone what another process is saving in it."""
        self.path = workdir.absolute() / "checkpoints"
        best = keep_rules.BestN(
            get_metric_fn=lambda metrics: metrics["top1_error"],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        policy = keep_rules.AnyPreservationPolicy([keep_rules.LatestN(keep), best])
        if not read_only and jax.process_index() == 0:
            # Not by Orbax, whose thread for it outlives a program that is refused at once.
            for unfinished in self.path.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                shutil.rmtree(unfinished)
        self._manager = ocp.CheckpointManager(
            self.path,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                read_only=read_only,
                enable_async_checkpointing=True,
                best_fn=lambda metrics: metrics["top1_error"],
                best_mode="min",
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def all_steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, in their order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the kept checkpoint with the least validation error, else the newest, or None."""
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def save(self, step: int, state: Any, evaluation: dict[str, float] | None) -> None:
        """Starts saving; returns when the arrays may be overwritten.

        Args:
          step: finished updates.
          state: a tree of arrays.
          evaluation: of this very state, where there is one; ranks it for "best".

        Raises:
          Whatever a save in the background failed with, at the next call.
        """
        metrics = {"top1_error": float(evaluation["top1_error"])} if evaluation else None
        arguments = ocp.args.StandardSave(state)
        # Orbax copies to the host and, with several processes, waits for the others on devices.
        with jax.transfer_guard("allow"):
            self._manager.save(step, args=arguments, metrics=metrics, force=True)

    def restore(self, step: int, abstract: Any) -> Any:
        """Reads a step into the shapes and shardings of `abstract`.

        Raises:
          CheckpointError: the folder is damaged, or of another network.
        """
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise CheckpointError(
                f"{self.path / str(step)}: cannot be restored ({str(error).splitlines()[0][:200]});"
                " remove that folder to go on from the one before"
            ) from error

    def wait(self) -> None:
        """Returns when every started save is complete."""
        with jax.transfer_guard("allow"):
            self._manager.wait_until_finished()


def read_config(workdir: pathlib.Path) -> Config:
    """Returns the config that a workdir was run with.

    Raises:
      ConfigError: there is none, or it is of another version.
    """
    path = workdir / CONFIG_FILE
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path}: is not a run's config ({error}); restore it") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: not found; is {workdir} the workdir of a run?") from error


def refuse_changes(workdir: pathlib.Path, config: Config) -> Config:
    """Checks that `config` may continue the run in `workdir`; returns the run's own.

    Raises:
      ConfigError: names a field that may not change, with both values.
    """
    old = read_config(workdir)
    changed = changed_fields(old, config)
    # A run that older code began does not know what its data were, but by their name.
    path = workdir / DATASET_FILE
    known = path.exists() and "fingerprint" in json.loads(path.read_text())
    if old.dataset != config.dataset and not known:
        changed["dataset"] = (old.dataset, config.dataset)
    if changed:
        rows = "; ".join(
            f"{name}: {was!r} there, {now!r} here" for name, (was, now) in changed.items()
        )
        raise ConfigError(f"{workdir} holds another run ({rows}); use another workdir")
    return old


def read_class_names(workdir: pathlib.Path) -> list[str]:
    """Returns the names of a run's classes, in label order."""
    return list(json.loads((workdir / DATASET_FILE).read_text())["class_names"])


def read_statistics(workdir: pathlib.Path) -> colour.Statistics | None:
    """Returns the colour statistics of a run's store, or None where it read no store.

    Raises:
      DataError: they are damaged.
    """
    return colour.Statistics.load(workdir) if (workdir / colour.FILE).exists() else None


def pin_dataset(workdir: pathlib.Path, dataset: Dataset, num_train: int, begun: bool) -> None:
    """Keeps what a resume relies on, and refuses to go on with other data.

    Args:
      workdir: of the run.
      dataset: that it reads.
      num_train: training examples.
      begun: is there anything to resume?

    Raises:
      ConfigError: the data are not those that the run began with.
    """
    path = workdir / DATASET_FILE
    statistics = dataset.statistics
    now = {
        "class_names": dataset.class_names,
        "train_examples": num_train,
        "colour_means": statistics.channel_mean.tolist() if statistics else [],
        "fingerprint": dataset.fingerprint(),
    }
    if begun and path.exists():
        before = json.loads(path.read_text())
        for name, value in before.items():
            if now.get(name) != value:
                was = {
                    "class_names": f"{len(before['class_names'])} names",
                    "fingerprint": "of its files' names and some of their bytes",
                }
                raise ConfigError(
                    f"dataset: {dataset.name} has another {name} than {workdir} began with "
                    f"({was.get(name, value)}); a resumed run needs the same data, wherever it "
                    "lies: restore it, or use another workdir"
                )
    if statistics:
        statistics.save(workdir)
    else:  # of a run that ended before it saved anything
        (workdir / colour.FILE).unlink(missing_ok=True)
    files.replace_text(path, json.dumps(now, indent=0) + "\n")


def write_config(workdir: pathlib.Path, config: Config) -> None:
    """Writes config.json so that it is either the old text or the new."""
    files.replace_text(workdir / CONFIG_FILE, to_json(config))
