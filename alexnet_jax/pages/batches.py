"""Dynamic batching of requests: those that arrive while one batch is computed form the next."""

import concurrent.futures
import queue
import threading
from collections.abc import Callable

import numpy as np

from alexnet_jax.errors import UserError

SIZES = (1, 4, 16)  # of batches; a program for each, and none is compiled later
MOST_WAITING = 256

Answer = concurrent.futures.Future[np.ndarray]


class BusyError(UserError, RuntimeError):
    """Too many images are waiting."""


class Batches:
    """A thread that answers waiting images in batches."""

    def __init__(
        self, compute: Callable[[np.ndarray], np.ndarray], most_waiting: int = MOST_WAITING
    ) -> None:
        """Begins the thread.

        Args:
          compute: maps images, (n, R, R, 3) with n of SIZES, to answers, (n, ...).
          most_waiting: images that may wait.
        """
        self._compute = compute
        self._waiting: queue.Queue[tuple[np.ndarray, Answer] | None] = queue.Queue(most_waiting)
        self._thread = threading.Thread(target=self._work, daemon=True, name="batches")
        self._thread.start()

    def submit(self, image: np.ndarray) -> Answer:
        """Queues an image, (R, R, 3); returns a future of its answer.

        Raises:
          BusyError: too many wait already.
        """
        answer: Answer = concurrent.futures.Future()
        try:
            self._waiting.put_nowait((image, answer))
        except queue.Full as error:
            raise BusyError("too many images are waiting; try again in a moment") from error
        return answer

    def refuse_if_full(self) -> None:
        """Refuses an image before anything is done for it.

        Raises:
          BusyError: too many wait already.
        """
        if self._waiting.full():
            raise BusyError("too many images are waiting; try again in a moment")

    def close(self) -> None:
        """Ends the thread, after what is waiting."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            taken, ends = [first], False
            while len(taken) < SIZES[-1]:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ends = True
                    break
                taken.append(more)
            self._answer(taken)
            if ends:
                return

    def _answer(self, taken: list[tuple[np.ndarray, Answer]]) -> None:
        taken = [(image, answer) for image, answer in taken if not answer.cancelled()]
        if not taken:
            return
        images = np.stack([image for image, _ in taken])
        size = next(size for size in SIZES if size >= len(images))
        filled = np.zeros((size - len(images), *images.shape[1:]), images.dtype)
        try:
            probabilities = self._compute(np.concatenate([images, filled]))
        except Exception as error:  # it is raised again where each answer is awaited
            for _, answer in taken:
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(error)
            return
        for (_, answer), row in zip(taken, probabilities, strict=False):
            if answer.set_running_or_notify_cancel():
                answer.set_result(row)
