"""Processes that come late, never, twice or not as they should, and that end."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import small
from on_mesh import some

from alexnet_jax.config import to_json
from alexnet_jax.parallel import meeting as meetings
from alexnet_jax.parallel.meeting import ProcessesError
from alexnet_jax.parallel.peers import Peers

PROGRAM = """
import pathlib, sys
sys.modules["torch"] = None  # tensorboardX would load it, for seconds
from alexnet_jax.host import signals
signals.end_in_one_line(__name__)
from alexnet_jax import main
from alexnet_jax.training import writers
from alexnet_jax.config import from_json
writers.Writers.draw = lambda self: None
recipe, workdir, address, count, this = sys.argv[1:6]
config = from_json(pathlib.Path(recipe).read_text())
main.run(config, workdir, main.Join(True, address, int(count), int(this)))
"""


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


@pytest.mark.parametrize(
    "wrong", ["127.0.0.1", "127.0.0.1:", ":80", "host:port", "h:0", "h:65536", "h:-1", "h:１２", ""]
)
def test_an_address_without_a_port_is_one_line(wrong):
    with pytest.raises(ProcessesError, match="must be HOST:PORT of process 0"):
        meetings.address_of(wrong)


def test_an_address_of_each_form():
    assert meetings.address_of("10.0.0.1:80") == ("10.0.0.1", 80)
    assert meetings.address_of("[::1]:8080") == ("::1", 8080)


def meeting(port: int, count: int, seconds: float, *processes: int, counts=None) -> list:
    """Returns how each process's meeting ended: with a Peers, or the error that it raised."""
    found: dict[int, object] = {}

    def meet(number: int, process: int) -> None:
        own = (counts or {}).get(number, count)
        try:
            found[number] = Peers.meet(f"127.0.0.1:{port}", own, process, seconds)
        except ProcessesError as error:
            found[number] = error

    threads = [threading.Thread(target=meet, args=pair) for pair in enumerate(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found.values():
        if isinstance(one, Peers):
            one.leave()
    return [found[number] for number in range(len(processes))]


def test_all_come_in_any_order_and_leave():
    assert all(isinstance(one, Peers) for one in meeting(free_port(), 4, 20.0, 3, 1, 0, 2))


def test_who_has_not_come_is_named_to_all_and_every_so_often(monkeypatch, capsys):
    monkeypatch.setattr(meetings, "SAY_SECONDS", 0.3)
    ended = meeting(free_port(), 4, 1.0, 0, 2)
    assert "process 1, 3 of 4" not in str(ended[0])
    assert "processes 1, 3 of 4" in str(ended[0]) and "did not come within 1 s" in str(ended[0])
    assert "waits no longer for processes 1, 3" in str(ended[1])
    said = capsys.readouterr().err
    assert said.count("process 0: waiting for processes 1, 3 of 4") >= 2
    assert said.count("process 2: waiting for processes 1, 3") >= 1


def test_process_0_that_never_comes_is_named(monkeypatch, capsys):
    monkeypatch.setattr(meetings, "SAY_SECONDS", 0.3)
    [ended] = meeting(free_port(), 2, 1.0, 1)
    assert "process 0 was not found at 127.0.0.1:" in str(ended)
    assert capsys.readouterr().err.count("process 1: waiting for process 0") >= 2


def test_a_port_that_is_taken(monkeypatch):
    monkeypatch.setattr(meetings, "SAY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as other:
        ended = meeting(other.getsockname()[1], 2, 0.5, 0, 1)
    assert "cannot be listened on (Address already in use); choose another port" in str(ended[0])
    assert "does not answer as process 0 of this run" in str(ended[1])


@pytest.mark.parametrize(
    ("processes", "counts", "said"),
    [
        ((0, 1, 1), {}, "process 1 is there already"),
        ((0, 1, 1), {2: 4}, "--num_processes: 4 here, 3 in process 0"),
    ],
)
def test_processes_that_do_not_fit_are_told(processes, counts, said):
    ended = meeting(free_port(), 3, 2.0, *processes, counts=counts)
    assert any(said in str(one) for one in ended[1:])
    assert "process 2 of 3" in str(ended[0])


def test_strangers_do_not_disturb():
    port, noise = (
        free_port(),
        [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"\xff\xfe\n", b'{"go": 1}\n', b""],
    )

    def disturb() -> None:
        for data in noise * 3:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as stranger:
                    stranger.sendall(data)
            except OSError:
                continue

    noisy = threading.Thread(target=disturb)
    noisy.start()
    ended = meeting(port, 3, 20.0, 0, 1, 2)
    noisy.join()
    assert all(isinstance(one, Peers) for one in ended)


def test_figures_reach_the_first_process():
    port, ready = free_port(), []
    threads = [
        threading.Thread(target=lambda p=p: ready.append(Peers.meet(f"127.0.0.1:{port}", 3, p, 20)))
        for p in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in ready:
        one.tell(step_seconds=float(one.process + 1))
    first = next(one for one in ready if one.process == 0)
    end, pause = time.monotonic() + 10, threading.Event()
    while len(spread := first.spread("step_seconds")) < 3 or spread["step_seconds_most"] < 3:
        assert time.monotonic() < end
        pause.wait(0.01)
    assert spread == {
        "step_seconds_least": 1.0,
        "step_seconds_median": 2.0,
        "step_seconds_most": 3.0,
    }
    for one in ready:
        one.leave()


class Started:
    """Processes of one run; each one's lines come into a list."""

    def __init__(self, config, folder: pathlib.Path, count: int) -> None:
        (folder / "c.json").write_text(to_json(config))
        address = f"127.0.0.1:{free_port()}"
        program = [sys.executable, "-c", PROGRAM, str(folder / "c.json"), str(folder / "w")]
        self.processes = [
            subprocess.Popen(
                [*program, address, str(count), str(i)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
            for i in range(count)
        ]

    def until(self, text: str) -> None:
        said = []
        for line in self.processes[0].stdout:
            said.append(line)
            if line.startswith(text):
                return
        raise AssertionError(f"never said {text!r}: {said}")

    def ended(self, *which: int) -> list[tuple[int, list[str]]]:
        found = []
        for i in which or range(len(self.processes)):
            said = self.processes[i].communicate(timeout=120)[0]
            lines = [line for line in said.splitlines() if not line.startswith("[Gloo]")]
            found.append((self.processes[i].returncode, lines))
        return found


@pytest.fixture
def config(tmp_path):
    small.write_folder(tmp_path / "set")
    made = small.config(tmp_path / "set")
    made.mesh.data, made.num_steps, made.log_every_steps = -1, 100_000, 20
    made.batch_size = made.eval_batch_size = 6
    made.checkpoint_every_steps, made.eval_every_epochs = 50, 10**6
    return made


@pytest.mark.slow
@pytest.mark.parametrize("victim", some([0, 1], 1))
def test_a_process_that_dies_ends_the_others_with_a_line_that_names_it(config, tmp_path, victim):
    started = Started(config, tmp_path, 3)
    started.until("step 20/")
    began = time.monotonic()
    started.processes[victim].kill()
    others = started.ended(*({0, 1, 2} - {victim}))
    assert time.monotonic() - began < 20
    for code, lines in others:
        assert code == 1
        said = [line for line in lines if not line.startswith("step ")]
        assert said == [
            f"error: process {victim} of 3 died; the others end too: start all of them again to go "
            "on from the last checkpoint"
        ]
    started.processes[victim].communicate()


@pytest.mark.slow
def test_a_process_that_stands_still_ends_all_with_their_stacks(config, tmp_path):
    config.stuck_after_seconds = 3.0
    started = Started(config, tmp_path, 2)
    started.until("step 60/")
    started.processes[1].send_signal(signal.SIGSTOP)
    [(code, lines)] = started.ended(0)
    assert code == 124
    assert "no progress for" in lines[-1] and "stuck.0.txt" in lines[-1]
    assert "in run" in (tmp_path / "w" / "stuck.0.txt").read_text()
    started.processes[1].send_signal(signal.SIGCONT)
    [(code, lines)] = started.ended(1)
    assert code == 124 and "Traceback" not in "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("until", ["devices", "expected"])
def test_a_signal_before_the_first_update_is_obeyed(config, tmp_path, until):
    started = Started(config, tmp_path, 2)
    started.until(until)
    began = time.monotonic()
    started.processes[1].send_signal(signal.SIGTERM)
    ended = started.ended()
    assert time.monotonic() - began < 20
    assert [code for code, _ in ended] == [143, 143], ended
    assert "ended by SIGTERM" in ended[1][1][-1] or "stopped and saved" in ended[0][1][-1]


# A run whose second process ends at a point where open `with` blocks do not run their exit.
ENDS_AT_ONCE = """
import ctypes, sys, threading
from alexnet_jax.host import signals
signals.end_in_one_line(__name__)
from alexnet_jax.parallel import processes
kind, address, this = sys.argv[1:]

class Stands:
    def find_spec(self, name, path, target=None):
        if name == "stands":
            print("ready", flush=True)
            threading.Event().wait()

processes.start(address, 2, int(this))
if kind != "before" or this == "0":
    block = processes.ending_together()
    block.__enter__()
if this == "0":
    print("ready", flush=True)
    threading.Event().wait()
elif kind == "importing":
    sys.meta_path.insert(0, Stands())
    import stands
elif kind == "native":  # returns for no signal, as a compilation does not
    held, pthread_mutex_lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    pthread_mutex_lock(held)
    print("ready", flush=True)
    pthread_mutex_lock(held)
else:
    print("ready", flush=True)
    threading.Event().wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["importing", "native", "before"])
def test_the_others_know_of_a_signal_that_ends_a_process_wherever_it_is(kind):
    address = f"127.0.0.1:{free_port()}"
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", ENDS_AT_ONCE, kind, address, str(this)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for this in range(2)
    ]
    for process in pair:
        while process.stdout.readline() != "ready\n":
            pass
    pair[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[0] for process in pair]
    assert [process.returncode for process in pair] == [143, 143], said
    assert "process 1 of 2 was ended by SIGTERM" in said[0] and "Traceback" not in said[0]
    assert "ended by SIGTERM" in said[1] and "Traceback" not in said[1]


@pytest.mark.slow
def test_step_times_of_all_processes_are_in_the_rows(config, tmp_path):
    config.num_steps = 60
    started = Started(config, tmp_path, 2)
    assert [code for code, _ in started.ended()] == [0, 0]
    rows = [
        json.loads(line) for line in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    ]
    assert any(
        0 < row["step_seconds_least"] <= row["step_seconds_median"] <= row["step_seconds_most"]
        for row in rows
        if "step_seconds_least" in row
    )
