"""The layout in CONTRIBUTING.md: what lies where, and that imports point one way."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "alexnet_jax"
FILES = {
    *(
        "__init__.py",
        "benchmark.py",
        "checkpoints.py",
        "cli.py",
        "config.py",
        "convert.py",
        "errors.py",
    ),
    *(
        "evaluate.py",
        "main.py",
        "model.py",
        "predict.py",
        "probe.py",
        "prepare.py",
        "report.py",
        "train.py",
        "visualize.py",
    ),
}
# The lowest first: a room imports from those before it in this list, never from those after.
ROOMS = [
    ("errors",),
    ("config",),
    ("host",),
    ("cli",),
    ("data",),  # without jax
    ("parallel",),
    ("configs",),
    ("ops",),
    ("layers",),
    ("model",),
    ("feed",),
    ("steps",),
    ("weights",),
    ("figures",),
    ("training",),
    ("train",),
    ("inference",),
    ("benchmarks", "pages"),
    (
        "main",
        "checkpoints",
        "evaluate",
        "predict",
        "probe",
        "prepare",
        "report",
        "convert",
        "visualize",
        "benchmark",
    ),
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import, which this test does not follow"
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def test_what_a_newcomer_sees():
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert files == FILES
    assert len(folders) == 14 and folders <= set(FLOOR)
    assert set(FLOOR) == folders | {name.removesuffix(".py") for name in FILES - {"__init__.py"}}


def test_imports_point_down():
    wrong = []
    for module, path in MODULES.items():
        if module.count(".") == 0:
            continue
        for imported in imports(path) & set(MODULES):
            if imported.count(".") == 0 or room(module) == room(imported):
                continue
            if FLOOR[room(imported)] >= FLOOR[room(module)]:
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_no_file_imports_itself_by_a_detour():
    graph = {module: imports(path) & set(MODULES) - {module} for module, path in MODULES.items()}
    left = dict(graph)
    while free := [module for module, needs in left.items() if not needs & set(left)]:
        for module in free:
            del left[module]
    assert not left, f"a circle among {sorted(left)}"


def test_data_is_without_jax():
    for module, path in MODULES.items():
        if room(module + ".") in ("data", "host") and module != "alexnet_jax.host.device_memory":
            assert not {name.split(".")[0] for name in imports(path)} & {"jax", "flax", "optax"}


def test_nothing_in_the_package_imports_what_is_around_it():
    for path in MODULES.values():
        assert not {name.split(".")[0] for name in imports(path)} & {"experiments", "tests"}


# Modules that may query or name a back end: the choice of kernels, the kernels it chooses from, the
# machine, and page locking. Reports print the back end, and benchmarks set their size by it.
MAY_ASK = ("ops.", "host.", "feed.page_locked", "training.report", "benchmarks.")
BACK_END = re.compile(
    r"default_backend|platform_dependent|[\"'](cpu|gpu|cuda|rocm|tpu)[\"']|\b(cpu|cuda)="
)


def test_only_ops_and_the_machine_name_a_back_end():
    for module, path in MODULES.items():
        own = module.removeprefix("alexnet_jax.")
        if not own.startswith(MAY_ASK):
            assert not BACK_END.search(path.read_text()), module


@pytest.mark.parametrize("name", ["DATA", "MODEL"])
def test_axes_of_the_mesh_are_named_in_one_file(name):
    pattern = re.compile(rf"[\"']{name.lower()}[\"']")
    uses = [m for m, path in MODULES.items() if pattern.search(path.read_text())]
    assert [m for m in uses if room(m) in ("parallel", "steps", "layers", "feed")] == [
        "alexnet_jax.parallel.schemes"
    ]


def test_only_one_file_compares_a_schemes_name():
    pattern = re.compile(r"[\"'](columns|hybrid|hybrid_in_turns)[\"']")
    named = {m for m, path in MODULES.items() if pattern.search(path.read_text())}
    assert named <= {"alexnet_jax.parallel.schemes", "alexnet_jax.config"}


def test_what_is_cited_from_experiments_is_there():
    """A comment cites a page and a number, which must be an anchor in the page's README."""
    cited = 0
    for path in MODULES.values():
        for page, number in re.findall(r"experiments/(\w+)(?:, (\w\d+))?", path.read_text()):
            text = (ROOT / "experiments" / page / "README.md").read_text()
            assert number and f'<a id="{number}"></a>' in text, f"{path}: {page}, {number}"
            cited += 1
    assert cited
