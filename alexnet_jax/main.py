"""python -m alexnet_jax.main --workdir=W [--config=NAME or FILE.py] [--config.FIELD=VALUE ...]"""

import sys

from absl import app, flags
from ml_collections import config_flags

from alexnet_jax import configs
from alexnet_jax.config import Config, ConfigError, flatten, unknown

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, f"a recipe ({', '.join(configs.names())}) or a file"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "the folder that the run is kept in", required=True)


_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "join the processes that Slurm, OpenMPI, Kubernetes or a TPU pod started"
)
_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, to join by hand")
_PROCESSES = flags.DEFINE_integer("num_processes", 1, "with --coordinator: how many there are")
_PROCESS = flags.DEFINE_integer("process_id", 0, "with --coordinator: which one this is, from 0")

DEFAULT = f"--config={configs.path('default')}"


def resolve(arguments: list[str]) -> list[str]:
    """Replaces a recipe's name after --config by its file; without one it is the default's.

    Raises:
      ConfigError: an unknown recipe or field; says which is nearest.
    """
    resolved = list(arguments)
    fields = list(flatten(Config()))
    for i, argument in enumerate(resolved):
        flag, equals, value = argument.partition("=")
        name = flag.lstrip("-")
        if name == "config" and equals:
            resolved[i] = f"{flag}={configs.path(value)}"
        elif name == "config" and i + 1 < len(resolved):
            resolved[i + 1] = configs.path(resolved[i + 1])
        elif name.startswith(("config.", "noconfig.")):
            field = name.partition(".")[2]
            if field not in fields:
                raise ConfigError(f"--config.{unknown(field, fields)[:300]}")
    names = [argument.partition("=")[0].lstrip("-") for argument in arguments[1:]]
    return resolved if "config" in names else [*resolved[:1], DEFAULT, *resolved[1:]]


def _train(_: list[str]) -> None:
    from alexnet_jax import startup  # jax starts here, after the flags are known to be right

    join = startup.Join(
        bool(_DISTRIBUTED.value),
        str(_COORDINATOR.value),
        int(_PROCESSES.value),
        int(_PROCESS.value),
    )
    startup.run(_CONFIG.value, _WORKDIR.value, join)


def main() -> None:
    """Parses the flags and trains; a wrong configuration or input ends it with one line."""
    try:
        sys.argv = resolve(sys.argv)  # config_flags reads it too
    except ConfigError as error:
        sys.exit(f"error: {error}")
    app.run(_train)


if __name__ == "__main__":
    main()
