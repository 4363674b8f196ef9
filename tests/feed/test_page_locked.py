"""Calls of NVIDIA's driver, with a stand-in that only records them."""

import types
import weakref

import numpy as np

from alexnet_jax.data.loader import aligned
from alexnet_jax.feed import page_locked


class Driver:
    """Records the locked memory; a call that locks memory returns `result`."""

    def __init__(self, result: int = 0) -> None:
        self.locked: dict[int, int] = {}
        self.contexts, self.result, self.devices = 0, result, []

    def cuMemHostRegister_v2(self, address, size, flags):  # noqa: N802
        assert self.contexts == 1
        assert flags == page_locked.FOR_ALL_DEVICES
        if not self.result:
            self.locked[address.value] = size.value
        return self.result

    def cuMemHostUnregister(self, address):  # noqa: N802
        assert self.contexts == 1
        del self.locked[address.value]
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):  # noqa: N802
        self.devices.append(device.value)
        return 0

    def cuCtxPushCurrent_v2(self, context):  # noqa: N802
        self.contexts += 1
        return 0

    def cuCtxPopCurrent_v2(self, context):  # noqa: N802
        self.contexts -= 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device):  # noqa: N802
        assert device.value == self.devices[-1]
        return 0


def test_memory_is_locked_as_long_as_it_lives(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(page_locked, "_driver", lambda: driver)
    own = types.SimpleNamespace(local_hardware_id=3)  # of a process that has not the first
    monkeypatch.setattr(page_locked.jax, "local_devices", lambda: [own])
    images = aligned((4, 8, 8, 3))
    page_locked.page_lock(images)
    assert driver.locked == {images.ctypes.data: images.nbytes}
    part = images[:2]
    del images
    assert driver.locked  # a part of it is still held
    gone = weakref.finalize(part.base, lambda: None)
    del part
    assert not gone.alive
    assert not driver.locked
    assert driver.devices == [3, 3]


def test_what_cannot_be_locked_is_said_and_stays_usable(monkeypatch, caplog):
    monkeypatch.setattr(page_locked, "_driver", lambda: Driver(result=304))
    page_locked._warn.cache_clear()
    for _ in range(2):
        images = aligned((2, 8, 8, 3))
        page_locked.page_lock(images)
        images[:] = 3
    said = "more slowly: their memory is not locked (cuMemHostRegister returned 304)"
    assert caplog.text.count(said) == 1


def test_a_gpu_alone_has_its_buffers_locked_and_never_for_the_reference():
    assert page_locked.keeper("auto", "cuda") is page_locked.page_lock
    for kernels, backend in (
        ("auto", "cpu"),
        ("auto", "tpu"),
        ("reference", "cuda"),
        ("auto", "rocm"),
    ):
        assert page_locked.keeper(kernels, backend) is not page_locked.page_lock


def test_without_nvidia_s_driver_nothing_is_done(monkeypatch, caplog):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(page_locked, "ctypes", types.SimpleNamespace(CDLL=missing))
    page_locked._driver.cache_clear()
    page_locked.page_lock(np.zeros(4, np.uint8))
    page_locked._driver.cache_clear()
    assert not caplog.text
