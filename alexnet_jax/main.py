"""python -m alexnet_jax.main --workdir=W [--config=NAME or FILE.py] [--config.FIELD=VALUE ...]"""

import sys

from absl import app, flags

from alexnet_jax.config import ConfigError
from alexnet_jax.configs import flags as config_flags
from alexnet_jax.host import large_pages

_CONFIG = config_flags.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "the folder that the run is kept in", required=True)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "join the processes that Slurm, OpenMPI, Kubernetes or a TPU pod started"
)
_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, to join by hand")
_PROCESSES = flags.DEFINE_integer("num_processes", 1, "with --coordinator: how many there are")
_PROCESS = flags.DEFINE_integer("process_id", 0, "with --coordinator: which one this is, from 0")


def _train(_: list[str]) -> None:
    from alexnet_jax import cli  # jax starts here, after the flags are known to be right

    join = cli.Join(
        bool(_DISTRIBUTED.value),
        str(_COORDINATOR.value),
        int(_PROCESSES.value),
        int(_PROCESS.value),
    )
    cli.run(_CONFIG.value, _WORKDIR.value, join)


def main() -> None:
    """Parses the flags and trains; a wrong configuration or input ends it with one line."""
    try:
        sys.argv = config_flags.resolve(sys.argv)  # config_flags reads it too
    except ConfigError as error:
        sys.exit(f"error: {error}")
    large_pages.start_again_with_them()
    app.run(_train)


if __name__ == "__main__":
    main()
