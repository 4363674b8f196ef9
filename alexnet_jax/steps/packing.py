"""Weights in the forms that inference is fastest with, made once for many batches."""

from collections.abc import Callable
from typing import Any

from alexnet_jax.layers import standard_tree
from alexnet_jax.layers.linear import PACKED
from alexnet_jax.ops import compilation
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps.setup import Setup

Weights = Any  # the standard tree, or one with packed kernels beside


class Packing:
    """Packs weights for inference; where no kernel has a faster form they stay as they are.

    Attributes:
      abstract: what it returns, as shapes with their shardings.
    """

    def __init__(self, setup: Setup, weights: Weights) -> None:
        """Compiles it.

        Args:
          setup: of the network. A kernel that is shared out over devices is not packed.
          weights: the standard tree, abstract or not.
        """
        self.abstract = weights
        self._pack: Callable[[Weights], Any] | None = None
        config, mesh = setup.config, setup.mesh
        if meshes.model_devices(mesh) > 1 or config.mesh.zero:
            return

        def pack(weights: Weights) -> Any:
            return standard_tree.packed(setup.network, weights, config.image_size)

        numerics = compilation.Numerics.of(config)
        made = compilation.abstract(pack, weights, numerics=numerics)
        if made:
            everywhere = meshes.replicated(mesh)
            self._pack = compilation.compiled(
                pack, weights, numerics=numerics, out_shardings=everywhere
            )
            self.abstract = weights | {
                PACKED: meshes.placed(made, mesh, meshes.specs(made, mesh, config.mesh))
            }

    def __call__(self, weights: Weights) -> Weights:
        """Returns weights for a step that was compiled for `abstract`."""
        return weights if self._pack is None else weights | {PACKED: self._pack(weights)}
