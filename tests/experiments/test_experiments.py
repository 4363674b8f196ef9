"""The experiments' own arithmetic, and that their arms can be trained."""

import argparse
import dataclasses
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scipy import stats

from alexnet_jax import configs, model
from alexnet_jax.benchmarks import steps
from alexnet_jax.config import ConfigError
from alexnet_jax.configs.validation import validate
from alexnet_jax.layers import standard_tree
from experiments import statistics
from experiments.ablations import arms, colour, run
from experiments.cifar import figure1, lrn, nets, training
from experiments.speed import described, unchanged


@pytest.mark.parametrize("arm", arms.ARMS)
@pytest.mark.parametrize("base", ["paper", "original_code", "imagenette"])
def test_every_arm_is_a_network_that_differs_from_its_base(arm, base):
    config = run.recipe(configs.get(base), arm, 1)
    validate(config)
    network = model.build(config.model, 10, "float32")
    assert standard_tree.abstract_parameters(network, config.image_size)
    plain = run.recipe(configs.get(base), "base", 1)
    already = {"imagenette": {"no_norm2", "norm2_before_relu"}}.get(base, set())
    assert (config != plain) == (arm not in {"base"} | already)


def test_unknown_arms_are_refused():
    with pytest.raises(ConfigError, match=r"--arms: no_nrom .* no_norm"):
        run.recipe(configs.get("paper"), "no_nrom", 0)


def test_arms_that_cannot_be_are_refused_when_named_and_left_out_when_not(capsys):
    with pytest.raises(ConfigError, match="--arms: no_norm2 and base are the same"):
        run.check(configs.get("imagenette"), ["base", "no_norm2"])
    with pytest.raises(ConfigError, match="--arms: no_communication: model.dropout_after"):
        run.check(configs.get("torchvision"), ["base", "no_communication"])
    run.check(configs.get("paper"), list(arms.ARMS))
    assert run.all_arms(configs.get("paper")) == list(arms.ARMS)
    assert capsys.readouterr().out == ""
    kept = [arm for arm in arms.ARMS if "norm2" not in arm]
    assert run.all_arms(configs.get("imagenette")) == kept
    assert "left out: no_norm2 and base are the same in this recipe" in capsys.readouterr().out


def test_columns_that_do_not_meet_have_the_units_of_run_150():
    """The authors' layers-150.cfg: fc4096a and b, fc2048ba and bb."""
    config = run.recipe(configs.get("paper"), "no_communication", 0)
    network = model.build(config.model, 1000, "float32")
    shapes = standard_tree.abstract_parameters(network, config.image_size)
    assert shapes["fc6"]["kernel"].shape == (4608, 8192)
    assert shapes["fc7"]["kernel"].shape == (4096, 4096)
    assert shapes["conv2"]["bias"].shape == (320,)


def test_no_overlap_has_the_notebooks_sizes():
    """Run #147 keeps 6x6 before fc6, so that its parameters are as many as the paper's."""
    config = run.recipe(configs.get("paper"), "no_overlap", 0)
    network = model.build(config.model, 1000, "float32")
    shapes = standard_tree.abstract_parameters(network, config.image_size)
    assert standard_tree.count_parameters(shapes) == 60_965_224


def test_intervals_are_students(rng):
    for n in range(2, 12):
        values = list(rng.normal(size=n))
        mean, half = statistics.interval(values)
        low, high = stats.t.interval(0.95, n - 1, np.mean(values), stats.sem(values))
        assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-3)
    assert statistics.shown([1.0]) == "+1.00"


