"""The benchmarks' rows, on networks small enough for a test."""

import importlib.util
import json
import subprocess
import sys

import commands
import jax
import pytest
from small import write_folder

from alexnet_jax import benchmark, configs
from alexnet_jax.benchmarks import (
    end_to_end,
    input_loops,
    layers,
    memory,
    rows,
    startup,
    steps,
    work,
)
from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.configs import flags as config_flags
from alexnet_jax.data.types import DataError
from alexnet_jax.layers import standard_tree
from alexnet_jax.steps.flops import forward_flops


def narrow(**fields):
    config = configs.get("default")
    config.model.width, config.batch_size = 1 / 16, 4
    config.resize, config.image_size = 71, 67
    for name, value in fields.items():
        setattr(config, name, value)
    return config


@pytest.mark.filterwarnings("ignore")  # OpenVINO's telemetry forks
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_inference_beside_another_runtime(name):
    pytest.importorskip(name)
    pytest.importorskip("onnx")
    config = narrow()
    config.batch_size = 1
    ours, theirs = steps.measure("eval", config, 1, name)
    assert theirs.beside == name and theirs.ratio > 0
    assert ours.more["milliseconds_p99"] >= ours.more["milliseconds_p50"] > 0
    assert theirs.more["their_milliseconds_p50"] > 0
    with pytest.raises(ConfigError, match="compared in inference"):
        steps.measure("step", config, 1, name)


def test_input_has_a_row_for_each_part(tmp_path):
    """Runs the command in its own process: PyTorch forks, and this process has JAX's threads."""
    write_folder(tmp_path / "set", train=300, val=0)
    with_torch = importlib.util.find_spec("torch") is not None
    command = [sys.executable, "-m", "alexnet_jax.benchmark", "input", "--rounds=1"]
    command += [f"--dataset={tmp_path / 'set'}", "--batch_size=2"]
    command += [f"--json={tmp_path / 'rows.json'}", *(["--against=torch"] if with_torch else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "os.fork" not in done.stderr
    found = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["what"], row["beside"]) for row in found if "torch" not in row["what"]] == [
        ("decode + resize", None),
        ("decode + resize + sums + hash", None),
        ("prepare", "decode + resize + sums + hash"),
        ("prepare", "decode + resize"),
        ("ArrayRecord reads", None),
        ("store -> batches", "ArrayRecord reads"),
        ("images -> batches", None),
        ("store -> batches", "images -> batches"),
        ("store -> batches, all cores", None),
        ("images -> batches, all cores", "torch DataLoader" if with_torch else None),
        ("resident", None),
    ]
    assert all(row["images_per_second"] > 0 for row in found)


def test_what_was_done_when_a_rate_begins_is_not_counted(monkeypatch):
    moments = iter([10.0, 14.0])
    monkeypatch.setattr(input_loops.time, "perf_counter", lambda: next(moments))
    rate = input_loops.Rate()
    for images in (0, 5):
        rate.advance(images)
    with pytest.raises(DataError, match="too few images"):
        rate.now()
    for images in (6, 2):
        rate.advance(images)
    assert rate.now() == 8 / 4


def test_the_loops_processes_import_what_prepares_do():
    """With one more module, its import and shutdown would count against the loop."""
    code = "import sys; import {}; print(*{{n.split('.')[0] for n in sys.modules}})"
    found = [
        set(subprocess.check_output([sys.executable, "-c", code.format(name)], text=True).split())
        - sys.stdlib_module_names
        for name in ("alexnet_jax.data.store.shard_writer", "alexnet_jax.benchmarks.input_loops")
    ]
    assert "cv2" in found[0]
    assert found[0] == found[1]


@pytest.mark.parametrize("what", ["step", "eval"])
def test_steps_have_the_fields_that_are_promised(what):
    [found] = steps.measure(what, narrow(), 1)
    row = json.loads(json.dumps(found.json()))
    assert (row["what"], row["batch_size"], row["precision"]) == (what, 4, "float32")
    assert row["against"] is row["ratio"] is None
    assert row["images_per_second"] > 0
    assert 0 < row["share_of_ceiling"] < 2
    assert row["peak_memory_bytes"] > 0
    assert f"{row['step_milliseconds']:,.1f} ms" in steps.summary(found)


@pytest.mark.exhaustive
def test_pytorchs_ways_are_compared_with(monkeypatch):
    torch = pytest.importorskip("torch")
    # The compiler is PyTorch's own affair, and takes a minute.
    monkeypatch.setattr(torch, "compile", lambda network: network)
    found = steps.measure("step", narrow(), 1, "torch")
    names = [row.against for row in found]
    assert names == [None, "torch-eager", "torch-channels_last", "torch-compile"]
    for row in found[1:]:
        theirs = row.more["their_images_per_second"]
        assert row.ratio == pytest.approx(row.images_per_second / theirs)


