"""Checks, between a run's updates, that the devices compute and keep the right bits."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from alexnet_jax.config import Config, ConfigError
from alexnet_jax.ops import compilation
from alexnet_jax.steps.digests import StateDigests
from alexnet_jax.steps.replay import Replay
from alexnet_jax.steps.state import TrainState

Check = Callable[[], Any]  # raises ReplicaError; waits for the devices


class Checks:
    """The checks that `check_replicas_every` and `replay_every` ask for.

    Each method returns the checks to call once the update is done. The loop goes on while replicas
    are compared, but waits for an update that is computed again.
    """

    def __init__(self, config: Config, digests: StateDigests, replay: Replay | None) -> None:
        """Prepares the checks of a run.

        Args:
          config: of the run.
          digests: of its state.
          replay: an update without effect, where `replay_every` is not 0.

        Raises:
          ConfigError: the devices do not give the same bits twice.
        """
        self._config, self._digests, self._replay = config, digests, replay
        fields = [
            name for name in ("check_replicas_every", "replay_every") if getattr(config, name)
        ]
        if fields and not compilation.repeats_itself(config.deterministic):
            raise ConfigError(
                f"{fields[0]}: compares bits, which this device gives twice only with "
                "deterministic=True; set that too"
            )

    def replay(self, state: TrainState, fed: Any, updates: range) -> list[Check]:
        """Computes the first update of a dispatch twice, if that is due."""
        if self._replay is None or not _due(updates, self._config.replay_every):
            return []
        with jax.transfer_guard("allow"):
            # One after the other, and before the update: independent programs with collectives
            # could deadlock.
            once = jax.block_until_ready(self._replay.start(state, fed))
            again = jax.block_until_ready(self._replay.start(state, fed))
        return [functools.partial(self._replay.compare, once, again)]

    def compare_replicas(self, state: TrainState, updates: range) -> list[Check]:
        """Compares the replicas on the devices, if that is due."""
        if not _due(updates, self._config.check_replicas_every):
            return []
        with jax.transfer_guard("allow"):
            return [functools.partial(self._digests.finished, self._digests.start(state))]


def _due(updates: range, every: int) -> bool:
    return bool(every) and any(update % every == 0 for update in updates)
