"""The set-up of a step: what travels together and does not change during a run."""

import dataclasses

from jax.sharding import Mesh

from alexnet_jax import model
from alexnet_jax.config import Config
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.model import AlexNet
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps.augment import Views

IMAGENET_TRAIN = 1_281_167  # images that a schedule over epochs assumes where no data set is opened


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """A network on a mesh, with what it sees.

    Attributes:
      config: of the run.
      network: the whole module; `Forward` cuts a device's share out of it.
      mesh: from `mesh.build`.
      views: what the network sees of an image.
      num_examples: of the training split.
    """

    config: Config
    network: AlexNet
    mesh: Mesh
    views: Views
    num_examples: int = IMAGENET_TRAIN

    @classmethod
    def of(
        cls,
        config: Config,
        num_classes: int,
        num_examples: int = IMAGENET_TRAIN,
        mesh: Mesh | None = None,
        statistics: Statistics | None = None,
    ) -> "Setup":
        """Builds a config's network.

        Args:
          config: of the run.
          num_classes: width of fc8.
          num_examples: of the training split.
          mesh: None: the one that the config asks for.
          statistics: of the store that is read, if one is.

        Raises:
          ConfigError: there is no such mesh here.
        """
        network = model.build(config.model, num_classes, config.precision)
        mesh = meshes.build(config.mesh) if mesh is None else mesh
        return cls(config, network, mesh, Views.of(config, statistics), num_examples)
