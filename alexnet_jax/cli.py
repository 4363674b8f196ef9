"""From parsed flags to a run: errors a person can act on become one line."""

import contextlib
import dataclasses
import io
import logging
import sys
from collections.abc import Iterator

from absl import logging as absl_logging

from alexnet_jax.config import Config, ConfigError
from alexnet_jax.errors import UserError


def print_any_name() -> None:
    """Lets names of files that are no text in the terminal's encoding be printed, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Exits with one line and a code that is not 0 where something is wrong."""
    print_any_name()
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    import jax

    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0][:200]
        sys.exit(f"error: another process ended, see what it said ({reason})")


@dataclasses.dataclass(frozen=True)
class Join:
    """How this process finds the others of its run; see `processes.start`."""

    distributed: bool = False
    coordinator: str = ""
    num_processes: int = 1
    process_id: int = 0


def run(config: Config, workdir: str, join: Join = Join()) -> None:
    """Trains, and says how it ended."""
    with errors_as_one_line():
        from alexnet_jax import train
        from alexnet_jax.ops import compilation
        from alexnet_jax.parallel import processes

        compilation.keep_programs()
        if not join.coordinator and (join.num_processes > 1 or join.process_id):
            raise ConfigError("--num_processes: needs --coordinator=HOST:PORT of process 0 too")
        if join.distributed or join.coordinator:
            processes.start(join.coordinator, join.num_processes, join.process_id)
        if not isinstance(config, Config):
            raise ConfigError(
                f"--config: get_config() gives a {type(config).__name__}; it must return an "
                "alexnet_jax.config.Config, such as alexnet_jax.configs.get('default')"
            )
        summary = train.train(config, workdir)
    processes.say(
        f"{workdir}: {summary['split']} top-1 error {100 * summary['top1_error']:.2f} %, "
        f"top-5 {100 * summary['top5_error']:.2f} % over {summary['count']:,} images, "
        f"{summary['views']} view{'s' if summary['views'] > 1 else ''}, step {summary['step']:,}"
    )
