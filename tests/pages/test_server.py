"""predict --serve: a real server on loopback, asked by real clients."""

import base64
import contextlib
import http.client
import io
import json
import logging
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from browser import browser, problems
from PIL import Image

from alexnet_jax import inference
from alexnet_jax.data.decode import decode
from alexnet_jax.data.types import DataError
from alexnet_jax.pages import batches
from alexnet_jax.pages import server as pages_server
from alexnet_jax.pages.batches import Batches, BusyError

BOUNDARY = "a-boundary"


@pytest.fixture(scope="module")
def server(trained_run):
    """Runs the command; yields its port and its process."""
    command = [sys.executable, "-m", "alexnet_jax.predict", "--serve", "--port=0", "--workdir=w"]
    process = subprocess.Popen(
        command, cwd=trained_run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines, found = [], None
    try:
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"http://127.0.0.1:(\d+) answers", line):
                break
        else:
            raise AssertionError("".join(lines))
        yield int(found[1]), process
    finally:
        with contextlib.ExitStack() as held:
            if found:  # an upload that does not go on keeps nobody
                held.enter_context(stalled(int(found[1])))
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said


def stalled(port, length=1000):
    """Returns a connection that announces more bytes than it sends."""
    opened = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n\r\n"
    opened.sendall(head.encode() + b"a few")
    return opened


