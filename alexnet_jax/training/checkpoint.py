"""Checkpoints by Orbax: asynchronous, atomic, the last few and the best."""

import logging
import pathlib
import shutil
from dataclasses import fields, replace
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep_rules

from alexnet_jax.configs import earlier_versions
from alexnet_jax.errors import UserError


class _WithoutRemarks(logging.Filter):
    """Leaves out what Orbax remarks on options that are as they are meant to be."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Says whether a line is to be logged: errors, and whatever is not Orbax's."""
        return record.levelno >= logging.ERROR or "orbax" not in record.pathname


logging.getLogger("absl").addFilter(_WithoutRemarks())


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
            item_handlers=ocp.StandardCheckpointHandler(),
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
        """Reads a step, of any version, into the shapes and shardings of `abstract`.

        Raises:
          CheckpointError: the folder is damaged, or of another network.
        """
        wanted = {field.name: getattr(abstract, field.name) for field in fields(abstract)}
        try:
            stored = self._manager.item_metadata(step)
            form = earlier_versions.stored_state(wanted, stored.tree if stored else wanted)
            found: Any = self._manager.restore(step, args=ocp.args.StandardRestore(form))
            return replace(abstract, **earlier_versions.current_state(found, wanted))
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise CheckpointError(
                f"{self.path / str(step)}: cannot be restored ({str(error).splitlines()[0][:200]});"
                " remove that folder to go on from the one before"
            ) from error

    def wait(self) -> None:
        """Returns when every started save is complete."""
        with jax.transfer_guard("allow"):
            self._manager.wait_until_finished()
