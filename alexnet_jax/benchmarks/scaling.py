"""Images per second over devices by scheme, beside a model's prediction and published figures."""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax

from alexnet_jax.benchmarks import cost, steps
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.configs.validation import validate
from alexnet_jax.figures import scaling as scaling_figure
from alexnet_jax.figures.picture import Picture
from alexnet_jax.host.device_memory import peak_bytes
from alexnet_jax.host.progress import Progress
from alexnet_jax.ops import platform
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.parallel.schemes import LAYOUTS, layout
from alexnet_jax.steps import communication

SIMULATED_IMAGES = 8  # a device, where devices share a processor

# AlexNet by others: TensorFlow's benchmarks.md (May 2017, batch 512 a GPU, synthetic data), and
# tensorflow/benchmarks#283 (2019, fp16).
PUBLISHED: dict[str, dict[int, float]] = {
    "P100, DGX-1 (TensorFlow, 2017)": {1: 2987, 2: 5658, 4: 10509, 8: 17822},
    "K80, Google (TensorFlow, 2017)": {1: 656, 2: 1209, 4: 2328, 8: 4640},
    "V100, fp16 (TensorFlow, 2019)": {1: 5148, 2: 8816, 3: 10350, 4: 11298},
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One scheme on so many devices.

    Attributes:
      scheme: one of `schemes.LAYOUTS`.
      devices: that it is computed on.
      batch_size: of all of them.
      images_per_second: median of the rounds.
      slowest: of the rounds.
      fastest: of the rounds.
      efficiency: images/s per device, relative to the fewest devices that were measured.
      megabytes_sent: by each device in a step, as compiled.
      memory_mib: peak of one device, as XLA plans it.
      predicted: efficiency on the machines of `cost.MACHINES`, by their names.
    """

    scheme: str
    devices: int
    batch_size: int
    images_per_second: float
    slowest: float
    fastest: float
    efficiency: float
    megabytes_sent: float
    memory_mib: float
    predicted: dict[str, float]

    @property
    def images_of_a_device(self) -> int:
        """Of each, in a step."""
        return self.batch_size // self.devices


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What was measured, and on what.

    Attributes:
      machine: its devices.
      simulated: do they share one processor?
      arms: in the order of images of a device, then devices, then schemes.
      published: by hardware, then by devices: images/s.
    """

    machine: str
    simulated: bool
    arms: list[Arm]
    published: dict[str, dict[int, float]]


def measure(
    config: Config,
    devices: Sequence[int],
    schemes: Sequence[str],
    images: Sequence[int],
    rounds: int,
) -> Scaling:
    """Measures train steps.

    Args:
      config: of the network, with `num_classes`.
      devices: device counts; this machine must have at least the largest.
      schemes: some of `schemes.LAYOUTS`.
      images: per device, one number or several; empty: 8 on simulated devices, else 128.
      rounds: timed steps, after an untimed one.

    Raises:
      ConfigError: no such scheme, or there are fewer devices.
    """
    here = jax.devices()
    if max(devices) > len(here):
        raise ConfigError(f"--devices: {max(devices)} are asked for, and {len(here)} are here")
    simulated = platform.simulated()
    images = images or [SIMULATED_IMAGES if simulated else 128]
    config = dataclasses.replace(config, num_classes=config.num_classes or 1000)
    ways = [
        (each, count, scheme)
        for each in images
        for count in devices
        for scheme in schemes
        if _fits(count, scheme)
    ]
    if not ways:
        raise ConfigError("--devices: one device can only be shared out as data; name more")
    arms: list[Arm] = []
    with Progress("measuring", 0, len(ways), "way") as bar:
        for each, count, scheme in ways:
            arms.append(_measured(_arm(config, count, scheme, each), scheme, count, rounds))
            bar.advance()
            bar.show(f"{scheme} on {count}", f"{arms[-1].images_per_second:,.0f} images/s")
    return Scaling(
        f"{len(here)} x {here[0].device_kind}", simulated, _with_efficiency(arms), PUBLISHED
    )


def _fits(devices: int, scheme: str) -> bool:
    if scheme not in LAYOUTS:
        raise ConfigError(f"--schemes: {scheme} is not one of {', '.join(LAYOUTS)}")
    return devices > 1 or scheme == LAYOUTS[0]


def _arm(config: Config, devices: int, scheme: str, images: int) -> Config:
    """Returns the config of a scheme on so many devices."""
    mesh, passes = layout(scheme, devices)
    if mesh.data * mesh.model != devices:
        raise ConfigError(
            f"--devices: {devices} cannot be shared out as {scheme}; use an even number"
        )
    optimizer = dataclasses.replace(config.optimizer, fc_updates=passes)
    arm = dataclasses.replace(
        config, mesh=mesh, optimizer=optimizer, batch_size=images * devices, feed="host"
    )
    validate(arm)
    return arm


def _measured(config: Config, scheme: str, devices: int, rounds: int) -> Arm:
    ours = steps.training(config)
    jax.block_until_ready(ours.again())
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(ours.again())
        rates.append(config.batch_size / (time.perf_counter() - start))
    sent = sum(one.moved for one in communication.compiled(ours.program)) / 1e6
    predicted = {machine.name: _predicted(config, devices, machine) for machine in cost.MACHINES}
    return Arm(
        *(scheme, devices, config.batch_size, statistics.median(rates), min(rates), max(rates)),
        *(1.0, sent, peak_bytes(ours.program) / 2**20, predicted),
    )


def _predicted(config: Config, devices: int, machine: cost.Machine) -> float:
    """Returns the efficiency that a machine would have, with nothing overlapped."""
    config = dataclasses.replace(config, precision=machine.precision)
    arithmetic, talking = cost.step_seconds(
        config, config.num_classes, meshes.data_devices(meshes.build(config.mesh)), machine
    )
    return arithmetic / (arithmetic + talking)


def _with_efficiency(arms: list[Arm]) -> list[Arm]:
    """Sets each arm's efficiency relative to one device with as many images, or if that was not
    measured, to the fewest devices."""
    compared = []
    for arm in arms:
        alike = (other for other in arms if other.images_of_a_device == arm.images_of_a_device)
        base = min(alike, key=lambda other: other.devices)
        one = base.images_per_second / base.devices
        share = arm.images_per_second / arm.devices / one
        compared.append(dataclasses.replace(arm, efficiency=share))
    return compared


def table(measured: Scaling) -> str:
    """Returns the measurement as Markdown, with the published figures below it."""
    heading = measured.machine
    if measured.simulated:
        heading += ", SIMULATED: they share one processor, so that bytes and memory are those of "
        heading += "as many devices, and times are not"
    machines = list(measured.arms[0].predicted) if measured.arms else []
    heads = ["scheme", "devices", "batch", "images/s", "slowest to fastest", "efficiency"]
    heads += ["MB sent by each", "memory of each, MiB", *(f"predicted: {m}" for m in machines)]
    lines = [heading, "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for arm in measured.arms:
        cells: list[Any] = [arm.scheme, arm.devices, arm.batch_size]
        cells += [f"{arm.images_per_second:,.0f}", f"{arm.slowest:,.0f} to {arm.fastest:,.0f}"]
        cells += [f"{100 * arm.efficiency:.0f} %", f"{arm.megabytes_sent:,.1f}"]
        cells += [f"{arm.memory_mib:,.0f}"]
        cells += [f"{100 * arm.predicted[machine]:.0f} %" for machine in machines]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "Published, data parallelism:", ""]
    lines += ["| hardware | images/s by devices | efficiency |", "|---|---|---|"]
    for name, speeds in measured.published.items():
        rates = ", ".join(f"{count}: {speed:,.0f}" for count, speed in speeds.items())
        most = max(speeds)
        share = speeds[most] / most / speeds[1]
        lines.append(f"| {name} | {rates} | {100 * share:.0f} % at {most} |")
    return "\n".join(lines)


def draw(scaling: Scaling) -> Picture:
    """Draws the efficiency by scheme, beside the published figures."""
    measured: dict[str, dict[int, float]] = {}
    batches = {arm.images_of_a_device for arm in scaling.arms}
    for arm in scaling.arms:
        each = arm.images_of_a_device
        name = f"{arm.scheme}, {each} images a device" if len(batches) > 1 else arm.scheme
        measured.setdefault(name, {})[arm.devices] = arm.efficiency
        if any(other.devices == 1 and other.images_of_a_device == each for other in scaling.arms):
            measured[name][1] = 1.0
    hardware = (
        "simulated devices, which share one processor" if scaling.simulated else scaling.machine
    )
    best = max(scaling.arms, key=lambda arm: (arm.devices, arm.efficiency))
    title = f"training on {hardware}"
    if any(arm.devices == 1 for arm in scaling.arms):
        title += f"\n{best.scheme} keeps {100 * best.efficiency:.0f} % on {best.devices}"
        title += f", {best.images_of_a_device} images each" if len(batches) > 1 else ""
    return scaling_figure.draw(measured, scaling.published, title)
