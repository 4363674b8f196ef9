"""python -m alexnet_jax.predict --workdir=W photo.jpg ...: the five best classes of photographs.

In a notebook: `alexnet_jax.inference.load(W).predict("photo.jpg")`.
"""

from alexnet_jax.host import command

command.begin(__name__)  # before what is imported for seconds


import pathlib
import sys

from absl import flags

from alexnet_jax import cli
from alexnet_jax.data.types import DataError
from alexnet_jax.data.words import spoken
from alexnet_jax.host import files


def _run(arguments: list[str]) -> None:
    photographs = [pathlib.Path(name) for name in arguments[1:]]
    if not photographs:
        sys.exit("error: name at least one photograph after the flags")
    with cli.errors_as_one_line():
        workdir = files.local(flags.FLAGS.workdir, "--workdir")
        out = flags.FLAGS.out
        folder = files.local(out, "--out") if out else workdir / "plots" / "predictions"
        from alexnet_jax import inference
        from alexnet_jax.figures import answers
        from alexnet_jax.inference.images import squares
        from alexnet_jax.inference.network import in_words

        network = inference.load(workdir)
        config, failed = network.config, 0
        stems = [path.stem for path in photographs]
        for number, path in enumerate(photographs, 1):
            try:
                image, _ = squares(path, config.resize, config.exif_orientation)
            except DataError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
                continue
            [found] = network.predict(image, int(flags.FLAGS.views))
            print(path)
            for name, probability in found.best:
                print(f"  {100 * probability:6.2f} %  {in_words(name)}")
            repeated = f"_{number}" if stems.count(path.stem) > 1 else ""
            picture = folder / f"{path.stem}{repeated}.png"
            rows = [(spoken(name), probability) for name, probability in found.best]
            answers.draw_one(image[0], rows).save(picture)
            print(f"  drawn in {picture}")
    sys.exit(1 if failed else 0)


def define_flags() -> None:
    """Declares the command's flags; not at import, for another command has the same."""
    flags.DEFINE_string("workdir", None, "the folder of a run", required=True)
    flags.DEFINE_enum("views", "10", ["1", "10"], "views whose probabilities are averaged")
    flags.DEFINE_string("out", None, "folder of the pictures; default: plots in the workdir")


def main() -> None:
    """Parses the flags and answers."""
    define_flags()
    cli.run(_run)


if __name__ == "__main__":
    main()