@pytest.fixture
def strict(trained_run, monkeypatch):
    """A server in this process, limited to five seconds and three requests; yields port and log."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
    monkeypatch.setattr(pages_server, "MOST_SECONDS", 5.0)
    monkeypatch.setattr(pages_server, "MOST_AT_ONCE", 3)
    app = pages_server.app(inference.load(trained_run / "w"))
    own = uvicorn.Server(uvicorn.Config(app, **pages_server.OPTIONS))
    listener = socket.create_server(("127.0.0.1", 0))
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(handler.format(record))
    logging.getLogger("uvicorn.error").addHandler(handler)  # which tells no other logger
    thread = threading.Thread(target=own.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1], logged
    own.should_exit = True
    thread.join(30)
    logging.getLogger("uvicorn.error").removeHandler(handler)
    assert not thread.is_alive()


def test_an_upload_that_stalls_is_told_and_does_not_keep_others(strict):
    port, log = strict
    with contextlib.ExitStack() as held:
        waiting = [held.enter_context(stalled(port)) for _ in range(3)]
        told = (503, {"error": "too many requests; try again in a moment"})
        end = time.monotonic() + 4
        while (said := ask(port, body=b"x")) != told:  # the three may not have come yet
            assert said[0] == 422 and time.monotonic() < end
        for one in waiting:
            answer = http.client.HTTPResponse(one)
            answer.begin()
            assert (answer.status, json.loads(answer.read())) == (
                504,
                {"error": "no answer within 5 s"},
            )
    assert ask(port, body=png(1)[0])[0] == 200
    for _ in range(3):  # a client that hangs up midway is no failure of the server
        stalled(port).close()
    assert ask(port, body=png(1)[0])[0] == 200
    assert log == []


def test_a_drawing_that_nobody_waits_for_is_not_joined_by_another(strict, monkeypatch):
    """The first of two is late; the second begins only when the first is done."""
    port, log = strict
    monkeypatch.setattr(pages_server, "MOST_SECONDS", 0.5)
    at_once, most, go_on = 0, 0, threading.Event()

    def slow(*_):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        go_on.wait(30)
        at_once -= 1
        raise DataError("drawn")

    monkeypatch.setattr(pages_server.pictures, "activations", slow)
    for _ in range(2):
        assert ask(port, "/activations", png(1)[0])[0] == 504
    go_on.set()
    monkeypatch.setattr(pages_server, "MOST_SECONDS", 30.0)
    assert ask(port, "/activations", png(1)[0]) == (422, {"image": "image", "error": "drawn"})
    assert most == 1 and log == []


def test_an_image_of_too_many_pixels_is_not_decoded(server):
    buffer = io.BytesIO()
    Image.new("1", (7200, 7200)).save(buffer, "png")
    status, said = ask(server[0], body=buffer.getvalue())
    assert (status, said["error"]) == (
        422,
        "image: has 7,200 x 7,200 pixels; at most 50,000,000 here",
    )


def ask(port, path="/predict", body=b"", kind="image/png", method="POST", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": kind} | (headers or {}))
        response = connection.getresponse()
        data = response.read()
    json_kind = response.headers.get("content-type", "").startswith("application/json")
    return response.status, json.loads(data) if json_kind else data


def form(*files):
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


FORM = f"multipart/form-data; boundary={BOUNDARY}"


def png(seed, side=90):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), pixels


def test_it_answers_as_the_network_does(server, trained_run):
    port, _ = server
    data, pixels = png(1)
    status, said = ask(port, body=data)
    assert status == 200
    [wanted] = inference.load(trained_run / "w").predict(pixels, views=1)
    best = [(b["class"], b["probability"]) for b in said["images"][0]["best"]]
    assert [name for name, _ in best] == [name for name, _ in wanted.best]
    np.testing.assert_allclose([p for _, p in best], [p for _, p in wanted.best], atol=1e-5)


def test_several_in_a_form_are_answered_in_their_order(server):
    port, _ = server
    files = [(f"{i}.png", png(i)[0]) for i in range(5)]
    files[2] = ("broken.png", b"no picture")
    status, said = ask(port, body=form(*files), kind=FORM)
    assert status == 200
    assert [one["image"] for one in said["images"]] == [name for name, _ in files]
    assert "broken.png: is not a readable image" in said["images"][2]["error"]
    assert all("best" in one for i, one in enumerate(said["images"]) if i != 2)


def test_maps_are_a_picture(server):
    port, _ = server
    status, data = ask(port, "/activations", png(3)[0])
    assert status == 200 and Image.open(io.BytesIO(data)).width > 500
    assert ask(port, "/activations", b"\0\1")[0] == 422


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"body": b""}, 400),
        ({"body": b"no picture"}, 422),
        ({"body": form(), "kind": FORM}, 400),
        ({"body": b"--x", "kind": "multipart/form-data"}, 400),
        ({"body": b"garbage", "kind": FORM}, 400),
        ({"body": form(*[(f"{i}", b"x") for i in range(40)]), "kind": FORM}, 400),
        ({"body": b"x", "headers": {"Content-Length": str(2**40)}}, 413),
        ({"body": bytes(21 * 2**20)}, 413),
        ({"path": "/nothing"}, 404),
        ({"method": "PUT"}, 405),
    ],
)
def test_what_is_wrong_is_said_in_json(server, arguments, status):
    try:
        found, said = ask(server[0], **arguments)
    except (BrokenPipeError, ConnectionResetError):
        assert status == 413  # it hung up while the rest was being sent
        return
    assert found == status and isinstance(said["error"], str) and said["error"]


def test_it_listens_to_this_machine_alone(server):
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_jax.predict", "--serve", f"--port={server[0]}"]
        + ["--workdir=w"],
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    if sys.platform == "linux":  # where all of 127.0.0.0/8 is this machine
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", server[0]), timeout=10)


def malformed(number, rng):
    """Returns an upload of one of ten kinds: its body, its type, and the image that is in it."""
    buffer = io.BytesIO()
    own = Image.fromarray(np.random.default_rng(number).integers(0, 256, (90, 71, 3), np.uint8))
    own.save(buffer, ("png", "jpeg")[number % 2])
    good, kind = buffer.getvalue(), number // 2 % 5
    image = bytearray(good)
    if kind == 0:  # cut anywhere
        image = image[: rng.randrange(1, len(image))]
    elif kind == 1:  # flipped anywhere but in what says the format
        for _ in range(40):
            image[rng.randrange(12, len(image))] ^= 1 << rng.randrange(8)
    elif kind == 2:  # a form that is cut behind its first line
        body = form((f"\0{rng.random()}", good))
        return body[: rng.randrange(len(BOUNDARY) + 4, len(body))], FORM, None
    elif kind == 3:  # what is no image, under names that are no names
        name = rng.choice(["../../etc/passwd", "a\0b", "x" * 5000, "\N{PILE OF POO}.png", ""])
        return form((name, rng.randbytes(200))), FORM, None
    else:  # another type than it is, or none that there is
        image = bytearray(rng.randbytes(300))
    kinds = ("image/png", "image/jpeg", "text/html", "multipart/form-data", "a;b;=", "")
    return bytes(image), kinds[rng.randrange(3) if kind < 2 else rng.randrange(6)], bytes(image)


def test_malformed_uploads_are_an_error_each_and_it_goes_on(server):
    """500 uploads. If a decoder does not notice an image's damage, the image gets an answer."""
    port, process = server
    rng, wrong = random.Random(0), 0
    for number in range(500):
        body, kind, image = malformed(number, rng)
        readable = True
        try:
            decode(image or b"", "image", 71, False)
        except DataError:
            readable = False
        status, said = ask(port, body=body, kind=kind)
        if readable:
            assert status == 200, (number, said)
        else:
            assert status in (400, 422) and said["error"], (number, status, said)
            wrong += 1
    assert wrong > 300
    assert process.poll() is None and ask(port, body=png(5)[0])[0] == 200


