"""Training and inference steps, alone or in turns with PyTorch's of the same network."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from alexnet_jax.benchmarks import runtimes, work
from alexnet_jax.benchmarks.rows import Row, alternated, rate, row
from alexnet_jax.config import Config, ConfigError, MeshConfig
from alexnet_jax.configs.validation import validate
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.host.device_memory import peak_bytes
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import evaluation, state
from alexnet_jax.steps.flops import forward_flops
from alexnet_jax.steps.packing import Packing
from alexnet_jax.steps.setup import IMAGENET_TRAIN, Setup
from alexnet_jax.steps.training import compile_train_step

LEAST_SECONDS = 1.0  # that a round of a contender takes


@dataclasses.dataclass
class Ours:
    """A compiled step with what it is fed, ready to be repeated.

    Attributes:
      again: does it once, and returns its figures.
      program: for its counts and memory.
      compile_seconds: to trace and compile it.
    """

    again: Callable[[], Any]
    program: jax.stages.Compiled
    compile_seconds: float


def prepared(config: Config) -> Config:
    """Returns a config that needs no data set and has one device.

    Raises:
      ConfigError: it asks for a mesh, or a field is invalid.
    """
    if config.mesh not in (MeshConfig(), MeshConfig(1, 1)):
        raise ConfigError("mesh: one device is measured; leave --config.mesh.* out")
    config.num_classes = config.num_classes or 10
    config.mesh, config.eval_views, config.feed = MeshConfig(1, 1), 1, "host"
    validate(config)
    return config


def compiled_training(config: Config, num_examples: int = IMAGENET_TRAIN) -> jax.stages.Compiled:
    """Returns the train step on one device: crop, flip, lighting, gradient and update.

    Args:
      config: from `prepared`.
      num_examples: images of an epoch, which schedules count.
    """
    setup = Setup.of(config, config.num_classes, num_examples)
    return compile_train_step(setup, _feeding(config))


def training(config: Config) -> Ours:
    """Returns the train step with a state and a batch."""
    start = time.perf_counter()
    program = compiled_training(config)
    spent = time.perf_counter() - start
    now = [state.create_state(Setup.of(config, config.num_classes))]
    fed = random_batch(config)

    def again() -> Any:
        now[0], figures = program(now[0], fed)
        return figures

    return Ours(again, program, spent)


def inference(config: Config) -> Ours:
    """Returns the evaluation step on one device: the centre of each image to the sums of errors.

    Its weights are packed once, as an evaluation does.
    """
    setup = Setup.of(config, config.num_classes)
    weights = state.create_state(setup).weights
    start = time.perf_counter()
    packing = Packing(setup, weights)
    weights = packing(weights)
    program = evaluation.compile_eval_step(setup, _feeding(config), weights, 1)
    spent = time.perf_counter() - start
    fed = random_batch(config)
    return Ours(lambda: program(weights, fed), program, spent)


def _feeding(config: Config) -> HostBatches:
    return HostBatches(config.mesh, config.batch_size, config.resize)


def random_batch(config: Config, seed: int = 0) -> Any:
    """Returns images of noise with labels drawn at random, every one counted, on the device."""
    rng = np.random.default_rng(seed)
    batch = meshes.zeros(_feeding(config).abstract(meshes.build(config.mesh)))
    numbers = np.arange(config.batch_size, dtype=np.int32)
    fill = {
        "image": rng.integers(0, 256, batch["image"].shape, np.uint8),
        "label": rng.integers(0, config.num_classes, config.batch_size),
        "mask": np.ones(config.batch_size, np.float32),
        "index": numbers,
        "position": numbers,
    }
    return {
        name: jax.device_put(fill[name].astype(leaf.dtype), leaf.sharding) if name in fill else leaf
        for name, leaf in batch.items()
    }


def contender(
    again: Callable[[], Any], wait: Callable[[Any], Any], images: int
) -> Callable[[], float]:
    """Returns a function that measures images per second over about `LEAST_SECONDS` of steps.

    The first step of a turn is not timed: it allocates again the memory that the previous contender
    freed, a cost that no training run has (a third of a large step on a CPU).
    """
    wait(again())
    start = time.perf_counter()
    wait(again())
    count = max(1, round(LEAST_SECONDS / (time.perf_counter() - start)))

    def several() -> None:
        last = None
        for _ in range(count):
            last = again()
        wait(last)

    def turn() -> float:
        wait(again())
        return rate(images * count, several)

    return turn


def measure(what: str, config: Config, rounds: int, against: str = "") -> list[Row]:
    """Measures a step.

    Args:
      what: step, the train step, or eval, the inference step.
      config: of the network, the batch and the precision.
      rounds: of each contender, in turns.
      against: torch (PyTorch eager, channels_last and compiled), or for inference one of
        `runtimes.RUNTIMES`; empty: nothing.

    Raises:
      ConfigError: a field is invalid, or the other contender is not installed.
    """
    config = prepared(config)
    ours = {"step": training, "eval": inference}[what](config)
    single: dict[str, dict[str, float]] = {}
    with _others(what, config, against) as others:
        ways = [(what, ours.again, jax.block_until_ready), *others]
        contenders = {n: contender(again, wait, config.batch_size) for n, again, wait in ways}
        rates = alternated(contenders, rounds)
        if config.batch_size == 1:
            single = {n: runtimes.latencies(again, wait) for n, again, wait in ways}
    best = work.ceiling(config.precision)
    more = _counts(what, config, ours, best)
    more |= {"batch_size": config.batch_size, "precision": config.precision}
    rows = [_with_shares(row(what, rates, None, **(more | single.get(what, {}))), best)]
    for name in contenders:
        if name != what:
            theirs: dict[str, Any] = {"their_images_per_second": row(name, rates).images_per_second}
            theirs |= {f"their_{key}": value for key, value in single.get(name, {}).items()}
            rows.append(row(what, rates, name, **(more | theirs)))
    return rows


@contextlib.contextmanager
def _others(what: str, config: Config, against: str) -> Iterator[list[runtimes.Contender]]:
    if against == "torch":
        from alexnet_jax.benchmarks import torch_steps

        yield list(torch_steps.contenders(what, config))
    elif against:
        if what != "eval":
            raise ConfigError(f"--against={against}: is compared in inference; use eval")
        with runtimes.contenders(against, config) as others:
            yield others
    else:
        yield []


def _counts(what: str, config: Config, ours: Ours, best: work.Ceiling) -> dict[str, Any]:
    cost = ours.program.cost_analysis()
    flops = sum(forward_flops(config, config.num_classes).values())
    return {
        "device": jax.devices()[0].device_kind,
        "flop_per_image": flops * (3 if what == "step" else 1),
        "bytes_accessed": cost.get("bytes accessed", float("nan")) if cost else float("nan"),
        "peak_memory_bytes": peak_bytes(ours.program),
        "compile_seconds": ours.compile_seconds,
        "ceiling_flops": best.flops,
        "ceiling_bytes_per_second": best.bandwidth,
    }


def _with_shares(measured: Row, best: work.Ceiling) -> Row:
    speed = measured.images_per_second
    assert speed is not None
    measured.more["step_milliseconds"] = 1e3 * measured.more["batch_size"] / speed
    measured.more["tflops"] = speed * measured.more["flop_per_image"] / 1e12
    measured.more["share_of_ceiling"] = speed * measured.more["flop_per_image"] / best.flops
    return measured


def summary(measured: Row) -> str:
    """Says in one line what the device did with its time."""
    m = measured.more
    single = (
        f"; one call takes {m['milliseconds_p50']:.1f} ms (p99 {m['milliseconds_p99']:.1f})"
        if "milliseconds_p50" in m
        else ""
    )
    return (
        f"{m['device']}, {m['precision']}, batch {m['batch_size']}: {m['step_milliseconds']:,.1f} "
        f"ms, {m['tflops']:.3g} TFLOP/s = {100 * m['share_of_ceiling']:.0f} % of a matrix "
        f"product's {m['ceiling_flops'] / 1e12:.3g}; {m['bytes_accessed'] / 1e9:,.1f} GB accessed, "
        f"copies {m['ceiling_bytes_per_second'] / 1e9:,.0f} GB/s; peak memory "
        f"{m['peak_memory_bytes'] / 2**20:,.0f} MiB; compiled in {m['compile_seconds']:.1f} s"
        f"{single}"
    )
