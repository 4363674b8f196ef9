"""python -m alexnet_jax.main --workdir=W [--config=NAME or FILE.py] [--config.FIELD=VALUE ...]"""

from alexnet_jax.host import signals

signals.end_in_one_line(__name__)  # from here on: what follows is imported for seconds


import dataclasses
import sys

from absl import app, flags

from alexnet_jax import cli
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.configs import flags as config_flags
from alexnet_jax.host import large_pages

_CONFIG = config_flags.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "the folder that the run is kept in", required=True)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "join the processes that Slurm, OpenMPI, Kubernetes or a TPU pod started"
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "begin anew: removes what a run left there")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, to join by hand")
_PROCESSES = flags.DEFINE_integer("num_processes", 1, "with --coordinator: how many there are")
_PROCESS = flags.DEFINE_integer("process_id", 0, "with --coordinator: which one this is, from 0")


@dataclasses.dataclass(frozen=True)
class Join:
    """How this process finds the others of its run; see `processes.start`."""

    distributed: bool = False
    coordinator: str = ""
    num_processes: int = 1
    process_id: int = 0


def run(config: Config, workdir: str, join: Join = Join(), overwrite: bool = False) -> None:
    """Trains, and says how it ended."""
    with cli.errors_as_one_line():
        from alexnet_jax import train
        from alexnet_jax.ops import compilation
        from alexnet_jax.parallel import processes

        compilation.keep_programs()
        if not isinstance(config, Config):
            raise ConfigError(
                f"--config: get_config() gives a {type(config).__name__}; it must return an "
                "alexnet_jax.config.Config, such as alexnet_jax.configs.get('default')"
            )
        if not join.coordinator and (join.num_processes > 1 or join.process_id):
            raise ConfigError("--num_processes: needs --coordinator=HOST:PORT of process 0 too")
        if join.distributed or join.coordinator:
            seconds = config.join_seconds
            processes.start(join.coordinator, join.num_processes, join.process_id, seconds)
        with processes.ending_together():
            summary = train.train(config, workdir, overwrite)
    processes.say(
        f"{workdir}: {summary['split']} top-1 error {100 * summary['top1_error']:.2f} %, "
        f"top-5 {100 * summary['top5_error']:.2f} % over {summary['count']:,} images, "
        f"{summary['views']} view{'s' if summary['views'] > 1 else ''}, step {summary['step']:,}"
    )


def _train(_: list[str]) -> None:
    large_pages.start_again_with_them(getattr(_CONFIG.value, "kernels", "auto"))
    join = Join(
        bool(_DISTRIBUTED.value),
        str(_COORDINATOR.value),
        int(_PROCESSES.value),
        int(_PROCESS.value),
    )
    run(_CONFIG.value, _WORKDIR.value, join, bool(_OVERWRITE.value))


def main() -> None:
    """Parses the flags and trains; a wrong configuration or input ends it with one line."""
    try:
        sys.argv = config_flags.resolve(sys.argv)  # config_flags reads it too
    except ConfigError as error:
        sys.exit(f"error: {error}")
    app.run(_train)


if __name__ == "__main__":
    main()
