"""Page-locked host memory, which an NVIDIA GPU reads without a copy by a CPU core."""

import ctypes
import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

FOR_ALL_DEVICES = 1  # CU_MEMHOSTREGISTER_PORTABLE (cuda.h)


def keeper(kernels: str, backend: str) -> Callable[[np.ndarray], None]:
    """Returns the function to call with each buffer that the feed fills again and again.

    Args:
      kernels: auto: `page_lock` where an NVIDIA GPU computes; reference: nothing.
      backend: what computes (`ops.platform.computed_on`).
    """
    return page_lock if (kernels, backend) == ("auto", "cuda") else lambda array: None


def page_lock(array: np.ndarray) -> None:
    """Locks an array's pages in memory for its lifetime, where an NVIDIA driver is in use.

    A GPU copies from locked pages at the speed of its bus (48 GB/s, else 8: experiments/speed, s8),
    and goes on copying after the call that puts the array on it has returned: do not write to the
    array again before the copy is done. If memory cannot be locked, copies are slower, and a
    warning is logged.

    Args:
      array: a buffer without gaps, from `loader.aligned`.
    """
    driver = _driver()
    if driver is None:
        return
    try:
        _lock(driver, array)
    except OSError as error:
        _warn(str(error))


@functools.cache
def _warn(reason: str) -> None:
    logging.warning("batches go to the GPU more slowly: their memory is not locked (%s)", reason)


@functools.cache
def _driver() -> ctypes.CDLL | None:
    """Returns NVIDIA's driver, where there is one."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:  # a GPU of another make
        return None


def _lock(driver: ctypes.CDLL, array: np.ndarray) -> None:
    owner = array if array.base is None else array.base  # the memory lives as long as this
    address = ctypes.c_void_p(array.ctypes.data)
    with _Context(driver):
        _check(
            driver.cuMemHostRegister_v2(address, ctypes.c_size_t(array.nbytes), FOR_ALL_DEVICES),
            "cuMemHostRegister",
        )
    weakref.finalize(owner, _unlock, driver, address).atexit = False


def _unlock(driver: ctypes.CDLL, address: ctypes.c_void_p) -> None:
    with _Context(driver):
        _check(driver.cuMemHostUnregister(address), "cuMemHostUnregister")


class _Context:
    """Makes JAX's CUDA context on this process's first device current in this thread."""

    def __init__(self, driver: ctypes.CDLL) -> None:
        self._driver, self._context = driver, ctypes.c_void_p()
        self._device = ctypes.c_int(jax.local_devices()[0].local_hardware_id or 0)

    def __enter__(self) -> None:
        retain = self._driver.cuDevicePrimaryCtxRetain
        _check(retain(ctypes.byref(self._context), self._device), "cuDevicePrimaryCtxRetain")
        _check(self._driver.cuCtxPushCurrent_v2(self._context), "cuCtxPushCurrent")

    def __exit__(self, *_: Any) -> None:
        self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        self._driver.cuDevicePrimaryCtxRelease_v2(self._device)


def _check(result: int, name: str) -> None:
    if result:
        raise OSError(f"{name} returned {result}")
