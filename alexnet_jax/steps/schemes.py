"""How the network and the batch are shared out over the devices of the `model` axis.

columns          every layer by its channels: the paper's columns (figure 2)
hybrid           convolutions each on images of their own, fully connected layers by their units;
                 the activations of everyone's images are gathered between them, at once, or where
                 the fully connected layers learn K times a step, a K-th of everyone's each time
                 (Krizhevsky 2014, schemes (a) and (c))
hybrid_in_turns  the same, but one device's images at a time (scheme (b))
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.model import AlexNet, on_devices, own_parameters
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes

Rows = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The passes of a batch through a network, as one device sees them; see `mesh.per_device`.

    Attributes:
      name: as above.
      convolutions: what the device computes of them.
      classifier: what it computes of the fully connected layers.
      passes: parts in which a batch goes through the classifier.
    """

    name: str
    convolutions: AlexNet
    classifier: AlexNet
    passes: int = 1

    @property
    def devices(self) -> int:
        """Devices that compute the same logits, and the same loss from them."""
        return self.classifier.columns.devices

    def features(self, params: Any, views: jax.Array, training: bool = False) -> jax.Array:
        """Maps the device's views, (b, S, S, 3), to what fc6 reads of them."""
        found = self.convolutions.apply({"params": params}, views, training, method="features")
        return jnp.asarray(found)

    def classify(self, params: Any, x: jax.Array, dropout_keys: jax.Array | None) -> jax.Array:
        """Maps the activations of a pass to logits, (B', num_classes)."""
        own = {"params": own_parameters(self.classifier, params)}
        return jnp.asarray(self.classifier.apply(own, x, dropout_keys, method="classify"))

    def gather(self, x: jax.Array, turn: int = 0) -> jax.Array:
        """Returns a pass's activations, of all images that go through the classifier in it."""
        if self.name == "columns":
            return jnp.split(x, self.passes)[turn]
        with jax.named_scope("fc6"):
            if self.name == "hybrid_in_turns" and self.passes > 1:
                return collectives.broadcast_from(x, turn)
            return collectives.gather_images(jnp.split(x, self.passes)[turn])

    def all_rows(self, rows: Rows) -> Rows:
        """Gathers what is known of the images whose activations the device sees: numbers, (b,)."""
        if self.name == "columns":
            return rows
        names = sorted(rows)
        with jax.named_scope("labels"):
            # All are whole numbers: one exchange serves them.
            stacked = jnp.stack([rows[name].astype(jnp.int32) for name in names], axis=1)
            gathered = collectives.gather_images(stacked)
        return {name: gathered[:, i].astype(rows[name].dtype) for i, name in enumerate(names)}

    def rows_of(self, rows: Rows, turn: int) -> Rows:
        """Returns the rows of a pass from `all_rows`', in the order of `gather`."""
        devices = 1 if self.name == "columns" else self.devices
        if self.name == "hybrid_in_turns" and self.passes > 1:
            return jax.tree.map(lambda a: jnp.split(a, devices)[turn], rows)
        return jax.tree.map(
            lambda a: a.reshape(devices, self.passes, -1)[:, turn].reshape(-1), rows
        )

    def logits(
        self, params: Any, views: jax.Array, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Maps views to the logits of `all_rows`, in one pass; with keys when training."""
        x = self.features(params, views, dropout_keys is not None)
        return self.classify(params, self.gather(x), dropout_keys)

    def outputs(self, params: Any, views: jax.Array, rows: Rows) -> dict[str, Any]:
        """Returns what each layer computes on the device in one pass, as LAYER_output."""
        x, first = self.convolutions.apply(
            {"params": params}, views, True, method="features", mutable=["intermediates"]
        )
        own = {"params": own_parameters(self.classifier, params)}
        _, then = self.classifier.apply(
            own,
            self.gather(jnp.asarray(x)),
            rows["dropout_key"],
            method="classify",
            mutable=["intermediates"],
        )
        return dict(first["intermediates"]) | dict(then["intermediates"])


def build(config: Config, network: AlexNet, mesh: Mesh, passes: int = 1) -> Scheme:
    """Returns the scheme that a config asks for, of a whole network on a mesh."""
    part = on_devices(network, meshes.model_devices(mesh))
    whole = part if config.mesh.scheme == "columns" else network
    whole = whole.clone(over_devices=lambda x: collectives.mean_over_images(x, config.mesh))
    return Scheme(config.mesh.scheme, whole, part, passes)
