"""Exact evaluation: every image of a split once, one view or ten, softmax averaged."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax import augment, metrics, model, schemes
from alexnet_jax import mesh as meshes
from alexnet_jax.config import Config
from alexnet_jax.data.loader import ImageReader, Loader, evaluation_positions
from alexnet_jax.model import AlexNet
from alexnet_jax.schemes import Scheme
from alexnet_jax.step import DeviceBatch, abstract_batch, compile_options
from alexnet_jax.validation import validate


class EvaluationError(RuntimeError):
    """An evaluation that did not count every image once."""


def average_probabilities(
    scheme: Scheme, params: Any, image: jax.Array, views: int, config: Config
) -> jax.Array:
    """Returns the softmax averaged over views (paper section 4.1), (B, K) float32.

    B counts all images that the device's part of the classifier sees: `Scheme.all_rows`.
    """

    def one(total: jax.Array | float, view: jax.Array) -> tuple[jax.Array, None]:
        return total + jax.nn.softmax(scheme.logits(params, view)), None

    crops = augment.evaluation_views(image, views, config.augment, config.image_size)
    if views == 1:
        return one(0.0, crops[0])[0]
    shape = jax.eval_shape(lambda view: one(0.0, view)[0], crops[0])
    start = jnp.zeros(shape.shape, shape.dtype)
    return jax.lax.scan(one, start, jnp.stack(crops))[0] / views


def make_eval_step(
    config: Config, scheme: Scheme, views: int, specs: Any
) -> Callable[[Any, DeviceBatch], metrics.Sums]:
    """Returns (params, batch) -> the sums of `metrics.classification` and of `bad_images`, for use
    inside `mesh.per_device`.

    Args:
      config: of the run.
      scheme: how the mesh computes the network.
      views: 1 or 10.
      specs: where the parameters live.
    """

    def eval_step(params: Any, batch: DeviceBatch) -> metrics.Sums:
        params = meshes.whole_over_data(params, specs)
        probabilities = average_probabilities(scheme, params, batch["image"], views, config)
        tiny = jnp.finfo(probabilities.dtype).tiny
        log_probabilities = jnp.log(jnp.maximum(probabilities, tiny))
        rows = scheme.all_rows({name: batch[name] for name in ("label", "mask", "bad")})
        sums = metrics.classification(log_probabilities, rows["label"], rows["mask"])
        bad = rows["bad"].sum()
        return meshes.sum_over_data(sums | {"bad_images": metrics.average(bad, bad)})

    return eval_step


def eval_batch_size(config: Config) -> int:
    """Returns the images of one evaluation step."""
    return config.eval_batch_size or config.batch_size


def compile_step(
    config: Config, network: AlexNet, mesh: Mesh, params: Any, views: int
) -> jax.stages.Compiled:
    """Compiles the evaluation step for a mesh and abstract parameters."""
    meshes.check_batch("eval_batch_size", eval_batch_size(config), 1, mesh, config.mesh)
    scheme = schemes.build(config, network, mesh)
    specs = meshes.specs(params, mesh, config.mesh)
    function = make_eval_step(config, scheme, views, specs)
    step = meshes.per_device(function, mesh, config.mesh, specs)
    batch = abstract_batch(config, eval_batch_size(config), mesh)
    return jax.jit(step).lower(params, batch).compile(compile_options(config))


def compile_eval_step(config: Config) -> jax.stages.Compiled:
    """Compiles the evaluation step of a config whose `num_classes` is set, for its own mesh.

    Raises:
      ConfigError: a field that cannot be used, or `num_classes` = 0 for a data set that cannot be
        opened.
    """
    validate(config)
    mesh = meshes.build(config.mesh)
    network = model.build(config.model, num_classes(config), config.precision)
    shapes = model.abstract_parameters(network, config.image_size)
    params = meshes.placed(shapes, mesh, meshes.specs(shapes, mesh, config.mesh))
    return compile_step(config, network, mesh, params, config.eval_views)


def num_classes(config: Config) -> int:
    """Returns the classes that fc8 has; opens the data set only where the config does not say."""
    if config.num_classes:
        return config.num_classes
    from alexnet_jax.data.sources import open_dataset

    return len(open_dataset(config).class_names)


def evaluate(
    step: jax.stages.Compiled,
    params: Any,
    reader: ImageReader,
    config: Config,
    mesh: Mesh,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, float]:
    """Evaluates every image of a split once.

    Args:
      step: from `compile_step`.
      params: on the mesh.
      reader: the split.
      config: of the run.
      mesh: of the run.
      progress: called with the images of each step.

    Returns:
      `loss`, `top1_error`, `top5_error` as fractions, `count`, and `bad_images` where some were
      skipped.

    Raises:
      EvaluationError: the images counted are not those of the split less the bad ones.
      DataError: an image that cannot be read.
    """
    batch_size, total = eval_batch_size(config), None
    rows = meshes.local_rows(mesh, config.mesh, batch_size)
    with Loader(reader, config.resize, config.read_threads, config.read_ahead) as loader:
        positions = evaluation_positions(batch_size, len(reader))
        for batch in loader.batches(positions, rows):
            sums = step(params, meshes.put_batch(batch, mesh, config.mesh))
            total = sums if total is None else _merge(total, sums)
            progress(batch_size)
    if total is None:
        raise EvaluationError("the evaluation split holds no image")
    fetched = jax.device_get(total)
    bad = int(fetched.pop("bad_images").count)
    result = metrics.compute(fetched)
    if not result["count"]:
        raise EvaluationError("the evaluation split holds no image that can be read")
    if result["count"] + bad != len(reader):
        raise EvaluationError(
            f"counted {result['count']} images of {len(reader)} with {bad} bad ones"
        )
    return result | ({"bad_images": bad} if bad else {})


_merge = jax.jit(metrics.merge)
