"""What a run's network answers to images of its evaluation split, as pictures for a page."""

import base64
import dataclasses
import io

import numpy as np

from alexnet_jax.config import ConfigError
from alexnet_jax.data.loader import ImageReader
from alexnet_jax.data.relabelled import labelled_as
from alexnet_jax.data.words import spoken
from alexnet_jax.figures import answers as answers_figure
from alexnet_jax.figures import confusion as confusion_figure
from alexnet_jax.figures.picture import Picture
from alexnet_jax.inference import pictures, predictions
from alexnet_jax.inference.network import Network

MOST_IMAGES = 2000  # that are answered; of more, so many in equal steps
SHOWN = 10  # best, and worst
CLASSES = 100  # up to which a confusion matrix can be read
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


def shown(network: Network) -> list[Shown]:
    """Answers images of the evaluation split once, and draws all that is seen in that.

    Raises:
      ConfigError: the split has no labels.
      DataError: there is no such split any more, or an image cannot be read.
    """
    source, split = network.source("")
    reader = network.reader(labelled_as(source, network.class_names))
    found, chosen = _answered(network, reader)
    if not found.counted.any():
        raise ConfigError(f"split: {split} has no labels")
    error = 100 * found.wrong(1)[found.counted].mean()
    of = f"{len(chosen):,} images of {split}, after {network.step:,} updates"
    told = f"top-1 error {error:.2f} %, one view, {of}"
    best, worst = _extremes(found)
    made = [
        _images(network, reader, found, chosen, best, f"the surest right answers ({of})"),
        _images(network, reader, found, chosen, worst, f"the surest wrong answers ({of})"),
    ]
    classes = max(len(network.class_names), int(found.classes[found.counted, 0].max()) + 1)
    if 1 < classes <= CLASSES:
        counts = confusion_figure.matrix(
            found.labels[found.counted], found.classes[found.counted, 0], classes
        )
        names = [spoken(network.class_name(k)) for k in range(classes)]
        picture = confusion_figure.draw(counts, names, f"{split}, one view")
        made.append(Shown(f"confusion: {told}", f"Confusion matrix; {told}", as_uri(picture)))
    picture = pictures.draw_errors(network, found)
    made.append(Shown(f"errors by class: {told}", f"Errors by class; {told}", as_uri(picture)))
    picture = pictures.kernels(network)
    made.append(Shown("conv1", "The kernels of conv1, a block for each column", as_uri(picture)))
    for place in best[:2]:
        image, label = _image(reader, int(chosen[place]))
        name = spoken(network.class_name(label))
        picture = pictures.activations(network, image)
        alt = f"The strongest maps of each layer and column for a photograph of {name}"
        made.append(Shown(f"after each layer: {name}", alt, as_uri(picture)))
    return [one for one in made if one is not None]


def _answered(network: Network, reader: ImageReader) -> tuple[predictions.Predictions, np.ndarray]:
    count = min(MOST_IMAGES, len(reader))
    chosen = np.linspace(0, len(reader) - 1, count).astype(int)
    parts: list[tuple[np.ndarray, ...]] = []
    for first in range(0, count, AT_ONCE):
        own = chosen[first : first + AT_ONCE]
        images = np.empty((len(own), reader.side, reader.side, 3), np.uint8)
        labels, good = reader.read(own, images)
        said = np.stack([one.probabilities for one in network.predict(images, views=1)])
        order = np.argsort(-said, axis=1, kind="stable")[:, : predictions.BEST]
        parts.append((labels, good, order, np.take_along_axis(said, order, axis=1)))
    labels, good, order, likely = (np.concatenate(part) for part in zip(*parts, strict=True))
    names = [reader.name(int(i)) for i in chosen]
    return predictions.Predictions(names, labels, good, order, likely), chosen


def _extremes(found: predictions.Predictions) -> tuple[list[int], list[int]]:
    """Returns where the surest right answers are, and the surest wrong ones."""
    order = np.argsort(-found.probabilities[:, 0], kind="stable")
    wrong = found.wrong(1)
    right = [int(i) for i in order if found.counted[i] and not wrong[i]]
    return right[:SHOWN], [int(i) for i in order if found.counted[i] and wrong[i]][:SHOWN]


def _images(
    network: Network,
    reader: ImageReader,
    found: predictions.Predictions,
    chosen: np.ndarray,
    places: list[int],
    title: str,
) -> Shown | None:
    if not places:
        return None
    images, labels, answers, said = [], [], [], []
    for place in places:
        image, label = _image(reader, int(chosen[place]))
        name = spoken(network.class_name(label))
        rows = [
            (spoken(network.class_name(int(k))), float(p))
            for k, p in zip(found.classes[place], found.probabilities[place], strict=True)
        ]
        images.append(image)
        labels.append(name)
        answers.append(rows)
        said.append(f"{name}: {rows[0][0]} ({100 * rows[0][1]:.0f} %)")
    picture = answers_figure.draw(images, labels, answers)
    return Shown(title, f"{title}: {'; '.join(said)}", as_uri(picture))


def _image(reader: ImageReader, index: int) -> tuple[np.ndarray, int]:
    image = np.empty((1, reader.side, reader.side, 3), np.uint8)
    labels, _ = reader.read(np.array([index]), image)
    return image[0], int(labels[0])
