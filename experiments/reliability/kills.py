"""python -m experiments.reliability.kills [--kills=100] [--pairs=20] [--signals=24] [--seed=0]

Kills runs at any moment and during saves, and restarts them until they finish: runs of one process,
and one process of two. Then sends signals, once and twice, at moments from the start of the command
to its end. Each run must end with the same rows and bits as an undisturbed run.
"""

import argparse
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from alexnet_jax.config import Config, to_json
from experiments.reliability import runs

STEPS = 240
_RESTED = re.compile(r"stopped and saved after step [\d,]+; run again to go on")


# Messages of the other processes when one is killed: at work, or before all have joined.
_ENDED_WITH_ANOTHER = (
    *("died; the others end", "was not found at", "ended before all had come"),
    *("did not come within", "waits no longer"),
)


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


class Chain:
    """A run that is ended again and again, in one workdir."""

    def __init__(self, folder: pathlib.Path, name: str, processes: int = 1) -> None:
        self.folder, self.workdir, self.processes = folder, folder / name, processes
        self.recipe = folder / f"{name}.py"
        config = self.config(processes)
        self.recipe.write_text(
            "from alexnet_jax.config import from_json\n"
            f"def get_config():\n    return from_json({to_json(config)!r})\n"
        )

    def config(self, processes: int) -> Config:
        """Returns the config of a run that saves all the time."""
        config = runs.config(self.folder / "set")
        config.num_steps, config.checkpoint_every_steps = STEPS, 5
        config.eval_every_epochs, config.log_every_steps = 8, 5
        config.optimizer.schedule.kind, config.kernels = "plateau", "reference"
        config.optimizer.schedule.patience = 1
        config.mesh.data, config.join_seconds = processes, 20.0
        return config

    def start(self) -> list[subprocess.Popen[str]]:
        """Starts the command, in as many processes as the run has."""
        command = [sys.executable, "-m", "alexnet_jax.main", f"--workdir={self.workdir}"]
        command.append(f"--config={self.recipe}")
        together: list[list[str]] = [[]]
        if self.processes > 1:
            where = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={self.processes}"]
            together = [[*where, f"--process_id={i}"] for i in range(self.processes)]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "programs")}
        return [
            subprocess.Popen(
                [*command, *process],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
            )
            for process in together
        ]

    def saving(self) -> bool:
        """Is a save under way?"""
        folder = self.workdir / "checkpoints"
        return folder.is_dir() and any(".unsealed" in name for name in os.listdir(folder))

    def newest(self) -> int:
        """Returns the last step that has a checkpoint, 0 for none."""
        folder = self.workdir / "checkpoints"
        names = os.listdir(folder) if folder.is_dir() else []
        return max((int(name) for name in names if name.isdigit()), default=0)

    def end(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """Returns the rows and the final state."""
        return runs.rows(self.workdir), runs.final_state(self.workdir, self.newest())

    def size(self) -> int:
        """Returns the bytes of the workdir's checkpoints."""
        return sum(p.stat().st_size for p in (self.workdir / "checkpoints").rglob("*"))


def finished(
    started: list[subprocess.Popen[str]], seconds: float = 300
) -> tuple[list[int], list[str]]:
    """Waits for processes; returns their codes and what they said."""
    outputs = [process.communicate(timeout=seconds)[0] for process in started]
    return [process.returncode for process in started], outputs


def same(chain: Chain, whole: Chain) -> str:
    """Describes how a run differs from another; "" if it does not."""
    (rows, state), (wanted, other) = chain.end(), whole.end()
    if any(not np.array_equal(state[name], value) for name, value in other.items()):
        return "other parameters"
    if rows != wanted:
        return f"other rows: {[r for r in rows if r not in wanted][:2]}"
    if abs(chain.size() - whole.size()) > 0.02 * whole.size():
        return f"{chain.size()} bytes of checkpoints, not {whole.size()}"
    return ""


def killed(chain: Chain, times: int, share_in_saves: float, rng: random.Random) -> tuple[int, int]:
    """Kills a run `times` times or until it ends; returns the kills, and those during saves."""
    count = in_saves = 0
    while count < times:
        started = chain.start()
        victim = rng.choice(started)
        wants_save = rng.random() < share_in_saves
        begun, after = chain.newest(), time.monotonic() + rng.uniform(0.0, 14.0)
        more = rng.choice([5, 10, 15])
        while victim.poll() is None:
            if wants_save and chain.saving() and chain.newest() >= begun + more - 5:
                time.sleep(rng.uniform(0, 0.05))
                break
            if not wants_save and time.monotonic() > after:
                break
            time.sleep(0.001)
        in_save = chain.saving()
        if victim.poll() is None:
            victim.kill()
            count += 1
            in_saves += in_save
        codes, outputs = finished(started)
        if all(code == 0 for code in codes):
            break
        # With several processes the others end too, each with a line about the killed one.
        for process, code, text in zip(started, codes, outputs, strict=True):
            known = any(line in text for line in _ENDED_WITH_ANOTHER)
            if process is not victim and (code != 1 or not known):
                print(f"WRONG exit {code}: {text[-300:]}", flush=True)
    return count, in_saves


def signalled(folder: pathlib.Path, number: int, moments: list[float], twice: bool) -> list[str]:
    """Sends a signal at each moment of a run (0 to 1), once or twice; returns what went wrong."""
    wrong = []
    for moment in moments:
        chain = Chain(folder, f"signal_{number}_{moment:.3f}_{twice}")
        [process] = chain.start()
        time.sleep(max(0.15, moment * 13.0))  # a command takes 13 s; 0.15 s is Python's own start
        process.send_signal(number)
        if twice:
            time.sleep(0.05)
            process.send_signal(number)
        [code], [output] = finished([process])
        lines = output.strip().splitlines()
        reported = _RESTED.search(output) or f"ended by {signal.Signals(number).name}" in output
        if code not in (0, 128 + number) or (code and not reported) or "Traceback" in output:
            wrong.append(f"{moment:.3f}: exit {code}: {lines[-3:]}")
        if code:
            codes, said_again = finished(chain.start())
            if codes != [0]:
                wrong.append(f"{moment:.3f}: the next start: {said_again[0][-300:]}")
        differs = same(chain, Chain(folder, "whole"))
        if differs:
            wrong.append(f"{moment:.3f}: {differs}")
        print(f"{signal.Signals(number).name} at {moment:.2f}: exit {code}", flush=True)
    return wrong


def main() -> None:
    """Runs all of it; prints what happened, and ends with 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=20, help="kills of one of two processes")
    parser.add_argument("--signals", type=int, default=24, help="moments of each signal")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, wrong = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        runs.write_folder(folder / "set")
        for processes, wanted in ((1, options.kills), (2, options.pairs)):
            whole = Chain(folder, "whole" if processes == 1 else "whole_pair", processes)
            print(f"undisturbed: {finished(whole.start())[0]}", flush=True)
            count = in_saves = chains = 0
            while count < wanted:
                chain = Chain(folder, f"killed_{processes}_{chains}", processes)
                more, more_in_saves = killed(chain, wanted - count, 0.65, rng)
                count, in_saves, chains = count + more, in_saves + more_in_saves, chains + 1
                codes, outputs = finished(chain.start())
                differs = same(chain, whole) if not any(codes) else f"{codes}: {outputs[0][-300:]}"
                wrong += [f"{processes} processes, chain {chains}: {differs}"] if differs else []
                print(
                    f"{count} kills, {in_saves} in saves: {differs or 'as undisturbed'}", flush=True
                )
            print(
                f"{processes} processes: {count} kills, {in_saves} while a save was under way, "
                f"{chains} runs ended",
                flush=True,
            )
        for number in (signal.SIGTERM, signal.SIGINT):
            for twice in (False, True):
                early = [0.02 + 0.06 * i for i in range(options.signals // 3)]
                later = [0.5 + rng.random() / 2 for _ in range(options.signals - len(early))]
                wrong += signalled(folder, number, early + later, twice)
    for line in wrong:
        print(f"WRONG {line}")
    print(f"{len(wrong)} went wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
