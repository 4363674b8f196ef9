"""python -m alexnet_jax.predict --workdir=W photo.jpg ...: the five best classes of photographs."""

import pathlib
import sys

import numpy as np
from absl import app, flags

from alexnet_jax import cli
from alexnet_jax.data.decode import decode
from alexnet_jax.data.types import DataError
from alexnet_jax.data.words import name_of, spoken


class Predictor:
    """A run's best checkpoint, ready to name what is on photographs."""

    def __init__(self, workdir: pathlib.Path, views: int = 10, which: str = "best") -> None:
        """Reads the run.

        Raises:
          ConfigError: not the workdir of a run with a checkpoint.
        """

        from alexnet_jax.inference import trained
        from alexnet_jax.ops import compilation
        from alexnet_jax.steps import evaluation

        self.network = network = trained.load(workdir, which=which)
        forward, how = network.forward, network.setup.views
        self._probabilities = compilation.jit(
            lambda params, image: evaluation.average_probabilities(
                forward, params, image, views, how
            ),
            network.config.kernels,
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Maps one decoded square, (R, R, 3) uint8, to its probabilities, (K,) float32."""
        return np.asarray(self._probabilities(self.network.params, image[None])[0])


def best_five(probabilities: np.ndarray, class_names: list[str]) -> list[tuple[str, float]]:
    """Returns the five likeliest classes with their probabilities, likeliest first."""
    order = np.argsort(-probabilities, kind="stable")[:5]
    return [(name_of(class_names, int(i)), float(probabilities[i])) for i in order]


def draw(image: np.ndarray, rows: list[tuple[str, float]], path: pathlib.Path) -> None:
    """Draws the photograph with bars of its likeliest classes beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    left.imshow(image)
    left.set_axis_off()
    names, values = [spoken(name) for name, _ in rows][::-1], [100 * p for _, p in rows][::-1]
    bars = right.barh(names, values, color=["tab:gray"] * (len(rows) - 1) + ["tab:blue"])
    right.bar_label(bars, fmt="%.1f %%", padding=3)
    right.set(xlim=(0, 115), xlabel="probability, %")
    right.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _run(arguments: list[str]) -> None:
    workdir = pathlib.Path(flags.FLAGS.workdir).expanduser()
    folder = pathlib.Path(flags.FLAGS.out or workdir / "plots" / "predictions").expanduser()
    photographs = [pathlib.Path(name) for name in arguments[1:]]
    if not photographs:
        sys.exit("error: name at least one photograph after the flags")
    with cli.errors_as_one_line():
        predictor = Predictor(workdir, int(flags.FLAGS.views))
    config, failed = predictor.network.config, 0
    stems = [path.stem for path in photographs]
    for number, path in enumerate(photographs, 1):
        try:
            encoded = path.read_bytes()
            image = decode(encoded, str(path), config.resize, config.exif_orientation)
        except (DataError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        rows = best_five(predictor(image), predictor.network.class_names)
        print(path)
        for name, probability in rows:
            known = f"{spoken(name)} ({name})" if spoken(name) != name else name
            print(f"  {100 * probability:6.2f} %  {known}")
        repeated = f"_{number}" if stems.count(path.stem) > 1 else ""
        picture = folder / f"{path.stem}{repeated}.png"
        with cli.errors_as_one_line():
            draw(image, rows, picture)
        print(f"  drawn in {picture}")
    sys.exit(1 if failed else 0)


def define_flags() -> None:
    """Declares the command's flags; not at import, for another command has the same."""
    flags.DEFINE_string("workdir", None, "the folder of a run", required=True)
    flags.DEFINE_enum("views", "10", ["1", "10"], "views whose probabilities are averaged")
    flags.DEFINE_string("out", None, "folder of the pictures; default: plots in the workdir")


if __name__ == "__main__":
    define_flags()
    app.run(_run)
