"""Predicted cost of a scheme on other machines, from latency, bandwidth and arithmetic."""

import dataclasses
import math

from alexnet_jax.config import Config
from alexnet_jax.steps import communication
from alexnet_jax.steps.flops import training_flops


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices and the links between them.

    Attributes:
      name: of the machine.
      flops: what a device reaches in a training step, FLOP/s (not its peak).
      latency: seconds of one message.
      bandwidth: bytes per second that a device sends.
      precision: that it computes and talks in.
      source: where the numbers come from.
    """

    name: str
    flops: float
    latency: float
    bandwidth: float
    precision: str
    source: str


MACHINES = (
    Machine(
        "2012: GTX 580, PCIe 2.0",
        0.6e12,
        20e-6,
        5e9,
        "float32",
        "1.58 TFLOP/s peak, about 40 % reached; PCIe 2.0 x16 carries about 5 of its 8 GB/s",
    ),
    Machine(
        "H100, NVLink",
        250e12,
        8e-6,
        350e9,
        "bfloat16",
        "989 TFLOP/s bf16 peak, a quarter assumed at these sizes; NVLink 450 GB/s each way, 350 "
        "assumed",
    ),
    Machine(
        "H100, 400 Gb/s network",
        250e12,
        20e-6,
        45e9,
        "bfloat16",
        "one 400 Gb/s port a device: 50 GB/s, 45 assumed",
    ),
)


def step_seconds(
    config: Config, num_classes: int, data: int, machine: Machine
) -> tuple[float, float]:
    """Predicts the seconds of arithmetic and of communication in a step, without overlap.

    Each collective takes the latency times the rounds of a tree over its group, plus its bytes over
    the bandwidth; the devices share the arithmetic evenly.
    """
    devices = data * config.mesh.model
    arithmetic = training_flops(config, num_classes) * config.batch_size / devices / machine.flops
    exchanges = communication.expected(config, num_classes, data)
    talking = sum(
        machine.latency * math.ceil(math.log2(c.group)) + c.moved / machine.bandwidth
        for c in exchanges
    )
    return arithmetic, talking
