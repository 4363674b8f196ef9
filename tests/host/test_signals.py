"""Signals end a command in one line, whatever it does, or wait until its state is saved."""

import signal
import subprocess
import sys
import threading

import pytest

from alexnet_jax.host.signals import Remembered

PROGRAM = """
import sys
from alexnet_jax.host import signals
signals.end_in_one_line(__name__)
kind = sys.argv[1]
import ctypes, time
if kind == "swallowed":
    class Swallows:
        def __del__(self):
            print("ready", flush=True)
            ctypes.CDLL(None).usleep(200_000)
    Swallows()
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
if kind == "native":  # as XLA's compiler does, for many seconds
    print("ready", flush=True)
    ctypes.CDLL(None).sleep(60)
if kind == "python":
    print("ready", flush=True)
    time.sleep(60)
if kind == "importing":  # a module that stands for what a native one does when it is loaded
    import importlib.abc, importlib.util
    class Loader(importlib.abc.Loader):
        def create_module(self, spec):
            return None
        def exec_module(self, module):
            try:  # first: the signal may come at once
                print("ready", flush=True)
                time.sleep(60)
            finally:
                print("an exception went through native code", flush=True)
    spec = importlib.util.spec_from_loader("native", Loader())
    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            return spec if name == "native" else None
    sys.meta_path.insert(0, Finder())
    import native
if kind == "saving":
    with signals.Remembered() as held:
        print("ready", flush=True)
        while not held.received:
            time.sleep(0.01)
        print("saved", flush=True)
        time.sleep(0.5)
    sys.exit(128 + held.received)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["python", "native", "swallowed", "importing"])
def test_a_command_ends_with_one_line_and_the_signal_s_code(kind, number):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert (out, error) == ("", f"ended by {signal.Signals(number).name}\n")


@pytest.mark.parametrize("times", [1, 3])
def test_a_second_sigterm_does_not_end_a_save(times):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "saving"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saved\n"
    for _ in range(times - 1):
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_second_sigint_is_a_person_s():
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    with Remembered() as held:
        signal.raise_signal(signal.SIGINT)
        assert held.received == signal.SIGINT
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert held.received == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_have_no_signals():
    ended = []

    def run() -> None:
        with Remembered() as held:
            ended.append(held.received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended == [0]


def test_a_handler_of_ones_own_may_take_its_time():
    """The thread that ends a hanging process does not interrupt it."""
    program = """
import os, signal, threading
from alexnet_jax.host import signals
signals.GRACE_SECONDS = 0.05
signals.end_in_one_line("__main__")
def stop(*_): raise KeyboardInterrupt
try:
    with signals.handled(signal.SIGINT, stop):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)
except KeyboardInterrupt:
    threading.Event().wait(0.5)
    print("stopped")
with signals.handled(signal.SIGTERM, lambda *_: print("told")):
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(0.2)
os.kill(os.getpid(), signal.SIGTERM)
threading.Event().wait(5)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("stopped\ntold\n", 143)
    assert done.stderr == "ended by SIGTERM\n"
