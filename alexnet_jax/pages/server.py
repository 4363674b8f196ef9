"""A network in the browser: photographs in, their likeliest classes and both columns' maps out.

POST /predict takes a form of files, or one image as the body; it and every error answer in JSON.
"""

import asyncio
import contextlib
import importlib.resources
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from alexnet_jax.data.decode import decode
from alexnet_jax.data.types import DataError
from alexnet_jax.data.words import spoken
from alexnet_jax.errors import printable
from alexnet_jax.inference import pictures
from alexnet_jax.inference.network import Network, best_five
from alexnet_jax.pages.batches import SIZES, Batches, BusyError

MOST_BYTES = 20 * 2**20  # of a request
MOST_IMAGES = 16  # in one
MOST_SECONDS = 30.0  # that a request may take, from the end of its headers to its answer
MOST_AT_ONCE = 256  # requests
MOST_PIXELS = 50_000_000  # of an image
DECODED_AT_ONCE = 2  # images, 150 MB each at most
MOST_DRAWINGS = 8  # being drawn or waiting
# For uvicorn: how long Ctrl-C waits for requests, and the connections beyond which uvicorn itself
# refuses, without JSON.
OPTIONS: dict[str, Any] = {
    "log_level": "warning",
    "lifespan": "on",
    "timeout_graceful_shutdown": 5,
    "limit_concurrency": 4 * MOST_AT_ONCE,
}

Named = tuple[str, bytes]
Handler = Callable[[Request], Awaitable[Response]]


def app(network: Network, views: int = 1) -> Starlette:
    """Returns the application of a network, ready to be served.

    Args:
      network: from `inference.load`; its programs are compiled here.
      views: 1, or 10 whose probabilities are averaged.
    """
    server = _Server(network, views)
    routes = [
        Route("/", server.home),
        Route("/health", server.health),
        Route("/predict", server.within_limits(server.predict), methods=["POST"]),
        Route("/activations", server.within_limits(server.activations), methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _refused,
        BusyError: _busy,
        TimeoutError: _late,
        ClientDisconnect: _gone,
        Exception: _failed,
    }

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        server.close()

    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


class _Server:
    """The request handlers, and their limits."""

    def __init__(self, network: Network, views: int) -> None:
        self._network = network
        programs = {size: network.compiled(size, views) for size in SIZES}
        self.batches = Batches(lambda images: programs[len(images)](images))
        # Own thread pools: work whose request was given up still counts until it is done.
        self._decoding = ThreadPoolExecutor(DECODED_AT_ONCE)
        self._drawing = ThreadPoolExecutor(1)  # matplotlib is for one at a time
        self._drawings = self._requests = 0
        templates = importlib.resources.files("alexnet_jax.pages") / "templates"
        self._page = (templates / "serve.html").read_text("utf-8")

    def within_limits(self, answer: Handler) -> Handler:
        """Bounds how many requests there are at once, and how long each may take."""

        async def limited(request: Request) -> Response:
            if self._requests >= MOST_AT_ONCE:
                raise BusyError("too many requests; try again in a moment")
            self._requests += 1
            try:
                async with asyncio.timeout(MOST_SECONDS):
                    return await answer(request)
            except asyncio.CancelledError as error:  # Ctrl-C waited long enough
                raise BusyError("the server ends") from error
            finally:
                self._requests -= 1

        return limited

    async def home(self, _: Request) -> Response:
        """The page."""
        return HTMLResponse(self._page)

    async def health(self, _: Request) -> Response:
        """Is it there, and which network is it?"""
        return JSONResponse({"classes": self._network.num_classes, "step": self._network.step})

    async def predict(self, request: Request) -> Response:
        """The likeliest classes of each image, in the order in which they came."""
        images = await _images(request)
        answers = await asyncio.gather(*(self._answer(*one) for one in images))
        wrong = [one for one in answers if "error" in one]
        if len(images) == 1 and wrong:
            return JSONResponse(wrong[0], 422)
        return JSONResponse({"images": answers})

    async def activations(self, request: Request) -> Response:
        """A picture of what each layer and column makes of an image."""
        [one, *_] = await _images(request)
        if self._drawings >= MOST_DRAWINGS:
            raise BusyError("too many pictures are being drawn; try again in a moment")
        self._drawings += 1
        drawing = self._drawing.submit(self._maps, *one)
        drawing.add_done_callback(self._drawn)
        try:
            return Response(await asyncio.wrap_future(drawing), media_type="image/png")
        except DataError as error:
            return JSONResponse({"image": one[0], "error": printable(error)}, 422)

    def _drawn(self, _: Future[bytes]) -> None:
        self._drawings -= 1

    def close(self) -> None:
        """Answers the images that wait for a batch, and starts no other work."""
        self.batches.close()
        for threads in (self._decoding, self._drawing):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, name: str, encoded: bytes) -> dict[str, Any]:
        try:
            self.batches.refuse_if_full()
            decoding = self._decoding.submit(self._square, name, encoded)
            image = await asyncio.wrap_future(decoding)
            probabilities = await asyncio.wrap_future(self.batches.submit(image))
        except DataError as error:
            return {"image": name, "error": printable(error)}
        best = best_five(probabilities, self._network.class_name)
        return {
            "image": name,
            "best": [{"class": c, "words": spoken(c), "probability": p} for c, p in best],
        }

    def _square(self, name: str, encoded: bytes) -> np.ndarray:
        _refuse_large(name, encoded)
        config = self._network.config
        return decode(encoded, name, config.resize, config.exif_orientation)

    def _maps(self, name: str, encoded: bytes) -> bytes:
        image, buffer = self._square(name, encoded), io.BytesIO()
        pictures.activations(self._network, image).savefig(buffer, format="png")
        return buffer.getvalue()


def _refuse_large(name: str, encoded: bytes) -> None:
    """Refuses an image by what its header says, before it is decoded.

    Raises:
      DataError: it has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return  # the decoder says what is wrong
    if width * height > MOST_PIXELS:
        raise DataError(f"{name}: has {width:,} x {height:,} pixels; at most {MOST_PIXELS:,} here")


async def _images(request: Request) -> list[Named]:
    """Reads the images of a request: the files of a form, or the body.

    Raises:
      HTTPException: there is none, there are too many, or they are too large.
    """
    _count_bytes(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = await request.body()
        if not body:
            raise HTTPException(400, "there is no image; send a file in a form, or as the body")
        return [("image", body)]
    try:
        async with request.form(max_files=MOST_IMAGES, max_fields=MOST_IMAGES) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            images = [(printable(file.filename or "image"), await file.read()) for file in files]
    except (MultiPartException, ValueError) as error:
        raise HTTPException(400, f"the form cannot be read ({error})") from error
    if not images:
        raise HTTPException(400, "the form has no file")
    return images


def _count_bytes(request: Request) -> None:
    """Stops reading a request that is too large, even if its Content-Length says otherwise.

    Raises:
      HTTPException: its Content-Length is already too large, or no number.
    """
    refusal = f"a request has at most {MOST_BYTES // 2**20} MiB"
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > MOST_BYTES:
        raise HTTPException(413, refusal)
    receive, seen = request.receive, 0

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BYTES:
            raise HTTPException(413, refusal)
        return message

    request._receive = counted


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


async def _busy(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})


async def _late(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": f"no answer within {MOST_SECONDS:.0f} s"}, 504)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # to nobody


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the server failed ({type(error).__name__})"}, 500)
