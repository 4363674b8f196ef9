"""python -m alexnet_jax.convert --from=FORMAT IN --to=FORMAT OUT: weights in and out.

Reads caffe (.caffemodel, or a .npy dictionary), torchvision, onnx, safetensors or workdir. Writes
workdir, safetensors or torchvision; or onnx or stablehlo, which hold the network too, so that other
programs can run it. Executes nothing in a file, and writes nothing unless every tensor has its
place.
"""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import dataclasses
import sys
from typing import Any

from absl import flags

from alexnet_jax import cli
from alexnet_jax.data.words import read_names
from alexnet_jax.host import paths

FROM = ["caffe", "torchvision", "onnx", "safetensors", "workdir"]
TO = ["workdir", "safetensors", "torchvision", "onnx", "stablehlo"]


def _run(arguments: list[str]) -> None:
    values: Any = flags.FLAGS
    if len(arguments) != 3:
        sys.exit("error: name one input and one output: --from=FORMAT IN --to=FORMAT OUT")
    with cli.errors_as_one_line():
        source, out = paths.local(arguments[1], "IN"), paths.local(arguments[2], "OUT")
        from alexnet_jax.host import mirror
        from alexnet_jax.training import run_weights
        from alexnet_jax.weights import formats

        weights = run_weights.read(values["from"].value, source, values.recipe or "")
        if values.dataset:
            weights.config.dataset = values.dataset
        if values.data_dir:
            weights.config.data_dir = values.data_dir
        if values.class_names:
            names = read_names(
                paths.local(values.class_names, "--class_names"), len(weights.params["fc8"]["bias"])
            )
            weights = dataclasses.replace(weights, class_names=names)
        run_weights.write(values.to, weights, out, values.from_images)
        mirror.publish(out)
    c, names = weights.config, weights.class_names
    cli.say(
        f"{out}: {len(weights.params)} layers, {len(weights.params['fc8']['bias'])} classes, "
        f"for crops of {c.image_size} of {c.resize}"
    )
    if names[:1] == [formats.BACKGROUND]:
        cli.say(f"classes are taken for TensorFlow's: {names[0]}, then ImageNet's thousand")


def define_flags() -> None:
    """Declares the command's flags."""
    flags.DEFINE_enum("from", None, FROM, "format of the input", required=True)
    flags.DEFINE_enum("to", None, TO, "format of the output", required=True)
    flags.DEFINE_bool(
        "from_images",
        False,
        "onnx, stablehlo: take uint8 RGB crops, not views with the mean subtracted",
    )
    flags.DEFINE_string("recipe", None, "recipe of the network, if the file does not name it")
    flags.DEFINE_string("class_names", None, "a file of its classes, one a line by label")
    flags.DEFINE_string("dataset", None, "data set that the workdir evaluates on by default")
    flags.DEFINE_string("data_dir", None, "TFDS's data_dir for that data set")


def main() -> None:
    """Parses the flags and converts."""
    define_flags()
    cli.run(_run)


if __name__ == "__main__":
    main()
