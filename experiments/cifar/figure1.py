"""Figure 1: python -m experiments.cifar.figure1 --data_dir=D [--start=authors]

Measures the epochs that a four-layer network needs to reach 25 % training error on CIFAR-10, with
ReLU and with tanh, without regularisation, each at its fastest learning rate. The error is that of
the last 10,000 images trained on, before their updates. The fastest rate is the one with which
another seed needs the fewest epochs: each rate gets as many epochs as the best before it needed,
and if the best is the lowest or highest tried, half or twice that rate is tried too. Finished runs
stay in `--out` and are not repeated.
"""

import collections
import dataclasses
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence

from absl import app, flags

from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture
from alexnet_jax.host import large_pages
from alexnet_jax.host.progress import Progress
from experiments.cifar.nets import ACTIVATIONS, FourLayers
from experiments.cifar.training import BATCH, REPORTED, Recipe, Results, Split, Training

GOAL, WINDOW = 0.25, 10_000
HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Start:
    """What a network begins with.

    Attributes:
      deviations: of the kernels (see FourLayers).
      pixel_std: what centred pixels are divided by.
      rates: to choose from.
    """

    deviations: tuple[float, ...]
    pixel_std: float
    rates: tuple[float, ...]


STARTS = {
    # Activations of about one deviation in every layer.
    "fan_in": Start((), 64.0, (0.02, 0.01)),
    # cuda-convnet's layers-18pct.cfg and layer-params-18pct.cfg: pixels as they are, rate 0.001.
    "authors": Start((0.0001, 0.01, 0.01, 0.01), 1.0, (0.001, 0.002)),
}


