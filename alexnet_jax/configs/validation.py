"""Refuses a configuration that cannot run, before anything is started."""

import math

from alexnet_jax.config import (
    Config,
    ConfigError,
    InitConfig,
    ModelConfig,
    OptimizerConfig,
    check_types,
    flatten,
    unknown,
)
from alexnet_jax.configs import layer_rates
from alexnet_jax.configs.sizes import (
    channels,
    conv1_padding,
    feature_sizes,
    fully_connected_units,
)
from alexnet_jax.parallel.schemes import SCHEMES, scheme_of

CHOICES: dict[str, tuple[object, ...]] = {
    "on_bad_image": ("raise", "skip"),
    "feed": ("auto", "host", "resident"),
    "augment.statistics": ("auto", "imagenet"),
    "augment.mean_image": ("none", "moving", "centre"),
    "kernels": ("auto", "reference"),
    "init.classes": ("same", "match"),
    "precision": ("float32", "bfloat16", "float64"),
    "matmul_precision": ("default", "highest"),
    "eval_views": (1, 10),
    "model.columns": (1, 2),
    "model.init": ("normal", "he", "torch"),
    "model.normalisation": ("local", "batch"),
    "model.activation": ("relu", "tanh", "sigmoid"),
    "model.pool_size": (2, 3),
    "model.dropout_scaling": ("test", "train"),
    "model.lrn.convention": ("paper", "original_code", "caffe", "torch"),
    "augment.lighting": ("none", "stddev", "eigenvalue_unit_range"),
    "mesh.scheme": tuple(SCHEMES),
    "optimizer.kind": ("momentum", "lars"),
    "optimizer.schedule.kind": ("plateau", "step", "dexp", "polynomial", "cosine", "constant"),
}

# field -> (least value, is that value itself excluded?).
LEAST: dict[str, tuple[float, bool]] = {
    "batch_size": (1, False),
    "num_epochs": (1, False),
    "num_steps": (0, False),
    "num_classes": (0, False),
    "seed": (0, False),
    "resize": (1, False),
    "read_threads": (0, False),
    "read_ahead": (1, False),
    "resident_gib": (0, False),
    "steps_per_dispatch": (1, False),
    "eval_batch_size": (0, False),
    "eval_every_epochs": (1, False),
    "log_every_steps": (1, False),
    "checkpoint_every_steps": (1, False),
    "keep_checkpoints": (1, False),
    "check_replicas_every": (0, False),
    "replay_every": (0, False),
    "stuck_after_seconds": (0, True),
    "join_seconds": (0, True),
    "mesh.model": (1, False),
    "model.width": (0, True),
    "model.conv1_padding": (0, False),
    "model.conv1_padding_before": (0, False),
    "model.conv2_padding": (0, False),
    "model.conv5_padding": (0, False),
    "model.lrn.size": (1, False),
    "model.fc_units": (1, False),
    "model.fc7_units": (0, False),
    "model.conv6_channels": (0, False),
    "model.fc7_linear_units": (0, False),
    "model.lrn.alpha": (0, False),
    "model.lrn.beta": (0, False),
    "augment.chunk": (1, False),
    "augment.lighting_std": (0, False),
    "augment.lighting_rescale": (0, True),
    "augment.lighting_off_epoch": (0, False),
    "optimizer.learning_rate": (0, True),
    "optimizer.weight_decay": (0, False),
    "optimizer.bias_rate_factor": (0, False),
    "optimizer.trust_coefficient": (0, True),
    "optimizer.accumulate_steps": (1, False),
    "optimizer.fc_updates": (1, False),
    "optimizer.fc_rate_factor": (0, False),
    "optimizer.schedule.warmup_epochs": (0, False),
    "optimizer.schedule.dexp_factor": (0, True),
    "optimizer.schedule.bias_dexp_factor": (0, True),
    "optimizer.schedule.dexp_count": (1, False),
    "optimizer.schedule.bias_dexp_count": (1, False),
    "optimizer.schedule.power": (0, True),
    "optimizer.schedule.patience": (1, False),
    "optimizer.schedule.most_drops": (0, False),
}


