"""Schemes: the axes of the mesh, and what is shared out over which.

Only this file compares their names.

columns          shards every layer by its channels: the paper's columns (figure 2)
hybrid           shards convolutions by images, fully connected layers by their units. In between,
                 gathers the activations of all devices' images, all at once; or, if the fully
                 connected layers learn K times a step, a K-th of each device's images each time
                 (Krizhevsky 2014, schemes (a) and (c))
hybrid_in_turns  the same, but one device's images at a time (scheme (b))

A new scheme is a row of SCHEMES, and a name in LAYOUTS for comparisons. Where it needs another
exchange between convolutions and fully connected layers, that is in `steps/forward.py`.
"""

import dataclasses

from alexnet_jax.config import MeshConfig

DATA, MODEL = "data", "model"


@dataclasses.dataclass(frozen=True)
class Scheme:
    """Axes of the mesh by what is shared out over them.

    Attributes:
      images: of a batch.
      channels: of the convolutions.
      units: of the fully connected layers.
      in_turns: do the fully connected layers see one device's images at a time?
    """

    images: tuple[str, ...]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    in_turns: bool = False

    @property
    def gathers_images(self) -> bool:
        """Do devices that share units have images of their own, gathered before fc6?"""
        return bool(set(self.images) & set(self.units))


SCHEMES = {
    "columns": Scheme(images=(DATA,), channels=(MODEL,), units=(MODEL,)),
    "hybrid": Scheme(images=(DATA, MODEL), channels=(), units=(MODEL,)),
    "hybrid_in_turns": Scheme(images=(DATA, MODEL), channels=(), units=(MODEL,), in_turns=True),
}


def scheme_of(config: MeshConfig) -> Scheme:
    """Returns the scheme that a config names."""
    return SCHEMES[config.scheme]


LAYOUTS = ("data", "columns", "hybrid", "hybrid_in_turns", "zero")


def layout(name: str, devices: int) -> tuple[MeshConfig, int]:
    """Returns the mesh of a layout by its common name, for comparisons.

    Args:
      name: one of LAYOUTS.
      devices: number of devices; at least two for every layout but `data`.

    Returns:
      The mesh, and the number of parts in which a batch goes through the classifier.

    >>> layout("columns", 8)[0].data
    4
    """
    if name in SCHEMES and name != "columns":
        return MeshConfig(1, devices, name), devices if SCHEMES[name].in_turns else 1
    columns = 2 if name == "columns" else 1
    return MeshConfig(devices // columns, columns, zero=name == "zero"), 1
