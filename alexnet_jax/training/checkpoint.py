"""Checkpoints by Orbax: asynchronous, atomic, sealed; the last few and the best.

A save writes `checkpoints/N.unsealed`. In a thread its arrays are read back and compared with what
the devices held, its files are sealed (`seal`), and it is renamed to `checkpoints/N`: whatever has
that name is whole, or damage. Nothing older is deleted before.
"""

import concurrent.futures
import contextlib
import logging
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from alexnet_jax.config import ConfigError
from alexnet_jax.configs import earlier_versions
from alexnet_jax.errors import UserError
from alexnet_jax.host import files
from alexnet_jax.steps import digests
from alexnet_jax.training import seal
from alexnet_jax.training.record import Record
from alexnet_jax.training.seal import DamageError, Seal

FOLDER = "checkpoints"
UNSEALED = ".unsealed"  # what has this in its name is not a checkpoint, or no longer
DAMAGED = "damaged_"
STEP = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_ITEM = "default"  # Orbax's name of the state within a checkpoint
_SAFE = re.compile(r"[\w./ -]+", re.ASCII)


class _WithoutRemarks(logging.Filter):
    """Leaves out what Orbax remarks on options that are as they are meant to be."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Says whether a line is to be logged: errors, and whatever is not Orbax's."""
        return "orbax" not in record.pathname


# Its errors too: they are raised as well, and said in one line.
logging.getLogger("absl").addFilter(_WithoutRemarks())


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be read or written; the message names its folder and what to do."""


@contextlib.contextmanager
def _safe(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to a folder that Orbax and TensorStore can use, whatever the folder's own is.

    Orbax globs paths as they are, so that `[0.1]` matches nothing; TensorStore takes a backslash
    for a slash, and only UTF-8.
    """
    if _SAFE.fullmatch(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="alexnet_jax-") as holder:
        link = pathlib.Path(holder) / FOLDER
        link.symlink_to(folder)
        yield link


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


