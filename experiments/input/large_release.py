"""A release of ImageNet's full size: prepared, verified, opened and trained from.

    python -m experiments.input.large_release --out=FOLDER

FOLDER/tars then holds an archive a class, of JPEGs of 16 pixels (23 GB by default), and
FOLDER/store what `prepare --resize=16` makes of them. Each command's seconds and the peak memory of
each of its processes are printed and written to FOLDER/table.md. A command that is done is not done
again.
"""

import argparse
import dataclasses
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
from PIL import Image

SIDE = 16
DISTINCT = 4096  # different images; those of a real release all differ, and decode no slower
OPENED = """
import pathlib, sys, time
from alexnet_jax.data.store.store import Store
began = time.monotonic()
train = Store(pathlib.Path(sys.argv[1])).open("train")
first, last = train[0], train[len(train) - 1]
seconds = time.monotonic() - began
print(f"{seconds:.2f} s to open it and read the first and the last of {len(train):,} records")
"""


@dataclasses.dataclass
class Done:
    """A command's cost.

    Attributes:
      seconds: from its start to its end.
      peaks: each process's peak bytes, (in all, without pages of files), largest first.
      last: line of its output.
    """

    seconds: float
    peaks: list[tuple[int, int]]
    last: str


def draw(count: int) -> list[bytes]:
    """Returns JPEGs of coloured noise."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(count):
        coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
            buffer, "JPEG", quality=80
        )
        drawn.append(buffer.getvalue())
    return drawn


def write_tars(folder: pathlib.Path, classes: int, images: int) -> None:
    """Writes one archive a class; a whole one is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(min(DISTINCT, classes * images))
    for number in range(classes):
        synset = f"n{number + 1_440_764:08d}"
        path = folder / f"{synset}.tar"
        if path.exists():
            continue
        part = path.with_suffix(".part")
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as archive:
            for at in range(images):
                data = drawn[(number * images + at) % len(drawn)]
                member = tarfile.TarInfo(f"{synset}_{at}.JPEG")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        part.replace(path)


def run(command: list[str]) -> Done:
    """Runs a command to its end and watches the memory of all its processes.

    Raises:
      SystemExit: it fails; with its output.
    """
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peaks: dict[int, tuple[int, int]] = {}
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(child.pid, peaks, over))
    watch.start()
    output, _ = child.communicate()
    over.set()
    watch.join()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: {output}")
    seconds = time.monotonic() - began
    return Done(seconds, sorted(peaks.values(), reverse=True), output.strip().splitlines()[-1])


def _watch(root: int, peaks: dict[int, tuple[int, int]], over: threading.Event) -> None:
    """Keeps the largest memory of a process and its descendants, twenty times a second."""
    while not over.wait(0.05):
        for pid in _family(root):
            try:
                text = pathlib.Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            if "VmHWM" not in fields:
                continue  # it is ending
            now = [int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon")]
            before = peaks.get(pid, (0, 0))
            peaks[pid] = (max(now[0], before[0]), max(now[1], before[1]))


def _family(root: int) -> list[int]:
    """Returns a process and all that it started."""
    family, todo = [], [root]
    while todo:
        family.append(todo.pop())
        for tasks in pathlib.Path(f"/proc/{family[-1]}/task").glob("*/children"):
            try:
                todo += [int(pid) for pid in tasks.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
    return family


def commands(out: pathlib.Path) -> dict[str, list[str]]:
    """Returns what is run, by its name in the table."""
    store = out / "store"
    small = ["conv1_padding=51", "width=0.0625"]  # zeros make the 67 pixels that the layers need
    return {
        "`prepare --resize=16`": [
            *("-m", "alexnet_jax.prepare", f"--dataset={out / 'tars'}", f"--out={store}"),
            f"--resize={SIDE}",
        ],
        "`prepare --verify`": ["-m", "alexnet_jax.prepare", "--verify", str(store)],
        "opened": ["-c", OPENED, str(store)],
        "200 updates of 128": [
            *("-m", "alexnet_jax.main", f"--workdir={out / 'run'}", "--overwrite"),
            *(f"--config.dataset={store}", f"--config.resize={SIDE}"),
            *(f"--config.image_size={SIDE}", "--config.num_steps=200", "--config.batch_size=128"),
            *("--config.train_split=train[:99%]", "--config.eval_split=train[99%:]"),
            *(f"--config.model.{field}" for field in small),
        ],
    }


def table(done: dict[str, Done]) -> str:
    """Returns the costs, Markdown."""
    lines = ["| command | seconds | most memory of each process (not of files), MiB | it said |"]
    lines.append("|---" * 4 + "|")
    for name, cost in done.items():
        memory = ", ".join(f"{a / 2**20:,.0f} ({b / 2**20:,.0f})" for a, b in cost.peaks[:6])
        lines.append(f"| {name} | {cost.seconds:,.1f} | {memory} | {cost.last} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parses the flags and runs what is not done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--classes", type=int, default=21_843)
    parser.add_argument("--images_per_class", type=int, default=687)
    options = parser.parse_args()
    write_tars(options.out / "tars", options.classes, options.images_per_class)
    costs_file = options.out / "costs.json"
    costs = json.loads(costs_file.read_text()) if costs_file.exists() else {}
    for name, command in commands(options.out).items():
        if name not in costs:
            costs[name] = dataclasses.asdict(run(command))
            costs_file.write_text(json.dumps(costs, indent=1))
        print(name, costs[name], flush=True)
    text = table({name: Done(**cost) for name, cost in costs.items()})
    (options.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
