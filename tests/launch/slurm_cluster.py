"""A Slurm cluster of two nodes on this machine, from Debian's packages, in a folder of its own."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

NEEDED = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
MISSING = [
    name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Cluster:
    """Commands of a cluster that runs."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }

    def run(self, *command: str, **more: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment | more, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Returns a job's state: PENDING, RUNNING, COMPLETED, ..."""
        shown = self.run("scontrol", "show", "job", job)
        return shown.split("JobState=")[1].split()[0]

    def wait(self, job: str, *states: str, seconds: float = 300) -> str:
        """Waits until a job is in one of some states."""
        end = time.monotonic() + seconds
        while (now := self.state(job)) not in states:
            assert time.monotonic() < end, f"job {job} is {now}, not {states}"
            time.sleep(0.5)
        return now


@contextlib.contextmanager
def cluster(folder: pathlib.Path) -> Iterator[Cluster]:
    """Starts munge, a controller and two nodes, whose names need not resolve."""
    host = socket.gethostname()
    ports = [free_port() for _ in range(3)]
    path = f"{os.environ['PATH']}:/usr/sbin"
    environment = os.environ | {"PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
    (folder / "state").mkdir(parents=True)
    socket_path = folder / "munge.socket"
    (folder / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket_path}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=15
MpiDefault=none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SchedulerParameters=bf_interval=2,sched_interval=2
OverTimeLimit=0
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=2000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=2000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )
    key = folder / "munge.key"
    subprocess.run(["mungekey", "--create", f"--keyfile={key}"], check=True, env=environment)
    started: list[subprocess.Popen] = []
    try:
        for command in (
            [
                *("munged", "--foreground", "--force", f"--key-file={key}"),
                *(f"--socket={socket_path}", f"--pid-file={folder}/munged.pid"),
                *(f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log"),
            ],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "node1"],
            ["slurmd", "-D", "-N", "node2"],
        ):
            with (folder / f"{command[0]}.out").open("ab") as log:
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if command[0] == "munged":
                for _ in range(50):
                    if socket_path.exists():
                        break
                    time.sleep(0.1)
        found = Cluster(folder)
        end = time.monotonic() + 60
        while True:
            done = subprocess.run(
                ["sinfo", "-h", "-o", "%D %T"], capture_output=True, text=True, env=environment
            )
            if done.stdout.split() == ["2", "idle"]:
                break
            logs = "".join(path.read_text()[-500:] for path in folder.glob("*.log"))
            assert time.monotonic() < end, f"{done.stdout}{done.stderr}{logs}"
            time.sleep(0.5)
        yield found
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