class Stored:
    """The checkpoints of a workdir, for whoever reads them; another process may be saving more."""

    def __init__(self, workdir: pathlib.Path, run: dict[str, Any]) -> None:
        """Opens the folder.

        Args:
          workdir: of the run.
          run: what its seals say that they are of (`run_files.identity`).
        """
        self.workdir, self.run = workdir.absolute(), run
        self.path = self.workdir / FOLDER
        self.record = Record.load(self.workdir)
        self._digests: digests.StateDigests | None = None

    def steps(self) -> list[int]:
        """Returns the steps that have a name in the folder, in order; they may be damaged."""
        if not self.path.is_dir():
            return []
        names = [path.name for path in self.path.iterdir()]
        return sorted(int(name) for name in names if STEP.fullmatch(name))

    def missing(self) -> int | None:
        """Returns the newest step that was ever saved where it is not there, else None."""
        newest = self.record.newest
        return newest if newest is not None and newest not in self.steps() else None

    def newest_seal(self) -> Seal | None:
        """Returns what the newest step says that it is of, if there is one and it has a seal."""
        steps = self.steps()
        return seal.read(self.path / str(steps[-1])) if steps else None

    def check(self, step: int) -> Seal | None:
        """Finds out whether a checkpoint is whole.

        Returns:
          Its seal, or None where it was saved before there were seals: it was read once instead.

        Raises:
          DamageError: says what is wrong.
        """
        folder = self.path / str(step)
        sealed = seal.check(folder, step, self.run)
        if sealed is None:
            if self._must_be_sealed(step):
                raise DamageError(f"{seal.FILE} is missing")
            held = self.read(folder).get("step")
            if held is None or int(held) != step:
                raise DamageError(f"holds step {held}")
        return sealed

    def state(self, step: int, verify: bool) -> str:
        """Says in a word what is known of a checkpoint: whole, sealed, without digests, damaged.

        Args:
          step: its name.
          verify: read all of it; else its seal alone.
        """
        try:
            if not verify:
                sealed = seal.read(self.path / str(step))
                if sealed is None and self._must_be_sealed(step):
                    raise DamageError(f"{seal.FILE} is missing")
                return "sealed" if sealed else "without digests (older code)"
            return "whole" if self.check(step) else "readable, without digests (older code)"
        except (DamageError, OSError) as error:
            return f"damaged: {error}"

    def _must_be_sealed(self, step: int) -> bool:
        after = self.record.sealed_after
        if after is not None:
            return step > after
        return any((self.path / str(older) / seal.FILE).exists() for older in self.steps()[:-1])

    def read(self, folder: pathlib.Path) -> dict[str, np.ndarray]:
        """Returns the arrays of a checkpoint's folder by their paths, on the host.

        Raises:
          DamageError: Orbax cannot read them.
        """
        handler = ocp.PyTreeCheckpointHandler()
        try:
            with _safe(self.path) as path:
                item = epath.Path(path) / folder.name / _ITEM
                known: Any = ocp.StandardCheckpointHandler().metadata(item)
                arrays = jax.tree.map(
                    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), dict(known.tree)
                )
                tree = handler.restore(item, args=ocp.args.PyTreeRestore(restore_args=arrays))
        except Exception as error:  # of whatever kind: three libraries parse damaged bytes there
            raise DamageError(f"cannot be read ({_one_line(error)})") from error
        finally:
            handler.close()
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {digests.name_of(path): np.asarray(leaf) for path, leaf in leaves}

    def restore(self, step: int, abstract: Any) -> Any:
        """Reads a step, of any version, into the shapes and shardings of `abstract`.

        Raises:
          CheckpointError: the folder is damaged, or of another network.
        """
        folder = self.path / str(step)
        try:
            sealed = seal.check(folder, step, self.run)
            state = self._restored(folder, abstract)
            if sealed and digests.StateDigests.suits(state):
                own = self._digests
                if own is None or not own.fits(state):
                    own = digests.StateDigests(state)
                with jax.transfer_guard("allow"):
                    found = own.finished(own.start(state))
                self._compare(found, sealed.leaves)
            return state
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise CheckpointError(f"{folder}: cannot be restored ({_one_line(error)})") from error

    def _restored(self, folder: pathlib.Path, abstract: Any) -> Any:
        wanted = {field.name: getattr(abstract, field.name) for field in fields(abstract)}
        with (
            _safe(self.path) as path,
            contextlib.closing(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as orbax,
        ):
            item = path / folder.name / _ITEM
            stored: Any = orbax.metadata(item)
            tree = stored.item_metadata.tree if hasattr(stored, "item_metadata") else stored.tree
            form = earlier_versions.stored_state(wanted, tree)
            found: Any = orbax.restore(item, args=ocp.args.StandardRestore(form))
        return replace(abstract, **earlier_versions.current_state(found, wanted))

    @staticmethod
    def _compare(found: digests.Digests, saved: digests.Digests) -> None:
        """Compares digests of leaves; a state of today may lack nothing, and have nothing else.

        Raises:
          DamageError: names the first leaf that differs.
        """
        for name in sorted(found.keys() | saved.keys()):
            if found.get(name) != saved.get(name):
                raise DamageError(f"{name} is not what the devices held when it was saved")

    def candidates(self, which: str) -> list[int]:
        """Returns the steps that may be meant, the first choice first.

        Args:
          which: best (least validation error), latest, or a step.

        Raises:
          ConfigError: there is none, or not that one.
        """
        steps = self.steps()
        if not steps:
            raise ConfigError(f"{self.workdir} has no checkpoint yet; train first")
        if which == "latest":
            return steps[::-1]
        if which == "best":
            errors = self.record.errors
            return sorted(steps, key=lambda step: (errors.get(step, float("inf")), -step))
        if STEP.fullmatch(which) and int(which) in steps:
            return [int(which)]
        known = ", ".join(map(str, steps))
        raise ConfigError(f"checkpoint: {which} is not best, latest or one of {known}")

    def choose(self, which: str) -> int:
        """Returns the first of `candidates` that is whole, and says what is wrong with others.

        Raises:
          CheckpointError: none is, or not the one that was asked for by its number.
        """
        wrong = []
        for step in self.candidates(which):
            try:
                self.check(step)
            except DamageError as error:
                wrong.append(f"{self.path / str(step)}: {error}")
                continue
            for line in wrong:
                print(f"warning: {line}; step {step} is used", file=sys.stderr, flush=True)
            return step
        raise CheckpointError(
            f"{'; '.join(wrong)}; no whole checkpoint is left to use"
            if which in ("best", "latest")
            else f"{wrong[0]}; ask for another, or for best or latest"
        )


class Checkpoints(Stored):
    """The checkpoints of a workdir, for the run that saves them."""

    def __init__(self, workdir: pathlib.Path, keep: int, run: dict[str, Any] | None = None) -> None:
        """Makes the folder, and removes what a killed save left in it.

        Args:
          workdir: of the run, which holds it.
          keep: how many of the last ones are kept, beside the best.
          run: what goes into the seals, and is compared with them.
        """
        if jax.process_index() == 0:
            remove_unfinished(workdir / FOLDER)
        super().__init__(workdir, run or {})
        self.keep = keep
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "commit")
        self._under_way: list[concurrent.futures.Future[None]] = []
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(default=ocp.StandardCheckpointHandler())  # _ITEM
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)  # a save that is under way is finished
        with jax.transfer_guard("allow"):
            self._orbax.close()

    def prepare(self, abstract: Any) -> digests.StateDigests:
        """Compiles what a save computes on the devices, so that the first one does not wait."""
        self._digests = digests.StateDigests(abstract)
        return self._digests

    def save(self, step: int, state: Any, rows: dict[str, Any] | None = None) -> None:
        """Starts saving; returns when the arrays may be overwritten.

        Args:
          step: finished updates.
          state: a tree of arrays.
          rows: what the seal says of metrics.jsonl.

        Raises:
          CheckpointError: what the save before failed with.
          ReplicaError: devices that should hold the same do not; nothing was saved.
        """
        self.wait()
        arguments = ocp.args.Composite(**{_ITEM: ocp.args.StandardSave(state)})
        held = contextlib.ExitStack()
        target = held.enter_context(_safe(self.path)) / f"{step}{UNSEALED}"
        # Orbax copies to the host and, with several processes, waits for the others on devices.
        with jax.transfer_guard("allow"), self._failing(step):
            fits = self._digests is not None and self._digests.fits(state)
            if not fits and digests.StateDigests.suits(state):
                self.prepare(state)
            if self._digests is None:
                leaves = digests.of_tree(jax.device_get(state))
                self._orbax.save(target, args=arguments, force=True)
            else:
                sums = self._digests.start(state)
                self._orbax.save(target, args=arguments, force=True)
                leaves = self._digests.finished(sums)
        self._under_way.append(self._thread.submit(self._finish, step, leaves, rows or {}, held))

    def _finish(
        self,
        step: int,
        leaves: digests.Digests,
        rows: dict[str, Any],
        held: contextlib.ExitStack,
    ) -> None:
        """Gives a checkpoint its name once it is found whole, and removes what is kept no more."""
        with held, self._failing(step):
            self._orbax.wait_until_finished()
            if jax.process_index():
                return
            folder = self.path / f"{step}{UNSEALED}"
            files.drop_cached(folder)  # what is read now is what the disk has
            read = {name: digests.of_array(value) for name, value in self.read(folder).items()}
            self._compare(read, leaves)
            seal.write(folder, step, self.run, rows, leaves)
            folder.replace(self.path / str(step))
            files.sync_folder(self.path)
            self.record.newest = step
            self.prune()

    @contextlib.contextmanager
    def _failing(self, step: int) -> Iterator[None]:
        """Names the checkpoint in whatever goes wrong, and frees the space that it took.

        Raises:
          CheckpointError: in the place of what the disk, TensorStore or Orbax raise.
        """
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, UserError):
                raise
            target = self.path / f"{step}{UNSEALED}"
            why = files.room(self.path) if files.is_full(error) else _one_line(error)
            if jax.process_index() == 0:
                for unfinished in self.path.glob(f"{step}{UNSEALED}*"):
                    _remove(unfinished)
            raise CheckpointError(
                f"{target.with_suffix('')}: cannot be saved ({why}); the checkpoints before it are "
                "kept: put that right and run again"
            ) from error

    def bytes_written(self) -> int:
        """Returns the bytes of saves that are under way."""
        total = 0
        for folder in self.path.glob(f"*{UNSEALED}*"):
            for path in folder.rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    total += path.stat().st_size
        return total

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
        """Remembers the validation error of a step that was saved, by which the best is known."""
        if jax.process_index() == 0:
            self._under_way.append(self._thread.submit(self._rank, step, top1_error))

    def _rank(self, step: int, top1_error: float) -> None:
        self.record.errors[step] = top1_error
        self.prune()

    def prune(self) -> None:
        """Removes all but the last few and the best, and writes what is known of the rest."""
        steps = self.steps()
        kept = {*steps[-self.keep :], *self.candidates("best")[:1]} if steps else set()
        self.record.errors = {
            step: error for step, error in self.record.errors.items() if step in kept
        }
        self.record.save(self.workdir)
        for step in set(steps) - kept:
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
            told = "; ".join(f"{step}: {why}" for step, why in wrong.items())
            raise CheckpointError(
                f"{self.path}: no checkpoint is whole ({told}); nothing was changed: restore one "
                "from a copy, is its disk mounted? Or begin anew in another workdir"
            )
        return None, {}

    def set_aside(self, step: int) -> pathlib.Path:
        """Renames a checkpoint, so that it is none any more; returns where it is."""
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
        """Remembers what a run begins with, which was found whole: None, nothing."""
        if self.record.sealed_after is None:
            self.record.sealed_after = step or 0
        self.record.newest = step
        if jax.process_index() == 0:
            self.prune()  # a kill may have come before that


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
