"""A stand-in for a cluster's API server: answers a manifest's pods, on loopback, with TLS."""

import contextlib
import http.server
import json
import pathlib
import socket
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

NAMESPACE = "trains"

# A pod's own /etc/hosts and service account; all else is this machine's.
INSIDE = """
set -e
mount --bind "$1/hosts" /etc/hosts
mount -t tmpfs tmpfs /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
cp "$1/token" "$1/ca.crt" "$1/namespace" /run/secrets/kubernetes.io/serviceaccount/
shift
exec "$@"
"""


class Cluster:
    """The pods of a manifest's one Job, with or without a JobSet around it."""

    def __init__(self, documents: list[dict[str, Any]], folder: pathlib.Path) -> None:
        """Takes a manifest's documents, and a folder for the files that pods get."""
        self.folder = folder
        self.jobset = next((d for d in documents if d["kind"] == "JobSet"), None)
        self.services = [d for d in documents if d["kind"] == "Service"]
        if self.jobset:
            name = self.jobset["metadata"]["name"]
            [replicated] = self.jobset["spec"]["replicatedJobs"]
            self.job = {
                "metadata": {
                    "name": f"{name}-{replicated['name']}-0",
                    "labels": {"jobset.sigs.k8s.io/jobset-name": name},
                },
                "spec": replicated["template"]["spec"],
            }
        else:
            self.job = next(d for d in documents if d["kind"] == "Job")
            self.job["metadata"].setdefault("labels", {})
        self.name = self.job["metadata"]["name"]
        self.count = int(self.job["spec"]["parallelism"])
        self.pod = self.job["spec"]["template"]["spec"]

    def pod_at(self, address: str) -> dict[str, Any]:
        """Returns the pod at an address; the address's last number, less one, is its index."""
        index = int(address.rsplit(".", 1)[1]) - 1
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self.name, "uid": "1"}
        return {
            "metadata": {
                "name": f"{self.name}-{index}-x",
                "labels": {"job-name": self.name},
                "ownerReferences": [owner | {"controller": True}],
            },
            "spec": self.pod,
            "status": {"podIP": address},
        }

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        """Returns what the API says, or None for what does not exist."""
        core, batch = f"/api/v1/namespaces/{NAMESPACE}", f"/apis/batch/v1/namespaces/{NAMESPACE}"
        if path == f"{core}/pods":
            address = query["fieldSelector"][0].removeprefix("status.podIP=")
            return {"kind": "PodList", "apiVersion": "v1", "items": [self.pod_at(address)]}
        if path == f"{core}/services":
            return {"kind": "ServiceList", "apiVersion": "v1", "items": self.services}
        if path == f"{batch}/jobs/{self.name}":
            return self.job
        return None

    @contextlib.contextmanager
    def served(self) -> Iterator[dict[str, str]]:
        """Serves the API; gives the variables that every pod has."""
        own, key = self.folder / "ca.crt", self.folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
            + ["-keyout", str(key), "-out", str(own), "-subj", "/CN=kubernetes"]
            + ["-addext", "subjectAltName=IP:127.0.0.1"],
            check=True,
            capture_output=True,
        )
        (self.folder / "token").write_text("of-the-service-account")
        (self.folder / "namespace").write_text(NAMESPACE)
        host = f"{self.name}-0.{self.pod['subdomain']}"  # by the headless service
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()} {host}\n")
        asked: list[str] = []
        self.asked = asked
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urllib.parse.urlsplit(self.path)
                asked.append(parts.path)
                found = cluster.answer(parts.path, urllib.parse.parse_qs(parts.query))
                given = self.headers.get("Authorization", "").split(" ")
                known = given[0].lower() == "bearer" and given[1:] == ["of-the-service-account"]
                self.send_response(403 if not known else 200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(found or {}).encode())

            def log_message(self, *_: Any) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield {
                "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                "KUBERNETES_SERVICE_PORT": str(server.server_address[1]),
            }
        finally:
            server.shutdown()
            server.server_close()

    def started(self, index: int, command: list[str], environment: dict[str, str]) -> Any:
        """Starts a command as the pod of an index would."""
        own = {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": f"127.0.0.{index + 1}"}
        return subprocess.Popen(
            ["unshare", "-rm", "bash", "-c", INSIDE, "pod", str(self.folder), *command],
            env=environment | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
