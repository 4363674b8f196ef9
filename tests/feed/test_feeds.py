"""Every feed gives the steps the same batches."""

import concurrent.futures
import dataclasses
import threading

import jax
import numpy as np
import pytest
import small
from on_mesh import small as on_mesh

from alexnet_jax import train
from alexnet_jax.config import Config, ConfigError, MeshConfig
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.order import batch_positions
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.data.types import DataError
from alexnet_jax.feed import choice
from alexnet_jax.feed.host import HostFeed
from alexnet_jax.feed.protocol import Cut, Dispatches, Feeding
from alexnet_jax.feed.resident import ResidentFeed
from alexnet_jax.parallel import mesh
from alexnet_jax.steps import communication


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("set")
    small.write_folder(path)
    bad = sorted((path / "train" / "dark").iterdir())[3]
    bad.write_bytes(b"broken")
    return path


def taken(feeding: Feeding, devices: jax.sharding.Mesh, fed: dict, step: int | None) -> dict:
    """Returns the batch that the devices make from what a feed gives them, in row order."""

    def take(at: jax.Array, fed: dict) -> dict:
        return feeding.evaluation(fed) if step is None else feeding.training(fed, at)

    out = mesh.batch_spec(feeding.config)
    mapped = mesh.per_device(take, devices, mesh.EVERYWHERE, feeding.specs, out)
    batch = jax.device_get(jax.jit(mapped)(jax.numpy.int32(0 if step is None else step - 1), fed))
    return {name: values for name, values in batch.items() if name != "stop"}


@pytest.mark.parametrize(
    ("shape", "scheme", "passes"),
    [
        ((1, 1), "columns", 1),
        ((2, 2), "columns", 1),
        ((4, 1), "columns", 1),
        ((2, 2), "hybrid", 2),
        ((2, 2), "hybrid_in_turns", 2),
    ],
)
def test_resident_splits_give_the_batches_of_the_host(folder, shape, scheme, passes):
    config = small.config(folder)
    config.on_bad_image = "skip"
    config.mesh = MeshConfig(*shape, scheme=scheme)
    devices = mesh.build(config.mesh)
    split = open_dataset(config).open("train")

    def reader() -> ImageReader:
        return ImageReader(split, config.resize, on_bad_image="skip")

    host = HostFeed(config, devices, reader(), Cut(8, passes))
    others = [
        ResidentFeed(config, devices, reader(), Cut(8, passes), whole) for whole in (True, False)
    ]
    for feed in others:
        assert len(feed.bad_images) == 1
        own = zip(*(f.training(Dispatches(2, 6), bool) for f in (host, feed)), strict=True)
        for step, (one, other) in enumerate(own, 2):  # two epochs of 20, across their end
            wanted = taken(host.feeding, devices, one, step)
            got = taken(feed.feeding, devices, other, step)
            assert got.keys() == wanted.keys()
            for name in wanted:
                np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)
        own = zip(host.evaluation(), feed.evaluation(), strict=True)
        for one, other in own:
            wanted = taken(host.feeding, devices, one, None)
            got = taken(feed.feeding, devices, other, None)
            shown = wanted["mask"] > 0
            for name in ("label", "mask", "bad"):
                there = wanted["mask"] + wanted["bad"] > 0 if name == "label" else slice(None)
                np.testing.assert_array_equal(got[name][there], wanted[name][there], err_msg=name)
            np.testing.assert_array_equal(got["image"][shown], wanted["image"][shown])


@pytest.mark.parametrize("whole", [True, False])
def test_a_batch_may_hold_several_epochs(folder, whole):
    config = small.config(folder)
    config.on_bad_image, config.mesh = "skip", MeshConfig(2, 1)
    devices = mesh.build(config.mesh)
    split = open_dataset(config).open("train")

    def reader() -> ImageReader:
        return ImageReader(split, config.resize, on_bad_image="skip")

    host = HostFeed(config, devices, reader(), Cut(64))
    resident = ResidentFeed(config, devices, reader(), Cut(64), whole)
    own = zip(*(f.training(Dispatches(1, 3), bool) for f in (host, resident)), strict=True)
    for step, (one, other) in enumerate(own, 1):
        wanted = taken(host.feeding, devices, one, step)
        got = taken(resident.feeding, devices, other, step)
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


