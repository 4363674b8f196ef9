"""Compares how the network can be shared out: python -m experiments.sharding.compare --out=DIR

For each mesh and scheme it compiles the real train step, compares the program's collectives with
those that figure 2 needs, and times a few steps. On a machine with fewer devices than asked for, it
simulates CPU devices: bytes and memory are real, times are not those of separate devices.
"""

import dataclasses
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from alexnet_jax import configs, train
from alexnet_jax.benchmarks import cost
from alexnet_jax.config import Config
from alexnet_jax.configs.validation import validate
from alexnet_jax.feed.host import HostBatches
from alexnet_jax.parallel import mesh
from alexnet_jax.steps import communication, state
from alexnet_jax.steps.setup import Setup
from experiments.sharding import draw

_OUT = flags.DEFINE_string("out", None, "folder for table.md, table.json, pictures", required=True)
_DEVICES = flags.DEFINE_integer(
    "devices", 8, "simulate this many CPU devices where there is no GPU"
)
_ARMS = flags.DEFINE_list(
    "arms",
    "8x1,4x2,2x4,1x8,8x1:zero,4x2:zero,8x1:resident,4x2:resident,1x8:hybrid,1x8:hybrid:8,"
    "1x8:hybrid_in_turns:8,2x4:hybrid",
    "DATAxMODEL[:SCHEME, zero or resident[:fc_updates]], ...",
)
_CONFIG = flags.DEFINE_string("recipe", "paper", "recipe of the network")
_CLASSES = flags.DEFINE_integer("num_classes", 1000, "where the recipe does not say")
_BATCH = flags.DEFINE_integer("batch_size", 128, "global images")
_STEPS = flags.DEFINE_integer("steps", 3, "timed steps of each arm; 0: none")


def arm_config(arm: str, recipe: str, batch_size: int, num_classes: int = 1000) -> Config:
    """Returns the config of an arm, written DATAxMODEL[:SCHEME, zero or resident[:fc_updates]].

    `resident` keeps ImageNet's training split on the devices, cut over `data`.
    """
    shape, scheme, passes = (*arm.split(":"), "", "")[:3]
    config = configs.get(recipe)
    config.batch_size, config.num_classes = batch_size, config.num_classes or num_classes
    config.mesh.data, config.mesh.model = (int(n) for n in shape.split("x"))
    config.mesh.zero = scheme == "zero"
    if scheme == "resident":
        config.feed = scheme
        split = train.IMAGENET_TRAIN * 3 * config.resize**2
        config.resident_gib = 1.01 * split / config.mesh.data / 2**30
    elif scheme not in ("", "zero"):
        config.mesh.scheme = scheme
    config.optimizer.fc_updates = int(passes or 1)
    validate(config)
    return config


def by_layer(collectives: list[communication.Collective]) -> dict[str, dict[str, float]]:
    """Sums the bytes that a device sends by layer, with the collectives' count."""
    rows: dict[str, dict[str, float]] = {}
    for place in (*communication.PLACES, "update"):
        of_layer = [c for c in collectives if c.layer == place]
        if of_layer:
            rows[place] = {"count": len(of_layer), "bytes": sum(c.moved for c in of_layer)}
    return rows


def state_bytes(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns a device's bytes of arguments (state and batch) and of temporary memory."""
    memory = compiled.memory_analysis()
    return {
        "arguments": int(memory.argument_size_in_bytes),
        "temporary": int(memory.temp_size_in_bytes),
    }


def time_steps(config: Config, update: jax.stages.Compiled, steps: int) -> list[float]:
    """Times updates on random images, in seconds; the first is left out."""
    devices = mesh.build(config.mesh)
    now = state.create_state(Setup.of(config, config.num_classes, mesh=devices))
    rng = np.random.default_rng(0)
    abstract = HostBatches(config.mesh, config.batch_size, config.resize).abstract(devices)
    rows: dict[str, Any] = {
        name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in abstract.items()
    }
    rows["image"] = rng.integers(0, 256, rows["image"].shape, dtype=np.uint8)
    rows["mask"] += 1
    batch, times = mesh.put_batch(rows, devices, config.mesh), []
    for _ in range(steps + 1):
        start = time.perf_counter()
        now, figures = update(now, batch)
        jax.block_until_ready((now, figures))
        times.append(time.perf_counter() - start)
    return times[1:]


def compare(arm: str, config: Config, steps: int) -> dict[str, Any]:
    """Returns the row of an arm, whose config `arm_config` returned."""
    update = train.compile_train_step(config)
    collectives = communication.compiled(update)
    resident = config.feed == "resident"
    wanted = communication.expected(
        config, config.num_classes, config.mesh.data, exchanged=resident
    )
    # A resident split of 250 GB is only compiled for, not allocated, so no step can run.
    times = time_steps(config, update, steps) if steps and not resident else []
    predicted = {
        machine.name: {
            devices: list(
                cost.step_seconds(
                    scaled(config, devices, machine.precision),
                    config.num_classes,
                    scaled_data(config, devices),
                    machine,
                )
            )
            for devices in (2, 8, 64, 512)
            if scaled_data(config, devices)
        }
        for machine in cost.MACHINES
    }
    return {
        "arm": arm,
        "batch_size": config.batch_size,
        "backend": jax.default_backend(),
        "collectives": len(collectives),
        "bytes": sum(c.moved for c in collectives),
        "least_bytes": sum(c.moved for c in wanted),
        "layers": by_layer(collectives),
        "least_layers": by_layer(wanted),
        "memory": state_bytes(update),
        "step_seconds": statistics.median(times) if times else None,
        "step_seconds_spread": [min(times), max(times)] if times else None,
        "predicted_step_seconds": predicted,
    }


def scaled_data(config: Config, devices: int) -> int:
    """Returns the data shards that keep an arm's model axis on more devices; 0 if it has none."""
    return devices // config.mesh.model if devices % config.mesh.model == 0 else 0


def scaled(config: Config, devices: int, precision: str) -> Config:
    """Returns the arm on more devices, 128 images each."""
    return dataclasses.replace(config, batch_size=128 * devices, precision=precision)


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [
        "| mesh: data x model | collectives | MB sent by a device | at least | state and batch, MB "
        "| temporary, MB | step, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = f"{row['step_seconds']:.2f}" if row["step_seconds"] else "-"
        memory = row["memory"]
        lines.append(
            f"| {row['arm']} | {row['collectives']} | {row['bytes'] / 1e6:.1f} "
            f"| {row['least_bytes'] / 1e6:.1f} | {memory['arguments'] / 1e6:.0f} "
            f"| {memory['temporary'] / 1e6:.0f} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


def _run(_: list[str]) -> None:
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", _DEVICES.value)
    folder = pathlib.Path(_OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for arm in _ARMS.value:
        config = arm_config(arm, _CONFIG.value, _BATCH.value, _CLASSES.value)
        rows.append(compare(arm, config, _STEPS.value))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        (folder / "table.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "table.md").write_text(table(rows))
    draw.pictures(rows, folder)
    print(f"written to {folder}")


if __name__ == "__main__":
    app.run(_run)
