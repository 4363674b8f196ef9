"""Checkpoints by Orbax: asynchronous, atomic, sealed; the last few and the best.

A save writes `checkpoints/N.unsealed`. A thread then reads the arrays back, compares them with what
the devices held, seals the files (`seal`) and renames the folder to `checkpoints/N`. Whatever has
that name is therefore whole, or damaged later. Only then does the thread delete older checkpoints.
"""

import concurrent.futures
import contextlib
import functools
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from alexnet_jax.errors import UserError
from alexnet_jax.host import files
from alexnet_jax.host.mirror import Mirror
from alexnet_jax.host.wholeness import UNSEALED
from alexnet_jax.steps import digests
from alexnet_jax.training import seal
from alexnet_jax.training.seal import DamageError
from alexnet_jax.training.stored import (
    DAMAGED,
    FOLDER,
    ITEM,
    CheckpointError,
    Stored,
    compare,
    one_line,
    safe_path,
)


class Checkpoints(Stored):
    """The checkpoints of a workdir, for the run that saves them."""

    def __init__(
        self,
        workdir: pathlib.Path,
        keep: int,
        run: dict[str, Any] | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        """Makes the folder, and removes what a killed save left in it.

        Args:
          workdir: of the run, which holds it.
          keep: how many of the newest to keep, besides the best.
          run: identity of the run; the seals carry it, and reading compares it with theirs.
          mirror: of the bucket that the workdir is a copy of; each save is uploaded too.
        """
        self._mirror = mirror
        if jax.process_index() == 0:
            remove_unfinished(workdir / FOLDER)
        super().__init__(workdir, run or {})
        _without_late_callbacks()
        self.keep = keep
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "commit")
        self._under_way: list[concurrent.futures.Future[None]] = []
        # Compressed, weights are a fourteenth smaller, and take twice as long to write and to read.
        handler = ocp.PyTreeCheckpointHandler(use_compression=False)
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(default=handler))  # ITEM

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)  # a save that is under way is finished
        with jax.transfer_guard("allow"):
            self._orbax.close()

    def prepare(self, abstract: Any) -> digests.StateDigests:
        """Compiles the digests that a save computes on the devices, ahead of the first save."""
        self._digests = digests.StateDigests(abstract)
        return self._digests

    def save(self, step: int, state: Any, rows: dict[str, Any] | None = None) -> None:
        """Starts saving; returns when the arrays may be overwritten.

        Args:
          step: finished updates.
          state: a tree of arrays.
          rows: what the seal records of metrics.jsonl.

        Raises:
          CheckpointError: the previous save failed.
          ReplicaError: when the previous save began, replicas on the devices differed.
        """
        self.wait()
        arguments = ocp.args.Composite(**{ITEM: ocp.args.PyTreeSave(state)})
        stack = contextlib.ExitStack()
        target = stack.enter_context(safe_path(self.path)) / f"{step}{UNSEALED}"
        # Orbax copies to the host and, with several processes, waits for the others on devices.
        with jax.transfer_guard("allow"), self._failing(step):
            fits = self._digests is not None and self._digests.fits(state)
            if not fits and digests.StateDigests.suits(state):
                self.prepare(state)
            # The digests start once Orbax holds the arrays: they then describe what it copies, and
            # do not take its cores. On the devices they precede the update that donates the arrays.
            self._orbax.save(target, args=arguments, force=True)
            if self._digests is None:
                compute_digests = functools.partial(digests.of_tree, jax.device_get(state))
            else:  # waited for in the thread
                compute_digests = functools.partial(
                    self._digests.finished, self._digests.start(state)
                )
        self._under_way.append(
            self._thread.submit(self._finish, step, compute_digests, rows or {}, stack)
        )

    def _finish(
        self,
        step: int,
        compute_digests: Callable[[], digests.Digests],
        rows: dict[str, Any],
        stack: contextlib.ExitStack,
    ) -> None:
        """Verifies a checkpoint, seals it, renames it, and removes those no longer kept.

        Raises:
          ReplicaError: replicas on the devices differ; the checkpoint is not kept.
        """
        with stack, self._failing(step):
            self._orbax.wait_until_finished()
            if jax.process_index():
                return
            with digests.at_step(step):
                leaves = compute_digests()
            folder = self.path / f"{step}{UNSEALED}"
            files.drop_cached(folder)  # so that the read below is from the disk
            read = {name: digests.of_array(value) for name, value in self.read(folder).items()}
            compare(read, leaves)
            seal.write(folder, step, self.run, rows, leaves)
            folder.replace(self.path / str(step))
            files.sync_folder(self.path)
            self.record.newest = step
            self.prune()
            if self._mirror:
                self._mirror.push()

    @contextlib.contextmanager
    def _failing(self, step: int) -> Iterator[None]:
        """Adds the checkpoint's name to an error, and frees the space that the save took.

        Raises:
          CheckpointError: replaces an error of the disk, TensorStore or Orbax.
        """
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, digests.ReplicaError) and jax.process_index() == 0:
                _remove(self.path / f"{step}{UNSEALED}")
            if isinstance(error, UserError):
                raise
            target = self.path / f"{step}{UNSEALED}"
            why = files.room(self.path) if files.is_full(error) else one_line(error)
            if jax.process_index() == 0:
                for unfinished in self.path.glob(f"{step}{UNSEALED}*"):
                    _remove(unfinished)
            raise CheckpointError(
                f"{target.with_suffix('')}: cannot be saved ({why}); the checkpoints before it are "
                "kept: put that right and run again"
            ) from error

    def bytes_written(self) -> int:
        """Returns the bytes of saves under way and of all uploads: it grows while a save works."""
        sent = self._mirror.sent if self._mirror else 0
        return sent + sum(files.size_of(folder) for folder in self.path.glob(f"*{UNSEALED}*"))

    def raise_failure(self) -> None:
        """Raises what a save in the background failed with, if one did."""
        if any(one.done() for one in self._under_way):
            under_way, self._under_way = self._under_way, []
            for one in under_way:
                one.result() if one.done() else self._under_way.append(one)

    def wait(self) -> None:
        """Returns when every save that was started is complete.

        Raises:
          CheckpointError: one failed.
        """
        under_way, self._under_way = self._under_way, []
        for one in under_way:
            one.result()

    def evaluated(self, step: int, top1_error: float) -> None:
        """Records a saved step's validation error, by which the best checkpoint is chosen."""
        if jax.process_index() == 0:
            self._under_way.append(self._thread.submit(self._rank, step, top1_error))

    def _rank(self, step: int, top1_error: float) -> None:
        self.record.errors[step] = top1_error
        self.prune()

    def prune(self) -> None:
        """Removes all but the newest few and the best, and writes the record of the rest."""
        steps = self.steps()
        to_keep = {*steps[-self.keep :], *self.candidates("best")[:1]} if steps else set()
        self.record.errors = {
            step: error for step, error in self.record.errors.items() if step in to_keep
        }
        self.record.save(self.workdir)
        for step in set(steps) - to_keep:
            # A kill in between leaves a name that is removed at the next start.
            going = self.path / f"{step}{UNSEALED}.removed"
            (self.path / str(step)).replace(going)
            _remove(going)

    def newest_whole(self) -> tuple[int | None, dict[int, str]]:
        """Finds the checkpoint to go on from.

        Returns:
          Its step, None where none was ever saved; and what is wrong with each newer one.

        Raises:
          CheckpointError: there are some, and none is whole.
        """
        wrong = {}
        if (lost := self.missing()) is not None:
            wrong[lost] = "is missing"
        for step in reversed(self.steps()):
            try:
                self.check(step)
            except DamageError as error:
                wrong[step] = str(error)
                continue
            return step, {at: why for at, why in wrong.items() if at > step}
        if wrong:
            reasons = "; ".join(f"{step}: {why}" for step, why in wrong.items())
            raise CheckpointError(
                f"{self.path}: no checkpoint is whole ({reasons}); nothing was changed: restore "
                "one from a copy, is its disk mounted? Or begin anew in another workdir"
            )
        return None, {}

    def set_aside(self, step: int) -> pathlib.Path:
        """Renames a checkpoint so that it no longer counts as one; returns its new path."""
        number = 1
        while True:
            name = f"{DAMAGED}{step}" + (f"_{number}" if number > 1 else "")
            if not os.path.lexists(self.path / name):
                break
            number += 1
        (self.path / str(step)).rename(self.path / name)
        files.sync_folder(self.path)
        steps = self.steps()
        self.record.errors.pop(step, None)
        self.record.newest = steps[-1] if steps else None
        self.record.save(self.workdir)
        return self.path / name

    def begin_after(self, step: int | None) -> None:
        """Records the step that a run begins from, found whole; None: from nothing."""
        if self.record.sealed_after is None:
            self.record.sealed_after = step or 0
        self.record.newest = step
        if jax.process_index() == 0:
            self.prune()  # a kill may have come before that


def _without_late_callbacks() -> None:
    """Silences, from here on, writes that end after their save has failed.

    Orbax closes its event loop at the first failed write. TensorStore still reports the other
    writes to the closed loop, and Python's hook for errors that cannot be raised
    (`sys.unraisablehook`) prints a traceback for each. The save itself raises the real error.
    """
    before = sys.unraisablehook
    if getattr(before, "leaves_out_late_callbacks", False):
        return

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    hook.leaves_out_late_callbacks = True  # pyright: ignore[reportFunctionMemberAccess]
    sys.unraisablehook = hook


def remove_unfinished(folder: pathlib.Path) -> None:
    """Makes a folder of checkpoints, and removes what saves and removals left half done."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (f"*{UNSEALED}*", f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
        for unfinished in list(folder.glob(name)):
            _remove(unfinished)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
