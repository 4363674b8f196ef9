"""The comparison as pictures: bytes by layer, memory, predicted scaling."""

import pathlib
from typing import Any

from matplotlib.figure import Figure

from alexnet_jax.steps import communication


def pictures(rows: list[dict[str, Any]], folder: pathlib.Path) -> None:
    """Draws bytes.png, memory.png and scaling.png."""
    _bytes(rows).savefig(folder / "bytes.png", dpi=110)
    _memory(rows).savefig(folder / "memory.png", dpi=110)
    _scaling(rows).savefig(folder / "scaling.png", dpi=110)


def _bytes(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(11, 5), layout="constrained")
    axis = figure.subplots()
    names = [row["arm"] for row in rows]
    left = [0.0] * len(rows)
    places = [p for p in (*communication.PLACES, "update") if any(p in r["layers"] for r in rows)]
    colours = [f"C{i}" for i in range(10)] + ["black", "gold", "pink"]
    for place, colour in zip(places, colours, strict=False):
        sizes = [row["layers"].get(place, {"bytes": 0.0})["bytes"] / 1e6 for row in rows]
        axis.barh(names, sizes, left=left, label=place, color=colour)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    axis.plot(
        [row["least_bytes"] / 1e6 for row in rows], names, "k|", ms=14, label="counted by hand"
    )
    axis.invert_yaxis()
    axis.set(xlabel="MB that each device sends in a step", ylabel="data x model")
    axis.set_title(f"Communication of a training step, {rows[0]['batch_size']} images")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _memory(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axis = figure.subplots()
    names = [row["arm"] for row in rows]
    arguments = [row["memory"]["arguments"] / 1e6 for row in rows]
    temporary = [row["memory"]["temporary"] / 1e6 for row in rows]
    axis.barh(names, arguments, label="parameters, velocity, batch")
    axis.barh(names, temporary, left=arguments, label="activations and other temporary arrays")
    axis.invert_yaxis()
    axis.set(xlabel="MB on each device", ylabel="data x model")
    axis.set_title(f"Memory of a training step, {rows[0]['batch_size']} images")
    axis.legend()
    return figure


def _scaling(rows: list[dict[str, Any]]) -> Figure:
    machines = list(rows[0]["predicted_step_seconds"])
    figure = Figure(figsize=(5 * len(machines), 4.8), layout="constrained")
    for axis, machine in zip(figure.subplots(1, len(machines), sharey=True), machines, strict=True):
        for i, row in enumerate(rows):
            predicted = row["predicted_step_seconds"][machine]
            counts = [int(n) for n in predicted]
            shares = [
                100 * arithmetic / (arithmetic + talk) for arithmetic, talk in predicted.values()
            ]
            shape, _, rest = row["arm"].partition(":")
            label = f"model {shape.partition('x')[2]} {rest}".strip()
            style = "-" if not rest else ("--" if rest == "zero" else ":")
            axis.plot(counts, shares, style, marker="o", ms=3, label=label, color=f"C{i}")
        axis.set(title=machine, xlabel="devices", xscale="log")
        axis.set_xticks([2, 8, 64, 512], ["2", "8", "64", "512"])
        axis.grid(alpha=0.3)
    figure.axes[0].set(ylabel="% of the step that is arithmetic", ylim=(0, 103))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle("Predicted for 128 images a device, nothing overlapped")
    return figure