@pytest.mark.parametrize("preset", ["paper", "original_code", "caffenet", "alexnet_bn"])
def test_pytorch_has_the_same_network(preset):
    """As many parameters in the same shapes, and the same shape of logits."""
    torch = pytest.importorskip("torch")
    from alexnet_jax import model
    from alexnet_jax.benchmarks import torch_steps

    config = configs.get(preset)
    config.model.width = 1 / 16
    theirs = torch_steps._network(torch, config).eval()
    shapes = standard_tree.abstract_parameters(
        model.build(config.model, 1000, "float32"), config.image_size
    )
    ours = {
        tuple(sorted(p.shape)) for layer in shapes.values() for p in layer.values() if p.ndim > 1
    }
    assert {tuple(sorted(p.shape)) for p in theirs.parameters() if p.ndim > 1} == ours
    image = torch.zeros(1, 3, config.image_size, config.image_size)
    assert theirs(image).shape == (1, 1000)


def test_layers_have_floors_and_a_picture(tmp_path):
    found = layers.measure(narrow(), 1, tmp_path / "roof.png")
    names = [row.what for row in found]
    assert "conv1 forward" in names
    assert "conv1 gradient of input" not in names
    assert "conv2 gradient of input" in names
    assert "update" in names
    assert all(row.more["floor_milliseconds"] > 0 for row in found)
    assert (tmp_path / "roof.png").stat().st_size > 1000


def test_parts_of_the_network_have_all_its_products():
    config = steps.prepared(narrow())
    total = sum(forward_flops(config, 10).values()) * config.batch_size
    assert sum(p.flops for p in layers.parts(config) if p.name.endswith("forward")) == total


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_parts_must_move_is_what_they_are_given_and_give(precision):
    """A product's gradient moves the product's three arrays; parameters are always float32."""
    config = steps.prepared(narrow(precision=precision))
    found = {part.name: part for part in layers.parts(config)}
    (x, kernel), width = found["fc7 forward"].arguments, 4 if precision == "float32" else 2
    least = width * (x.size + kernel.size + 4 * kernel.shape[1])
    for which in ("forward", "gradient of input", "gradient of kernel"):
        assert found[f"fc7 {which}"].bytes == least
    [y] = found["conv1: relu, norm, pool forward"].arguments
    pooled = jax.eval_shape(found["conv1: relu, norm, pool forward"].function, y)
    back = found["conv1: relu, norm, pool gradient of input"]
    assert back.bytes == width * (2 * y.size + pooled.size)
    params, *_ = found["update"].arguments
    assert found["update"].bytes == 5 * 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found["crop, flip, lighting"].bytes == (4 + 1) * 4 * 67 * 67 * 3


def test_batch_normalisation_is_a_part_too():
    config = configs.get("alexnet_bn")
    config.model.width, config.batch_size = 1 / 16, 2
    found = {part.name: part for part in layers.parts(steps.prepared(config))}
    part = found["conv4: relu, norm gradient of input"]
    assert jax.eval_shape(part.function, *part.arguments).shape == part.arguments[1].shape


@pytest.mark.exhaustive
def test_training_is_compared_with_its_bare_step(trained_run):
    config = narrow()
    found = end_to_end.measure(config, 1, str(trained_run / "set"), "")
    assert [row.what for row in found] == ["step", "training, host", "training, resident"]
    assert all(0 <= row.more["data_wait_fraction"] <= 1 for row in found)


def test_fast_calls_are_timed_together(monkeypatch):
    """Each call advances the clock by 20 ms: three calls fill 50 ms, and each mean is 20 ms."""
    clock, calls = [0.0], []

    def called():
        clock[0] += 0.02
        calls.append(clock[0])
        return 0

    monkeypatch.setattr(work.time, "perf_counter", lambda: clock[0])
    assert work.times(called, repeats=4) == pytest.approx([0.02] * 4)
    assert len(calls) == 2 + 4 * 3


def test_the_largest_batch_is_the_largest():
    """Needs 100 plus 3 an image, and 50 more from 300 images on."""

    def needed(batch):
        return 100 + 3 * batch + (50 if batch >= 300 else 0)

    assert memory.largest(needed, 500, 1) == (133, 3, 100)
    assert memory.largest(needed, 500, 4) == (132, 3, 100)
    batch, _, _ = memory.largest(needed, 1033, 1)
    assert needed(batch) <= 1033 and batch >= 290
    with pytest.raises(ConfigError, match="--memory_gib: 0.00 GiB hold no batch"):
        memory.largest(needed, 90, 1)


