"""What normalisation is worth on CIFAR-10 (paper 3.3: 13 % -> 11 %).

    python -m experiments.cifar.lrn --data_dir=D [--epochs=E] [--seeds=0,1,2] [--arms=...]
        [--schedule=13pct|11pct]

Arms: `11pct`, the authors' net with normalisation (layers-cifar10-11pct.cfg); `11pct_without`, the
same net without; `13pct`, their net without (layers-conv-local-13pct.cfg), which is narrower. The
schedules are the authors' (the heads of their layer-params files), with all images from the start,
and stretched to --epochs: rate 0.001, then a tenth and a hundredth of it for ten epochs each, 140
before them for the 13 % net and 500 for the 11 % net (350 without a fifth of the images, 150 with).
Every arm has the same one. Training crops to 24 pixels and flips; testing takes ten views, and the
centre. Finished runs stay in `--out` and are not repeated; a stopped one resumes from its state,
saved beside that file every ten epochs.
"""

import math
import pathlib
import statistics

import numpy as np
from absl import app, flags

from alexnet_jax.host import large_pages
from alexnet_jax.host.files import read_arrays
from alexnet_jax.host.progress import Progress
from experiments.cifar.nets import LocalNet
from experiments.cifar.training import BATCH, REPORTED, Recipe, Results, Split, Training
from experiments.statistics import shown

HERE = pathlib.Path(__file__).parent
SAVED = 80  # reports between two times that an unfinished run is kept, ten epochs
EPOCHS = {"13pct": 160, "11pct": 520}  # of a whole schedule; its last two stages have ten each
# Weight costs of the two layer-params files.
WIDE = (("local3", 0.004), ("local4", 0.004), ("fc10", 0.01))
NARROW = (("local3", 0.004), ("local4", 0.004), ("fc10", 0.004))
ARMS = {
    "11pct": (LocalNet(64, True), WIDE),
    "11pct_without": (LocalNet(64, False), WIDE),
    "13pct": (LocalNet(32, False), NARROW),
}


def stages(schedule: str) -> tuple[tuple[float, float], ...]:
    """Returns a schedule's drops: (share of the run, factor on the first rate)."""
    whole = EPOCHS[schedule]
    return (((whole - 20) / whole, 0.1), ((whole - 10) / whole, 0.01))


def run(
    arm: str,
    seed: int,
    epochs: float,
    schedule: str,
    train: Split,
    test: Split,
    unfinished: pathlib.Path,
) -> dict:
    """Trains one network and tests it; returns the run's row.

    Args:
      arm: of `ARMS`.
      seed: of the run.
      epochs: in all.
      schedule: of `EPOCHS`.
      train: to learn from.
      test: to count errors on.
      unfinished: a .npz file for the state of the unfinished run; if it exists, the run resumes
        from it.

    Raises:
      ValueError: that file is of another recipe or data set.
    """
    net, decay = ARMS[arm]
    recipe = Recipe(net, 0.001, epochs, stages(schedule), decay, moving=True)
    training, curve = Training(recipe, train, seed), []
    what = f"{recipe} on {len(train.label)} images"
    if unfinished.exists():
        state = read_arrays(unfinished)
        if str(state.pop("what")) != what:
            raise ValueError(f"{unfinished}: is of another recipe or data set; remove it")
        curve = [tuple(point) for point in state.pop("curve").tolist()]
        training.go_on(state)
    done, images = round(len(curve) * BATCH * REPORTED), math.ceil(epochs * len(train.label))
    with Progress(f"{arm} seed {seed}", done, images, "image") as bar:
        for epoch, figures in training.run():
            bar.advance(BATCH * REPORTED)
            curve.append((round(epoch, 3), round(figures["top1_error"], 4)))
            if len(curve) % SAVED == 0:
                state = {"curve": np.array(curve), "what": np.array(what)}
                _keep(unfinished, training.state() | state)
                error = 100 * figures["top1_error"]
                bar.show(f"epoch {epoch:.0f}", f"training error {error:.1f} %")
    row = {"arm": arm, "seed": seed, "epochs": epochs, "schedule": schedule, "curve": curve}
    row |= {f"test_error_{views}": training.test_error(test, views) for views in (1, 10)}
    errors = ", ".join(
        f"{views} views {100 * row[f'test_error_{views}']:.2f} %" for views in (1, 10)
    )
    print(f"{arm} seed {seed}, {epochs:g} epochs: {errors}", flush=True)
    return row


def _keep(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]
    temporary.replace(path)


def table(rows: list[dict], epochs: float, schedule: str, arms: list[str], seeds: list[int]) -> str:
    """Returns test errors by arm, and each arm's difference from the first over the same seeds."""
    rows = [r for r in rows if (r["epochs"], r["schedule"]) == (epochs, schedule)]
    lines = [f"| arm, {epochs:g} epochs | centre | ten views | less {arms[0]}, ten views |"]
    lines.append("|---|---|---|---|")

    def errors(arm: str, views: int) -> list[float]:
        by_seed = {r["seed"]: r for r in rows if r["arm"] == arm}
        return [100 * by_seed[seed][f"test_error_{views}"] for seed in seeds]

    for arm in arms:
        one, ten, first = errors(arm, 1), errors(arm, 10), errors(arms[0], 10)
        apart = shown([a - b for a, b in zip(ten, first, strict=True)]) if arm != arms[0] else ""
        cells = (f"{statistics.mean(e):.2f} % ({min(e):.2f} to {max(e):.2f})" for e in (one, ten))
        lines.append(f"| {arm} | {' | '.join(cells)} | {apart} |")
    return "\n".join(lines)


def _run(_: list[str]) -> None:
    out = pathlib.Path(flags.FLAGS.out)
    results = Results(out)
    train, test = (Split.read(split, flags.FLAGS.data_dir) for split in ("train", "test"))
    seeds, schedule = [int(seed) for seed in flags.FLAGS.seeds], flags.FLAGS.schedule
    epochs = flags.FLAGS.epochs or float(EPOCHS[schedule])
    for seed in seeds:
        for arm in flags.FLAGS.arms:
            if not results.find(arm=arm, seed=seed, epochs=epochs, schedule=schedule):
                name = f"{out.stem}_{arm}_{seed}_{epochs:g}_{schedule}.npz"
                unfinished = out.with_name(name)
                results.add(run(arm, seed, epochs, schedule, train, test, unfinished))
                unfinished.unlink(missing_ok=True)
    print(table(results.rows, epochs, schedule, flags.FLAGS.arms, seeds))


def define_flags() -> None:
    """Declares the command's flags; not at import, for other commands have the same."""
    flags.DEFINE_string("data_dir", "", "TFDS's folder with cifar10 in it")
    flags.DEFINE_string("out", str(HERE / "results" / "lrn.jsonl"), "finished runs")
    flags.DEFINE_list("seeds", "0,1,2", "of the runs")
    flags.DEFINE_float("epochs", 0, "of each run; 0: the schedule's own, 160 or 520")
    flags.DEFINE_enum("schedule", "13pct", list(EPOCHS), "whose")
    flags.DEFINE_list("arms", "11pct,11pct_without", "to train")


if __name__ == "__main__":
    large_pages.start_again_with_them()
    define_flags()
    app.run(_run)
