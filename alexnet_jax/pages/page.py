"""The page: fills templates/page.html with the data of runs."""

import copy
import dataclasses
import datetime
import importlib.resources
import json
import pathlib

import jinja2

from alexnet_jax.figures import split
from alexnet_jax.host import files
from alexnet_jax.pages import answers, charts, comparison
from alexnet_jax.pages.run import Run
from alexnet_jax.training import history, run_files

TEMPLATES = importlib.resources.files("alexnet_jax.pages") / "templates"


def render(runs: list[Run], shown: dict[str, list[answers.Shown]]) -> str:
    """Returns the page of some runs, one file that needs no other.

    Args:
      runs: from `run.read_all`; one, or several that are compared.
      shown: pictures of each run, by its name; runs may have none.
    """
    drawn = charts.charts(runs)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.2f} %"
    return environment.get_template("page.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        runs=runs,
        charts=drawn,
        # "</script>" in a name would end the script that holds it.
        data=json.dumps([dataclasses.asdict(chart) for chart in drawn], allow_nan=False).replace(
            "<", "\\u003c"
        ),
        style=_read("uPlot.min.css") + _read("page.css"),
        script=_read("uPlot.iife.min.js") + _read("page.js"),
        kinds=history.KINDS,
        time_told={run.name: history.described(run.account) for run in runs if run.account},
        splits={run.name: _split(run) for run in runs},
        shown=shown,
        groups=comparison.groups(runs),
        differences=comparison.differences(runs),
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def write(page: str, path: pathlib.Path) -> None:
    """Writes a page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace_text(path, page)


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")


def _split(run: Run) -> answers.Shown | None:
    """Draws figure 2 with the run's devices, of what its compiled step sends."""
    mesh, exchanges = run_files.read_exchanges(run.workdir)
    if not mesh or not exchanges:
        return None
    config = copy.deepcopy(run.config)
    config.mesh.data, config.mesh.model = mesh["data"], mesh["model"]
    try:
        classes = config.num_classes or len(run_files.read_class_names(run.workdir))
    except ValueError:  # dataset.json is lost
        return None
    picture = split.draw(config, classes, exchanges, mesh["data"])
    sent = sum(one.moved for one in exchanges) / 1e6
    devices = mesh["data"] * mesh["model"]
    alt = f"Figure 2 with {devices} devices: each sends {sent:,.1f} MB a step"
    return answers.Shown(alt, alt, answers.as_uri(picture, "svg"))