def run(start: str, activation: str, rate: float, seed: int, epochs: float, train: Split) -> dict:
    """Trains until the goal or for `epochs`; returns the run's row."""
    net = FourLayers(activation, STARTS[start].deviations)
    recipe = Recipe(net, rate, epochs, pixel_std=STARTS[start].pixel_std)
    last: collections.deque[float] = collections.deque(maxlen=-(-WINDOW // (BATCH * REPORTED)))
    row = {"start": start, "activation": activation, "rate": rate, "seed": seed, "epochs": epochs}
    row |= {"reached": None, "curve": (curve := [])}
    what, images = f"{start} {activation} rate {rate:g} seed {seed}", len(train.label)
    with Progress(what, 0, math.ceil(epochs * images), "image") as bar:
        try:
            for epoch, figures in Training(recipe, train, seed).run():
                last.append(figures["top1_error"])
                error = sum(last) / len(last)
                curve.append((round(epoch, 3), round(error, 4)))
                bar.advance(BATCH * REPORTED)
                bar.show(f"epoch {epoch:.2f}", f"error {100 * error:.1f} %")
                if len(last) == last.maxlen and error <= GOAL:
                    row["reached"] = round(epoch, 3)
                    break
        except FloatingPointError as error:
            row["diverged"] = str(error)
    print(f"{what}: reached {row['reached']}, {curve[-1:]}", flush=True)
    return row


def fastest(rates: Sequence[float], most: float, made: Callable[[float, float], dict]) -> float:
    """Returns the rate that reaches the goal first, or comes nearest in `most` epochs.

    Args:
      rates: to begin with.
      most: epochs.
      made: (rate, epochs it is given) -> the run's row.

    Raises:
      FloatingPointError: all rates diverge.
    """
    tried: dict[float, tuple[float, float]] = {}

    def attempt(rate: float) -> None:
        row = made(rate, min([most, *(reached for reached, _ in tried.values())]))
        error = math.inf if "diverged" in row else row["curve"][-1][1]
        tried[rate] = (row["reached"] or math.inf, error)

    for rate in rates:
        attempt(rate)
    while True:
        # Of rates that diverge the least is best; of equal ones the first.
        best = min(
            tried,
            key=lambda rate: (*tried[rate], rate if math.isinf(tried[rate][1]) else 0),
        )
        if math.isinf(tried[best][1]) and best < min(rates) / 64:
            raise FloatingPointError(f"every rate down to {best:g} diverges")
        if best == min(tried):
            attempt(best / 2)
        elif best == max(tried):
            attempt(best * 2)
        else:
            return best


def table(rows: list[dict]) -> str:
    """Returns epochs to the goal by activation and seed, and the ratio of their means."""
    lines = ["| activation | rate | epochs to 25 % by seed | mean |", "|---|---|---|---|"]
    means = {}
    for activation in ACTIVATIONS:
        reached = [r for r in rows if r["activation"] == activation and r["reached"]]
        if reached:
            means[activation] = statistics.mean(r["reached"] for r in reached)
            by_seed = ", ".join(f"{r['reached']:.2f}" for r in reached)
            lines.append(
                f"| {activation} | {reached[0]['rate']:g} | {by_seed} | {means[activation]:.2f} |"
            )
    if len(means) == len(ACTIVATIONS):
        lines.append(f"\ntanh / ReLU: {means['tanh'] / means['relu']:.1f} (paper: about 6)")
    return "\n".join(lines)


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Draws the curves as figure 1 does: ReLU solid, tanh dashed."""
    figure = Picture(figsize=(6, 4), layout="constrained", dpi=150)
    axes = figure.subplots()
    for row in rows:
        style, colour = {"relu": ("-", colours.BLUE), "tanh": ("--", colours.VERMILION)}[
            row["activation"]
        ]
        first = not any(line.get_linestyle() == style for line in axes.lines)
        label = {"relu": "ReLU", "tanh": "tanh"}[row["activation"]] if first else None
        epochs, errors = zip(*row["curve"], strict=True)
        axes.plot(
            epochs, [100 * e for e in errors], style, color=colour, lw=1, alpha=0.8, label=label
        )
    axes.axhline(100 * GOAL, color="0.6", lw=0.8)
    axes.set(xlabel="epochs", ylabel="training error, %", ylim=(0, 80), xlim=(0, None))
    _, known, times = table(rows).rpartition("tanh / ReLU: ")
    if known:
        ratio = times.split(" ")[0]
        axes.set_title(f"tanh takes {ratio} times ReLU's epochs to {100 * GOAL:.0f} %", fontsize=11)
    axes.legend(frameon=False)
    figure.save(path)


def _run(_: list[str]) -> None:
    results, train = (
        Results(pathlib.Path(flags.FLAGS.out)),
        Split.read("train", flags.FLAGS.data_dir),
    )

    start = flags.FLAGS.start

    def made(activation: str, rate: float, seed: int, epochs: float) -> dict:
        key = {"start": start, "activation": activation, "rate": rate, "seed": seed}
        row = results.find(**key, epochs=epochs)
        if not row:
            results.add(row := run(**key, epochs=epochs, train=train))
        return row

    final = []
    for activation in flags.FLAGS.activations:

        def tried(rate: float, epochs: float, activation: str = activation) -> dict:
            return made(activation, rate, flags.FLAGS.tuning_seed, epochs)

        rate = fastest(STARTS[start].rates, flags.FLAGS.most_epochs, tried)
        final += [
            made(activation, rate, int(seed), flags.FLAGS.most_epochs) for seed in flags.FLAGS.seeds
        ]
    print(table(final))
    out = pathlib.Path(flags.FLAGS.out)
    draw(final, out.with_name(f"{out.stem}_{start}.png"))


def define_flags() -> None:
    """Declares the command's flags; not at import, for other commands have the same."""
    flags.DEFINE_string("data_dir", "", "TFDS's folder with cifar10 in it")
    flags.DEFINE_string("out", str(HERE / "results" / "figure1.jsonl"), "finished runs")
    flags.DEFINE_multi_enum("activations", list(ACTIVATIONS), list(ACTIVATIONS), "to train with")
    flags.DEFINE_list("seeds", "0,1,2", "of the runs")
    flags.DEFINE_enum("start", "fan_in", list(STARTS), "what the networks begin with")
    flags.DEFINE_float("most_epochs", 60, "after which a run is given up")
    flags.DEFINE_integer("tuning_seed", 100, "of the runs that choose a rate")


if __name__ == "__main__":
    large_pages.start_again_with_them()
    define_flags()
    app.run(_run)
