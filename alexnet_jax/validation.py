"""Refuses a configuration that cannot run, before anything is started."""

from alexnet_jax.config import (
    Config,
    ConfigError,
    OptimizerConfig,
    check_types,
    feature_sizes,
    flatten,
    unknown,
)

CHOICES: dict[str, tuple[object, ...]] = {
    "on_bad_image": ("raise", "skip"),
    "precision": ("float32", "bfloat16"),
    "eval_views": (1, 10),
    "model.columns": (1, 2),
    "model.init": ("normal", "he"),
    "model.dropout_scaling": ("test", "train"),
    "model.lrn.convention": ("paper", "original_code", "caffe", "torch"),
    "augment.lighting": ("none", "stddev", "eigenvalue_unit_range"),
    "optimizer.kind": ("momentum", "lars"),
    "optimizer.schedule.kind": ("plateau", "step", "dexp", "polynomial", "cosine", "constant"),
}

# field -> least value allowed (the second: must it be larger than that?).
LEAST: dict[str, tuple[float, bool]] = {
    "batch_size": (1, False),
    "num_epochs": (1, False),
    "num_steps": (0, False),
    "num_classes": (0, False),
    "seed": (0, False),
    "resize": (1, False),
    "read_threads": (1, False),
    "read_ahead": (1, False),
    "cache_gib": (0, False),
    "eval_batch_size": (0, False),
    "eval_every_epochs": (1, False),
    "log_every_steps": (1, False),
    "checkpoint_every_steps": (1, False),
    "keep_checkpoints": (1, False),
    "mesh.model": (1, False),
    "model.width": (0, True),
    "model.conv1_padding": (0, False),
    "model.lrn.size": (1, False),
    "model.lrn.alpha": (0, False),
    "model.lrn.beta": (0, False),
    "augment.chunk": (1, False),
    "augment.lighting_std": (0, False),
    "augment.lighting_rescale": (0, True),
    "augment.lighting_off_epoch": (0, False),
    "augment.pixel_std": (0, True),
    "optimizer.learning_rate": (0, True),
    "optimizer.weight_decay": (0, False),
    "optimizer.bias_rate_factor": (0, False),
    "optimizer.trust_coefficient": (0, True),
    "optimizer.accumulate_steps": (1, False),
    "optimizer.schedule.warmup_epochs": (0, False),
    "optimizer.schedule.dexp_factor": (0, True),
    "optimizer.schedule.bias_dexp_factor": (0, True),
    "optimizer.schedule.dexp_count": (1, False),
    "optimizer.schedule.bias_dexp_count": (1, False),
    "optimizer.schedule.power": (0, True),
    "optimizer.schedule.patience": (1, False),
    "optimizer.schedule.most_drops": (0, False),
}


def validate(config: Config) -> None:
    """Refuses what cannot run, before anything is started.

    Raises:
      ConfigError: names the field and the nearest right value.
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
    for name in ("model.dropout_rate", "optimizer.momentum"):
        if not 0 <= leaves[name] < 1:
            raise ConfigError(f"{name}: {leaves[name]} must be in [0, 1)")
    if config.seed >= 2**32:
        raise ConfigError(f"seed: {config.seed} must be less than 2**32 = {2**32}")
    mean = config.augment.mean
    if len(mean) != 3 or not all(isinstance(value, int | float) for value in mean):
        raise ConfigError(f"augment.mean: {mean} must be three numbers: red, green, blue")
    _check_sizes(config)
    _check_network(config)
    _check_optimizer(config.optimizer, config.batch_size)
    if not config.dataset:
        raise ConfigError("dataset: name a TFDS data set or a folder split/class/image")


def _check_sizes(config: Config) -> None:
    if config.image_size > config.resize:
        raise ConfigError(
            f"image_size: a crop of {config.image_size} does not fit in images of resize = "
            f"{config.resize}; the largest is {config.resize}"
        )
    rest = (config.image_size + config.model.conv1_padding - 11) % 4
    if rest:
        lower, upper = config.image_size - rest, config.image_size - rest + 4
        raise ConfigError(
            f"image_size: (image_size + model.conv1_padding - 11) must divide by conv1's stride "
            f"of 4; with padding {config.model.conv1_padding} the nearest to {config.image_size} "
            f"are {lower} and {upper}"
        )
    if feature_sizes(config)[-1] < 1:
        raise ConfigError(f"image_size: {config.image_size} leaves nothing after pool5; least: 67")
    if config.mesh.data == 0 or config.mesh.data < -1:
        raise ConfigError(f"mesh.data: {config.mesh.data} must be positive, or -1 for what is left")
    if config.mesh.model != 1:
        raise ConfigError(
            f"mesh.model: {config.mesh.model} is not supported by this version; the nearest is 1"
        )


def _check_network(config: Config) -> None:
    model = config.model
    for name, channels in (("conv1", 96), ("conv2", 256), ("conv3", 384), ("fc6", 4096)):
        wide = channels * model.width
        if wide < 2 or wide % 2:
            nearest = max(1, round(16 * model.width)) / 16  # 1/16 makes every layer's even
            raise ConfigError(
                f"model.width: {model.width} gives {name} {wide:g} channels, not an even number; "
                f"the nearest is {nearest:g}"
            )
    for field in ("layer1", "layer2"):
        parts = getattr(model, field).split()
        if sorted(parts) not in (["norm", "pool", "relu"], ["pool", "relu"]):
            raise ConfigError(
                f"model.{field}: {getattr(model, field)!r} must order relu, pool and at most one "
                "norm, such as 'relu norm pool'"
            )
    if model.lrn.size % 2 == 0:
        raise ConfigError(f"model.lrn.size: {model.lrn.size} is even; use {model.lrn.size + 1}")


def _check_optimizer(optimizer: OptimizerConfig, batch_size: int) -> None:
    schedule = optimizer.schedule
    if batch_size % optimizer.accumulate_steps:
        divisors = [d for d in range(1, batch_size + 1) if batch_size % d == 0]
        nearest = min(divisors, key=lambda d: abs(d - optimizer.accumulate_steps))
        raise ConfigError(
            f"optimizer.accumulate_steps: {optimizer.accumulate_steps} does not divide batch_size "
            f"= {batch_size}; the nearest is {nearest}"
        )
    if schedule.kind == "step" and not schedule.steps:
        raise ConfigError("optimizer.schedule.steps: empty with kind = step; use ((30.0, 0.001),)")
    for name in ("steps", "bias_steps", "conv1_steps"):
        rows = getattr(schedule, name)
        pairs = [row for row in rows if isinstance(row, tuple) and len(row) == 2]
        if len(pairs) < len(rows) or not all(isinstance(v, int | float) for p in pairs for v in p):
            raise ConfigError(f"optimizer.schedule.{name}: {rows} must be ((epoch, rate), ...)")
        if list(rows) != sorted(rows) or any(min(row) < 0 for row in rows):
            raise ConfigError(
                f"optimizer.schedule.{name}: {rows} must have rising epochs, no negative rates"
            )
