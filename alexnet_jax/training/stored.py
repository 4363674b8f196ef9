"""The checkpoints of a workdir, for whoever reads them: which there are, and which are whole."""

import contextlib
import logging
import pathlib
import sys
import threading
from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from alexnet_jax.configs import earlier_versions
from alexnet_jax.errors import UserError, printable
from alexnet_jax.host.files import safe_path
from alexnet_jax.steps import digests
from alexnet_jax.training import candidates, seal
from alexnet_jax.training.candidates import FOLDER
from alexnet_jax.training.record import Record
from alexnet_jax.training.seal import DamageError, Seal

DAMAGED = "damaged_"  # before the step of what was moved aside
ITEM = "default"  # Orbax's name of the state within a checkpoint


class _WithoutRemarks(logging.Filter):
    """Drops Orbax's log lines: remarks on intended options, and errors that are raised anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Says whether to log a line: any that is not Orbax's."""
        return "orbax" not in record.pathname


# Orbax also raises its errors, and the command prints those in one line.
logging.getLogger("absl").addFilter(_WithoutRemarks())


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be read or written; the message names its folder and what to do."""


def one_line(error: BaseException) -> str:
    """Returns the first line of what an error says, or its kind."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def compare(computed: digests.Digests, saved: digests.Digests) -> None:
    """Compares the digests of leaves; both sides must have the same leaves.

    Raises:
      DamageError: names the first leaf that differs.
    """
    for name in sorted(computed.keys() | saved.keys()):
        if computed.get(name) != saved.get(name):
            raise DamageError(f"{name} is not what the devices held when it was saved")


