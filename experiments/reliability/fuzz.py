"""python -m experiments.reliability.fuzz [--count=2000] [--seed=0]

Changes a file of a finished run's workdir as faults and editors do, and runs every reader on it:
the list of checkpoints, the loading of a network, and the train command. Each may work, or fail
with one line that names the file, but must never end with a traceback or another network.
"""

import argparse
import collections
import json
import pathlib
import random
import shutil
import sys
import tempfile
import time

import jax
import numpy as np

from alexnet_jax import checkpoints, train
from alexnet_jax.config import Config
from alexnet_jax.errors import UserError
from alexnet_jax.inference import trained
from alexnet_jax.training import writers
from experiments.reliability import runs

SECONDS = 60.0  # for one reader, at most
_VALUES = [
    "",
    "null",
    "[]",
    "{}",
    "0",
    '""',
    "NaN",
    "1e999",
    "[" * 3000,
    "{" * 3000,
    "\0",
    "\ufeff",
]
_LEAVES = [
    None,
    True,
    -1,
    10**30,
    1.5,
    "",
    "x" * 5000,
    [],
    {},
    [None],
    {"a": 1},
    "\ud800",
    "../../x",
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Returns `data` after one of the kinds of damage that files suffer."""
    kind = rng.randrange(8)
    if kind == 0:
        return data[: rng.randrange(len(data) + 1)]
    if kind == 1:
        return rng.choice(_VALUES).encode(errors="surrogatepass")
    if kind == 2 and data:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 3, 30])):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 3:
        place = rng.randrange(len(data) + 1)
        return data[:place] + rng.randbytes(rng.randrange(1, 50)) + data[place:]
    if kind == 4 and data:
        first, last = sorted(rng.randrange(len(data)) for _ in range(2))
        return data[:first] + data[last:]
    if kind == 5:
        lines = data.split(b"\n")
        rng.shuffle(lines)
        return b"\n".join(lines[: rng.randrange(len(lines) + 1)])
    return _other_json(data, rng)


def _other_json(data: bytes, rng: random.Random) -> bytes:
    """Changes one value of a JSON file, or of one of its lines; reverses other files' bytes."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    for whole in (True, False):
        try:
            tree = json.loads(data if whole else lines[number])
        except ValueError:
            continue
        changed = json.dumps(_with_another_leaf(tree, rng)).encode()
        if whole:
            return changed
        return b"\n".join([*lines[:number], changed, *lines[number + 1 :]])
    return data[::-1]


def _with_another_leaf(tree: object, rng: random.Random) -> object:
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        name = rng.choice(sorted(tree))
        kind = rng.randrange(6)
        if kind == 0:
            return {key: value for key, value in tree.items() if key != name}
        if kind == 1:
            return {key + ("x" if key == name else ""): value for key, value in tree.items()}
        return {k: _with_another_leaf(v, rng) if k == name else v for k, v in tree.items()}
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        place = rng.randrange(len(tree))
        return [_with_another_leaf(v, rng) if i == place else v for i, v in enumerate(tree)]
    return rng.choice(_LEAVES)


class Fuzz:
    """A finished run, copies of it with one changed file, and all readers of a workdir."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        runs.write_folder(folder / "set")
        self.config = runs.config(folder / "set")
        runs.quietly(train.train, self.config, folder / "run")
        self.files = sorted(
            path.relative_to(folder / "run")
            for path in (folder / "run").rglob("*")
            if path.is_file()
            and path.name != "lock"
            and "tensorboard" not in path.parts
            and path.suffix != ".png"
        )
        self._known = [
            jax.device_get(trained.load(folder / "run", which=str(step)).params)
            for step in self._steps(folder / "run")
        ]

    @staticmethod
    def _steps(workdir: pathlib.Path) -> list[int]:
        names = [path.name for path in (workdir / "checkpoints").iterdir()]
        return sorted(int(name) for name in names if name.isdigit())

    def trial(self, rng: random.Random, with_training: bool) -> tuple[str, list[str]]:
        """Changes a file; returns its name and what went wrong with its readers."""
        workdir = self._folder / "changed"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(self._folder / "run", workdir)
        # The small files of the workdir itself as often as the many of its checkpoints.
        top = [path for path in self.files if len(path.parts) == 1]
        file = rng.choice(top if rng.random() < 0.6 else self.files)
        data = (workdir / file).read_bytes()
        changed = mutated(data, rng)
        (workdir / file).write_bytes(changed)
        wrong = []
        for reader in (self._list, self._load, *([self._train] if with_training else [])):
            started = time.monotonic()
            try:
                runs.quietly(reader, workdir, self.config)
            except UserError as error:
                if "\n" in str(error) or len(str(error)) > 2000:
                    wrong.append(f"{reader.__name__}: {len(str(error))} characters: {error}"[:500])
            except Exception as error:  # what is looked for
                wrong.append(f"{reader.__name__}: {type(error).__name__}: {error}"[:500])
            if time.monotonic() - started > SECONDS:
                wrong.append(f"{reader.__name__}: took {time.monotonic() - started:.0f} s")
        return str(file), [f"{file} ({changed[:60]!r}): {what}" for what in wrong]

    def _list(self, workdir: pathlib.Path, config: Config) -> None:
        checkpoints.listed(workdir, verify=True)

    def _load(self, workdir: pathlib.Path, config: Config) -> None:
        params = jax.device_get(trained.load(workdir).params)
        if not any(_same(params, known) for known in self._known):
            raise AssertionError("another network was loaded")

    def _train(self, workdir: pathlib.Path, config: Config) -> None:
        train.train(config, workdir)
        if not _same(jax.device_get(trained.load(workdir, which="latest").params), self._known[-1]):
            raise AssertionError("the run ended as another")


def _same(ours: object, other: object) -> bool:
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def main() -> None:
    """Runs the trials; prints a table, and ends with 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    writers.Writers.draw = lambda self: None  # each drawing takes a second
    done: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/programs")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        fuzz = Fuzz(pathlib.Path(folder))
        for number in range(options.count):
            name, result = fuzz.trial(rng, number % 5 == 0)
            done[name.split("/")[-1] if "/d/" not in name else "values"] += 1
            wrong += result
            for line in result:
                print(f"WRONG {line}", flush=True)
            if number % 100 == 99:
                print(f"{number + 1} of {options.count}", flush=True)
    for name, count in done.most_common():
        print(f"{name:24} {count:5}")
    print(f"{done.total()} changed files, {len(wrong)} tracebacks, hangs or other networks")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