@pytest.mark.exhaustive
def test_a_browser_drops_a_photograph_and_sees_bars(server, tmp_path):
    data, _ = png(7, 200)
    (tmp_path / "photo.png").write_bytes(data)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with browser() as found:
        from selenium.webdriver.support.wait import WebDriverWait

        found.get(f"http://127.0.0.1:{server[0]}/")
        chooser = found.find_element("css selector", "input[type=file]")
        chooser.send_keys(str(tmp_path / "broken.png"))
        found.execute_script(
            "const bytes = Uint8Array.from(atob(arguments[0]), (one) => one.charCodeAt(0));"
            "const data = new DataTransfer(); data.items.add(new File([bytes], 'photo.png'));"
            "document.getElementById('drop').dispatchEvent("
            "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}))",
            base64.b64encode(data).decode(),
        )
        wait = WebDriverWait(found, 60)
        wait.until(lambda d: len(d.find_elements("css selector", ".row")) == 2)
        wait.until(lambda d: d.find_elements("css selector", ".error"))
        assert "not a readable image" in found.find_element("css selector", ".error").text
        found.find_element("css selector", "details.maps summary").click()
        width = "const i = document.querySelector('.maps img'); return i ? i.naturalWidth : 0"
        wait.until(lambda d: d.execute_script(width) > 500)
        told = [line for line in problems(found) if "422" not in line and "favicon" not in line]
        assert told == []


def test_images_that_come_together_are_computed_together():
    sizes, gate, entered = [], threading.Event(), threading.Event()

    def compute(images):
        entered.set()
        gate.wait()
        sizes.append(len(images))
        return images.sum(axis=(1, 2, 3))

    waiting = Batches(compute)
    images = [np.full((2, 2, 3), i, np.int64) for i in range(22)]
    answers = [waiting.submit(images[0])]
    entered.wait()
    answers += [waiting.submit(image) for image in images[1:]]
    gate.set()
    assert [int(answer.result(10)) for answer in answers] == [12 * i for i in range(22)]
    waiting.close()
    assert sizes == [1, 16, 16] or sizes == [1, 16, 4, 1], sizes
    assert set(sizes) <= set(batches.SIZES)


def test_a_failure_reaches_who_waits_and_the_next_is_answered():
    def compute(images):
        if images.max() > 5:
            raise ValueError("too bright")
        return images[:, 0, 0, 0]

    waiting = Batches(compute)
    with pytest.raises(ValueError, match="too bright"):
        waiting.submit(np.full((1, 1, 3), 9)).result(10)
    assert waiting.submit(np.full((1, 1, 3), 2)).result(10) == 2
    waiting.close()


def test_too_many_are_told_to_wait():
    gate = threading.Event()

    def compute(images):
        gate.wait()
        return images

    waiting = Batches(compute, most_waiting=2)
    with pytest.raises(BusyError, match="try again"):
        for _ in range(10):
            waiting.submit(np.zeros((1, 1, 3)))
    gate.set()
    waiting.close()