def test_a_split_without_labels_is_refused(folder, monkeypatch, tmp_path):
    from alexnet_jax.data.folder import _Files

    read = _Files.__getitem__
    monkeypatch.setattr(_Files, "__getitem__", lambda self, i: read(self, i)._replace(label=-1))
    config = small.config(folder)
    with pytest.raises(DataError, match="split train of .* has no labels to learn"):
        train.train(config, tmp_path)


def test_a_signal_travels_with_the_next_step(folder):
    config = small.config(folder)
    config.on_bad_image = "skip"
    devices = mesh.build(config.mesh)
    split = open_dataset(config).open("train")
    for kind in (HostFeed, ResidentFeed):
        more = (True,) if kind is ResidentFeed else ()
        reader = ImageReader(split, config.resize, on_bad_image="skip")
        told = iter([False, True])
        feed = kind(config, devices, reader, Cut(8), *more)
        flags = [
            float(fed["stop"].max())
            for fed in feed.training(Dispatches(1, 2), lambda t=told: next(t))
        ]
        assert flags == [0, 1]


@pytest.mark.parametrize(
    ("images", "gib", "shape", "kind"),
    [
        (100, 1.0, (1, 1), "whole"),
        (10**6, 1.0, (1, 1), "host"),
        (120_000, 1.0, (2, 1), "parts"),
        (120_000, 1.0, (1, 2), "host"),
    ],
)
def test_the_kind_of_feed_follows_the_size(images, gib, shape, kind):
    config = Config(resize=71, resident_gib=gib, mesh=MeshConfig(*shape))
    devices, budget = mesh.build(config.mesh), choice.resident_budget(config)
    assert choice.kind_of_feed(config, devices, images, budget) == kind
    assert (
        choice.kind_of_feed(dataclasses.replace(config, feed="host"), devices, 1, budget) == "host"
    )
    if kind == "host":
        with pytest.raises(ConfigError, match="feed: resident needs .* raise resident_gib"):
            choice.kind_of_feed(
                dataclasses.replace(config, feed="resident"), devices, images, budget
            )


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "scheme"), [((4, 1), "columns"), ((2, 2), "hybrid")])
def test_parts_add_one_exchange_of_the_batch(shape, scheme):
    config = on_mesh(shape)
    config.mesh.scheme, config.feed = scheme, "resident"
    images = 1_281_167
    config.resident_gib = images * 71 * 71 * 3 / 2**30 / shape[0] * 1.01
    found = communication.compiled(train.compile_train_step(config))
    own = [c for c in found if c.layer == "images"]
    assert [(c.kind, c.group) for c in own] == [("reduce-scatter", shape[0])]
    rows = config.batch_size // (shape[1] if scheme == "hybrid" else 1)
    assert own[0].payload == rows * 71 * 71 * 3
    wanted = communication.expected(config, 13, shape[0], exchanged=True)
    assert sum(c.moved for c in found) == pytest.approx(sum(c.moved for c in wanted), rel=0.01)


def test_every_update_of_a_dispatch_has_its_own_batch(folder):
    """As the host gives them: 6 times 8 images from within one epoch of 20 into the third."""
    config = small.config(folder)
    devices = mesh.build(config.mesh)
    reader = ImageReader(open_dataset(config).open("train"), config.resize, on_bad_image="skip")
    host = HostFeed(config, devices, reader, Cut(8))
    feed = ResidentFeed(config, devices, reader, Cut(8, steps=6), True)
    wanted = host.training(Dispatches(2, 13), bool)
    dispatches = Dispatches(2, 13, 6)
    for updates, fed in zip(dispatches, feed.training(dispatches, bool), strict=True):
        assert int(fed["steps"]) == len(updates) == 6
        for step in updates:
            one = taken(host.feeding, devices, next(wanted), step)
            got = taken(feed.feeding, devices, fed, step)
            np.testing.assert_array_equal(got["index"], one["index"])
            np.testing.assert_array_equal(got["image"], one["image"])


