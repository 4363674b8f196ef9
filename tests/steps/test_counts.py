"""Counts of what the compiled steps do: they show a slower program on a machine of any speed."""

import json
import math
import pathlib
import re

import jax
import pytest
import small

from alexnet_jax import configs, train
from alexnet_jax.benchmarks import steps
from alexnet_jax.feed import resident
from alexnet_jax.feed.protocol import Cut
from alexnet_jax.ops import platform
from alexnet_jax.steps import gradient
from alexnet_jax.steps.flops import forward_flops, training_flops
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.training import compile_train_step

GOLDEN = pathlib.Path(__file__).with_name("step_counts.json")
REFRESH = (
    f"; if the change is meant, write {GOLDEN.name} again, as this file says at its end, and say "
    "in the commit what it costs"
)
NAMES = {"paper": 16}  # recipe: batch
LARGE = 2**16  # numbers: what is smaller is no batch of activations


def counts(recipe: str, batch: int) -> dict[str, float]:
    """Returns FLOP and bytes as XLA counts them, and how often the program moves large arrays.

    Convolutions are XLA's own here, because XLA does not count what oneDNN does.
    """
    config = configs.get(recipe)
    config.batch_size = batch
    with platform.using("auto", platform.PLAIN_CPU):
        ours = steps.training(steps.prepared(config))
    cost = ours.program.cost_analysis()
    moved = re.findall(r"= \w+\[([\d,]+)\]\S* (transpose|gather)\(", ours.program.as_text())
    sizes = [(kind, math.prod(map(int, shape.split(",")))) for shape, kind in moved]
    return {
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "transposes": sum(kind == "transpose" and size >= LARGE for kind, size in sizes),
        "gathers": sum(kind == "gather" and size >= LARGE for kind, size in sizes),
    }


@pytest.mark.parametrize("recipe", NAMES)
def test_the_train_step_does_no_more_than_before(recipe):
    everything = json.loads(GOLDEN.read_text())
    if jax.__version__ not in everything:
        pytest.skip(f"counted with jax {', '.join(everything)}")
    stored, found = everything[jax.__version__][recipe], counts(recipe, NAMES[recipe])
    for name in ("flops", "bytes"):
        assert found[name] == pytest.approx(stored[name], rel=0.03), name + REFRESH
    for name in ("transposes", "gathers"):
        assert found[name] <= stored[name], name + REFRESH


def test_the_counts_are_of_every_pinned_version():
    pins = pathlib.Path(__file__).parents[2].joinpath("requirements.txt").read_text()
    assert set(re.findall(r"^jax==(\S+)", pins, re.MULTILINE)) == set(
        json.loads(GOLDEN.read_text())
    )


@pytest.mark.parametrize("loop", ["accumulate_steps", "steps_per_dispatch"])
def test_products_in_loops_are_as_fast_as_others(loop):
    """Every convolution has the order of dimensions that XLA's CPU compiler computes fast.

    XLA establishes that order by itself, except in loops (see `convolution_cpu.conv`).
    """
    config = small.config(pathlib.Path())
    config.batch_size, config.num_classes = 4, 2
    with platform.using("auto", platform.PLAIN_CPU):
        if loop == "accumulate_steps":
            config.optimizer.accumulate_steps = 2
            text = train.compile_train_step(config).as_text()
        else:
            config.feed, config.steps_per_dispatch = "resident", 2
            setup = Setup.of(config, 2, 8)
            feeding = resident.resident_split(config, setup.mesh, 8, Cut(4, steps=2), True)
            text = compile_train_step(setup, feeding).as_text()
    assert " convolution(" in text[: text.index("\nENTRY")]  # in a loop's body
    assert set(re.findall(r" convolution\(.*dim_labels=([\w>-]+)", text)) == {"b01f_01io->b01f"}


def test_xla_counts_the_papers_flop():
    """Products are nearly all that there is to compute, and none is computed twice."""
    everything = json.loads(GOLDEN.read_text())
    config = configs.get("paper")
    forward = forward_flops(config, 1000)
    products = NAMES["paper"] * training_flops(config, 1000)
    products -= NAMES["paper"] * forward["conv1"]  # the gradient of its input is not needed
    for layer, side, taps in (("conv2", 27, 5), *((f"conv{n}", 13, 3) for n in (3, 4, 5))):
        # Nor are products with padding zeros, in the forward pass and the input's gradient.
        around = taps // 2 * (taps // 2 + 1)
        zeros = 1 - (1 - around / (side * taps)) ** 2
        products -= 2 * NAMES["paper"] * forward[layer] * zeros
    for stored in everything.values():
        assert 1.0 <= stored["paper"]["flops"] / products < 1.06


def test_a_run_traces_its_step_once(tmp_path, monkeypatch):
    small.write_folder(tmp_path / "set")
    traced, call = [], gradient.Gradient.__call__

    def counted(self, *arguments):
        traced.append(1)
        return call(self, *arguments)

    monkeypatch.setattr(gradient.Gradient, "__call__", counted)
    train.train(small.config(tmp_path / "set"), tmp_path / "w")
    assert len(traced) == 1


# JAX_NUM_CPU_DEVICES=8 XLA_FLAGS=--xla_backend_optimization_level=0 PYTHONPATH=.:tests \
#     python tests/steps/test_counts.py
if __name__ == "__main__":
    rows = {name: counts(name, batch) for name, batch in NAMES.items()}
    everything = json.loads(GOLDEN.read_text()) | {jax.__version__: rows}
    GOLDEN.write_text(json.dumps(everything, indent=1) + "\n")