# field -> largest plausible value. A larger one is a slip, and would use up the machine's memory or
# time before anything reports it.
MOST: dict[str, float] = {
    **dict.fromkeys(("batch_size", "eval_batch_size"), 2**24),
    **dict.fromkeys(
        ("num_epochs", "num_steps", "log_every_steps", "checkpoint_every_steps"), 2**31
    ),
    "num_classes": 10**7,
    **dict.fromkeys(("model.fc_units", "model.fc7_units", "model.fc7_linear_units"), 10**6),
    "model.conv6_channels": 10**6,
    **dict.fromkeys(("optimizer.schedule.dexp_count", "optimizer.schedule.bias_dexp_count"), 1000),
    **dict.fromkeys(("optimizer.schedule.patience", "optimizer.schedule.most_drops"), 2**31 - 1),
    **dict.fromkeys(("augment.lighting_off_epoch", "eval_every_epochs"), 2**31 - 1),
    **dict.fromkeys(("check_replicas_every", "replay_every"), 2**31 - 1),
    **dict.fromkeys(("stuck_after_seconds", "join_seconds"), 10**9),
    **dict.fromkeys(("steps_per_dispatch", "read_ahead", "keep_checkpoints"), 10**6),
    **dict.fromkeys(("model.conv1_padding", "model.conv1_padding_before"), 64),
    **dict.fromkeys(("model.conv2_padding", "model.conv5_padding"), 64),
    **dict.fromkeys(("optimizer.accumulate_steps", "optimizer.fc_updates"), 2**24),
    "resize": 2**14,
    "read_threads": 1024,
    "resident_gib": 10**6,
    "mesh.data": 2**20,
    "mesh.model": 2**20,
    "model.width": 100,
    "model.lrn.size": 255,
    "augment.chunk": 2**31,
}


def validate(config: Config) -> None:
    """Refuses what cannot run, before anything is started.

    Raises:
      ConfigError: names the field and the nearest right value.
    """
    validate_fields(config)
    _check_sizes(config)
    _check_network(config)


def validate_fields(config: Config) -> None:
    """Refuses what no network could run with; the network may still come with the weights.

    Raises:
      ConfigError: as `validate`.
    """
    check_types(config)
    leaves = flatten(config)
    for name, choices in CHOICES.items():
        if leaves[name] not in choices:
            raise ConfigError(f"{name}: {unknown(leaves[name], choices)}")
    for name, (least, exclusive) in LEAST.items():
        if leaves[name] < least or (exclusive and leaves[name] == least):
            relation = "larger than" if exclusive else "at least"
            raise ConfigError(f"{name}: {leaves[name]} must be {relation} {least}")
    for name, most in MOST.items():
        if leaves[name] > most:
            raise ConfigError(f"{name}: {leaves[name]:g} must be at most {most:,}")
    if not all(1 <= wide <= 10**6 for wide in config.model.channels):
        raise ConfigError(f"model.channels: {config.model.channels} must be from 1 to 1,000,000")
    for name in ("model.dropout_rate", "optimizer.momentum"):
        if not 0 <= leaves[name] < 1:
            raise ConfigError(f"{name}: {leaves[name]} must be in [0, 1)")
    if config.steps_per_dispatch > 1 and config.feed == "host":
        raise ConfigError(
            f"steps_per_dispatch: {config.steps_per_dispatch} updates in one dispatch need images "
            "that stay on the devices; use 1, or feed=resident"
        )
    if config.seed >= 2**32:
        raise ConfigError(f"seed: {config.seed} must be less than 2**32 = {2**32}")
    mean = config.augment.mean
    if len(mean) != 3 or not all(isinstance(value, int | float) for value in mean):
        raise ConfigError(f"augment.mean: {mean} must be three numbers: red, green, blue")
    spread = config.augment.pixel_std
    numbers = all(isinstance(value, int | float) and value > 0 for value in spread)
    if len(spread) not in (1, 3) or not numbers:
        raise ConfigError(
            f"augment.pixel_std: {spread} must be one positive number, or three: red, green, blue"
        )
    _check_init(config.init)
    _check_optimizer(config.optimizer, config.batch_size)
    if not config.dataset:
        raise ConfigError("dataset: name a TFDS data set or a folder split/class/image")


