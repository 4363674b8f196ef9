"""Where the recipes differ, from the recipes themselves: python -m experiments.fidelity.deviations

With --write=experiments/fidelity/README.md it replaces the table between that page's marks. The
rows' numbers refer to the list of differences between the paper and the authors' code, run #145.
"""

import pathlib
from collections.abc import Callable

from absl import app, flags

from alexnet_jax import configs, model
from alexnet_jax.config import Config
from alexnet_jax.configs import layer_rates
from alexnet_jax.layers import standard_tree
from alexnet_jax.ops.lrn_formula import Lrn

RECIPES = (
    "paper",
    "original_code",
    "caffenet",
    "bvlc_alexnet",
    "one_weird_trick",
    "torchvision",
    "alexnet_bn",
)
BEGIN, END = "<!-- deviations: begin -->", "<!-- deviations: end -->"

_WRITE = flags.DEFINE_string("write", "", "FILE whose table is replaced; empty: print it")


def _norm(c: Config) -> Lrn | None:
    if "norm" not in c.model.layer1 + c.model.layer2 or c.model.normalisation == "batch":
        return None
    lrn = c.model.lrn
    return Lrn.named(lrn.convention, lrn.size, lrn.alpha, lrn.beta)


def _local(c: Config) -> str:
    return "local" if _norm(c) else "-"


def _rate(c: Config) -> str:
    s, o = c.optimizer.schedule, c.optimizer
    if s.kind == "plateau":
        return f"{o.learning_rate:g}, a tenth at {s.most_drops} plateaus"
    if s.kind == "dexp":
        return f"{o.learning_rate:g}, by {s.dexp_factor:g} in {s.dexp_count} stages"
    if s.kind == "polynomial":
        return f"{s.warmup_epochs:g} epochs up to {o.learning_rate:g}, then (1 - t)^{s.power:g}"
    return f"{o.learning_rate:g}, then " + ", ".join(f"{r:g} at {e:.0f}" for e, r in s.steps)


def _bias_schedule(c: Config) -> str:
    """Describes the schedule of biases' rates if it differs from the kernels'."""
    s = c.optimizer.schedule
    if s.kind == "dexp":
        return f", by {s.bias_dexp_factor:g} in {s.bias_dexp_count} stages"
    if s.kind != "step" or not s.bias_steps:
        return ""
    first, *later = (
        f"{rate:g}" + (f" at {epoch:.0f}" if epoch else "") for epoch, rate in s.bias_steps
    )
    return f", then {first}, " + ", ".join(later) if later else f", {first} throughout"


def _lighting(c: Config) -> str:
    names = {"none": "none", "stddev": "standard deviations"}
    return names.get(c.augment.lighting, "eigenvalues on [0, 1]")


def _input(c: Config) -> str:
    before, after = c.model.conv1_padding_before, c.model.conv1_padding
    return f"{c.image_size}, zeros ({before}, {after})"


def _conv1(c: Config) -> str:
    rules = [layer_rates.parse(rule) for rule in c.optimizer.schedule.layer_rates]
    return (
        ", ".join(
            f"{rule.value:g} at {rule.epoch:g}" if rule.value else f"frozen at {rule.epoch:g}"
            for rule in rules
        )
        or "-"
    )


def _normed(show: Callable[[Lrn, Config], str]) -> Callable[[Config], str]:
    def cell(c: Config) -> str:
        norm = _norm(c)
        return "-" if norm is None else show(norm, c)

    return cell


def _deviation(c: Config) -> Callable[[float], str]:
    normal = c.model.init == "normal"
    return lambda value: f"{value:g}" if normal else f"{c.model.init}'s own"


def _mean(c: Config) -> str:
    images = {
        "none": "channels",
        "moving": "image, moves with the crop",
        "centre": "image's centre",
    }
    return images[c.augment.mean_image]


def _parameters(c: Config) -> str:
    network = model.build(c.model, c.num_classes, c.precision)
    shapes = standard_tree.abstract_parameters(network, c.image_size)
    return f"{standard_tree.count_parameters(shapes):,}"


ROWS: dict[str, Callable[[Config], str]] = {
    "columns; they meet": lambda c: f"{c.model.columns}" + ("; yes" if c.model.columns > 1 else ""),
    "channels": lambda c: "-".join(map(str, c.model.channels)),
    "parameters": _parameters,
    "1: layer 1": lambda c: c.model.layer1.replace(" ", ", "),
    "layer 2": lambda c: c.model.layer2.replace(" ", ", "),
    "layers 3, 4": lambda c: c.model.layer3.replace(" ", ", "),
    "norm is": lambda c: "batch" if c.model.normalisation == "batch" else _local(c),
    "2: LRN alpha on the plain sum": _normed(lambda norm, _: f"{norm.scale:g}"),
    "LRN k": _normed(lambda norm, _: f"{norm.k:g}"),
    "LRN windows cross columns": _normed(
        lambda _, c: "yes" if c.model.lrn.across_columns or c.model.columns == 1 else "no"
    ),
    "3: spatial norm in layer 2": lambda c: "5x5" if c.model.spatial_norm2 else "no",
    "4: deviation of conv3-5": lambda c: _deviation(c)(c.model.conv345_std),
    "deviation of fc6, fc7": lambda c: _deviation(c)(c.model.fc_std),
    "biases that are not 0": lambda c: _deviation(c)(c.model.bias_value),
    "dropout after": lambda c: ", ".join(c.model.dropout_after),
    "scaled when": lambda c: "testing" if c.model.dropout_scaling == "test" else "training",
    "5: rate of biases": lambda c: f"x {c.optimizer.bias_rate_factor:g}{_bias_schedule(c)}",
    "6: decay of biases": lambda c: "yes" if c.optimizer.decay_biases else "no",
    "decay": lambda c: f"{c.optimizer.weight_decay:g}",
    "7: lighting": _lighting,
    "8: then divided by": lambda c: f"{c.augment.lighting_rescale:g}",
    "9: images of one crop and flip": lambda c: str(c.augment.chunk),
    "10: rate of conv1 alone": _conv1,
    "11: neither 7 nor 8 from epoch": lambda c: str(c.augment.lighting_off_epoch or "-"),
    "12: crop": _input,
    "mean": _mean,
    "pixels divided by": lambda c: ", ".join(f"{value:g}" for value in c.augment.pixel_std),
    "update": lambda c: "LARS" if c.optimizer.kind == "lars" else "momentum",
    "rate": _rate,
    "batch; epochs": lambda c: f"{c.batch_size}; {_epochs(c):.0f}",
}


def _epochs(c: Config) -> float:
    return c.num_steps * c.batch_size / 1_281_167 if c.num_steps else c.num_epochs


def table() -> str:
    """Returns the table, Markdown: a column for each recipe; what leaves the paper is bold."""
    recipes = [configs.get(name) for name in RECIPES]
    lines = ["| | " + " | ".join(f"`{name}`" for name in RECIPES) + " |"]
    lines.append("|---" * (len(RECIPES) + 1) + "|")
    for name, cell in ROWS.items():
        cells = [cell(config) for config in recipes]
        shown = [text if text == cells[0] else f"**{text}**" for text in cells]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def replaced(text: str) -> str:
    """Returns a file's text with the table as it is now.

    Raises:
      ValueError: it has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no table between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(_: list[str]) -> None:
    """Prints or writes."""
    if not _WRITE.value:
        print(table())
        return
    path = pathlib.Path(_WRITE.value)
    path.write_text(replaced(path.read_text()))


if __name__ == "__main__":
    app.run(main)
