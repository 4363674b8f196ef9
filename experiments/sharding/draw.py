"""The comparison as pictures: bytes by layer, memory, predicted scaling."""

import pathlib
from typing import Any

from matplotlib.figure import Figure

from alexnet_jax.figures import colours


def pictures(rows: list[dict[str, Any]], folder: pathlib.Path) -> None:
    """Draws bytes.png, memory.png and scaling.png."""
    _bytes(rows).savefig(folder / "bytes.png", dpi=110)
    _memory(rows).savefig(folder / "memory.png", dpi=110)
    _scaling(rows).savefig(folder / "scaling.png", dpi=110)


# Colours that most people tell apart: a family for each kind of layer, in shades.
_COLOURS = {
    "images": "#009E73",
    "norm1": "#F0E442",
    "norm2": "#C9BE2E",
    **{
        "conv2": "#9ECAE1",
        "conv3": "#6BAED6",
        "conv4": "#3182BD",
        "conv5": "#08519C",
        "conv6": "#042B5C",
    },
    **{"fc6": "#FDAE6B", "fc7": "#E6550D", "fc7_linear": "#CC4A02", "fc8": "#A63603"},
    "logits": "#CC79A7",
    "labels": "black",
    "update": "0.8",
}
# A colour for each scheme, a mark for each number of devices that share the network.
_OF_SCHEME = {
    "": colours.BLUE,
    "zero": colours.SKY,
    "hybrid": colours.GREEN,
    "hybrid:8": colours.ORANGE,
    "hybrid_in_turns:8": colours.PINK,
}
_OF_MODEL = {1: "o", 2: "s", 4: "^", 8: "D"}


def described(arm: str) -> str:
    """Says an arm in words: 4x2:zero is data 4 x model 2, ZeRO."""
    shape, _, rest = arm.partition(":")
    data, _, model = shape.partition("x")
    scheme, _, passes = rest.partition(":")
    words = {"zero": "ZeRO", "resident": "split on the devices"}.get(
        scheme, scheme.replace("_", " ")
    )
    more = f", {words}" if words else ""
    more += f" with {passes} passes" if passes else ""
    return f"data {data} x model {model}{more}"


def _bytes(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(11, 5), layout="constrained")
    axis = figure.subplots()
    names = [described(row["arm"]) for row in rows]
    left = [0.0] * len(rows)
    for place, colour in _COLOURS.items():
        sizes = [row["layers"].get(place, {"bytes": 0.0})["bytes"] / 1e6 for row in rows]
        if any(sizes):
            axis.barh(names, sizes, left=left, label=place, color=colour)
            left = [a + b for a, b in zip(left, sizes, strict=True)]
    axis.plot(
        [row["least_bytes"] / 1e6 for row in rows], names, "k|", ms=14, label="counted by hand"
    )
    axis.invert_yaxis()
    axis.set(xlabel="MB that each device sends in a step")
    most, least = max(rows, key=_sent), min(rows, key=_sent)
    axis.set_title(
        f"Eight devices, {rows[0]['batch_size']} images: each sends {_sent(least):,.0f} MB "
        f"({described(least['arm'])})\nto {_sent(most):,.0f} MB ({described(most['arm'])})",
        fontsize=11,
    )
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _sent(row: dict[str, Any]) -> float:
    return sum(place["bytes"] for place in row["layers"].values()) / 1e6


def _memory(rows: list[dict[str, Any]]) -> Figure:
    """Draws memory; omits arms with the whole training split, whose size says nothing of them."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axis = figure.subplots()
    rows = [row for row in rows if "resident" not in row["arm"]]
    names = [described(row["arm"]) for row in rows]
    arguments = [row["memory"]["arguments"] / 1e6 for row in rows]
    temporary = [row["memory"]["temporary"] / 1e6 for row in rows]
    axis.barh(names, arguments, label="parameters, velocity, batch", color=colours.BLUE)
    axis.barh(
        names, temporary, left=arguments, label="activations and the like", color=colours.ORANGE
    )
    axis.invert_yaxis()
    axis.set(xlabel="MB on each device")
    total = {n: a + t for n, a, t in zip(names, arguments, temporary, strict=True)}
    most, least = max(total, key=total.__getitem__), min(total, key=total.__getitem__)
    axis.set_title(
        f"Eight devices, {rows[0]['batch_size']} images: each takes {total[least]:,.0f} MB "
        f"({least})\nto {total[most]:,.0f} MB ({most})",
        fontsize=11,
    )
    axis.legend()
    return figure


def _scaling(rows: list[dict[str, Any]]) -> Figure:
    """Draws predicted scaling; omits arms with a resident split, which exchange hardly more."""
    machines = list(rows[0]["predicted_step_seconds"])
    figure = Figure(figsize=(5 * len(machines), 5), layout="constrained")
    for axis, machine in zip(figure.subplots(1, len(machines), sharey=True), machines, strict=True):
        for row in rows:
            shape, _, rest = row["arm"].partition(":")
            if rest not in _OF_SCHEME:
                continue
            model = int(shape.partition("x")[2])
            predicted = row["predicted_step_seconds"][machine]
            counts = [int(n) for n in predicted]
            shares = [
                100 * arithmetic / (arithmetic + talk) for arithmetic, talk in predicted.values()
            ]
            label = described(row["arm"]).partition(" x ")[2]
            style = {"color": _OF_SCHEME[rest], "marker": _OF_MODEL[model], "lw": 1.5}
            axis.plot(counts, shares, ms=6, alpha=0.75, label=label, **style)
        axis.set(title=machine, xlabel="devices", xscale="log")
        axis.set_xticks([2, 8, 64, 512], ["2", "8", "64", "512"])
        axis.grid(alpha=0.3)
    figure.axes[0].set(ylabel="% of the step that is arithmetic", ylim=(0, 103))
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        handlelength=4,
    )
    figure.suptitle(
        "The faster the devices, the more a scheme matters: hybrid computes longest "
        "(predicted, 128 images a device, nothing overlapped)"
    )
    return figure