def _check_init(init: InitConfig) -> None:
    if not (init.checkpoint in ("best", "latest") or init.checkpoint.isdecimal()):
        raise ConfigError(f"init.checkpoint: {init.checkpoint} is not best, latest or a step")


def _check_sizes(config: Config) -> None:
    if config.image_size > config.resize:
        raise ConfigError(
            f"image_size: a crop of {config.image_size} does not fit in images of resize = "
            f"{config.resize}; the largest is {config.resize}"
        )
    padding = conv1_padding(config.model)
    rest = (config.image_size + padding - 11) % 4
    if rest:
        lower, upper = config.image_size - rest, config.image_size - rest + 4
        raise ConfigError(
            f"image_size: (image_size + model.conv1_padding - 11) must divide by conv1's stride "
            f"of 4; with padding {padding} the nearest to {config.image_size} "
            f"are {lower} and {upper}"
        )
    if feature_sizes(config)[-1] < 1:
        raise ConfigError(f"image_size: {config.image_size} leaves nothing after pool5; least: 67")
    if config.mesh.data == 0 or config.mesh.data < -1:
        raise ConfigError(f"mesh.data: {config.mesh.data} must be positive, or -1 for what is left")


def _channels(model: ModelConfig) -> dict[str, float]:
    """Returns the channels of each layer but the classes, as `width` scales them."""
    wide = channels(model) | fully_connected_units(model)
    return {name: size * model.width for name, size in wide.items()}


def _check_network(config: Config) -> None:
    model = config.model
    if len(model.channels) != 5 or not all(isinstance(c, int) and c > 0 for c in model.channels):
        raise ConfigError(
            f"model.channels: {model.channels} must be five whole numbers, of conv1 to conv5"
        )
    for name, wide in _channels(model).items():
        if wide < 2 or wide % 2:
            nearest = max(1, round(16 * model.width)) / 16  # 1/16 makes every layer's even
            raise ConfigError(
                f"model.width: {model.width} gives {name} {wide:g} channels, not an even number; "
                f"the nearest is {nearest:g}"
            )
    _check_shares(config)
    for field in ("layer1", "layer2", "layer3", "layer4", "layer5"):
        _check_order(model, field)
    removable = ("conv3", "conv4", "conv5", "fc7")
    for layer in model.without:
        if layer not in removable:
            raise ConfigError(f"model.without: {unknown(layer, removable)}")
    layers = model.layers()
    for layer in config.optimizer.frozen:
        if layer not in layers:
            raise ConfigError(f"optimizer.frozen: {unknown(layer, layers)}")
    if set(layers) == set(config.optimizer.frozen):
        raise ConfigError("optimizer.frozen: names every layer; leave out those that should learn")
    places = ("pool5", "fc6", "fc7")
    for place in model.dropout_after:
        if place not in places:
            raise ConfigError(f"model.dropout_after: {unknown(place, places)}")
    if "pool5" in model.dropout_after and not model.columns_meet:
        raise ConfigError(
            "model.dropout_after: pool5 is what fc6 reads of both columns; with model.columns_meet "
            "= False use fc6 and fc7"
        )
    if model.lrn.size % 2 == 0:
        raise ConfigError(f"model.lrn.size: {model.lrn.size} is even; use {model.lrn.size + 1}")


