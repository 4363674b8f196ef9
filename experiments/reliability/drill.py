"""python -m experiments.reliability.drill [--kills=20] [--processes=1,4] [--seed=0]

A pre-emption drill: launch/keep_running.sh starts a run, and the drill kills one of its processes
at random moments. The run must finish by itself, with the same rows and bits as an undisturbed run.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from alexnet_jax.config import Config
from alexnet_jax.training import history
from experiments.reliability import runs
from experiments.reliability.kills import Chain, finished, same

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
EVERY = 40  # updates between checkpoints


class Kept(Chain):
    """A run under keep_running.sh."""

    steps = 6000

    def config(self, processes: int) -> Config:
        """Returns the config of a run that takes some minutes."""
        config = super().config(processes)
        config.num_steps, config.checkpoint_every_steps = self.steps, EVERY
        config.eval_every_epochs, config.log_every_steps = 400, EVERY
        return config

    def start(self) -> list[subprocess.Popen[str]]:
        """Starts the command, or `processes.sh` for several processes."""
        command = [sys.executable, "-m", "alexnet_jax.main"]
        if self.processes > 1:
            command = ["bash", str(LAUNCH / "processes.sh"), "-n", str(self.processes)]
        environment = {
            "ALEXNET_VENV": sys.prefix,
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "WAIT_AT_MOST": "2",
            "GIVE_UP_AFTER": "40",  # kills come before the first save too
        }
        script = ["bash", str(LAUNCH / "keep_running.sh"), *command]
        return [
            subprocess.Popen(
                [*script, f"--workdir={self.workdir}", f"--config={self.recipe}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | environment,
            )
        ]

    def running(self) -> list[int]:
        """Returns the process ids of the run's live processes."""
        alive = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            if b"-m" in words[1:2] and f"--workdir={self.workdir}".encode() in words:
                alive.append(int(path.parent.name))
        return alive


def drill(chain: Kept, kills: int, rng: random.Random) -> tuple[int, str]:
    """Kills a process of a run up to `kills` times, while it runs.

    Returns how often it did, and the end of the output of a run that failed.
    """
    [script] = chain.start()
    count, before = 0, set()
    while count < kills and script.poll() is None:
        after = time.monotonic() + rng.uniform(1.0, 10.0 + 10.0 * chain.processes)
        while time.monotonic() < after and script.poll() is None:
            time.sleep(0.05)
        new = [number for number in chain.running() if number not in before]
        if len(new) < chain.processes:
            continue  # the last one's are still ending, or the next ones beginning
        before |= set(new)
        os.kill(rng.choice(new), signal.SIGKILL)
        count += 1
    [code], [output] = finished([script], seconds=3000)
    return count, output[-500:] if code else ""


def main() -> None:
    """Runs the drill; ends with 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", default="1,4")
    parser.add_argument("--steps", type=int, default=Kept.steps)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    Kept.steps, rng, wrong = options.steps, random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        runs.write_folder(folder / "set")
        for processes in map(int, options.processes.split(",")):
            whole = Kept(folder, f"whole_{processes}", processes)
            [code], [output] = finished(whole.start(), seconds=3000)
            print(f"{processes} processes, undisturbed: {code} {output[-500:] if code else ''}")
            chain = Kept(folder, f"killed_{processes}", processes)
            count, failed = drill(chain, options.kills, rng)
            differs = failed or same(chain, whole)
            wrong += bool(differs)
            print(f"{processes} processes, {count} kills: {differs or 'as undisturbed'}")
            for run in (whole, chain):
                events = history.read(run.workdir / history.FILE)
                print(f"  {history.described(history.account(events))}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