class Stored:
    """The checkpoints of a workdir, for whoever reads them; another process may be saving more."""

    def __init__(self, workdir: pathlib.Path, run: dict[str, Any]) -> None:
        """Opens the folder.

        Args:
          workdir: of the run.
          run: the identity that its seals must carry (`run_files.identity`).
        """
        self.workdir, self.run = workdir.absolute(), run
        self.path = self.workdir / FOLDER
        self.record = Record.load(self.workdir)
        self._digests: digests.StateDigests | None = None
        self._one_at_a_time = threading.Lock()
        self._compared: dict[int, Seal | None] = {}  # steps whose files this object has compared

    def steps(self) -> list[int]:
        """Returns the steps that have a name in the folder, in order; they may be damaged."""
        return candidates.steps(self.workdir)

    def missing(self) -> int | None:
        """Returns the newest step that was ever saved if its checkpoint is missing, else None."""
        newest = self.record.newest
        return newest if newest is not None and newest not in self.steps() else None

    def newest_seal(self) -> Seal | None:
        """Returns the newest step's seal; None if there is no step, or it has no seal."""
        steps = self.steps()
        return seal.read(self.path / str(steps[-1])) if steps else None

    def check(self, step: int) -> Seal | None:
        """Finds out whether a checkpoint is whole.

        Returns:
          Its seal; None if it is older than seals, in which case its arrays were read instead.

        Raises:
          DamageError: says what is wrong.
        """
        folder = self.path / str(step)
        sealed = seal.check(folder, step, self.run)
        self._compared[step] = sealed
        if sealed is None:
            if self._must_be_sealed(step):
                raise DamageError(f"{seal.FILE} is missing")
            step_inside = self.read(folder).get("step")
            if step_inside is None or int(step_inside) != step:
                raise DamageError(f"holds step {step_inside}")
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
        older = (at for at in self.steps() if at < step)
        return any((self.path / str(at) / seal.FILE).exists() for at in older)

    def read(self, folder: pathlib.Path) -> dict[str, np.ndarray]:
        """Returns the arrays of a checkpoint's folder by their paths, on the host.

        Raises:
          DamageError: Orbax cannot read them.
        """
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(safe_path(self.path))
            handler = stack.enter_context(contextlib.closing(ocp.PyTreeCheckpointHandler()))
            try:
                item = epath.Path(path) / folder.name / ITEM
                known: Any = ocp.StandardCheckpointHandler().metadata(item)
                arrays = jax.tree.map(
                    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), dict(known.tree)
                )
                tree = handler.restore(item, args=ocp.args.PyTreeRestore(restore_args=arrays))
            except Exception as error:  # of whatever kind: three libraries parse damaged bytes
                raise DamageError(f"cannot be read ({one_line(error)})") from error
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {digests.name_of(path): np.asarray(leaf) for path, leaf in leaves}

    def restore(self, step: int, abstract: Any) -> Any:
        """Reads a step, of any version, into the shapes and shardings of `abstract`.

        Raises:
          CheckpointError: the folder is damaged, or of another network.
        """
        return self._restored(step, abstract, weights_alone=False)

    def restore_weights(self, step: int, abstract: Any) -> Any:
        """Like `restore`, without the velocity, half of a checkpoint: `opt_state` is empty."""
        return self._restored(step, abstract, weights_alone=True)

    def compile_for_weights(self, abstract: Any) -> None:
        """Compiles the digests for `restore_weights`, while `choose` runs in a thread, say."""
        self._digests_of(replace(abstract, opt_state=()))

    def _restored(self, step: int, abstract: Any, weights_alone: bool) -> Any:
        folder = self.path / str(step)
        try:
            known = step in self._compared
            sealed = self._compared[step] if known else seal.check(folder, step, self.run)
            if weights_alone and sealed:  # without a seal Orbax compares whole trees
                abstract = replace(abstract, opt_state=())
            state = self._read(folder, abstract, as_today=sealed is not None)
            digests_of = self._digests_of(abstract)
            if sealed and digests_of:
                with jax.transfer_guard("allow"):
                    computed = digests_of.finished(digests_of.start(state))
                saved = sealed.leaves
                if not abstract.opt_state:
                    saved = {n: d for n, d in saved.items() if not n.startswith("opt_state.")}
                compare(computed, saved)
            return replace(state, opt_state=()) if weights_alone else state
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise CheckpointError(f"{folder}: cannot be restored ({one_line(error)})") from error

    def _digests_of(self, abstract: Any) -> digests.StateDigests | None:
        """Returns the compiled digests for such a state; None if it is on no mesh."""
        if not digests.StateDigests.suits(abstract):
            return None
        with self._one_at_a_time:  # a thread may read while another compiles
            if self._digests is None or not self._digests.fits(abstract):
                self._digests = digests.StateDigests(abstract)
            return self._digests

    def _read(self, folder: pathlib.Path, abstract: Any, as_today: bool) -> Any:
        """Reads what `abstract` has of a state; an empty `opt_state` is not read.

        Args:
          folder: of the checkpoint.
          abstract: the state.
          as_today: is it in the form of today, as those with a seal are?
        """
        wanted = {field.name: getattr(abstract, field.name) for field in fields(abstract)}
        with (
            safe_path(self.path) as path,
            contextlib.closing(ocp.Checkpointer(ocp.PyTreeCheckpointHandler())) as orbax,
        ):
            item = path / folder.name / ITEM
            form = wanted if as_today else self._form_of(orbax, item, wanted)
            arguments_tree = (
                form if form["opt_state"] else {n: v for n, v in form.items() if n != "opt_state"}
            )
            arguments = ocp.args.PyTreeRestore(
                arguments_tree,
                ocp.checkpoint_utils.construct_restore_args(arguments_tree),
                partial_restore=not form["opt_state"],
            )
            restored: Any = {"opt_state": ()} | dict(orbax.restore(item, args=arguments))
        return replace(abstract, **earlier_versions.current_state(restored, wanted))

    @staticmethod
    def _form_of(orbax: ocp.Checkpointer, item: Any, wanted: dict[str, Any]) -> dict[str, Any]:
        """Returns `wanted` in the form of a checkpoint, which older code may have written."""
        stored: Any = orbax.metadata(item)
        tree = stored.item_metadata.tree if hasattr(stored, "item_metadata") else stored.tree
        return earlier_versions.stored_state(wanted, tree)

    def candidates(self, which: str) -> list[int]:
        """Returns the steps that `which` can mean, the first choice first (`candidates.in_order`).

        Raises:
          ConfigError: there is none, or not that one.
        """
        return candidates.in_order(self.workdir, self.record, which)

    def choose(self, which: str) -> int:
        """Returns the first of `candidates` that is whole; warns of damaged ones before it.

        Raises:
          CheckpointError: none is whole.
        """
        wrong = []
        for step in self.candidates(which):
            try:
                self.check(step)
            except DamageError as error:
                wrong.append(f"{self.path / str(step)}: {error}")
                continue
            for line in wrong:
                warning = printable(f"warning: {line}; step {step} is used")
                print(warning, file=sys.stderr, flush=True)
            return step
        raise CheckpointError(
            f"{'; '.join(wrong)}; no whole checkpoint is left to use"
            if which in ("best", "latest")
            else f"{wrong[0]}; ask for another, or for best or latest"
        )
