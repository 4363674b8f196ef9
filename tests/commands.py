"""Commands given wrong arguments, all in one process: each start of JAX takes seconds."""

import json
import pathlib
import subprocess
import sys

from alexnet_jax.config import Config, to_json

PROGRAM = """
import importlib, json, sys
from absl import flags
command = importlib.import_module(sys.argv[1])
command.define_flags()
said = []
for arguments in json.loads(sys.argv[2]):
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    try:
        command._run(flags.FLAGS([sys.argv[1], *arguments]))
        said.append("")
    except SystemExit as end:
        said.append(str(end))
print(json.dumps(said))
"""


def endings(module: str, folder: pathlib.Path, *runs: list[str]) -> list[str]:
    """Returns each run's last line: its error, or an empty text if all went well."""
    command = [sys.executable, "-c", PROGRAM, f"alexnet_jax.{module}", json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def config_file(path: pathlib.Path, config: Config, more: str = "") -> str:
    """Writes a --config file with a config and more code; returns the flag."""
    path.write_text(
        "from alexnet_jax.config import from_json\n\n\n"
        f"def get_config():\n    return from_json({to_json(config)!r})\n\n\n{more}"
    )
    return f"--config={path}"
