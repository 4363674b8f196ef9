"""Trains ablations with several seeds, side by side on one data set.

    python -m experiments.ablations.run --out=FOLDER [--arms=base,no_norm] [--seeds=0,1,2]
        [--config=NAME --config.FIELD=VALUE ...]

Every run is a workdir FOLDER/ARM/SEED of `alexnet_jax.main`: the command skips finished runs and
resumes stopped ones. FOLDER/table.md has each arm's errors with one view and ten, and its
difference from the first arm over the same seeds, with the 95 % interval.
"""

import copy
import itertools
import json
import pathlib
import sys

from absl import app, flags

from alexnet_jax import cli
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.configs import flags as config_flags
from alexnet_jax.configs.validation import validate
from alexnet_jax.errors import unknown
from alexnet_jax.host import large_pages
from experiments.ablations.arms import ARMS
from experiments.statistics import shown


def recipe(base: Config, arm: str, seed: int) -> Config:
    """Returns the config of one run; its last evaluation takes ten views.

    Raises:
      ConfigError: no such arm; says which is nearest.
    """
    if arm not in ARMS:
        raise ConfigError(f"--arms: {unknown(arm, ARMS)}")
    config = copy.deepcopy(base)
    ARMS[arm].change(config)
    config.seed, config.eval_views = seed, 10
    return config


def check(base: Config, arms: list[str]) -> None:
    """Refuses, before any training, arms that are invalid or the same network as another arm.

    Raises:
      ConfigError: names them.
    """
    recipes = {arm: recipe(base, arm, 0) for arm in arms}
    for arm, config in recipes.items():
        try:
            validate(config)
        except ConfigError as error:
            raise ConfigError(f"--arms: {arm}: {error}") from error
    for arm, other in itertools.combinations(recipes, 2):
        if recipes[arm] == recipes[other]:
            raise ConfigError(
                f"--arms: {other} and {arm} are the same in this recipe; leave one out, or change "
                "the recipe (--config.model.layer2='relu norm pool' gives imagenette a second norm)"
            )


def all_arms(base: Config) -> list[str]:
    """Returns every arm that a recipe has; says which it has not, and why."""
    names: list[str] = []
    for arm in ARMS:
        try:
            check(base, [*names, arm])
        except ConfigError as error:
            print(f"left out: {str(error).removeprefix('--arms: ')}", flush=True)
        else:
            names.append(arm)
    return names


def errors(workdir: pathlib.Path) -> dict[int, float]:
    """Returns a finished run's top-1 error in points, by the number of views."""
    from alexnet_jax.training.rows import read_rows

    summary = json.loads((workdir / "summary.json").read_text())
    rows = read_rows(workdir / "metrics.jsonl")
    # Evaluations while training take the centre; the last one after them is the summary's.
    single = [r for r in rows if r["split"] == summary["split"] and r.get("views", 1) == 1]
    return {1: 100 * single[-1]["top1_error"], 10: 100 * summary["top1_error"]}


def table(measured: dict[str, list[dict[int, float]]]) -> str:
    """Returns the arms' errors and differences, Markdown.

    Args:
      measured: arm -> `errors` of each seed, in one order for all arms.
    """
    first = next(iter(measured))
    lines = [f"| arm | run, section | one view | ten views | less {first}, ten views | published |"]
    lines.append("|---" * 6 + "|")
    for arm, runs in measured.items():
        cells = [" ".join(f"{run[views]:.2f}" for run in runs) for views in (1, 10)]
        pairs = zip(runs, measured[first], strict=True)
        apart = shown([a[10] - b[10] for a, b in pairs]) if arm != first else ""
        about = ARMS[arm]
        lines.append(f"| {arm} | {about.run} | {' | '.join(cells)} | {apart} | {about.published} |")
    ten = [run[10] - run[1] for run in measured[first]]
    lines.append(f"\nTen views less one, {first}: {shown(ten)} (published: -1.5)")
    return "\n".join(lines) + "\n"


def _run(_: list[str]) -> None:
    from alexnet_jax import train
    from alexnet_jax.host import files

    out = pathlib.Path(flags.FLAGS.out).expanduser()
    seeds = [int(seed) for seed in flags.FLAGS.seeds]
    with cli.errors_as_one_line():
        base = flags.FLAGS.config
        arms = flags.FLAGS.arms or all_arms(base)
        check(base, arms)
        recipes = {arm: [recipe(base, arm, s) for s in seeds] for arm in arms}
        for at, seed in enumerate(seeds):  # all arms of a seed first: a table early
            for arm, configs in recipes.items():
                print(f"{arm}, seed {seed}", flush=True)
                train.train(configs[at], out / arm / str(seed))
            measured = {
                arm: [errors(out / arm / str(s)) for s in seeds[: at + 1]] for arm in recipes
            }
            files.replace_text(out / "table.md", table(measured))
    print((out / "table.md").read_text())


def define_flags() -> None:
    """Declares the command's flags; not at import, for other commands have the same."""
    config_flags.define()
    flags.DEFINE_string("out", None, "folder of the workdirs and the table", required=True)
    flags.DEFINE_list(
        "arms", [], "to train; the others are compared with the first; none: all that there are"
    )
    flags.DEFINE_list("seeds", "0,1,2", "of the runs")


def main() -> None:
    """Parses the flags and trains."""
    define_flags()
    try:
        sys.argv = config_flags.resolve(sys.argv)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    large_pages.start_again_with_them()
    app.run(_run)


if __name__ == "__main__":
    main()
