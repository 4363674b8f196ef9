"""python -m alexnet_jax.benchmark MODE: speeds, as a table and with --json=FILE as rows."""

import json
import pathlib
import sys

from absl import app, flags

from alexnet_jax import startup
from alexnet_jax.config import ConfigError, unknown

MODES = ("input",)


def define_flags() -> None:
    """Declares the command's flags; not at import, for another command has the same."""
    flags.DEFINE_string("dataset", "drawn_patterns", "input: the data set, or a folder of images")
    flags.DEFINE_string("data_dir", "", "input: TFDS's data_dir")
    flags.DEFINE_integer("batch_size", 128, "images of a batch", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "of each comparison, alternated", lower_bound=1)
    flags.DEFINE_enum("against", "", ["", "torch"], "compare with PyTorch in the same run")
    flags.DEFINE_string("json", "", "FILE for the rows")


def _benchmark(mode: str) -> None:
    from alexnet_jax.benchmarks import input, rows  # what a mode needs starts here

    if mode not in MODES:
        raise ConfigError(f"benchmark: {unknown(mode, MODES)}")
    f = flags.FLAGS
    found = input.measure(f.dataset, f.data_dir, f.batch_size, f.rounds, f.against == "torch")
    print(rows.table(found))
    if f.json:
        path = pathlib.Path(f.json).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([row.json() for row in found], indent=1) + "\n")


def _run(arguments: list[str]) -> None:
    if len(arguments) != 2:
        sys.exit(f"error: name one mode: {', '.join(MODES)}")
    with startup.errors_as_one_line():
        _benchmark(arguments[1])


if __name__ == "__main__":
    define_flags()
    app.run(_run)
