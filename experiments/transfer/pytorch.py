"""python -m experiments.transfer.pytorch --weights=runs/convolutions --dataset=PATH --seed=0

Fine-tunes the same network in PyTorch: the recipe `fine_tune` with the same first weights, order,
crops, colours and rates, which this package computes. Network, dropout, loss, gradients and updates
are PyTorch's own. Prints a line of JSON: errors with one view and ten, and minutes.
"""

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from alexnet_jax import configs
from alexnet_jax.config import LAYERS, Config, num_train_steps
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.data.loader import ImageReader, read_all
from alexnet_jax.data.order import batch_positions
from alexnet_jax.data.sources import open_dataset
from alexnet_jax.steps.augment import Views
from alexnet_jax.steps.optimizer import Schedule
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.state import create_state, with_weights
from alexnet_jax.training import start as starts
from alexnet_jax.weights import layout

EVALUATED = 50  # images at a time


def network(classes: int, dropout: float) -> nn.Sequential:
    """Returns torchvision's alexnet with the recipe's dropout, (N, 3, 224, 224) -> (N, classes)."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    classifier = nn.Sequential(
        *(nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout)),
        nn.Linear(4096, classes),
    )
    return nn.Sequential(features, nn.Flatten(), classifier)


def layers_of(net: nn.Sequential) -> dict[str, Any]:
    """Returns convolutions and matrices by their names here."""
    layers = [part for part in net.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    names = [name for name in LAYERS if name != "conv6" and name != "fc7_linear"]
    return dict(zip(names, layers, strict=True))


class Fed:
    """The images of a split on the host, and views of them as PyTorch wants them."""

    def __init__(self, config: Config, dataset: Dataset, split: str, views: Views) -> None:
        """Reads the split."""
        reader = ImageReader(dataset.open(split), config.resize)
        self._config, self._views = config, views
        self.images, self.labels, _ = read_all(reader, 0, len(reader), 0)
        key = jax.random.key(config.seed)
        self._training = jax.jit(lambda batch: views.training(batch, key))
        self._evaluation = jax.jit(views.evaluation, static_argnums=1)

    def training(self, step: int) -> tuple[Any, Any]:
        """Returns the views and labels of update `step`, counted from 1."""
        where = batch_positions(self._config.seed, step, self._config.batch_size, len(self.labels))
        numbers = where._asdict() | {"image": self.images[where.index]}
        x = self._training({name: jnp.asarray(values) for name, values in numbers.items()})
        return _channels_first(x), torch.from_numpy(self.labels[where.index].astype(np.int64))

    def evaluation(self, first: int, views: int) -> list[Any]:
        """Returns the views of the images from `first` on."""
        images = jnp.asarray(self.images[first : first + EVALUATED])
        return [_channels_first(view) for view in self._evaluation(images, views)]


def _channels_first(x: jax.Array) -> Any:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def first_weights(setup: Setup, begin: starts.Start, dataset: Dataset) -> dict[str, np.ndarray]:
    """Returns the tensors that a run of this package begins with, as torchvision has them."""
    fitted = starts.fit(begin, setup, dataset.class_names)
    state = with_weights(create_state(setup), fitted.params)
    params = jax.tree.map(np.asarray, state.params)
    return layout.from_standard(params, layout.LAYOUTS["torchvision"])


def error(net: nn.Sequential, fed: Fed, views: int) -> float:
    """Returns the top-1 error; of ten views the probabilities are averaged."""
    net.eval()
    wrong = 0
    with torch.inference_mode():
        for first in range(0, len(fed.labels), EVALUATED):
            of_views = [net(x).softmax(1) for x in fed.evaluation(first, views)]
            classes = torch.stack(of_views).mean(0).argmax(1).numpy()
            wrong += int((classes != fed.labels[first : first + EVALUATED]).sum())
    return wrong / len(fed.labels)


def main() -> None:
    """Trains and evaluates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    config = configs.get("fine_tune")
    config.num_epochs, config.seed, config.dataset = options.epochs, options.seed, options.dataset
    config.init.weights, config.init.layers = options.weights, ("conv1-conv5",)
    begin = starts.read(config)
    assert begin is not None
    config, dataset = begin.config, open_dataset(config=begin.config)
    count = dataset.size(config.train_split)
    setup = Setup.of(config, len(dataset.class_names), count, statistics=begin.weights.statistics)
    tensors = first_weights(setup, begin, dataset)
    net = network(len(dataset.class_names), config.model.dropout_rate)
    assert config.model.dropout_after == ("fc6", "fc7")
    layers = layers_of(net)
    for name, layer in layers.items():
        theirs = layout.TORCHVISION[name]
        for part in ("weight", "bias"):
            with torch.no_grad():
                getattr(layer, part).copy_(torch.from_numpy(tensors[f"{theirs}.{part}"].copy()))
    torch.manual_seed(options.seed)  # of dropout
    groups = [
        {"params": [getattr(layer, part)], "name": f"{name}_{kind}", "kind": kind}
        for name, layer in layers.items()
        for part, kind in (("weight", "kernel"), ("bias", "bias"))
    ]
    optimizer = torch.optim.SGD(
        groups, 1.0, config.optimizer.momentum, weight_decay=config.optimizer.weight_decay
    )
    schedule = jax.jit(Schedule(config, count))
    train = Fed(config, dataset, config.train_split, setup.views)
    begun = time.perf_counter()
    steps = num_train_steps(config, count)
    for step in range(1, steps + 1):
        rates = schedule(jnp.int32(step - 1), jnp.int32(0))
        for group in optimizer.param_groups:
            group["lr"] = float(rates.get(group["name"], rates[group["kind"]]))
        x, y = train.training(step)
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net.train()(x), y)
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps}: loss {loss.item():.4f}", flush=True)
    minutes = (time.perf_counter() - begun) / 60
    held_out = Fed(config, dataset, dataset.eval_split(), setup.views)
    errors = {views: error(net, held_out, views) for views in (1, 10)}
    print(
        json.dumps(
            {
                "seed": options.seed,
                "one": errors[1],
                "ten": errors[10],
                "minutes": round(minutes, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
