"""python -m experiments.reliability.damage [--flips=300] [--others=200] [--commands=30] [--seed=0]

Damages the newest of three checkpoints, and resumes the run. The run must report what it found,
resume from the checkpoint before, and end with the same rows and bits as an undisturbed run.
"""

import argparse
import collections
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from alexnet_jax import train
from alexnet_jax.config import Config, to_json
from alexnet_jax.training import writers
from experiments.reliability import runs

NEWEST, BEFORE, END = 6, 4, 8
Damage = Callable[[pathlib.Path, pathlib.Path, random.Random], bool]  # did it change anything?


def _flip(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
    return bool(data)


def _cut(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    data = file.read_bytes()
    if data:
        file.write_bytes(data[: rng.randrange(len(data))])
    return bool(data)


def _append(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 4096)))
    return True


def _zero(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    data = bytearray(file.read_bytes())
    page = rng.randrange(len(data) // 4096 + 1) * 4096
    changed = any(data[page : page + 4096])
    data[page : page + 4096] = bytes(len(data[page : page + 4096]))
    file.write_bytes(data)
    return changed


def _swap(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    other = rng.choice([path for path in files_of(checkpoint) if path != file])
    ours, theirs = file.read_bytes(), other.read_bytes()
    file.write_bytes(theirs)
    other.write_bytes(ours)
    return ours != theirs


def _older_file(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    other = checkpoint.with_name(str(BEFORE)) / file.relative_to(checkpoint)
    if not other.is_file() or other.read_bytes() == file.read_bytes():
        return False
    shutil.copy(other, file)
    return True


def _remove(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    file.unlink()
    return True


def _remove_folder(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    shutil.rmtree(rng.choice([path for path in checkpoint.rglob("*") if path.is_dir()]))
    return True


def _empty(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    return True


def _lose(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    shutil.rmtree(checkpoint)
    return True


def _rename(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    checkpoint.rename(checkpoint.with_name(str(NEWEST + rng.choice([1, 5, 1000, 2**40]))))
    return True


def _swap_names(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    """Swaps the names of the two newest checkpoints; the oldest stays whole."""
    other = checkpoint.with_name(str(BEFORE))
    checkpoint.rename(checkpoint.with_name("x"))
    other.rename(checkpoint)
    checkpoint.with_name("x").rename(other)
    return True


def _older_folder(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    shutil.rmtree(checkpoint)
    shutil.copytree(checkpoint.with_name(str(BEFORE)), checkpoint)
    return True


def _link(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    shutil.rmtree(checkpoint)
    checkpoint.symlink_to(rng.choice([str(BEFORE), "nowhere", "..", str(NEWEST)]))
    return True


def _file(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    shutil.rmtree(checkpoint)
    checkpoint.write_bytes(rng.randbytes(rng.randrange(100)))
    return True


def _unseal(checkpoint: pathlib.Path, file: pathlib.Path, rng: random.Random) -> bool:
    (checkpoint / "digests.json").unlink()
    return True


FLIP = "bit flipped"
KINDS: dict[str, Damage] = {
    FLIP: _flip,
    "file cut": _cut,
    "bytes appended": _append,
    "page zeroed": _zero,
    "files swapped": _swap,
    "older file": _older_file,
    "file removed": _remove,
    "folder removed": _remove_folder,
    "emptied": _empty,
    "lost": _lose,
    "renamed": _rename,
    "names swapped": _swap_names,
    "older folder": _older_folder,
    "link in its place": _link,
    "file in its place": _file,
    "digests removed": _unseal,
}


def files_of(checkpoint: pathlib.Path) -> list[pathlib.Path]:
    """Returns all files of a checkpoint, in order."""
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


class Trials:
    """A run with three checkpoints, what it ends as, and copies of it that are damaged."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        runs.write_folder(folder / "set")
        self._train(BEFORE + 2, "base")
        self._train(END, "whole")
        self.expected = self._end(folder / "whole")

    def config(self, steps: int) -> Config:
        """Returns the run's config, of so many updates."""
        config = runs.config(self.folder / "set")
        config.num_steps, config.optimizer.schedule.kind = steps, "constant"
        config.keep_checkpoints, config.eval_every_epochs = 3, 100
        return config

    def _train(self, steps: int, name: str) -> str:
        _, _, warned = runs.quietly(train.train, self.config(steps), self.folder / name)
        return warned

    def _end(self, workdir: pathlib.Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        rows = runs.rows(workdir)
        # The shorter run was evaluated at its end.
        kept_rows = [row for row in rows if row["split"] == "train" or row["step"] == END]
        return kept_rows, runs.final_state(workdir, END)

    def damaged(self, kind: str, rng: random.Random) -> tuple[pathlib.Path, str] | None:
        """Makes a damaged copy; returns it and what was done, or None where nothing changed."""
        workdir = self.folder / "damaged"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(self.folder / "base", workdir)
        checkpoint = workdir / "checkpoints" / str(NEWEST)
        files = files_of(checkpoint)
        weights = [path.stat().st_size + 1 for path in files]
        # A choice by bytes hits the values; one by files hits the small files that index them.
        file = rng.choice(files) if rng.random() < 0.5 else rng.choices(files, weights)[0]
        changed = KINDS[kind](checkpoint, file, rng)
        return (workdir, f"{kind}: {file.relative_to(checkpoint)}") if changed else None

    def outcome(self, workdir: pathlib.Path, warned: str) -> str:
        """Describes what went wrong in a damaged run that was resumed; "" if nothing did."""
        rows, state = self._end(workdir)
        if not all(np.array_equal(state[name], value) for name, value in self.expected[1].items()):
            return "other parameters"
        if rows != self.expected[0]:
            return "other rows"
        lines = warned.strip().splitlines()
        if not lines or not all(line.startswith("warning: ") for line in lines):
            return f"nothing said of it ({warned!r})"
        return ""

    def in_process(self, kind: str, rng: random.Random) -> str | None:
        """Damages a copy and resumes it in this process; None if nothing changed."""
        made = self.damaged(kind, rng)
        if made is None:
            return None
        try:
            warned = self._train(END, made[0].name)
        except (Exception, SystemExit) as error:
            return f"{made[1]}: {type(error).__name__}: {error}"
        wrong = self.outcome(made[0], warned)
        return f"{made[1]}: {wrong}" if wrong else ""

    def by_command(self, kind: str, rng: random.Random) -> str | None:
        """Damages and goes on by the command that a person types."""
        made = self.damaged(kind, rng)
        if made is None:
            return None
        recipe = self.folder / "recipe.py"
        recipe.write_text(
            "from alexnet_jax.config import from_json\n"
            f"def get_config():\n    return from_json('''{to_json(self.config(END))}''')\n"
        )
        command = ["-m", "alexnet_jax.main", f"--workdir={made[0]}", f"--config={recipe}"]
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"{made[1]}: exit {done.returncode}: {done.stderr[-500:]}"
        warned = "".join(f"{line}\n" for line in done.stderr.splitlines() if "step" in line)
        wrong = self.outcome(made[0], warned)
        return f"{made[1]}: {wrong}" if wrong else ""


def main() -> None:
    """Runs the trials; prints a table, and ends with 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=300, help="trials that flip a bit")
    parser.add_argument("--others", type=int, default=200, help="of all other kinds, in turn")
    parser.add_argument("--commands", type=int, default=30, help="so many of them by the command")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    writers.Writers.draw = lambda self: None  # each drawing takes a second
    done: collections.Counter[str] = collections.Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/programs")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        trials = Trials(pathlib.Path(folder))
        others = [kind for kind in KINDS if kind != FLIP]
        count = options.flips + options.others
        while done.total() < count:
            number = done.total()
            turn = number - done[FLIP]
            kind = FLIP if done[FLIP] < options.flips else others[turn % len(others)]
            by_command = number % (count // max(options.commands, 1)) == 0
            outcome = (trials.by_command if by_command else trials.in_process)(kind, rng)
            if outcome is None:
                continue
            done[kind] += 1
            if outcome:
                wrong.append(outcome)
                print(f"WRONG {outcome}", flush=True)
            elif number % 25 == 24:
                print(f"{number + 1} of {count}", flush=True)
    for kind, count in done.most_common():
        print(f"{kind:20} {count:4}")
    print(f"{done.total()} damages, {len(wrong)} not told of, ended or other than undamaged")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
