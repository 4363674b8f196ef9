"""python -m experiments.speed.serve --workdir=W --photographs=FOLDER [--requests=10000]

Measures how many photographs a second `predict --serve` answers on this machine: to sixteen clients
at once, which it batches, and to a single client; with the latency of single answers, and the
server's memory from the beginning to the end.
"""

import argparse
import concurrent.futures
import http.client
import itertools
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

CLIENTS = 16
PARTS = 10  # of the requests, for how memory changes
WARM = 200  # requests that are not counted


def memory(process: int) -> float:
    """Returns the MiB that a process has resident."""
    text = pathlib.Path(f"/proc/{process}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(match[1]) / 1024 if match else float("nan")


class Client:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, photograph: bytes) -> float:
        """Returns the seconds that one answer took.

        Raises:
          RuntimeError: the answer's status is not 200.
        """
        began = time.perf_counter()
        self._connection.request("POST", "/predict", photograph, {"Content-Type": "image/jpeg"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(answer.decode())
        return time.perf_counter() - began


def measured(port: int, photographs: list[bytes], requests: int, clients: int) -> str:
    """Sends so many requests from so many clients; says how fast they were answered."""
    connections = [Client(port) for _ in range(clients)]
    endless = itertools.cycle(photographs)
    shares = [[next(endless) for _ in range(requests // clients)] for _ in connections]
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        times_of_clients = threads.map(lambda c, s: [c.ask(one) for one in s], connections, shares)
        times = sorted(itertools.chain.from_iterable(times_of_clients))
    rate = len(times) / (time.perf_counter() - began)
    middle, late = 1000 * statistics.median(times), 1000 * times[int(0.99 * len(times))]
    return f"{clients:3} at once: {rate:6.1f} requests/s, median {middle:.0f} ms, p99 {late:.0f} ms"


def main() -> None:
    """Starts the server, and asks it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--photographs", required=True, help="a folder of JPEGs, at any depth")
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    paths = sorted(pathlib.Path(options.photographs).rglob("*.[jJ][pP]*[gG]"))[:500]
    photographs = [path.read_bytes() for path in paths]
    command = [sys.executable, "-m", "alexnet_jax.predict", "--serve", "--port=0"]
    server = subprocess.Popen(
        [*command, f"--workdir={options.workdir}"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        port = next(
            int(match[1])
            for line in server.stdout
            if (match := re.search(r"http://127.0.0.1:(\d+) answers", line))
        )
        measured(port, photographs, WARM, CLIENTS)
        memory_used = [memory(server.pid)]
        print(measured(port, photographs, max(200, options.requests // 20), 1), flush=True)
        for _ in range(PARTS):
            print(measured(port, photographs, options.requests // PARTS, CLIENTS), flush=True)
            memory_used.append(memory(server.pid))
        summary = ", ".join(f"{one:.0f}" for one in memory_used)
        print(f"memory: {summary} MiB, after {WARM} requests and after each tenth of the others")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


if __name__ == "__main__":
    main()
