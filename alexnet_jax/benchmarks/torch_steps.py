"""The same network, batch and precision in PyTorch, written as its users write it."""

from collections.abc import Callable, Iterator
from typing import Any

from alexnet_jax.config import CONVOLUTIONS, Config, ConfigError
from alexnet_jax.configs.sizes import feature_sizes, fully_connected_units
from alexnet_jax.ops.lrn_formula import Lrn

Contender = tuple[str, Callable[[], Any], Callable[[Any], Any]]


def contenders(what: str, config: Config) -> Iterator[Contender]:
    """Yields PyTorch's variants: the name, a function that runs a step, and one that waits for it.

    Args:
      what: step or eval.
      config: of the network, the batch and the precision.

    Raises:
      ConfigError: PyTorch is not installed, or the network cannot be written in it.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("--against=torch: PyTorch is not installed; pip install torch") from error
    if config.model.without or config.model.pool_size != 3 or not config.model.columns_meet:
        raise ConfigError("--against=torch: only networks of eight layers whose columns meet")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True  # its fastest convolutions, found by trying
    for name in ("torch-eager", "torch-channels_last", "torch-compile"):
        torch.manual_seed(0)
        again = _step(torch, name, what, config, device)
        yield name, again, lambda _: torch.cuda.synchronize() if device == "cuda" else None


def _step(torch: Any, name: str, what: str, config: Config, device: str) -> Callable[[], Any]:
    network = _network(torch, config).to(device)
    x = torch.randn(config.batch_size, 3, config.image_size, config.image_size, device=device)
    y = torch.arange(config.batch_size, device=device) % config.num_classes
    if name != "torch-eager":
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    o = config.optimizer
    optimizer = torch.optim.SGD(
        network.parameters(), o.learning_rate, o.momentum, weight_decay=o.weight_decay
    )
    run = torch.compile(network) if name == "torch-compile" else network
    half = config.precision == "bfloat16"

    def loss() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            return torch.nn.functional.cross_entropy(run(x).float(), y)

    def train() -> Any:
        optimizer.zero_grad(set_to_none=True)
        error = loss()
        error.backward()
        optimizer.step()
        return error

    def infer() -> Any:
        with torch.inference_mode():
            return loss()

    network.train(what == "step")
    return train if what == "step" else infer


def _network(torch: Any, config: Config) -> Any:
    """Returns the variant as a torch.nn.Sequential; grouped convolutions are its own."""
    nn, model = torch.nn, config.model
    wide = [round(c * model.width) for c in model.channels]
    units = {name: round(n * model.width) for name, n in fully_connected_units(model).items()}
    fc6, fc7 = units["fc6"], units["fc7"]
    side = feature_sizes(config).pool5
    corner = (model.conv1_padding_before, model.conv1_padding)
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[model.activation]
    layers: list[Any] = [nn.ZeroPad2d(2 * corner)] if any(corner) else []
    sizes, paddings = (11, 5, 3, 3, 3), (0, model.conv2_padding, 1, 1, model.conv5_padding)
    groups = (1, model.columns, 1, model.columns, model.columns)
    inputs = [3, *wide]
    for i, _ in enumerate(CONVOLUTIONS):
        stride = 4 if i == 0 else 1
        layers.append(
            nn.Conv2d(inputs[i], wide[i], sizes[i], stride, paddings[i], groups=groups[i])
        )
        for part in getattr(model, f"layer{i + 1}").split():
            layers += {
                "relu": lambda: [activation()],
                "norm": lambda c=wide[i], i=i: _norm(torch, config, c, i == 1),
                "pool": lambda: [nn.MaxPool2d(3, 2)],
            }[part]()
    last = wide[4]
    if model.conv6_channels:
        last = round(model.conv6_channels * model.width)
        layers += [nn.Conv2d(wide[4], last, 3, 1, 1), activation()]
    layers.append(nn.Flatten())
    drop = nn.Dropout(model.dropout_rate)
    before = {"pool5": [drop], "fc6": [drop], "fc7": [drop]}
    after = {place: before[place] if place in model.dropout_after else [] for place in before}
    layers += [*after["pool5"], nn.Linear(last * side**2, fc6), activation(), *after["fc6"]]
    layers += [nn.Linear(fc6, fc7), activation(), *after["fc7"]]
    if "fc7_linear" in units:
        layers.append(nn.Linear(fc7, units["fc7_linear"]))
        fc7 = units["fc7_linear"]
    layers.append(nn.Linear(fc7, config.num_classes))
    return nn.Sequential(*layers)


def _norm(torch: Any, config: Config, channels: int, second: bool) -> list[Any]:
    model, nn = config.model, torch.nn
    if model.normalisation == "batch":
        return [nn.BatchNorm2d(channels, affine=False)]
    c = Lrn.named(model.lrn.convention, model.lrn.size, model.lrn.alpha, model.lrn.beta)
    whole = model.lrn.across_columns or model.columns == 1

    class Local(nn.Module):
        """Windows that stop at a column's edge; PyTorch divides alpha by the window."""

        def forward(self, x: Any) -> Any:
            """Normalises (B, C, H, W)."""
            parts = [x] if whole else x.chunk(model.columns, 1)
            norm = nn.functional.local_response_norm
            return torch.cat([norm(p, c.size, c.scale * c.size, c.beta, c.k) for p in parts], 1)

    class Spatial(nn.Module):
        """Run #145's norm over 5x5 pixels of a map."""

        def forward(self, x: Any) -> Any:
            """Normalises (B, C, H, W)."""
            return x / (1 + 0.001 * nn.functional.avg_pool2d(x * x, 5, 1, 2)) ** 0.75

    return [Local(), Spatial()] if second and model.spatial_norm2 else [Local()]