@pytest.mark.exhaustive
def test_parts_of_a_batch_need_less_memory():
    found = memory.measure(narrow(), 2**28)
    sizes = [row.more["batch_size"] for row in found]
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0]
    assert json.loads(json.dumps(found[0].json()))["images_per_second"] is None


def test_mistakes_are_one_line(tmp_path):
    paper = f"--config={configs.path('paper')}"
    wrong = {
        "benchmark: stpe is not known; did you mean step?": ["stpe"],
        "name one mode: step, eval": [],
        "--against: layers is not compared with PyTorch": ["layers", "--against=torch"],
        "--picture: step draws none": ["step", "--picture=a.png"],
        "--batch_size: startup starts the default recipe": ["startup", "--batch_size=7"],
        f"--json: {tmp_path} cannot be written": ["step", f"--json={tmp_path}"],
    }
    said = commands.endings("benchmark", tmp_path, *([*a, paper] for a in wrong.values()))
    for message, line in zip(wrong, said, strict=True):
        assert line.startswith(f"error: {message}"), line
    with pytest.raises(ConfigError, match="mesh: one device is measured"):
        steps.prepared(narrow(mesh=MeshConfig(1, 2)))


def test_a_flag_of_the_benchmarks_own_is_not_said_by_a_field(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "step", "--config.batch_size=3"])
    monkeypatch.setattr(benchmark, "define_flags", lambda: None)
    with pytest.raises(SystemExit, match="--config.batch_size: use --batch_size=... instead"):
        benchmark.main()


def test_the_recipe_is_the_papers_where_none_is_named():
    named = config_flags.resolve(["benchmark", "step"], "paper")
    assert named == ["benchmark", f"--config={configs.path('paper')}", "step"]
    with pytest.raises(ConfigError, match="papre is not known; did you mean paper"):
        config_flags.resolve(["benchmark", "step", "--config=papre"], "paper")


def test_the_value_of_a_flag_is_no_flag():
    paper = configs.path("paper")
    assert config_flags.resolve(["main", "--config", "paper"]) == ["main", "--config", paper]
    for folder in ("config", "config=1"):  # the recipe goes before the fields that change it
        given = ["main", "--workdir", folder, "--config=paper"]
        assert config_flags.resolve(given) == ["main", f"--config={paper}", "--workdir", folder]
    with pytest.raises(ConfigError, match="config: there is no file config.py"):
        config_flags.resolve(["main", "--config", "config.py"])
    with pytest.raises(ConfigError, match="--config.sead is not known; did you mean seed"):
        config_flags.resolve(["main", "--config", "paper", "--config.sead=1"])


def test_rows_say_with_what_they_are_compared():
    found = {"step": [30.0, 10.0, 20.0], "torch-compile": [10.0, 10.0, 10.0], "bare": [40.0] * 3}
    torch = rows.row("step", found, "torch-compile", batch_size=8).json()
    assert (torch["against"], torch["beside"], torch["ratio"]) == ("torch-compile", None, 2.0)
    assert torch["ratios"] == (1.0, 3.0)
    bare = rows.row("step", found, "bare").json()
    assert (bare["against"], bare["beside"], bare["ratio"]) == (None, "bare", 0.5)
    assert "| step | 8 | 20 | 10 to 30 | torch-compile | 2.00 | 1.00 to 3.00 |" in rows.table(
        [rows.row("step", found, "torch-compile", batch_size=8)]
    )


def test_layers_are_told_in_milliseconds_beside_their_floors():
    more = {"milliseconds": 8.0, "floor_milliseconds": 2.0}
    part = rows.Row("fc6", 1.0, 1.0, 1.0, ratio=0.25, ratios=(0.2, 0.3), more=more)
    assert rows.table([part]).splitlines()[-1] == "| fc6 | 8.00 | 2.00 | 0.25 | 0.20 to 0.30 |"


def test_starts_are_told_in_seconds():
    started = [startup._row("cold", [22.0, 20.0, 24.5]), startup._row("warm", [10.0, 10.2, 9.0])]
    told = rows.table(started).splitlines()
    assert told[-2:] == ["| cold | 22.00 | 20.00 to 24.50 |", "| warm | 10.00 | 9.00 to 10.20 |"]
    assert {row.json()["images_per_second"] for row in started} == {None}
