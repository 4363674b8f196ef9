"""Notebooks: their two forms agree, and they run; commands and calls in a kernel of Jupyter's."""

import pathlib
import re
import tomllib

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from notebooks import ROOT, kernel

NOTEBOOKS = sorted((ROOT / "launch" / "notebooks").glob("*.py"))
TINY = (
    "--workdir=w --config.data_dir=data --config.num_steps={steps} --config.batch_size=8 "
    "--config.model.width=0.0625"
)
CONFIG = """
from alexnet_jax import configs, train
config = configs.get("default")
config.data_dir, config.batch_size, config.model.width = "data", 8, 0.0625
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with the drawn data set, prepared once."""
    folder = tmp_path_factory.mktemp("drawn")
    with kernel(folder) as cells:
        said, error = cells.run(f"%run -m alexnet_jax.main -- {TINY.format(steps=2)}")
        assert not error, error
    return folder / "data"


@pytest.fixture
def cells(tmp_path, drawn):
    (tmp_path / "data").symlink_to(drawn)
    with kernel(tmp_path) as found:
        yield found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_both_forms_agree(path):
    """The .ipynb is what jupytext makes of the text, without outputs."""
    text, notebook = jupytext.read(path), nbformat.read(path.with_suffix(".ipynb"), 4)
    nbformat.validate(notebook)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in text.cells
    ]
    assert not any(c.get("outputs") or c.get("execution_count") for c in notebook.cells)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project["urls"]["Repository"]
    owner = address.removeprefix("https://github.com/")
    said = path.read_text()
    assert f'REPOSITORY = "{address}"' in said
    assert f"/github/{owner}/blob/main/launch/notebooks/{path.stem}.ipynb" in said


def test_the_twins_have_the_same_code():
    """the_paper in two languages: only the text differs."""
    folder = ROOT / "launch" / "notebooks"
    first, second = (jupytext.read(folder / f"the_paper{of}.py").cells for of in ("", ".ko"))
    assert [c.cell_type for c in first] == [c.cell_type for c in second]
    for one, other in zip(first, second, strict=True):
        assert (one.source == other.source) == (one.cell_type == "code")


BAR = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: name != "ipywidgets" and find_spec(name, *rest)
from alexnet_jax.host.progress import Progress
with Progress("train", 0, 300, "step") as bar:
    for step in range(300):
        bar.advance()
        bar.about(f"evaluate {step}")
        bar.show("", "loss 1.5")
        if step % 100 == 0:
            bar.say(f"said after {step}")
    bar.about("train")
"""


@pytest.mark.slow
def test_a_bar_is_one_output_without_widgets_too(tmp_path, monkeypatch):
    """In the file of a notebook as in a browser; lines that stay are beside it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BAR)])
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown, *lines = sorted(notebook.cells[0].outputs, key=lambda output: output.output_type)
    assert shown.output_type == "display_data"
    assert "300/300" in shown.data["text/plain"] and "loss 1.5" in shown.data["text/plain"]
    said = "".join(line.text for line in lines)
    assert said.split("\n") == ["said after 0", "said after 100", "said after 200", ""]


# The others run before a release.
OFTEN = ("first_run",)
WHOLE = [
    pytest.param(path.stem, marks=() if path.stem in OFTEN else pytest.mark.exhaustive)
    for path in NOTEBOOKS
]


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_notebook_runs_from_any_folder(tmp_path, name):
    path = ROOT / "launch" / "notebooks" / f"{name}.ipynb"
    said = []
    with kernel(tmp_path) as cells:
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                text, error = cells.run(cell.source)
                assert not error, f"{cell.source}\n{error}"
                said.append(text)
    whole = "".join(said)
    if name == "first_run":
        assert "WARNING" not in whole and "Warning" not in whole and "Generating" not in whole
        assert "Picture size 1320x440" in whole and "10 views, step 563" in whole
        assert float(re.search(r"([\d.]+) % after 563 updates", whole)[1]) < 40
    if name == "two_gpus":
        assert float(re.search(r"the largest difference is (\S+)", whole)[1]) < 0.02
        assert "as without a split: True" in whole and "conv3   forward   all-gather" in whole


