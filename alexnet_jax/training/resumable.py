"""Which fields a run may be continued with other values of."""

from typing import Any

from alexnet_jax.config import Config, flatten

# Fields that may differ between a run and its continuation: where and how it is computed, what is
# reported, and how long it goes on. Another length stretches a schedule over the whole run, and
# `Run.say_stretched` says so; of a data set its contents decide (`run_files.pin_dataset`).
RESUMABLE = (
    "mesh.data",
    "mesh.model",
    "mesh.scheme",
    "mesh.zero",
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
)


def changed_fields(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the fields that forbid a resume, each with both values."""
    before, after = flatten(old), flatten(new)
    return {
        name: (before[name], after[name])
        for name in after
        if before[name] != after[name] and name not in RESUMABLE
    }
