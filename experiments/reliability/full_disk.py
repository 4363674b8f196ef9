"""python -m experiments.reliability.full_disk: what a full disk does wherever one is written.

Mounts a small tmpfs as the folder of checkpoints, rows, TensorBoard's events, pictures, a store or
the drawn data set. This needs the right to mount; without it, the tests limit file sizes instead.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from alexnet_jax.config import to_json
from experiments.reliability import runs

# place -> KiB: enough to begin, too little to end.
PLACES = {
    "checkpoints": 700,
    ".": 80,
    "tensorboard": 4,
    "plots": 8,
}


def limited(folder: pathlib.Path, kib: int) -> None:
    """Mounts a disk of so many KiB."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], check=True)


def command(*arguments: str) -> tuple[int, str]:
    """Runs a module; returns its code and the line that says what went wrong."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False
    )
    if "Traceback" in done.stderr:
        raise AssertionError(done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, (lines or [""])[-1]


def main() -> None:
    """Fills each disk and prints the run's last line; exits with 1 if a run ended as if all were
    well, did not name the folder, or did not resume once there was room."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        runs.write_folder(root / "set", train=60)
        for place, kib in PLACES.items():
            workdir = root / f"run_{place.strip('.')}"
            config = runs.config(root / "set")
            config.num_steps, config.log_every_steps, config.keep_checkpoints = 2000, 1, 8
            config.checkpoint_every_steps = 20 if place != "." else 1000
            config.optimizer.schedule.kind = "constant"
            recipe = root / f"{workdir.name}.py"
            recipe.write_text(
                "from alexnet_jax.config import from_json\n"
                f"def get_config():\n    return from_json({to_json(config)!r})\n"
            )
            disk = workdir / place
            limited(disk, kib)
            train = ["alexnet_jax.main", f"--workdir={workdir}", f"--config={recipe}"]
            try:
                code, output = command(*train)
                rows = (workdir / "metrics.jsonl").read_text().splitlines()
                steps = [json.loads(line)["step"] for line in rows[:-1]]
                saved = sorted(p.name for p in (workdir / "checkpoints").glob("[0-9]*"))
                print(f"{place}, {kib} KiB: exit {code}: {output}")
                print(f"  rows to step {max(steps, default=0)}, checkpoints {', '.join(saved)}")
                wrong += code == 0
                subprocess.run(
                    ["mount", "-o", "remount,size=64m", disk], check=True, capture_output=True
                )
                # Then the same command goes on.
                code, output = command(*train, f"--config.num_steps={max(steps) + 40}")
                print(f"  with room: exit {code} {output}")
                wrong += code != 0
            finally:
                subprocess.run(["umount", disk], check=True)
        for what, arguments in {
            "a store": ["alexnet_jax.prepare", f"--dataset={root / 'set'}", f"--out={root / 'd'}"],
            "drawn data": [
                *("alexnet_jax.main", f"--workdir={root / 'drawn'}"),
                *(f"--config.data_dir={root / 'd'}", "--config.num_steps=1"),
            ],
        }.items():
            limited(root / "d", 300)
            try:
                code, output = command(*arguments)
                print(f"{what}, 300 KiB: exit {code}: {output}")
                wrong += code == 0 or str(root / "d") not in output
            finally:
                subprocess.run(["umount", root / "d"], check=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
