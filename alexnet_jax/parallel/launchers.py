"""Launchers' environments: the number of processes, this one's number, and who is first.

JAX knows OpenMPI 4, Slurm, TPU pods and Kubernetes, and on request asks MPI itself (mpi4py:
OpenMPI 5, MPICH). This file reads torchrun's variables.
"""

import importlib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from alexnet_jax.errors import UserError

METHODS = ("", "mpi4py")
# The variables of each launcher, in the order in which JAX asks; `torchrun` comes last.
VARIABLES: dict[str, tuple[str, ...]] = {
    "OpenMPI 4": (
        *("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    "Slurm": (
        *("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID"),
        "SLURM_LOCALID",
    ),
    "GKE's TPUs": ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"),
    "Kubernetes": ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
    "torchrun": ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK"),
}
HINTS = {
    "OpenMPI 4": "OpenMPI 5 needs --cluster=mpi4py",
    "Slurm": "in a batch script start it by srun",
    "Kubernetes": "the Job must be indexed (completionMode: Indexed), and the image have the "
    "kubernetes package (extra k8s)",
}
OF_MPICH = ("PMI_RANK", "PMI_SIZE")


class LauncherError(UserError, ValueError):
    """The environment does not say which processes make up a run."""


def detect(seconds: float, method: str = "") -> dict[str, Any]:
    """Returns the arguments of `jax.distributed.initialize`, read from the environment.

    As in JAX, `JAX_COORDINATOR_ADDRESS` and `JAX_LOCAL_DEVICE_IDS` take precedence.

    Args:
      seconds: how long to wait for a launcher's own service.
      method: mpi4py asks MPI; empty: whichever launcher is there.

    Raises:
      LauncherError: no launcher is there, or only some of its variables.
    """
    from jax._src import clusters  # the only place that has it

    if method == "mpi4py":
        _refuse_without_mpi4py()
    environment = os.environ
    ids = environment.get("JAX_LOCAL_DEVICE_IDS", "")
    local_ids = [int(number) for number in ids.split(",")] if ids else None
    names = ("coordinator_address", "num_processes", "process_id", "local_device_ids")
    address = environment.get("JAX_COORDINATOR_ADDRESS") or None
    try:
        values = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            address, None, None, local_ids, method or None, int(seconds)
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        if "Kubernetes API" not in reason:
            raise
        raise LauncherError(
            f"--distributed: {reason}; the pod's service account may not ask for pods, services "
            "and jobs: launch/kubernetes/access.yaml lets it"
        ) from error
    about = dict(zip(names, values, strict=True))
    if None in values[:3]:
        about |= of_torchrun(environment) or {}
    if None in (about[name] for name in names[:3]):
        raise LauncherError(nothing(environment))
    if local_ids is None and _alone_on_its_node(environment):
        about["local_device_ids"] = None  # all of them, not the first
    return {name: value for name, value in about.items() if value is not None}


def of_torchrun(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Reads torchrun's variables, whoever set them; returns None if one is missing.

    >>> of_torchrun({"MASTER_ADDR": "a", "MASTER_PORT": "5", "WORLD_SIZE": "2", "RANK": "1"})
    {'coordinator_address': 'a:5', 'num_processes': 2, 'process_id': 1}
    """
    needed = VARIABLES["torchrun"][:4]
    if any(name not in environment for name in needed):
        return None
    address, port, size, rank = (environment[name] for name in needed)
    about: dict[str, Any] = {
        "coordinator_address": f"{address}:{port}",
        "num_processes": int(size),
        "process_id": int(rank),
    }
    if local := environment.get("LOCAL_RANK"):
        about["local_device_ids"] = [int(local)]
    return about


def _alone_on_its_node(environment: Mapping[str, str]) -> bool:
    """Is this the only process of its machine? Then every device there is its own."""
    if tasks := environment.get("SLURM_STEP_TASKS_PER_NODE"):  # 1(x2): one on each of two
        return tasks.partition("(")[0] == "1"
    names = ("OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_WORLD_SIZE")
    return any(environment.get(name) == "1" for name in names)


def nothing(environment: Mapping[str, str]) -> str:
    """Says which launchers were looked for, and which of their variables are set.

    >>> "SLURM_JOB_ID is there" in nothing({"SLURM_JOB_ID": "7"})
    True
    """
    sentences = [f"no launcher is found in the environment (looked for {', '.join(VARIABLES)})"]
    for launcher, names in VARIABLES.items():
        there = [name for name in names if name in environment]
        if there:
            missing = [name for name in names if name not in environment]
            part = f"of {launcher} {', '.join(there)} is there"
            part += f" and {', '.join(missing)} is not" if missing else ""
            sentences.append(part + (f": {HINTS[launcher]}" if launcher in HINTS else ""))
    if any(name in environment for name in OF_MPICH):
        sentences.append("MPICH started this process: use --cluster=mpi4py")
    return "; ".join(sentences)


def _refuse_without_mpi4py() -> None:
    """Refuses to ask MPI if mpi4py is not installed or finds no MPI.

    Raises:
      LauncherError: says what to install.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise LauncherError("--cluster=mpi4py: is not installed; pip install mpi4py")
    try:
        importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:  # no library of an MPI where it looks
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LauncherError(
            f"--cluster=mpi4py: finds no MPI ({why}); set MPI4PY_LIBMPI to the libmpi.so or "
            "libmpich.so of the mpirun that started this"
        ) from error
