"""What launchers say in the environment, and what is said where they do not say enough."""

import http.server
import os
import threading

import pytest

from alexnet_jax.parallel import launchers
from alexnet_jax.parallel.launchers import LauncherError

SLURM = {
    "SLURM_JOB_ID": "70001",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
OPENMPI = {
    "OMPI_MCA_orte_hnp_uri": "1697185792.0;tcp://192.0.2.2:42977",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
TORCHRUN = {
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
    "WORLD_SIZE": "8",
    "RANK": "5",
    "LOCAL_RANK": "1",
}
LOCAL = {"SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_WORLD_SIZE"}
OURS = {"JAX_COORDINATOR_ADDRESS": "10.0.0.7:1234", "JAX_LOCAL_DEVICE_IDS": "0,3"}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables, and takes away whatever else a launcher may have set here."""

    def made(variables: dict[str, str]) -> None:
        known = {name for names in launchers.VARIABLES.values() for name in names}
        for name in known | set(OURS) | set(launchers.OF_MPICH) | LOCAL:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return made


@pytest.mark.parametrize(
    ("variables", "count", "own", "first", "devices"),
    [
        (SLURM, 16, 9, "gpu07:", [1]),
        (OPENMPI, 4, 3, "192.0.2.2:", [1]),
        (TORCHRUN, 8, 5, "first:29500", [1]),
        (SLURM | OURS, 16, 9, "10.0.0.7:1234", [0, 3]),  # as JAX itself has it
        (OPENMPI | SLURM, 4, 3, "192.0.2.2:", [1]),  # mpirun in an allocation of Slurm's
        (SLURM | TORCHRUN, 16, 9, "gpu07:", [1]),  # what a site sets for everybody
        ({k: v for k, v in TORCHRUN.items() if k != "LOCAL_RANK"}, 8, 5, "first:29500", None),
        # One process on each node has all its devices.
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x16)"}, 16, 9, "gpu07:", None),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "16"}, 16, 9, "gpu07:", [1]),
        (OPENMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, 4, 3, "192.0.2.2:", None),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, 8, 5, "first:29500", None),
    ],
)
def test_each_launcher_is_found(environment, variables, count, own, first, devices):
    environment(variables)
    found = launchers.detect(1.0)
    assert found["num_processes"] == count and found["process_id"] == own
    assert found["coordinator_address"].startswith(first)
    assert found.get("local_device_ids") == devices


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, r"looked for OpenMPI 4, Slurm, GKE's TPUs, Kubernetes, torchrun\)$"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"},
            r"of Slurm SLURM_JOB_ID, SLURM_NTASKS is there and SLURM_STEP_NODELIST, .* by srun$",
        ),
        ({"OMPI_COMM_WORLD_RANK": "0"}, r"OpenMPI 5 needs --cluster=mpi4py$"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, r"MPICH started this process: use --cluster=mpi4py$"),
        ({"MASTER_ADDR": "a", "RANK": "0"}, r"of torchrun MASTER_ADDR, RANK is there and MASTER_P"),
    ],
)
def test_what_is_missing_is_named(environment, variables, said):
    environment(variables)
    with pytest.raises(LauncherError, match=said):
        launchers.detect(1.0)


def test_mpi_that_cannot_be_asked_is_told_of(environment, monkeypatch):
    environment({})
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LauncherError, match=r"is not installed; pip install mpi4py"):
        launchers.detect(1.0, "mpi4py")
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: object())

    def fails(name):
        raise RuntimeError("cannot load MPI library\nlibmpi.so: nowhere")

    monkeypatch.setattr(launchers.importlib, "import_module", fails)
    with pytest.raises(LauncherError, match=r"finds no MPI \(cannot load MPI library\); set MPI4P"):
        launchers.detect(1.0, "mpi4py")
    assert "SLURM_JOB_ID" not in os.environ


def test_the_order_is_jaxs():
    """`VARIABLES` lists launchers in the order in which JAX asks; JAX does not know torchrun."""
    from jax._src import clusters

    kinds = clusters.ClusterEnv._cluster_types
    asked = [kind.__name__ for kind in kinds if not kind.opt_in_only_method]
    names = {
        "OmpiCluster": "OpenMPI 4",
        "SlurmCluster": "Slurm",
        "GkeTpuCluster": "GKE's TPUs",
        "K8sCluster": "Kubernetes",
    }
    assert [names[kind] for kind in asked if kind in names] == list(launchers.VARIABLES)[:-1]
    assert {kind.__name__ for kind in kinds if kind.opt_in_only_method} == {"Mpi4pyCluster"}


@pytest.fixture
def tpu_machine(monkeypatch):
    """A machine with libtpu but without a TPU, and with a VM's metadata if a test gives it some."""
    from jax._src.clusters import cloud_tpu_cluster

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    servers = []

    def made(metadata: dict[str, str]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                known = metadata.get(self.path.rpartition("/")[2])
                self.send_response(200 if known is not None else 404)
                self.end_headers()
                self.wfile.write((known or "").encode())

            def log_message(self, *_):
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_address[1]}")

    yield made
    for server in servers:
        server.shutdown()
        server.server_close()


SLICES = {"MEGASCALE_COORDINATOR_ADDRESS": "localhost", "MEGASCALE_NUM_SLICES": "2"}


@pytest.mark.parametrize(
    ("variables", "count", "own"),
    [
        ({"MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"}, 4, 2),
        (SLICES | {"MEGASCALE_SLICE_ID": "1"}, 8, 6),
    ],
)
def test_a_pod_of_gkes_tpus(environment, tpu_machine, variables, count, own, monkeypatch):
    """One slice of four hosts, and two of them."""
    tpu_machine({"tpu-env": ""})
    environment({"TPU_WORKER_HOSTNAMES": "localhost,b,c,d", "TPU_WORKER_ID": "2"})
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # as GKE sets it
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = launchers.detect(5.0)
    assert (found["num_processes"], found["process_id"]) == (count, own)
    assert found["coordinator_address"] == "localhost:8482"


@pytest.mark.parametrize("endpoints", ["localhost,10.0.0.2", "a:0:localhost,b:1:10.0.0.2"])
def test_a_tpu_vm(environment, tpu_machine, endpoints, monkeypatch):
    """Found by the VM's metadata, in its older and its newer form."""
    environment({})
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    tpu_machine(
        {"agent-worker-number": "1", "worker-network-endpoints": endpoints, "tpu-env": "A: '1'"}
    )
    found = launchers.detect(5.0)
    assert (found["num_processes"], found["process_id"]) == (2, 1)
    assert found["coordinator_address"] == "localhost:8482"