def test_a_command_in_a_cell_leaves_its_kernel(cells):
    """%run keeps the kernel's state, gives each command its own flags, and an error is one line."""
    assert cells.run("import jax; devices = jax.devices(); x = 41")[1] == ""
    said, error = cells.run(f"%run -m alexnet_jax.main -- {TINY.format(steps=2)}")
    assert not error and "step 2: validation top-1 error" in said
    said, error = cells.run(f"%run -m alexnet_jax.main -- {TINY.format(steps=3)} --overwrite")
    assert not error and "steps 1 to 3" in said
    said, error = cells.run(f"%run -m alexnet_jax.main -- {TINY.format(steps=4)}")
    assert not error and "continuing w after step 3" in said  # --overwrite is not kept
    said, error = cells.run("%run -m alexnet_jax.evaluate -- --workdir=w --views=1")
    assert not error and "over 1,200 images" in said
    _, error = cells.run("%run -m alexnet_jax.main -- --workdir=w --config.modl.width=1")
    assert error.startswith("error: --config.modl.width is not known") and "\n" not in error
    _, error = cells.run("%run -m alexnet_jax.evaluate -- --workdir=nowhere")
    assert error.startswith("error: nowhere/config.json: not found") and "\n" not in error
    said, error = cells.run("%run -m alexnet_jax.main -- --help")
    assert not error and "--[no]dry_run" in said
    assert cells.run("print(x + 1, jax.devices() == devices)") == ("42 True\n", "")


def test_a_cell_is_interrupted_and_run_again_with_another_config(cells):
    assert cells.run(CONFIG)[1] == ""
    train = "config.log_every_steps = 1; config.num_steps = {}; row = train.train(config, 'w')"
    said, error = cells.run(train.format(100_000), interrupted_after=", loss ")
    assert error.startswith("Interrupted: stopped and saved after step ") and "\n" not in error
    at = int(re.search(r"after step ([\d,]+)", error)[1].replace(",", ""))
    said, error = cells.run(train.format(at + 3) + "; print(row['step'] - " + f"{at})")
    assert not error and f"continuing w after step {at:,}" in said and said.rstrip().endswith("3")
    said, error = cells.run(train.format(at + 3))  # the same cell again
    assert not error and "is finished at step" in said
    _, error = cells.run("config.optimizer.momentum = 0.5; train.train(config, 'w')")
    assert error.startswith("ConfigError: ") and "momentum" in error and "\n" not in error


def test_curves_move_while_a_run_trains(cells):
    assert cells.run(CONFIG)[1] == ""
    said, error = cells.run(
        "from alexnet_jax.inference.live import moving_curves\n"
        "config.num_steps, config.log_every_steps = 300, 5\n"
        "with moving_curves('w', seconds=0.1):\n"
        "    train.train(config, 'w')"
    )
    assert not error and said.count("Picture size 1320x440") > 2, error


def test_what_broke_the_curves_is_said(cells):
    assert cells.run("import pathlib; pathlib.Path('w').mkdir()")[1] == ""
    _, error = cells.run(
        "from alexnet_jax.inference.live import moving_curves\n"
        "with moving_curves('w', seconds=60):\n"
        "    pathlib.Path('w/metrics.jsonl').write_text('no row\\n{}\\n')"
    )
    assert error.startswith("MetricsError: ") and "w/metrics.jsonl" in error


def test_programs_are_kept_between_kernels(tmp_path, cells):
    own = "import os; os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)"  # a user's kernel has none
    assert cells.run(f"{own}{CONFIG}config.num_steps = 1; train.train(config, 'w')")[1] == ""
    assert list(pathlib.Path(tmp_path, "cache", "alexnet_jax").rglob("*"))
