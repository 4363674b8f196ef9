"""A network's answers to images of its evaluation split, as pictures for a page.

The answers come from the run's last evaluation. Runs of older code kept none; for them some images
are predicted here.
"""

import base64
import dataclasses
import io
import pathlib
import sys

import numpy as np

from alexnet_jax import cli
from alexnet_jax.config import ConfigError
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.relabelled import labelled_as
from alexnet_jax.data.words import spoken
from alexnet_jax.figures import answers as answers_figure
from alexnet_jax.figures import confusion as confusion_figure
from alexnet_jax.figures.picture import Picture
from alexnet_jax.host import files
from alexnet_jax.inference import pictures, predictions
from alexnet_jax.inference.network import Network
from alexnet_jax.steps.answers import Answers
from alexnet_jax.training import answers_file

MOST_IMAGES = 2000  # answered at most; a larger split is sampled at equal steps
SHOWN = 10  # best, and worst
AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture in a page.

    Attributes:
      title: above it.
      alt: what it shows, for who cannot see it.
      uri: its bytes, as a data: address.
    """

    title: str
    alt: str
    uri: str


def as_uri(picture: Picture, form: str = "webp") -> str:
    """Returns a picture as a data: address: webp, or svg."""
    buffer = io.BytesIO()
    options = {"pil_kwargs": {"quality": 82}} if form == "webp" else {}
    picture.savefig(buffer, format=form, **options)
    kind = {"webp": "image/webp", "svg": "image/svg+xml"}[form]
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shown(network: Network, workdir: pathlib.Path) -> list[Shown]:
    """Draws a run's pictures from answers to images of the evaluation split.

    Args:
      network: of the run, for its kernels and activations.
      workdir: of the run, where its last evaluation kept answers.

    Raises:
      ConfigError: the split has no labels.
      DataError: there is no such split any more, or an image cannot be read.
    """
    source, split = network.source("")
    reader = network.reader(labelled_as(source, network.class_names))
    predicted, chosen, step = _kept(workdir, reader, split) or _asked(network, reader)
    if not predicted.counted.any():
        raise ConfigError(f"split: {split} has no labels")
    error = 100 * predicted.wrong(1)[predicted.counted].mean()
    of = f"{len(chosen):,} images of {split}, after {step:,} updates"
    heading = f"top-1 error {error:.2f} %, one view, {of}"
    best, worst, wrong = _extremes(predicted)
    title = "the surest wrong answers" if wrong == len(worst) else "the worst answers"
    kinds = "" if wrong == len(worst) else f"; {wrong} are wrong, the others are the least sure"
    made = [
        _images(network, reader, predicted, chosen, best, f"the surest right answers ({of})"),
        _images(network, reader, predicted, chosen, worst, f"{title} ({of}{kinds})"),
    ]
    names = [spoken(name) for name in network.class_names]
    picture = confusion_figure.of_answers(predicted, names, f"{split}, one view")
    if picture:
        made.append(Shown(f"confusion: {heading}", f"Confusion matrix; {heading}", as_uri(picture)))
    many = "" if picture else f"; {len(names):,} classes are too many for a confusion matrix"
    picture = pictures.draw_errors(network, predicted)
    title = f"errors by class, and the commonest confusions: {heading}{many}"
    made.append(Shown(title, f"Errors by class; {heading}", as_uri(picture)))
    picture = pictures.kernels(network)
    made.append(Shown("conv1", "The kernels of conv1, a block for each column", as_uri(picture)))
    for place in best[:2]:
        image, label = _image(reader, int(chosen[place]))
        name = spoken(network.class_name(label))
        picture = pictures.activations(network, image)
        alt = f"The strongest maps of each layer and column for a photograph of {name}"
        made.append(Shown(f"after each layer: {name}", alt, as_uri(picture)))
    return [one for one in made if one is not None]


def _kept(
    workdir: pathlib.Path, reader: ImageReader, split: str
) -> tuple[predictions.Predictions, np.ndarray, int] | None:
    """Returns answers, indices and step of the run's last evaluation, if it was of these images."""
    try:
        evaluated = answers_file.read(workdir)
    except FileNotFoundError:
        return None
    except files.DamagedFileError as error:
        cli.say(f"{error}; images are answered anew", file=sys.stderr)
        return None
    if evaluated.split != split or len(evaluated.answers.labels) != len(reader):
        return None
    return predictions.named(evaluated.answers, reader), np.arange(len(reader)), evaluated.step


def _asked(
    network: Network, reader: ImageReader
) -> tuple[predictions.Predictions, np.ndarray, int]:
    """Predicts some of the images; returns the answers, their indices, and the network's step."""
    count = min(MOST_IMAGES, len(reader))
    chosen = np.linspace(0, len(reader) - 1, count).astype(int)
    parts: list[tuple[np.ndarray, ...]] = []
    for first in range(0, count, AT_ONCE):
        indices = chosen[first : first + AT_ONCE]
        images = np.empty((len(indices), reader.side, reader.side, 3), np.uint8)
        labels, good = reader.read(indices, images)
        probabilities = np.stack([one.probabilities for one in network.predict(images, views=1)])
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : predictions.BEST]
        parts.append((labels, good, order, np.take_along_axis(probabilities, order, axis=1)))
    answers = Answers(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    return predictions.named(answers, reader, chosen.tolist()), chosen, network.step


def _extremes(predicted: predictions.Predictions) -> tuple[list[int], list[int], int]:
    """Returns the positions of the best and the worst answers, and how many of the worst are wrong.

    The best are right and confident, the worst wrong and confident. If too few are wrong, the least
    confident right ones follow.
    """
    order = np.argsort(-predicted.probabilities[:, 0], kind="stable")
    is_wrong = predicted.wrong(1)
    right = [int(i) for i in order if predicted.counted[i] and not is_wrong[i]]
    wrong = [int(i) for i in order if predicted.counted[i] and is_wrong[i]][:SHOWN]
    unsure = [i for i in reversed(right[SHOWN:])][: SHOWN - len(wrong)]
    return right[:SHOWN], wrong + unsure, len(wrong)


def _images(
    network: Network,
    reader: ImageReader,
    predicted: predictions.Predictions,
    chosen: np.ndarray,
    places: list[int],
    title: str,
) -> Shown | None:
    if not places:
        return None
    images, labels, answers, texts = [], [], [], []
    for place in places:
        image, label = _image(reader, int(chosen[place]))
        name = spoken(network.class_name(label))
        rows = [
            (spoken(network.class_name(int(k))), float(p))
            for k, p in zip(predicted.classes[place], predicted.probabilities[place], strict=True)
        ]
        images.append(image)
        labels.append(name)
        answers.append(rows)
        texts.append(f"{name}: {rows[0][0]} ({100 * rows[0][1]:.0f} %)")
    picture = answers_figure.draw(images, labels, answers)
    return Shown(title, f"{title}: {'; '.join(texts)}", as_uri(picture))


def _image(reader: ImageReader, index: int) -> tuple[np.ndarray, int]:
    image = np.empty((1, reader.side, reader.side, 3), np.uint8)
    labels, _ = reader.read(np.array([index]), image)
    return image[0], int(labels[0])
