"""A network in the browser: photographs in, their likeliest classes and both columns' maps out.

POST /predict takes a form of files, or one image as the body; it and every error answer in JSON.
"""

import asyncio
import contextlib
import importlib.resources
import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
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
MOST_SECONDS = 30.0  # that an answer may take
MOST_PIXELS = 50_000_000  # of an image
DECODED_AT_ONCE = 2  # which are 150 MB each, at the most
MOST_DRAWINGS = 8  # that may wait

Named = tuple[str, bytes]


def app(network: Network, views: int = 1) -> Starlette:
    """Returns the application of a network, ready to be served.

    Args:
      network: from `inference.load`; its programs are compiled here.
      views: 1, or 10 whose probabilities are averaged.
    """
    config = network.config
    side = config.resize

    def compute(images: np.ndarray) -> np.ndarray:
        return network.probabilities(images, views)

    for size in SIZES:
        compute(np.zeros((size, side, side, 3), np.uint8))
    batches = Batches(compute)
    decoding, drawing = asyncio.Semaphore(DECODED_AT_ONCE), asyncio.Semaphore(1)
    drawings = [0]
    page = (importlib.resources.files("alexnet_jax.pages") / "templates" / "serve.html").read_text(
        "utf-8"
    )

    def square(name: str, encoded: bytes) -> np.ndarray:
        _refuse_large(name, encoded)
        return decode(encoded, name, side, config.exif_orientation)

    async def answer(name: str, encoded: bytes) -> dict[str, Any]:
        try:
            batches.refuse_if_full()
            async with decoding:
                image = await run_in_threadpool(square, name, encoded)
            said = await asyncio.wait_for(asyncio.wrap_future(batches.submit(image)), MOST_SECONDS)
        except DataError as error:
            return {"image": name, "error": printable(error)}
        best = best_five(said, network.class_name)
        return {
            "image": name,
            "best": [{"class": c, "words": spoken(c), "probability": p} for c, p in best],
        }

    async def predict(request: Request) -> Response:
        images = await _images(request)
        found = await asyncio.gather(*(answer(*one) for one in images))
        wrong = [one for one in found if "error" in one]
        if len(images) == 1 and wrong:
            return JSONResponse(wrong[0], 422)
        return JSONResponse({"images": found})

    def maps(name: str, encoded: bytes) -> bytes:
        image, buffer = square(name, encoded), io.BytesIO()
        pictures.activations(network, image).savefig(buffer, format="png")
        return buffer.getvalue()

    async def activations(request: Request) -> Response:
        [one, *_] = await _images(request)
        if drawings[0] >= MOST_DRAWINGS:
            raise BusyError("too many pictures are being drawn; try again in a moment")
        drawings[0] += 1
        try:
            async with drawing:  # matplotlib is for one at a time
                return Response(await run_in_threadpool(maps, *one), media_type="image/png")
        except DataError as error:
            return JSONResponse({"image": one[0], "error": printable(error)}, 422)
        finally:
            drawings[0] -= 1

    async def home(_: Request) -> Response:
        return HTMLResponse(page)

    async def health(_: Request) -> Response:
        return JSONResponse({"classes": network.num_classes, "step": network.step})

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        batches.close()

    routes = [
        Route("/", home),
        Route("/health", health),
        Route("/predict", predict, methods=["POST"]),
        Route("/activations", activations, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _refused,
        BusyError: _busy,
        TimeoutError: _late,
        Exception: _failed,
    }
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


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
            found = [(printable(file.filename or "image"), await file.read()) for file in files]
    except (MultiPartException, ValueError) as error:
        raise HTTPException(400, f"the form cannot be read ({error})") from error
    if not found:
        raise HTTPException(400, "the form has no file")
    return found


def _count_bytes(request: Request) -> None:
    """Lets reading a request end where it is too large, whatever it says of its length.

    Raises:
      HTTPException: it says so itself.
    """
    told = f"a request has at most {MOST_BYTES // 2**20} MiB"
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > MOST_BYTES:
        raise HTTPException(413, told)
    receive, seen = request.receive, 0

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BYTES:
            raise HTTPException(413, told)
        return message

    request._receive = counted


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


async def _busy(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})


async def _late(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": f"no answer within {MOST_SECONDS:.0f} s"}, 504)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the server failed ({type(error).__name__})"}, 500)
