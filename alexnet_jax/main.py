"""python -m alexnet_jax.main --workdir=W [--config=NAME or FILE.py] [--config.FIELD=VALUE ...]

python -m alexnet_jax.main --workdir=runs/first
python -m alexnet_jax.main --workdir=runs/mine --config=imagenette --config.dataset=PATH/photos
python -m alexnet_jax.main --workdir=runs/mine --config=paper --dry_run (says what it would do)
python -m alexnet_jax.main --list_recipes, or --describe=RECIPE for every field with its meaning
"""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.configs import flags as config_flags
from alexnet_jax.host import large_pages, paths

config_flags.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "the folder that the run is kept in", required=True)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "join the processes that Slurm, OpenMPI, Kubernetes or a TPU pod started"
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "start over: remove what a run left there")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "only describe the run (data, layers, memory); write nothing"
)
_PROFILE = flags.DEFINE_string(
    "profile", "", "FROM:TO: record these updates; python -m alexnet_jax.benchmark trace reads it"
)
_CLUSTER = flags.DEFINE_enum(
    "cluster", "", ["", "mpi4py"], "with --distributed: ask MPI itself (OpenMPI 5, MPICH)"
)
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
    cluster: str = ""


def run(
    config: Config,
    workdir: str,
    join: Join = Join(),
    overwrite: bool = False,
    profile: str = "",
    get_writers: Callable[[str], Sequence[Any]] = lambda workdir: (),
) -> None:
    """Trains, and says how it ended.

    Args:
      config: of the run.
      workdir: of the run.
      join: how its other processes are found.
      overwrite: begin anew?
      profile: FROM:TO, updates to record.
      get_writers: returns a workdir's writers that also get every row; called in the first process.
    """
    with cli.errors_as_one_line():
        from alexnet_jax import train
        from alexnet_jax.ops import compilation
        from alexnet_jax.parallel import processes
        from alexnet_jax.training.page_maker import make_page
        from alexnet_jax.training.profiler import steps_of

        profiled = steps_of(profile)
        compilation.keep_programs()
        _refuse_other_kinds(config)
        if not join.coordinator and (join.num_processes > 1 or join.process_id):
            raise ConfigError("--num_processes: needs --coordinator=HOST:PORT of process 0 too")
        if join.cluster and not join.distributed:
            raise ConfigError("--cluster: needs --distributed too")
        if join.distributed or join.coordinator:
            seconds = config.join_seconds
            processes.start(
                join.coordinator, join.num_processes, join.process_id, seconds, join.cluster
            )
        with processes.ending_together():
            writers = get_writers(workdir) if processes.is_first() else ()
            summary = train.train(config, workdir, overwrite, profiled, writers)
            made: list[str] = []
            if config.report_every_minutes:  # all wait: an early exit would end process 0
                folder = paths.local(workdir, "--workdir")
                processes.first_does(lambda: made.append(make_page(folder)))
    page = "".join(made)
    plots = paths.local(workdir, "--workdir") / "plots" / "learning_curves.png"
    processes.say(
        f"see {', '.join(filter(None, (page, str(plots))))}, or: tensorboard --logdir "
        f"{shlex.quote(str(plots.parents[1] / 'tensorboard'))}"
    )
    processes.say(
        f"{workdir}: {summary['split']} top-1 error {100 * summary['top1_error']:.2f} %, "
        f"top-5 {100 * summary['top5_error']:.2f} % over {summary['count']:,} images, "
        f"{summary['views']} view{'s' if summary['views'] > 1 else ''}, step {summary['step']:,}"
    )


def _preview(config: Config, workdir: str, join: Join, overwrite: bool) -> None:
    with cli.errors_as_one_line():
        from alexnet_jax import train
        from alexnet_jax.parallel import processes

        _refuse_other_kinds(config)
        if join != Join():
            raise ConfigError("--dry_run: describes one process; leave out the flags that join")
        processes.say(train.preview(config, workdir, overwrite))


def _refuse_other_kinds(config: Any) -> None:
    """Refuses what a --config file returned, if it is no config.

    Raises:
      ConfigError: says what it is.
    """
    if not isinstance(config, Config):
        raise ConfigError(
            f"--config: get_config() gives a {type(config).__name__}; it must return an "
            "alexnet_jax.config.Config, such as alexnet_jax.configs.get('default')"
        )


def _train(arguments: list[str]) -> None:
    cli.take_no_arguments(arguments)
    join = Join(
        bool(_DISTRIBUTED.value),
        str(_COORDINATOR.value),
        int(_PROCESSES.value),
        int(_PROCESS.value),
        str(_CLUSTER.value),
    )
    config = config_flags.value()
    if _DRY_RUN.value:
        return _preview(config, _WORKDIR.value, join, bool(_OVERWRITE.value))
    large_pages.start_again_with_them(getattr(config, "kernels", "auto"))
    overwrite, profile = bool(_OVERWRITE.value), _PROFILE.value or ""
    run(config, _WORKDIR.value, join, overwrite, profile, config_flags.own_writers)


def main() -> None:
    """Parses the flags and trains; a wrong configuration or input ends it with one line."""
    for number, argument in enumerate(sys.argv[1:], 1):
        flag, equals, name = argument.partition("=")
        if flag in ("-list_recipes", "--list_recipes"):
            return print(config_flags.listed())
        if flag in ("-describe", "--describe"):
            named = name if equals else "".join(sys.argv[number + 1 : number + 2])
            with cli.errors_as_one_line():
                return print(config_flags.described(named or "default"))
    cli.run(_train, config_flags.resolve)


if __name__ == "__main__":
    main()
