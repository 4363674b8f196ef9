"""Figure 1: python -m experiments.cifar.figure1 --data_dir=D [--seeds=0,1,2]

Epochs until a four-layer network takes a quarter of CIFAR-10's training images for another class,
with ReLU and with tanh, without any regularisation, each at the learning rate that is fastest. The
error is that over the last 10,000 images trained on, taken before their updates. Rates are chosen
by the error after `--tuning_epochs` with another seed. Finished runs are kept in `--out` and not
made again.
"""

import collections
import pathlib
import statistics

from absl import app, flags

from alexnet_jax import large_pages
from experiments.cifar.nets import ACTIVATIONS, FourLayers
from experiments.cifar.training import BATCH, REPORTED, Recipe, Results, Split, Training

GOAL, WINDOW = 0.25, 10_000
HERE = pathlib.Path(__file__).parent


def run(activation: str, rate: float, seed: int, epochs: float, train: Split) -> dict:
    """Trains until the goal or for `epochs`; returns the run's row."""
    recipe = Recipe(FourLayers(activation), rate, epochs, pixel_std=64.0)
    last: collections.deque[float] = collections.deque(maxlen=-(-WINDOW // (BATCH * REPORTED)))
    row = {"activation": activation, "rate": rate, "seed": seed, "epochs": epochs, "reached": None}
    row["curve"] = curve = []
    try:
        for epoch, found in Training(recipe, train, seed).run():
            last.append(found["top1_error"])
            error = sum(last) / len(last)
            curve.append((round(epoch, 3), round(error, 4)))
            if len(last) == last.maxlen and error <= GOAL:
                row["reached"] = round(epoch, 3)
                break
    except FloatingPointError as error:
        row["diverged"] = str(error)
    print(
        f"{activation} rate {rate:g} seed {seed}: reached {row['reached']}, {curve[-1:]}",
        flush=True,
    )
    return row


def table(rows: list[dict]) -> str:
    """Returns epochs to the goal by activation and seed, and the ratio of their means."""
    lines = ["| activation | rate | epochs to 25 % by seed | mean |", "|---|---|---|---|"]
    means = {}
    for activation in ACTIVATIONS:
        own = [r for r in rows if r["activation"] == activation and r["reached"]]
        if own:
            means[activation] = statistics.mean(r["reached"] for r in own)
            by_seed = ", ".join(f"{r['reached']:.2f}" for r in own)
            lines.append(
                f"| {activation} | {own[0]['rate']:g} | {by_seed} | {means[activation]:.2f} |"
            )
    if len(means) == len(ACTIVATIONS):
        lines.append(f"\ntanh / ReLU: {means['tanh'] / means['relu']:.1f} (paper: about 6)")
    return "\n".join(lines)


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Draws the curves as figure 1 does: ReLU solid, tanh dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        style = {"relu": "-", "tanh": "--"}[row["activation"]]
        first = not any(line.get_linestyle() == style for line in axes.lines)
        label = {"relu": "ReLU", "tanh": "tanh"}[row["activation"]] if first else None
        axes.plot(*zip(*row["curve"], strict=True), style, color="black", lw=1, label=label)
    axes.axhline(GOAL, color="0.6", lw=0.8)
    axes.set(xlabel="epochs", ylabel="training error", ylim=(0, 0.8), xlim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _run(_: list[str]) -> None:
    results, train = (
        Results(pathlib.Path(flags.FLAGS.out)),
        Split.read("train", flags.FLAGS.data_dir),
    )

    def made(activation: str, rate: float, seed: int, epochs: float) -> dict:
        key = {"activation": activation, "rate": rate, "seed": seed, "epochs": epochs}
        if not results.find(**key):
            results.add(run(activation, rate, seed, epochs, train))
        return results.find(**key) or {}

    final = []
    for activation in ACTIVATIONS:
        tried = [
            made(activation, float(rate), flags.FLAGS.tuning_seed, flags.FLAGS.tuning_epochs)
            for rate in flags.FLAGS.rates
        ]
        stable = [row for row in tried if "diverged" not in row]
        best = min(stable, key=lambda row: row["curve"][-1][1])["rate"]
        final += [
            made(activation, best, int(seed), flags.FLAGS.most_epochs) for seed in flags.FLAGS.seeds
        ]
    print(table(final))
    draw(final, pathlib.Path(flags.FLAGS.out).with_suffix(".png"))


def define_flags() -> None:
    """Declares the command's flags; not at import, for other commands have the same."""
    flags.DEFINE_string("data_dir", "", "TFDS's folder with cifar10 in it")
    flags.DEFINE_string("out", str(HERE / "results" / "figure1.jsonl"), "finished runs")
    flags.DEFINE_list("seeds", "0,1,2", "of the runs")
    flags.DEFINE_list("rates", "0.005,0.01,0.02,0.04", "to choose from")
    flags.DEFINE_float("most_epochs", 60, "after which a run is given up")
    flags.DEFINE_float("tuning_epochs", 2, "of the runs that choose a rate")
    flags.DEFINE_integer("tuning_seed", 100, "of the runs that choose a rate")


if __name__ == "__main__":
    large_pages.start_again_with_them()
    define_flags()
    app.run(_run)
