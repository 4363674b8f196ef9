"""The cost of a train step on a GPU that this machine does not have.

    python -m experiments.speed.described [--config=paper] [--batch_size=1024]
        [--precision=bfloat16] [--shown=12]

XLA compiles for the description of a card (an NVIDIA H200, below), which needs `jax[cuda13]` but no
card. The command lists the kernels that XLA generated, longest issue time first: PTX instructions
as written (those in loops and branches count once), threads, and the time that the card takes to
issue them all if nothing else delays it. It then prints the calls of cuDNN and the step's memory.
Convolutions and most matrix products belong to cuDNN and cuBLAS and are not counted.
"""

import collections
import dataclasses
import os
import pathlib
import re
import sys
import tempfile
from unittest import mock

import jax
from absl import app, flags

from alexnet_jax import configs
from alexnet_jax.benchmarks import steps
from alexnet_jax.host import device_memory
from alexnet_jax.ops import platform

# An H200 as XLA's target_config/specs/h200.txtpb describes it, less what this needs not.
CARD = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 device_memory_size: 151397597184
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  device_vendor: "NVIDIA Corporation" device_address_bits: 64 name: "NVIDIA H200"
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.19.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 19 patch: 0 }
device_description_str: "NVIDIA H200"
"""
ISSUED = 132 * 128 * 1.75e9  # instructions of single threads a second, at the clock under load
FEWEST = 100_000  # threads of a kernel that is listed


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel that XLA generated: its name, PTX instructions per thread, and threads."""

    name: str
    instructions: int
    threads: int

    @property
    def milliseconds(self) -> float:
        """How long the card takes to issue it."""
        return 1e3 * self.instructions * self.threads / ISSUED


def compiled(name: str, batch_size: int, precision: str) -> jax.stages.Compiled:
    """Compiles a recipe's train step for one described card.

    Raises:
      RuntimeError: the CUDA plugin of JAX is not installed.
    """
    from jax.experimental import topologies

    try:
        cards = topologies.get_topology_desc(
            "described", platform="cuda", target_config=CARD, topology="1x1x1"
        ).devices
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise RuntimeError(f"no compiler for GPUs: pip install 'jax[cuda13]' ({error})") from error
    config = configs.get(name)
    config.batch_size, config.precision = batch_size, precision
    config.num_classes = config.num_classes or 1000
    here = jax.devices
    with (
        mock.patch.object(jax, "devices", lambda *kind: here(*kind) if kind else list(cards)),
        platform.using(config.kernels, "cuda"),
    ):
        return steps.compiled_training(steps.prepared(config))


def kernels(dump: pathlib.Path) -> list[Kernel]:
    """Reads the kernels of XLA's largest program from its dump in a folder."""
    launches = max(dump.glob("*thunk_sequence.txt"), key=lambda path: path.stat().st_size)
    program = launches.name.split(".")[0]
    shape = re.compile(r"(\S+) grid: \[(\d+), (\d+), (\d+)\] threads: \[(\d+), (\d+), (\d+)\]")
    threads: dict[str, int] = collections.Counter()
    for name, *sizes in shape.findall(launches.read_text()):
        count = 1
        for size in sizes:
            count *= int(size)
        threads[re.sub(r"\W", "_", name)] += count
    kernels_found = []
    for path in dump.glob(f"{program}.*.ptx"):
        for entry in path.read_text().split(".entry ")[1:]:
            name = re.match(r"\w+", entry)
            if name and threads.get(name[0], 0) >= FEWEST:
                kernels_found.append(Kernel(name[0], _instructions(entry), threads[name[0]]))
    return sorted(kernels_found, key=lambda kernel: -kernel.milliseconds)


def _instructions(ptx: str) -> int:
    return len(re.findall(r"^\s*(?:@!?%p\d+ )?[a-z][\w.]*[ \t][^\n]*;$", ptx, re.MULTILINE))


def _run(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_dump_to={folder} --xla_gpu_dump_llvmir=true --xla_dump_emitter_re=.*"
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # which ask the card
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump}"
        try:
            f = flags.FLAGS
            program = compiled(f.config, f.batch_size, f.precision)
        except RuntimeError as error:
            sys.exit(f"error: {error}")
        kernels_shown = kernels(pathlib.Path(folder))
    print("| kernel | instructions | million threads | ms of issue |\n|---|---|---|---|")
    for kernel in kernels_shown[: flags.FLAGS.shown]:
        cells = f"{kernel.instructions} | {kernel.threads / 1e6:.1f} | {kernel.milliseconds:.2f}"
        print(f"| {kernel.name} | {cells} |")
    total = sum(kernel.milliseconds for kernel in kernels_shown)
    print(f"{len(kernels_shown)} kernels of XLA's own: {total:.2f} ms of issue")
    modes = re.findall(r'activation_mode":"k(\w+)"', program.as_text())
    print(f"cuDNN: {len(modes)} convolutions, {modes.count('Relu')} of them with bias and ReLU")
    print(f"memory: {device_memory.peak_bytes(program) / 2**20:,.0f} MiB")


def define_flags() -> None:
    """Declares the command's flags."""
    flags.DEFINE_string("config", "paper", "the recipe")
    flags.DEFINE_integer("batch_size", 1024, "images")
    flags.DEFINE_string("precision", "bfloat16", "float32 or bfloat16")
    flags.DEFINE_integer("shown", 12, "kernels to list")


if __name__ == "__main__":
    define_flags()
    app.run(_run)