@pytest.mark.parametrize("most", [1, 7, 100])
def test_orders_of_many_epochs_come_together_and_follow_the_data_order(folder, most):
    """Where epochs are short; each new order is drawn before the updates that need it."""
    config = small.config(folder)
    reader = ImageReader(open_dataset(config).open("train"), config.resize, on_bad_image="skip")
    feed = ResidentFeed(config, mesh.build(config.mesh), reader, Cut(8, steps=most), True)
    dispatches, seen = Dispatches(4, 203, most), []
    for updates, fed in zip(dispatches, feed.training(dispatches, bool), strict=True):
        if not seen or seen[-1] is not fed["order"]:
            seen.append(fed["order"])
            order, first = np.asarray(fed["order"]), int(fed["first_epoch"])
        for step in updates:
            at = batch_positions(config.seed, step, 8, len(reader))
            epoch, place = at.position // len(reader) - first, at.position % len(reader)
            assert epoch.min() >= 0  # else it would count from the end
            np.testing.assert_array_equal(order[epoch, place], at.index)
    assert len(seen) <= 4  # of 80 epochs


def test_dispatches_end_where_something_is_due():
    together = [list(r) for r in Dispatches(3, 14, 4, alone=True, breaks=lambda n: n % 5 == 0)]
    assert together == [[3], [4, 5], [6, 7, 8, 9], [10], [11, 12, 13, 14]]
    assert [list(r) for r in Dispatches(2, 4)] == [[2], [3], [4]]


def test_a_bad_image_stops_the_host_s_feed_at_its_own_batch(folder):
    """Although each batch goes to the devices before the two previous ones are requested."""
    config = small.config(folder)
    source = open_dataset(config).open("train")
    bad = next(i for i in range(len(source)) if source[i].image == b"broken")
    feed = HostFeed(config, mesh.build(config.mesh), ImageReader(source, config.resize), Cut(2))
    seen = []
    with pytest.raises(DataError, match="is not a readable image"):
        for fed in feed.evaluation():
            seen.append(np.asarray(fed["index"]).tolist())
    assert seen == [[2 * i, 2 * i + 1] for i in range(bad // 2)]


def test_the_loop_does_not_wait_while_two_more_batches_are_put_on_the_devices(folder, monkeypatch):
    config = small.config(folder)
    devices = mesh.build(config.mesh)
    reader = ImageReader(open_dataset(config).open("train"), config.resize, on_bad_image="skip")
    came, third, put, waited = threading.Event(), threading.Event(), mesh.put_batch, []

    def slow(batch, *about):
        if "image" in batch:
            waited.append(came.wait(30) if waited else None)
            if len(waited) == 3:
                third.set()
        return put(batch, *about)

    monkeypatch.setattr(mesh, "put_batch", slow)
    feed = HostFeed(config, devices, reader, Cut(8)).training(Dispatches(1, 4), bool)
    next(feed)
    came.set()
    assert third.wait(30)
    assert len(list(feed)) == 3
    assert waited == [None, True, True, True]


def test_an_end_before_the_last_batch_waits_for_one_batch_at_most(folder, monkeypatch):
    """A batch may be under way when a run ends, and may take long to read."""
    config = small.config(folder)
    devices = mesh.build(config.mesh)
    reader = ImageReader(open_dataset(config).open("train"), config.resize, on_bad_image="skip")
    told, put, images = threading.Event(), mesh.put_batch, []
    shut = concurrent.futures.ThreadPoolExecutor.shutdown

    def slow(batch, *about):
        if "image" in batch:
            images.append(len(images) == 0 or told.wait(30))
        return put(batch, *about)

    def shutdown(*about, **more):
        shut(*about, **more)
        told.set()

    monkeypatch.setattr(mesh, "put_batch", slow)
    monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "shutdown", shutdown)
    feed = HostFeed(config, devices, reader, Cut(8)).training(Dispatches(1, 9), bool)
    next(feed)
    feed.close()
    assert images in ([True], [True, True])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("put")]
