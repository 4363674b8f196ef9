"""Checks of a config and its mesh before a run opens anything."""

import jax
from jax.sharding import Mesh

from alexnet_jax.config import Config, ConfigError
from alexnet_jax.configs.validation import validate as validate_all
from alexnet_jax.configs.validation import validate_fields
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.parallel import processes
from alexnet_jax.parallel.schemes import scheme_of
from alexnet_jax.steps import evaluation


def validate(config: Config) -> None:
    """Refuses what cannot run; a network that comes with weights is checked once it is known."""
    validate_fields(config) if config.init.weights else validate_all(config)


def build_mesh(config: Config) -> Mesh:
    """Builds the mesh that a config asks for, and says how many devices are unused.

    Raises:
      ConfigError: the devices cannot form that mesh, or the batch does not divide over it.
    """
    if config.precision == "float64" and not jax.config.values["jax_enable_x64"]:
        raise ConfigError(
            "precision: float64 needs JAX_ENABLE_X64=1 in the environment; JAX computes in float32 "
            "without it"
        )
    mesh = meshes.build(config.mesh)
    unused = len(jax.devices()) - mesh.devices.size
    if unused:
        processes.say(f"mesh: {unused} of {len(jax.devices())} devices are not used")
    # In turns, the classifier takes a device's images all at once: they are not cut further.
    turns = 1 if scheme_of(config.mesh).in_turns else config.optimizer.fc_updates
    parts = config.optimizer.accumulate_steps * turns
    meshes.check_batch("batch_size", config.batch_size, parts, mesh, config.mesh)
    meshes.check_batch("eval_batch_size", evaluation.eval_batch_size(config), 1, mesh, config.mesh)
    return mesh
