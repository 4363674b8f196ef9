"""Real runs with Debian's Slurm and MPI on this machine, and their results."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import slurm_cluster
import small
from notebooks import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
needs_slurm = pytest.mark.skipif(
    bool(slurm_cluster.MISSING) or os.geteuid() != 0,
    reason="needs Debian's slurm-wlm and munge, and root",
)
needs_openmpi = pytest.mark.skipif(
    shutil.which("mpirun.openmpi") is None, reason="needs Debian's openmpi-bin"
)
LONG = 1_000_000  # steps


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    small.write_folder(folder)
    made = folder / "recipe.py"
    made.write_text(
        "from experiments.reliability import runs\n"
        "def get_config():\n"
        f"    config = runs.config({str(folder)!r})\n"
        "    config.mesh.data, config.checkpoint_every_steps = -1, 10**6\n"
        "    return config\n"
    )
    return [f"--config={made}"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, flags):
    """The summary of a run with one process."""
    workdir = tmp_path_factory.mktemp("alone") / "w"
    run = [sys.executable, "-m", "alexnet_jax.main", f"--workdir={workdir}", *flags]
    subprocess.run(run, check=True, env=environment(), capture_output=True)
    return summary(workdir)


def environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "ALEXNET_VENV": sys.prefix,
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{slurm_cluster.free_port()}",
    }


def summary(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())


def assert_nothing_is_lost(workdir: pathlib.Path) -> None:
    """The newest checkpoint is of the last update with a row; every update has a row."""
    saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert saved == max(row["step"] for row in small.rows(workdir) if row["split"] == "train")


def wait_for(log: pathlib.Path, text: str, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not (log.exists() and text in log.read_text()):
        said = log.read_text() if log.exists() else ""
        assert time.monotonic() < end, f"{text!r} is not said: {said[-2000:]}"
        time.sleep(0.2)


def submit(cluster, folder, flags, *options: str) -> tuple[str, pathlib.Path]:
    log = folder / "log"
    job = cluster.run(
        *("sbatch", "--parsable", f"--output={log}", "--cpus-per-task=1", *options),
        *(str(ROOT / "launch" / "slurm.sh"), f"--workdir={folder / 'w'}", *flags),
        **environment(),
    )
    return job, log


@needs_slurm
@pytest.mark.parametrize("tasks", [("--ntasks-per-node=2",), ("--nodes=2", "--ntasks-per-node=2")])
def test_tasks_of_slurm_are_one_run(cluster, tmp_path, flags, alone, tasks):
    job, log = submit(cluster, tmp_path, flags, *tasks)
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", log.read_text()
    found = summary(tmp_path / "w")
    assert found["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert found["count"] == alone["count"] and found["step"] == alone["step"]


@needs_slurm
def test_an_array_has_a_seed_each_and_paths_may_have_spaces(cluster, tmp_path, flags):
    checkout = tmp_path / "my own Command=checkout"
    checkout.symlink_to(ROOT)
    tmp_path = tmp_path / "some runs of launch"
    tmp_path.mkdir()
    job = cluster.run(
        *("sbatch", "--parsable", f"--output={tmp_path}/%a.log", "--array=0-1"),
        *("--cpus-per-task=1", str(checkout / "launch" / "slurm.sh")),
        *(f"--workdir={tmp_path}/seed%a/launch/slurm.sh", "--config.seed=%a", *flags),
        **environment() | {"JAX_COORDINATOR_ADDRESS": ""},
    )
    for number in ("0", "1"):
        assert cluster.wait(f"{job}_{number}", "COMPLETED", "FAILED") == "COMPLETED"
    ended = [summary(tmp_path / f"seed{number}" / "launch" / "slurm.sh") for number in (0, 1)]
    losses = {one["loss"] for one in ended}
    assert len(losses) == 2


@needs_slurm
def test_cancelled_it_is_saved(cluster, tmp_path, flags):
    job, log = submit(
        cluster, tmp_path, [*flags, f"--config.num_steps={LONG}"], "--ntasks-per-node=2"
    )
    wait_for(log, "step 10/")
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")
    wait_for(log, "stopped and saved after step")
    assert_nothing_is_lost(tmp_path / "w")


@needs_slurm
def test_requeued_it_goes_on_with_the_same_log(cluster, tmp_path, flags):
    job, log = submit(
        cluster, tmp_path, [*flags, f"--config.num_steps={LONG}"], "--ntasks-per-node=2"
    )
    wait_for(log, "step 10/")
    cluster.run("scontrol", "requeue", job)
    wait_for(log, "stopped and saved after step")
    cluster.wait(job, "PENDING")
    cluster.run("scontrol", "update", f"jobid={job}", "StartTime=now")
    wait_for(log, "continuing ")
    assert "step 10/" in log.read_text()
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")


@needs_slurm
def test_near_its_time_limit_it_queues_itself_again(cluster, tmp_path, flags):
    job, log = submit(
        cluster,
        tmp_path,
        [*flags, f"--config.num_steps={LONG}"],
        # The warning comes after 100 s: beside other work a start takes more than 40.
        *("--ntasks-per-node=2", "--time=2", "--signal=B:USR1@20"),
    )
    wait_for(log, "step 10/")
    wait_for(log, "the time limit is near: the job queues itself again")
    assert "stopped and saved after step" in log.read_text()
    cluster.wait(job, "PENDING")
    cluster.run("scontrol", "update", f"jobid={job}", "StartTime=now")
    wait_for(log, "continuing ")
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")


@needs_slurm
def test_without_an_environment_it_says_what_to_do(cluster, tmp_path, flags):
    log = tmp_path / "log"
    job = cluster.run(
        *("sbatch", "--parsable", f"--output={log}", "--cpus-per-task=1"),
        *(str(ROOT / "launch" / "slurm.sh"), "--workdir=w"),
        **environment() | {"ALEXNET_VENV": str(tmp_path / "none")},
    )
    cluster.wait(job, "FAILED", "COMPLETED")
    assert (
        "none has no JAX; run bash launch/slurm.sh --install [cuda] on a login" in log.read_text()
    )


@needs_openmpi
@pytest.mark.parametrize("tasks", [2, 4])
def test_ranks_of_openmpi_are_one_run(tmp_path, flags, alone, tasks):
    own = environment()
    del own["JAX_COORDINATOR_ADDRESS"]
    command = [sys.executable, "-m", "alexnet_jax.main", "--distributed"]
    subprocess.run(
        [
            *("mpirun.openmpi", "--allow-run-as-root", "--oversubscribe", "-n", str(tasks)),
            *(*command, f"--workdir={tmp_path / 'w'}", *flags),
        ],
        check=True,
        env=own,
    )
    assert summary(tmp_path / "w")["loss"] == pytest.approx(alone["loss"], rel=1e-5)


@needs_openmpi
def test_openmpi_that_waits_for_its_ranks_loses_nothing(tmp_path, flags):
    own = environment()
    del own["JAX_COORDINATOR_ADDRESS"]
    command = [sys.executable, "-m", "alexnet_jax.main", "--distributed"]
    log = tmp_path / "log"
    with log.open("w") as said:
        run = subprocess.Popen(
            [
                *("mpirun.openmpi", "--allow-run-as-root", "--oversubscribe", "-n", "2"),
                *("--mca", "odls_base_sigkill_timeout", "15", *command),
                *(f"--workdir={tmp_path / 'w'}", *flags, f"--config.num_steps={LONG}"),
            ],
            env=own,
            stdout=said,
            stderr=said,
        )
    wait_for(log, "step 10/")
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) != 0
    assert_nothing_is_lost(tmp_path / "w")
