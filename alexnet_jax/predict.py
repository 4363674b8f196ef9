"""python -m alexnet_jax.predict --workdir=W photo.jpg ...: the five best classes of photographs.

--serve answers in a browser instead: drop photographs there (pip install 'alexnet_jax[serve]').
In a notebook: `alexnet_jax.inference.load(W).predict("photo.jpg")`.
"""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import gc
import itertools
import os
import pathlib
import socket
import sys
import unicodedata
from collections.abc import Sequence

from absl import flags

from alexnet_jax import cli
from alexnet_jax.config import ConfigError
from alexnet_jax.data.types import DataError
from alexnet_jax.data.words import spoken
from alexnet_jax.host import paths
from alexnet_jax.training import candidates

MOST_BYTES = 200  # of a picture's name; disks take 255


def pictures_of(photographs: Sequence[pathlib.Path], folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns a path for each photograph's picture; all differ, and none is a photograph's own.

    Args:
      photographs: as they were named.
      folder: of the pictures.
    """
    taken = {_as_disks_see_it(os.path.realpath(os.path.expanduser(path))) for path in photographs}
    place = os.path.realpath(folder)
    pictures = []
    for path in photographs:
        stem = path.stem
        while len(os.fsencode(stem)) > MOST_BYTES:
            stem = stem[:-1]
        for number in itertools.count(1):
            picture = folder / (f"{stem}.png" if number == 1 else f"{stem}_{number}.png")
            seen = _as_disks_see_it(os.path.join(place, picture.name))
            if seen not in taken:
                break
        taken.add(seen)
        pictures.append(picture)
    return pictures


def _as_disks_see_it(path: str) -> str:
    """Normalises a path like a file system that ignores case and the encoding of accents."""
    return unicodedata.normalize("NFC", path).casefold()


def _run(arguments: list[str]) -> None:
    named = arguments[1:]
    if flags.FLAGS.serve:
        if named:
            sys.exit("error: --serve answers what is sent to it; leave the photographs out")
        return _serve()
    if not named:
        sys.exit("error: name at least one photograph after the flags")
    with cli.errors_as_one_line():
        # Take the names verbatim, except those in a bucket.
        photographs = [
            paths.local(n, "PHOTO") if n.startswith("gs://") else pathlib.Path(n) for n in named
        ]
        workdir = paths.local(flags.FLAGS.workdir, "--workdir")
        out = flags.FLAGS.out
        folder = paths.local(out, "--out") if out else workdir / "plots" / "predictions"
        gc.disable()  # little is garbage before the first answer: this saves 1/20 of the time
        candidates.hash_ahead(workdir, flags.FLAGS.checkpoint)  # while JAX is imported
        from alexnet_jax import inference
        from alexnet_jax.inference.images import squares
        from alexnet_jax.inference.network import in_words

        views = int(flags.FLAGS.views)
        network = inference.load(workdir, flags.FLAGS.checkpoint, flags.FLAGS.kernels, ahead=views)
        config, failed = network.config, 0
        for path, picture in zip(photographs, pictures_of(photographs, folder), strict=True):
            try:
                image, _ = squares(path, config.resize, config.exif_orientation)
                [answer] = network.predict(image, views)
                cli.say(path)
                for name, probability in answer.best:
                    cli.say(f"  {100 * probability:6.2f} %  {in_words(name)}")
                sys.stdout.flush()
                gc.enable()
                from alexnet_jax.figures import answers  # here: answers must not wait for it

                rows = [(spoken(name), probability) for name, probability in answer.best]
                answers.draw_one(image[0], rows).save(picture)
                cli.say(f"  drawn in {picture}")
            except (DataError, OSError) as error:  # the others are answered all the same
                gc.enable()
                print(f"error: {cli.line_of(error)}", file=sys.stderr)
                failed += 1
    sys.exit(1 if failed else 0)


def _serve() -> None:
    with cli.errors_as_one_line():
        try:
            import uvicorn  # pyright: ignore[reportMissingImports]

            from alexnet_jax.pages import server
        except ImportError as error:
            raise ConfigError(
                f"--serve: needs starlette, uvicorn and python-multipart ({error}); pip install "
                "'alexnet_jax[serve]'"
            ) from error
        from alexnet_jax import inference

        values = flags.FLAGS
        workdir = paths.local(values.workdir, "--workdir")
        network = inference.load(workdir, values.checkpoint, values.kernels)
        with _listening(values.host, values.port) as listener:
            host, port = listener.getsockname()[:2]
            views = int(values.views) if values["views"].present else 1
            app = server.app(network, views)
            shown = f"[{host}]" if ":" in host else host
            cli.say(f"http://{shown}:{port} answers; Ctrl-C ends it", flush=True)
            uvicorn.Server(uvicorn.Config(app, **server.OPTIONS)).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
      ConfigError: the port is taken, or there is no such address.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"--port: cannot listen on {host}:{port} ({error.strerror}); name another, or 0 for any"
        ) from error


def define_flags() -> None:
    """Declares the command's flags; not at import, for another command has the same."""
    flags.DEFINE_string("workdir", None, "the folder of a run", required=True)
    flags.DEFINE_enum(
        "views", "10", ["1", "10"], "views whose probabilities are averaged; 1 with --serve"
    )
    cli.define_network_flags()
    flags.DEFINE_bool("serve", False, "answer photographs in a browser until Ctrl-C")
    flags.DEFINE_string("host", "127.0.0.1", "with --serve: the address to listen on")
    flags.DEFINE_integer("port", 8000, "with --serve; 0: any that is free", 0, 65535)
    flags.DEFINE_string("out", None, "folder of the pictures; default: plots in the workdir")


def main() -> None:
    """Parses the flags and answers."""
    define_flags()
    cli.run(_run)


if __name__ == "__main__":
    main()