def test_the_table_of_ablations(tmp_path):
    rows = [
        {"step": 1, "split": "val", "views": 1, "top1_error": 0.5},
        {"step": 1, "split": "val", "views": 10, "top1_error": 0.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "summary.json").write_text(json.dumps(rows[1]))
    assert run.errors(tmp_path) == {1: 50.0, 10: 40.0}
    found = {
        "base": [{1: 50.0, 10: 40.0}] * 2,
        "no_norm": [{1: 52.0, 10: 41.0}, {1: 52.0, 10: 43.0}],
    }
    text = run.table(found)
    assert "| no_norm | #148 | 52.00 52.00 | 41.00 43.00 | +2.00 ± 12.71 | +1.4 |" in text
    assert "Ten views less one, base: -10.00 ± 0.00" in text


def test_coloured_halves_are_further_apart_than_chance(rng):
    grey = np.repeat(rng.normal(size=(11, 11, 1, 24)), 3, axis=2)
    kernels = np.concatenate([grey, rng.normal(size=(11, 11, 3, 24))], axis=-1)
    assert 0 < colour.chance(kernels) < 0.2
    text = colour.table({"base": {"0": kernels}})
    assert "| base | 0 | 0.000 | 0.6" in text


def test_local_layers_are_flax_s_own(rng):
    """The same sum as flax.linen.ConvLocal, whose kernels are (H, W, h * w * C, O)."""
    from flax import linen as nn

    x = jnp.asarray(rng.normal(size=(2, 5, 4, 3)), jnp.float32)
    ours, theirs = nets.Local(6, 3, nn.initializers.normal()), nn.ConvLocal(6, (3, 3))
    params = ours.init(jax.random.key(0), x)["params"]
    # Flax's patches hold a channel's nine pixels together, ours a pixel's channels.
    kernel = params["kernel"].reshape(5, 4, 9, 3, 6).swapaxes(2, 3).reshape(5, 4, 27, 6)
    other = {"kernel": kernel, "bias": params["bias"].reshape(5, 4, 6)}
    want = theirs.apply({"params": other}, x)
    np.testing.assert_allclose(ours.apply({"params": params}, x), want, atol=1e-5)


def test_pools_cover_the_whole_map():
    x = jnp.arange(24 * 24.0).reshape(1, 24, 24, 1)
    y = nets.pool(x)
    assert y.shape == (1, 12, 12, 1)
    assert float(y[0, -1, -1, 0]) == 24 * 24 - 1
    assert nets.pool(y).shape == (1, 6, 6, 1)


@pytest.fixture(scope="module")
def drawn():
    """256 images whose brightness shows their class."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, 256).astype(np.int32)
    image = rng.integers(0, 25, (256, 32, 32, 3)) + 22 * label[:, None, None, None]
    return training.Split(jnp.asarray(image, jnp.uint8), jnp.asarray(label))


def test_a_small_net_learns_and_is_tested(drawn):
    net = nets.FourLayers("relu")
    fit = training.Training(training.Recipe(net, 0.02, 8, pixel_std=64.0), drawn, 0)
    reports = list(fit.run())
    assert reports[-1][1]["loss"] < 2.3
    assert fit.test_error(drawn, 1) < 0.7


def test_a_stopped_run_goes_on_as_if_it_had_not_been(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "REPORTED", 2)
    monkeypatch.setattr(lrn, "REPORTED", 2)
    monkeypatch.setattr(lrn, "SAVED", 2)
    monkeypatch.setitem(lrn.ARMS, "small", (nets.FourLayers("relu"), (("fc4", 0.01),)))
    whole = lrn.run("small", 3, 8, "13pct", drawn, drawn, tmp_path / "whole.npz")
    assert len(whole["curve"]) == 8
    report, seen = training.metrics.compute, []

    def stopped(sums):
        seen.append(sums)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return report(sums)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.metrics, "compute", stopped)
        lrn.run("small", 3, 8, "13pct", drawn, drawn, tmp_path / "new" / "part.npz")
    assert (tmp_path / "new" / "part.npz").exists()
    shown, made = training.Training.run, []

    def counted(self):
        for report in shown(self):
            made.append(report)
            yield report

    monkeypatch.setattr(training.Training, "run", counted)
    assert lrn.run("small", 3, 8, "13pct", drawn, drawn, tmp_path / "new" / "part.npz") == whole
    assert len(made) == 4  # four of eight were there
    other = dataclasses.replace(drawn, label=drawn.label[:200], image=drawn.image[:200])
    with pytest.raises(ValueError, match=r"part\.npz: is of another recipe or data set"):
        lrn.run("small", 3, 8, "13pct", other, drawn, tmp_path / "new" / "part.npz")


def test_an_update_is_the_authors(drawn):
    """v <- 0.9 v - rate (decay w + g), biases twice as fast and not decayed, by hand."""
    recipe = training.Recipe(
        nets.FourLayers("tanh"), 0.01, 1, ((0.5, 0.1),), (("fc4", 0.5),), pixel_std=64.0
    )
    assert [recipe.rate_at(e) for e in (0.4, 0.6)] == pytest.approx([0.01, 0.001])
    fit = training.Training(recipe, drawn, 0)
    before = jax.tree.map(np.asarray, fit.params)
    at = {name: jnp.arange(128, dtype=jnp.int32) for name in ("index", "epoch", "position")}
    split = {"image": drawn.image, "label": drawn.label}
    zeros = jax.tree.map(jnp.zeros_like, fit.params)
    free = training.Training(
        training.Recipe(nets.FourLayers("tanh"), 0.01, 1, pixel_std=64.0), drawn, 0
    )
    one, _, _ = jax.jit(free._step)(fit.params, zeros, split, at, jnp.float32(1.0))
    g = jax.tree.map(lambda after, w: w - after, one, before)  # the bias's is twice it
    velocity = jax.tree.map(jnp.ones_like, fit.params)
    got, _, _ = jax.jit(fit._step)(fit.params, velocity, split, at, jnp.float32(0.01))
    for layer, cost in (("fc4", 0.5), ("conv2", 0.0)):
        w = before[layer]
        want = w["kernel"] + 0.9 - 0.01 * (cost * w["kernel"] + g[layer]["kernel"])
        np.testing.assert_allclose(got[layer]["kernel"], want, rtol=1e-5)
        np.testing.assert_allclose(
            got[layer]["bias"], w["bias"] + 0.9 - 0.01 * g[layer]["bias"], rtol=1e-5
        )


def test_finished_runs_are_kept(tmp_path):
    results = training.Results(tmp_path / "new" / "runs.jsonl")
    assert results.find(arm="a", seed=0) is None
    results.add({"arm": "a", "seed": 0, "error": 0.5})
    again = training.Results(tmp_path / "new" / "runs.jsonl")
    assert again.find(arm="a", seed=0) == {"arm": "a", "seed": 0, "error": 0.5}


def test_tables_of_the_small_nets():
    rows = [
        {"activation": a, "rate": 0.01, "seed": s, "reached": e}
        for a, s, e in (("relu", 0, 5.0), ("relu", 1, 7.0), ("tanh", 0, 36.0), ("tanh", 1, None))
    ]
    assert "tanh / ReLU: 6.0" in figure1.table(rows)
    found = [
        {"arm": arm, "seed": seed, "epochs": 5, "schedule": "13pct"}
        | {"test_error_1": e, "test_error_10": e - 0.01}
        for arm, seed, e in (("a", 0, 0.2), ("a", 1, 0.3), ("b", 0, 0.21), ("b", 1, 0.31))
    ]
    assert "+1.00 ± 0.00 |" in lrn.table(found, 5, "13pct", ["a", "b"], [0, 1])


def test_schedules_are_the_authors():
    """layer-params-cifar10-11pct.cfg: 350 and 150 epochs, then 10 and 10 at lower rates."""
    assert [520 * at for at, _ in lrn.stages("11pct")] == pytest.approx([500, 510])
    assert [160 * at for at, _ in lrn.stages("13pct")] == pytest.approx([140, 150])
    assert [rate for _, rate in lrn.stages("13pct")] == [0.1, 0.01]


def test_the_fastest_rate_is_looked_for_beyond_the_ends():
    """0.08 reaches the goal in the fewest epochs; no rate trains longer than the best so far."""
    given = {}

    def made(rate, epochs):
        given[rate] = epochs
        needed = 4 + 10 * abs(math.log2(rate / 0.08))
        if rate > 0.1:
            return {"reached": None, "curve": [(1.0, 0.9)], "diverged": "update 3"}
        return {"reached": needed if needed <= epochs else None, "curve": [(epochs, 0.3)]}

    assert figure1.fastest((0.02, 0.01), 60, made) == pytest.approx(0.08)
    assert list(given) == pytest.approx([0.02, 0.01, 0.04, 0.08, 0.16])
    assert list(given.values()) == pytest.approx([60, 24, 24, 14, 4])

    def only_small(rate, epochs):
        if rate > 0.003:
            return {"reached": None, "curve": [], "diverged": "update 1"}
        return {"reached": 9.0, "curve": [(9.0, 0.25)]}

    assert figure1.fastest((0.02, 0.01), 60, only_small) == pytest.approx(0.0025)
    with pytest.raises(FloatingPointError, match="every rate down to"):
        figure1.fastest((0.02,), 60, lambda rate, epochs: {"reached": None, "diverged": "all"})


def test_an_epochs_length_decides_how_fast_a_warm_up_is(tmp_path):
    """With ImageNet's 1.28 million images a hundred updates of noise hardly warm up."""
    config = small.config(tmp_path)
    config.optimizer.schedule.warmup_epochs = 0.5
    config = steps.prepared(config)
    slow, fast = (list(unchanged.losses(config, 4, num_examples=n)) for n in (10**6, 32))
    assert slow[0] == fast[0]
    assert abs(fast[3] - slow[3]) > 1e-4


def test_a_run_is_unchanged_from_itself_and_moved_by_a_rounding(tmp_path, capsys):
    config = steps.prepared(small.config(tmp_path))
    first = list(unchanged.losses(config, 3))
    unchanged.compared("again", unchanged.losses(config, 3), first)
    unchanged.compared("nudged", unchanged.losses(config, 3, nudged=True), first)
    again, nudged = capsys.readouterr().out.splitlines()
    assert again == "again: apart by 0.0e+00 in the first 3"
    assert 0 < float(nudged.split("by ")[1].split()[0]) < 1e-4


def test_kernels_of_a_described_card_are_counted(tmp_path):
    launches = "001: kCustomKernel add_fusion.1 grid: [4000, 2, 1] threads: [128, 1, 1] shared\n"
    tiny = "002: kCustomKernel tiny_fusion grid: [1, 1, 1] threads: [32, 1, 1] shared\n"
    (tmp_path / "module_0002.f.thunk_sequence.txt").write_text(launches + tiny)
    (tmp_path / "module_0001.g.thunk_sequence.txt").write_text("")
    body = "{\n\t.reg .b32 %r<3>;\n\tld.global.b32 %r1, [%rd1];\n\t@%p1 bra $L;\n$L:\n\tret;\n}"
    for number, name in enumerate(("add_fusion_1", "tiny_fusion")):
        text = f".version 9.0\n.visible .entry {name}(\n.param .u64 a\n)\n{body}\n"
        (tmp_path / f"module_0002.f.{number}.ptx").write_text(text)
    (found,) = described.kernels(tmp_path)
    assert found == described.Kernel("add_fusion_1", 2, 1_024_000)
    assert found.milliseconds == pytest.approx(2 * 1.024e9 / described.ISSUED)


def test_a_card_is_described_only_where_there_is_a_compiler_for_it():
    if importlib.util.find_spec("jax_plugins"):
        pytest.skip("a compiler for GPUs is installed here")
    with pytest.raises(RuntimeError, match="pip install 'jax"):
        described.compiled("paper", 8, "bfloat16")


def test_batches_of_a_data_set_are_its_images(tmp_path):
    small.write_folder(tmp_path / "set")
    config = steps.prepared(small.config(tmp_path / "set"))
    batches = unchanged.of_dataset(config)
    first, second = batches(0), batches(1)
    np.testing.assert_array_equal(first["label"], np.mean(first["image"], axis=(1, 2, 3)) > 125)
    assert not np.array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(second["position"], np.arange(8, 16))
    assert first["epoch"].tolist() == [0] * 8 and second["epoch"].tolist() == [0] * 8


def test_a_warm_up_over_epochs_of_noise_needs_their_length(monkeypatch):
    values = {"config": "imagenette", "dataset": "", "num_examples": 0}
    monkeypatch.setattr(unchanged.flags, "FLAGS", argparse.Namespace(**values))
    with pytest.raises(ConfigError, match="--num_examples: imagenette warms up over epochs"):
        unchanged._images_of_an_epoch(configs.get("imagenette"))
    assert unchanged._images_of_an_epoch(configs.get("paper")) == 1_281_167
    unchanged.flags.FLAGS.num_examples = 9469
    assert unchanged._images_of_an_epoch(configs.get("imagenette")) == 9469


@pytest.mark.parametrize("dataset", ["", "set"])
def test_the_command_compares_on_noise_and_on_a_data_set(tmp_path, monkeypatch, capsys, dataset):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "own")
    monkeypatch.setattr(unchanged.configs, "get", lambda _: config)
    path = str(tmp_path / dataset) if dataset else ""
    given = {"config": "default", "batch_size": 8, "steps": 2, "precision": "float32", "width": 1}
    given |= {"dataset": path, "data_dir": "", "num_examples": 0 if dataset else 20}
    monkeypatch.setattr(unchanged.flags, "FLAGS", argparse.Namespace(**given))
    unchanged._run([])
    said = capsys.readouterr().out
    assert "with kernels=reference: apart by" in said and "in the first 2" in said
