"""The passes of a batch through a network, as one device of a mesh computes them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from alexnet_jax.layers.standard_tree import layer_outputs, variables
from alexnet_jax.model import AlexNet, on_devices
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.parallel.schemes import Scheme, scheme_of
from alexnet_jax.steps.setup import Setup

Rows = dict[str, jax.Array]
Weights = Any  # the standard tree, with the statistics of batch normalisation where there are some


@dataclasses.dataclass(frozen=True)
class Forward:
    """A network shared out by a scheme; its methods work inside `mesh.per_device`.

    Attributes:
      scheme: which axis shards what.
      convolutions: the device's share of them; when training, averages statistics over the images.
      classifier: the device's share of the fully connected layers.
      passes: parts in which a batch goes through the classifier.
    """

    scheme: Scheme
    convolutions: AlexNet
    classifier: AlexNet
    passes: int = 1

    @classmethod
    def of(cls, setup: Setup, passes: int = 1, training: bool = False) -> "Forward":
        """Returns the passes of a set-up's network on its mesh.

        Args:
          setup: of the run.
          passes: parts in which a batch goes through the classifier.
          training: does batch normalisation use the batch's own statistics?
        """
        shares, scheme = setup.config.mesh, scheme_of(setup.config.mesh)
        share = on_devices(setup.network, meshes.model_devices(setup.mesh))
        convolutions = share if scheme.channels else setup.network
        if training:
            convolutions = convolutions.clone(
                over_devices=lambda x: collectives.mean_over_images(x, shares),
                frozen=tuple(setup.config.optimizer.frozen),
            )
        return cls(scheme, convolutions, share, passes)

    @property
    def devices(self) -> int:
        """Devices that compute the same logits, and the same loss from them."""
        return self.classifier.columns.devices

    def features(self, weights: Weights, views: jax.Array) -> tuple[jax.Array, Any]:
        """Maps the device's views, (b, S, S, 3), to the activations that fc6 reads.

        Returns:
          The activations, and batch normalisation's statistics, which evaluation leaves unchanged.
        """
        module_variables = variables(weights)
        activations, changed = self.convolutions.apply(
            module_variables, views, method="features", mutable=["batch_stats"]
        )
        return jnp.asarray(activations), dict(changed).get("batch_stats", {})

    def classify(
        self, weights: Weights, x: jax.Array, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """Maps the activations of a pass to logits, (B', num_classes)."""
        module_variables = variables(weights)
        return jnp.asarray(
            self.classifier.apply(module_variables, x, dropout_keys, method="classify")
        )

    def gather(self, x: jax.Array, turn: int = 0) -> jax.Array:
        """Returns the activations of all images that go through the classifier in one pass."""
        if not self.scheme.gathers_images:
            return jnp.split(x, self.passes)[turn]
        with jax.named_scope("fc6"):
            if self.scheme.in_turns and self.passes > 1:
                return collectives.broadcast_from(x, turn)
            return collectives.gather_images(jnp.split(x, self.passes)[turn])

    def all_rows(self, rows: Rows) -> Rows:
        """Gathers per-image numbers, (b,) each, of all images whose activations the device sees."""
        if not self.scheme.gathers_images:
            return rows
        names = sorted(rows)
        with jax.named_scope("labels"):
            # All are whole numbers: one exchange serves them.
            stacked = jnp.stack([rows[name].astype(jnp.int32) for name in names], axis=1)
            gathered = collectives.gather_images(stacked)
        return {name: gathered[:, i].astype(rows[name].dtype) for i, name in enumerate(names)}

    def rows_of(self, rows: Rows, turn: int) -> Rows:
        """Selects one pass's rows from those of `all_rows`, in the order of `gather`."""
        devices = self.devices if self.scheme.gathers_images else 1
        if self.scheme.in_turns and self.passes > 1:
            return jax.tree.map(lambda a: jnp.split(a, devices)[turn], rows)
        return jax.tree.map(
            lambda a: a.reshape(devices, self.passes, -1)[:, turn].reshape(-1), rows
        )

    def logits(self, weights: Weights, views: jax.Array) -> jax.Array:
        """Maps views to the logits of `all_rows`, in one pass, without dropout."""
        x, _ = self.features(weights, views)
        return self.classify(weights, self.gather(x))

    def outputs(self, weights: Weights, views: jax.Array, rows: Rows) -> dict[str, jax.Array]:
        """Returns what each layer computes on the device in one training pass, before its ReLU."""
        capture = {
            "capture_intermediates": layer_outputs,
            "mutable": ["intermediates", "batch_stats"],
        }
        x, first = self.convolutions.apply(variables(weights), views, method="features", **capture)
        module_variables, x = variables(weights), self.gather(jnp.asarray(x))
        _, then = self.classifier.apply(
            module_variables, x, rows["dropout_key"], method="classify", **capture
        )
        layers = {**dict(first)["intermediates"], **dict(then)["intermediates"]}
        return {layer: outputs["__call__"][0] for layer, outputs in layers.items()}