def _check_order(model: ModelConfig, field: str) -> None:
    """Refuses what cannot follow a convolution."""
    needed = ["relu"] if field in ("layer3", "layer4") else ["pool", "relu"]
    parts = getattr(model, field).split()
    if sorted(parts) not in (needed, sorted([*needed, "norm"])):
        raise ConfigError(
            f"model.{field}: {getattr(model, field)!r} must order {', '.join(needed)} and at most "
            f"one norm, such as 'relu norm{' pool' if 'pool' in needed else ''}'"
        )
    if "norm" in parts and field not in ("layer1", "layer2") and model.normalisation == "local":
        raise ConfigError(
            f"model.{field}: norm is local response normalisation, which follows conv1 and conv2 "
            "alone; leave it out, or use model.normalisation = 'batch'"
        )


def _check_shares(config: Config) -> None:
    """Refuses channels that the devices of `mesh.model` cannot share equally."""
    model, devices = config.model, config.mesh.model
    scheme, passes = scheme_of(config.mesh), config.optimizer.fc_updates
    if scheme.in_turns and passes not in (1, devices):
        raise ConfigError(
            f"optimizer.fc_updates: {passes} is not one turn for each of the {devices} devices of "
            f"mesh.model; use {devices}"
        )
    if config.mesh.zero and passes > 1:
        raise ConfigError(
            "mesh.zero: must be False where optimizer.fc_updates is more than 1: each would gather "
            "the parameters again"
        )
    if scheme.gathers_images and not model.columns_meet:
        raise ConfigError(
            "mesh.scheme: a hybrid gathers what all columns computed; with model.columns_meet = "
            "False use columns"
        )
    if devices % model.columns and devices > 1 and scheme.channels:
        lower = devices - devices % model.columns
        raise ConfigError(
            f"mesh.model: {devices} devices cannot share {model.columns} columns equally; "
            f"use {lower} or {lower + model.columns}"
        )
    for name, wide in _channels(model).items():
        if wide % devices and (scheme.channels or not name.startswith("conv")):
            fitting = [d for d in (8, 4, 2, 1) if d < devices and wide % d == 0]
            raise ConfigError(
                f"mesh.model: {devices} devices cannot share the {wide:g} channels of {name} "
                f"equally; use {max(fitting)}"
            )
    together = devices if model.lrn.across_columns else devices // model.columns
    least = min(model.channels[0], model.channels[1]) * model.width / devices
    if together > 1 and scheme.channels and least < model.lrn.size // 2:
        raise ConfigError(
            f"mesh.model: {devices} devices leave {least:g} channels each, but an LRN window "
            f"reads {model.lrn.size // 2} from a neighbour; use a smaller mesh.model"
        )


def _check_optimizer(optimizer: OptimizerConfig, batch_size: int) -> None:
    schedule = optimizer.schedule
    if batch_size % optimizer.accumulate_steps:
        small = [d for d in range(1, math.isqrt(batch_size) + 1) if batch_size % d == 0]
        divisors = [*small, *(batch_size // d for d in small)]
        nearest = min(divisors, key=lambda d: abs(d - optimizer.accumulate_steps))
        raise ConfigError(
            f"optimizer.accumulate_steps: {optimizer.accumulate_steps} does not divide batch_size "
            f"= {batch_size}; the nearest is {nearest}"
        )
    if optimizer.fc_updates > 1 and optimizer.accumulate_steps > 1:
        raise ConfigError(
            "optimizer.accumulate_steps: must be 1 if optimizer.fc_updates is more than 1, "
            "which already splits the batch"
        )
    if schedule.kind == "step" and not schedule.steps:
        raise ConfigError("optimizer.schedule.steps: empty with kind = step; use ((30.0, 0.001),)")
    for rule in schedule.layer_rates:
        layer_rates.parse(rule)
    for name in ("steps", "bias_steps"):
        rows = getattr(schedule, name)
        pairs = [row for row in rows if isinstance(row, tuple) and len(row) == 2]
        if len(pairs) < len(rows) or not all(isinstance(v, int | float) for p in pairs for v in p):
            raise ConfigError(f"optimizer.schedule.{name}: {rows} must be ((epoch, rate), ...)")
        if list(rows) != sorted(rows) or any(min(row) < 0 for row in rows):
            raise ConfigError(
                f"optimizer.schedule.{name}: {rows} must have rising epochs, no negative rates"
            )
