"""Exact evaluation: every image of a split once, one view or ten, softmax averaged."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from alexnet_jax.config import Config
from alexnet_jax.errors import UserError
from alexnet_jax.feed.protocol import Fed, Feed, Feeding
from alexnet_jax.model import AlexNet
from alexnet_jax.ops import compilation
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.steps import augment, metrics, schemes
from alexnet_jax.steps.schemes import Scheme


class EvaluationError(UserError, RuntimeError):
    """An evaluation that did not count every image once."""


def average_probabilities(
    scheme: Scheme, params: Any, image: jax.Array, count: int, views: augment.Views
) -> jax.Array:
    """Returns the softmax averaged over `count` views (paper section 4.1), (B, K) float32.

    B counts all images that the device's part of the classifier sees: `Scheme.all_rows`.
    """

    def one(total: jax.Array | float, view: jax.Array) -> tuple[jax.Array, None]:
        return total + jax.nn.softmax(scheme.logits(params, view)), None

    crops = views.evaluation(image, count)
    if count == 1:
        return one(0.0, crops[0])[0]
    shape = jax.eval_shape(lambda view: one(0.0, view)[0], crops[0])
    start = jnp.zeros(shape.shape, shape.dtype)
    return jax.lax.scan(one, start, jnp.stack(crops))[0] / count


def make_eval_step(
    scheme: Scheme, count: int, specs: Any, feeding: Feeding, views: augment.Views
) -> Callable[[Any, Fed], metrics.Sums]:
    """Returns (params, fed) -> the sums of `metrics.classification` and of `bad_images`, for use
    inside `mesh.per_device`.

    Args:
      scheme: how the mesh computes the network.
      count: views of each image, 1 or 10.
      specs: where the parameters live.
      feeding: how the batch comes.
      views: what the network sees of it.
    """

    def eval_step(params: Any, fed: Fed) -> metrics.Sums:
        batch = feeding.evaluation(fed)
        params = collectives.whole_over_data(params, specs)
        probabilities = average_probabilities(scheme, params, batch["image"], count, views)
        tiny = jnp.finfo(probabilities.dtype).tiny
        log_probabilities = jnp.log(jnp.maximum(probabilities, tiny))
        rows = scheme.all_rows({name: batch[name] for name in ("label", "mask", "bad")})
        sums = metrics.classification(log_probabilities, rows["label"], rows["mask"])
        bad = rows["bad"].sum()
        return collectives.sum_over_data(sums | {"bad_images": metrics.average(bad, bad)})

    return eval_step


def eval_batch_size(config: Config) -> int:
    """Returns the images of one evaluation step."""
    return config.eval_batch_size or config.batch_size


def compile_step(
    config: Config,
    network: AlexNet,
    mesh: Mesh,
    params: Any,
    count: int,
    feeding: Feeding,
    views: augment.Views,
) -> jax.stages.Compiled:
    """Compiles the evaluation step for a mesh and abstract parameters."""
    scheme = schemes.build(config, network, mesh)
    specs = meshes.specs(params, mesh, config.mesh)
    function = make_eval_step(scheme, count, specs, feeding, views)
    step = meshes.per_device(function, mesh, specs, feeding.specs)
    abstract, deterministic = (params, feeding.abstract(mesh)), config.deterministic
    return compilation.compiled(
        step, *abstract, kernels=config.kernels, deterministic=deterministic
    )


def evaluate(
    step: jax.stages.Compiled,
    params: Any,
    feed: Feed,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, float]:
    """Evaluates every image of a split once.

    Args:
      step: from `compile_step`, for the feed's feeding.
      params: on the mesh.
      feed: of the split.
      progress: called with the images of each step.

    Returns:
      `loss`, `top1_error`, `top5_error` as fractions, `count`, and `bad_images` where some were
      skipped.

    Raises:
      EvaluationError: the images counted are not those of the split less the bad ones.
      DataError: an image that cannot be read.
    """
    total = None
    with contextlib.closing(feed.evaluation()) as batches:
        for fed in batches:
            sums = step(params, fed)
            # A feed uses a batch's memory again when the second one after it is asked for.
            jax.block_until_ready(total)
            total = sums if total is None else _merge(total, sums)
            progress(feed.feeding.batch_size)
    if total is None:
        raise EvaluationError("the evaluation split holds no image")
    fetched = jax.device_get(total)
    bad = int(fetched.pop("bad_images").count)
    result = metrics.compute(fetched)
    if not result["count"]:
        raise EvaluationError("the evaluation split holds no image that can be read")
    if result["count"] + bad != feed.count:
        raise EvaluationError(
            f"counted {result['count']} images of {feed.count} with {bad} bad ones"
        )
    return result | ({"bad_images": bad} if bad else {})


_merge = jax.jit(metrics.merge)
