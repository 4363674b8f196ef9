"""Exact evaluation: every image of a split once, one view or ten, softmax averaged."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from alexnet_jax.config import Config
from alexnet_jax.errors import UserError
from alexnet_jax.feed.protocol import Fed, Feed, Feeding
from alexnet_jax.ops import compilation
from alexnet_jax.parallel import collectives
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.parallel.schemes import DATA
from alexnet_jax.steps import augment, metrics
from alexnet_jax.steps.answers import Answers, Collector, Rows, likeliest
from alexnet_jax.steps.forward import Forward
from alexnet_jax.steps.setup import Setup

SPECS = (P(), P(DATA))  # of what a step returns: sums are everywhere, rows are shared out


class EvaluationError(UserError, RuntimeError):
    """An evaluation that did not count every image once."""


def average_probabilities(
    forward: Forward, weights: Any, image: jax.Array, count: int, views: augment.Views
) -> jax.Array:
    """Returns the softmax averaged over `count` views (paper section 4.1), (B, K) float32.

    B counts all images that the device's part of the classifier sees: `Forward.all_rows`.
    """

    def one(total: jax.Array | float, view: jax.Array) -> tuple[jax.Array, None]:
        return total + jax.nn.softmax(forward.logits(weights, view)), None

    crops = views.evaluation(image, count)
    if count == 1:
        return one(0.0, crops[0])[0]
    shape = jax.eval_shape(lambda view: one(0.0, view)[0], crops[0])
    start = jnp.zeros(shape.shape, shape.dtype)
    return jax.lax.scan(one, start, jnp.stack(crops))[0] / count


class EvaluationStopped(Exception):
    """Some process was told to end, and all of them stop after the same batch."""


class EvalStep:
    """One batch of an evaluation as one device computes it, for use inside `mesh.per_device`.

    Maps the standard tree and a fed batch to sums and to the rows of `Answers`. The sums are those
    of `metrics.classification` and `bad_images`; with several processes also `stop`: was any of
    them told to end?
    """

    def __init__(self, setup: Setup, feeding: Feeding, specs: Any, views: int) -> None:
        """Prepares a step.

        Args:
          setup: of the run.
          feeding: how the batch comes.
          specs: where the leaves of the tree live.
          views: of each image, 1 or 10.
        """
        self._forward, self._views = Forward.of(setup), setup.views
        self._feeding, self._specs, self._count = feeding, specs, views

    def __call__(self, weights: Any, fed: Fed) -> tuple[metrics.Sums, Rows]:
        """Counts one batch, and returns the network's answer for each image."""
        batch = self._feeding.evaluation(fed)
        weights = collectives.whole_over_data(weights, self._specs)
        probabilities = average_probabilities(
            self._forward, weights, batch["image"], self._count, self._views
        )
        tiny = jnp.finfo(probabilities.dtype).tiny
        log_probabilities = jnp.log(jnp.maximum(probabilities, tiny))
        rows = self._forward.all_rows({name: batch[name] for name in ("label", "mask", "bad")})
        sums = metrics.classification(log_probabilities, rows["label"], rows["mask"])
        bad = rows["bad"].sum()
        sums = collectives.sum_over_data(sums | {"bad_images": metrics.average(bad, bad)})
        answers = {"labels": rows["label"], "readable": rows["mask"] > 0} | likeliest(probabilities)
        if jax.process_count() == 1:  # which knows it without asking
            return sums, answers
        return sums | {"stop": collectives.any_device(batch["stop"].any())}, answers


def eval_batch_size(config: Config) -> int:
    """Returns the images of one evaluation step."""
    return config.eval_batch_size or config.batch_size


def compile_eval_step(
    setup: Setup, feeding: Feeding, weights: Any, views: int
) -> jax.stages.Compiled:
    """Compiles (weights, fed) -> (sums, rows); see `EvalStep`.

    Args:
      setup: of the run.
      feeding: how the batch comes.
      weights: the standard tree, abstract or not.
      views: of each image, 1 or 10.
    """
    mesh, config = setup.mesh, setup.config
    specs = meshes.specs(weights, mesh, config.mesh)
    step = EvalStep(setup, feeding, specs, views)
    return compilation.compiled(
        meshes.per_device(step, mesh, specs, feeding.specs, SPECS),
        weights,
        feeding.abstract(mesh),
        numerics=compilation.Numerics.of(config),
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      figures: `loss`, `top1_error`, `top5_error` as fractions, `count`, and `bad_images` where some
        were skipped.
      answers: of each image.
    """

    figures: dict[str, float]
    answers: Answers


def evaluate(
    step: jax.stages.Compiled,
    weights: Any,
    feed: Feed,
    progress: Callable[[int], None] = lambda images: None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluates every image of a split once.

    Args:
      step: from `compile_eval_step`, for the feed's feeding.
      weights: the standard tree, on the mesh.
      feed: of the split.
      progress: called with the images of each step.
      stop: asked before each: was this process told to end?

    Raises:
      EvaluationError: the number of images counted is not that of the split less the bad ones.
      DataError: an image cannot be read.
      EvaluationStopped: a process was told to end.
    """
    total, stopped, alone = None, False, jax.process_count() == 1
    answered = Collector()
    with contextlib.closing(feed.evaluation(stop)) as batches:
        for fed in batches:
            sums, rows = step(weights, fed)
            # A feed reuses a batch's memory when it is asked for the second batch after it.
            jax.block_until_ready(total)
            if stop() if alone else jax.device_get(stopped):
                raise EvaluationStopped
            answered.add(rows)
            stopped = sums.pop("stop", False)
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
    figures = result | ({"bad_images": bad} if bad else {})
    return Evaluation(figures, answered.answers(feed.count))


_merge = jax.jit(metrics.merge)
