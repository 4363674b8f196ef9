"""The configuration of a run: typed fields and their text form (`validation.py` checks them).

The places where the paper, its code (run #145 of the authors' notebook) and Caffe differ are
fields here, each with its source; the recipes in `configs/` are small differences from `Config()`.
"""

import dataclasses
import json
import math
import typing
from typing import Any, Self

from alexnet_jax.errors import UserError, unknown

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")  # paper section 3.5
FULLY_CONNECTED = ("fc6", "fc7", "fc7_linear", "fc8")
# All that can learn, in their order: the paper's eight, and two that pre-training adds (section 6).
LAYERS = (*CONVOLUTIONS, "conv6", *FULLY_CONNECTED)


class ConfigError(UserError, ValueError):
    """A field that cannot be used; the message names it and the nearest right value."""


class _Fields:
    """Base of the configs: refuses misspelt names, and records which fields were set by hand."""

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """Records the fields that a person names; a copy names every one, which says nothing."""
        self = super().__new__(cls)
        known = [field.name for field in dataclasses.fields(typing.cast(Any, cls))]
        given = {*known[: len(values)], *named}
        self.__dict__["_given"] = given if len(given) < len(known) else set()
        return self

    def __post_init__(self) -> None:
        defaults = {
            field.name: field.default
            if field.default is not dataclasses.MISSING
            else typing.cast(Any, field.default_factory)()
            for field in dataclasses.fields(typing.cast(Any, self))
        }
        by_hand = {name for name, value in defaults.items() if getattr(self, name) != value}
        self.__dict__["_by_hand"] = by_hand | self.__dict__.pop("_given", set())

    def __setattr__(self, name: str, value: Any) -> None:
        known = [field.name for field in dataclasses.fields(typing.cast(Any, self))]
        if name not in known:
            raise ConfigError(unknown(name, known)[:300])
        super().__setattr__(name, value)
        self.__dict__.setdefault("_by_hand", set()).add(name)


@dataclasses.dataclass
class LrnConfig(_Fields):
    """Local response normalisation (paper section 3.3); see `lrn_formula.CONVENTIONS`."""

    # How alpha is read: paper (on the sum, k = 2), original_code (divided by the window, k = 2:
    # layer.py), caffe and torch (divided by the window, k = 1).
    convention: str = "paper"
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    # The paper's windows stop at the column's edge (layers-145.cfg); Caffe's cross it.
    across_columns: bool = False


@dataclasses.dataclass
class ModelConfig(_Fields):
    """The network (paper section 3.5) and where its descriptions disagree."""

    # 2: conv2, conv4 and conv5 read their own column only; 1: every layer reads all channels.
    columns: int = 2
    # False: the columns stay separate from conv1 to fc7; only the classes, and fc7_linear before
    # them, read both (run #150).
    columns_meet: bool = True
    # Channels of conv1 .. conv5 and units of fc6 and fc7, both columns together (figure 2).
    channels: tuple[int, ...] = (96, 256, 384, 384, 256)
    fc_units: int = 4096
    fc7_units: int = 0  # units of fc7 if they differ from fc6's (run #150); 0: as fc6
    # Channels of a sixth convolution behind pool5 (paper table 2, the rows with a star; run #146:
    # 256 of 3x3, which read both columns, ReLU, no pooling); 0: none.
    conv6_channels: int = 0
    # Units of a layer without ReLU between fc7 and many classes (layers-146-2011: 2 x 1,024, each
    # half reads both columns); 0: none.
    fc7_linear_units: int = 0
    # Factor on the channels of every layer except the classes; 0.5 is half as wide.
    width: float = 1.0
    # Zeros past the right and bottom edge: 0 with 227 crops (Caffe), 3 with the 224 of the paper
    # and the authors' code, where 1 + ceil((224 - 11) / 4) = 55.
    conv1_padding: int = 0
    # Zeros past the left and top edge. torchvision has 2 on every side, but never reads the last
    # column and row at the right and bottom: 2 here and conv1_padding = 1 are equivalent.
    conv1_padding_before: int = 0
    # relu, or the alternatives that the paper's section 3.1 compares it with: tanh, sigmoid.
    activation: str = "relu"
    # What follows conv1 and conv2, in order; relu stands for `activation`. Paper 3.5:
    # "relu norm pool". Run #145, layer 1: "norm pool relu". CaffeNet: "relu pool norm". Run #167
    # has no norm in layer 2.
    layer1: str = "relu norm pool"
    layer2: str = "relu norm pool"
    layer3: str = "relu"
    layer4: str = "relu"
    layer5: str = "relu pool"
    # `norm` in layer1 .. layer5. local: `lrn` below; batch: batch normalisation of each map over
    # the whole batch, without scale and offset (NVIDIA's alexnet_bn).
    normalisation: str = "local"
    # 3: overlapping pooling (paper 3.4). 2: no overlap (run #147, which pads conv2's input by 1 and
    # conv5's by 0).
    pool_size: int = 3
    conv2_padding: int = 2
    conv5_padding: int = 1
    # Layers left out (paper section 7), of conv3, conv4, conv5, fc7.
    without: tuple[str, ...] = ()
    lrn: LrnConfig = dataclasses.field(default_factory=LrnConfig)
    # Run #145: a same-map 5x5 response norm after layer 2's (alpha 0.001 / 25, k = 1).
    spatial_norm2: bool = False
    # normal: the standard deviations below (paper section 5); he: sqrt(2 / fan in) for all but fc8;
    # torch: kernels and biases uniform within 1 / sqrt(fan in), PyTorch's own.
    init: str = "normal"
    conv_std: float = 0.01
    conv345_std: float = 0.01  # 0.03 in run #145 (layers-145.cfg)
    fc_std: float = 0.01  # fc6, fc7; 0.005 in Caffe
    fc8_std: float = 0.01
    bias_value: float = 1.0  # conv2, conv4, conv5, fc6, fc7 (paper section 5); Caffe's AlexNet 0.1
    dropout_rate: float = 0.5
    # Layers with dropout on their outputs; torchvision has it on fc6's and fc7's inputs:
    # ("pool5", "fc6").
    dropout_after: tuple[str, ...] = ("fc6", "fc7")
    # test: multiply outputs by (1 - rate) when evaluating (paper 4.2, layer.cu); train: divide them
    # by it when training (Caffe). With weight decay and fixed initial scales the two differ.
    dropout_scaling: str = "test"

    def layers(self) -> tuple[str, ...]:
        """Returns the layers with weights that the network has, in their order."""
        absent = set(self.without)
        absent |= set() if self.conv6_channels else {"conv6"}
        absent |= set() if self.fc7_linear_units else {"fc7_linear"}
        return tuple(layer for layer in LAYERS if layer not in absent)


@dataclasses.dataclass
class AugmentConfig(_Fields):
    """What happens to a 256x256 image on its way to the network (paper sections 2 and 4.1)."""

    random_crop: bool = True
    flip: bool = True
    # Images that share one crop and flip: 1 in the paper, 32 in the authors' convdata_jpeg.py.
    chunk: int = 1
    # none; stddev: scale noise by the standard deviations of the colour axes (authors' code);
    # eigenvalue_unit_range: scale it by the eigenvalues for pixels on [0, 1] (fb.resnet.torch; 2 to
    # 17 times weaker).
    lighting: str = "eigenvalue_unit_range"
    lighting_std: float = 0.1
    lighting_rescale: float = 1.0  # divisor of pixels with noise; authors' code: 1.1
    lighting_off_epoch: int = 0  # no noise from this epoch on (code: 67); 0 = never off
    # Source of the mean and the colour axes. auto: the store's own statistics, or ImageNet's
    # without a store; imagenet: always the authors' input_meta (`mean` below and the axes in
    # augment.py).
    statistics: str = "auto"
    # Channel means on 0..255, RGB (authors' input_meta).
    mean: tuple[float, float, float] = (127.305, 119.715, 104.913)
    # What to subtract if the store has a mean image. none: the channel means; moving: each pixel's
    # own mean (paper section 2: before the crop); centre: the mean image's centre crop, wherever
    # the crop lies (authors' code). Without a store it is always the channel means.
    mean_image: str = "none"
    # Divisor of centred pixels.
    pixel_std: tuple[float, ...] = (1.0,)  # one number, or red, green, blue


@dataclasses.dataclass
class ScheduleConfig(_Fields):
    """The learning rate over time; epochs may be fractions."""

    # constant; step: `steps`; dexp: the authors' later hands-off rule; polynomial; cosine;
    # plateau: divided by ten when the validation error stops improving (paper section 5).
    kind: str = "plateau"
    warmup_epochs: float = 0.0
    # step: ((epoch, rate from there on), ...), and the same for biases (empty: as the kernels).
    steps: tuple[tuple[float, float], ...] = ()
    bias_steps: tuple[tuple[float, float], ...] = ()
    # Rates of single layers, whatever the kind, in words: "conv1 weights: 1e-5 from epoch 67" (run
    # #145), "fc8: x10" (a factor, Caffe's lr_mult), "all biases: 0.02", "fc8: 1 from update 300",
    # "new: x10" (layers that do not begin with weights).
    # If two rules name a layer, the later rule wins once it starts; see configs/layer_rates.py.
    layer_rates: tuple[str, ...] = ()
    # dexp: the rate falls by `factor` in total, in `count` equal stages; biases have their own.
    dexp_factor: float = 250.0
    dexp_count: int = 4
    bias_dexp_factor: float = 10.0
    bias_dexp_count: int = 2
    power: float = 2.0  # polynomial
    patience: int = 5  # plateau: evaluations without improvement
    most_drops: int = 3  # plateau


@dataclasses.dataclass
class OptimizerConfig(_Fields):
    """The paper's update (section 5): v <- momentum v - rate (decay w + g); w <- w + v."""

    kind: str = "momentum"  # or lars, for large batches (You et al. 2017)
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_rate_factor: float = 1.0  # biases learn this many times faster; code and Caffe: 2
    decay_biases: bool = True  # paper: all weights; code and Caffe: not biases
    trust_coefficient: float = 0.001  # lars
    # The fully connected layers learn from this many equal parts of a batch, one after the other,
    # at rates times `fc_rate_factor`; the convolutions learn from the whole batch at once (variable
    # batch, Krizhevsky 2014).
    fc_updates: int = 1
    fc_rate_factor: float = 1.0
    # Layers that do not learn, of conv1 .. fc8. Their parameters, velocity and running statistics
    # keep every bit, and nothing below the lowest layer that learns is differentiated.
    frozen: tuple[str, ...] = ()
    # Compute a batch in this many parts. The update is the same, except with batch normalisation,
    # which then uses the statistics of each part.
    accumulate_steps: int = 1
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)


@dataclasses.dataclass
class MeshConfig(_Fields):
    """Devices on each axis: `data` splits the batch, `model` splits what the scheme says."""

    data: int = -1  # -1: all remaining devices
    model: int = 1  # 2: one column per device, as in the paper; 4, 8: several devices per column
    # columns: the paper's split; hybrid, hybrid_in_turns: the same `model` devices split the
    # convolutions by images and the fully connected layers by units (Krizhevsky 2014); see
    # parallel/schemes.py.
    scheme: str = "columns"
    # Shard parameters and velocity over `data`; each step gathers the parameters (ZeRO).
    zero: bool = False


@dataclasses.dataclass
class InitConfig(_Fields):
    """What a run starts from: trained weights, or random ones."""

    # PATH, or FORMAT:PATH if the name does not show the format: a workdir, safetensors, caffe
    # (.caffemodel, .npy), torchvision (.pth) or onnx. The weights then decide network and input.
    # Empty: random.
    weights: str = ""
    # Layers to take, such as conv1-conv5, conv* or fc6; empty: all that the weights have.
    layers: tuple[str, ...] = ()
    checkpoint: str = "best"  # of a workdir: best, latest or a step
    # same: take fc8 if the classes are the same, else initialise it anew; match: pick its rows by
    # class name; the weights must have every class.
    classes: str = "same"


@dataclasses.dataclass
class Config(_Fields):
    """One run. Sizes are pixels, `batch_size` is global, errors are fractions."""

    dataset: str = "drawn_patterns"  # TFDS name, or the path of a store or folder split/class/image
    data_dir: str = ""  # TFDS's data_dir; empty: TFDS's own default
    train_split: str = "train"
    eval_split: str = ""  # empty: the first of validation, val, test that exists
    num_classes: int = 0  # 0: from the data set
    resize: int = 256
    image_size: int = 227
    exif_orientation: bool = False  # turn photographs as their EXIF field says
    on_bad_image: str = "raise"  # or skip: counted and reported
    read_threads: int = 0  # 0: one for each core, 16 at most
    read_ahead: int = 2  # batches, at least: if they are small, each thread reads one
    # host: read batches ahead and copy them to the devices; resident: read each split once and keep
    # it on the devices as uint8, where steps gather their batches; auto: resident if it fits.
    feed: str = "auto"
    # GiB of each device's memory for all resident splits together; 0: a quarter of its memory.
    resident_gib: float = 0.0
    # Updates in one dispatch with resident images, if no evaluation or checkpoint is due between
    # them: for steps that are shorter than the host's work for one. A signal takes effect up to
    # four dispatches after it came.
    steps_per_dispatch: int = 1

    batch_size: int = 128
    num_epochs: int = 90
    num_steps: int = 0  # wins over num_epochs when not 0
    seed: int = 0
    # float32; bfloat16 with float32 parameters; float64, to compare meshes under JAX_ENABLE_X64=1
    precision: str = "float32"
    # Precision of float32 products. default: the device's fast type (bfloat16 on a TPU, TF32 on an
    # NVIDIA GPU); highest: float32, as on the paper's GPUs.
    matmul_precision: str = "default"
    deterministic: bool = False  # GPU: XLA's deterministic kernels
    # auto: the platform's fast kernels (ops/); reference: XLA's own convolutions and products,
    # plain formulas and JAX's gradients, with no code of ours beneath them.
    kernels: str = "auto"

    eval_views: int = 1  # of the last evaluation: 1 or 10; the others use one view
    eval_batch_size: int = 0  # 0: as batch_size
    eval_every_epochs: int = 1
    log_every_steps: int = 10
    checkpoint_every_steps: int = 500
    keep_checkpoints: int = 2  # the last ones; the best is kept too
    # Compare the devices' replicas bit for bit, every so many updates; 0: only at saves. Nothing
    # else would ever reveal a faulty memory or link.
    check_replicas_every: int = 0
    # Compute one update twice, by another program, and compare bit for bit, every so many updates;
    # 0: never. A GPU needs `deterministic` for it.
    replay_every: int = 0
    # End a process that finishes no update for so long, or for 20 times a usual update if that is
    # longer; counted from the first finished update. Its launcher can then restart it.
    stuck_after_seconds: float = 600.0
    # How old report.html may be before a save or an evaluation has another process rewrite it; 0:
    # nobody makes it, not even the train command at the end.
    report_every_minutes: float = 10.0
    join_seconds: float = 300.0  # how long a start waits for the other processes

    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns every leaf field by its dotted name."""
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            leaves |= flatten(value, name + ".")
        else:
            leaves[name] = value
    return leaves


def to_json(config: Config) -> str:
    """Returns the text form that a workdir keeps."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads `to_json`'s text; `earlier_versions.config_of` also reads that of earlier versions.

    Raises:
      ConfigError: a field that this version does not have, or a value of another type.
    """
    config = _from_dict(Config, json.loads(text), "")
    check_types(config)
    return config


def _from_dict(cls: type, values: dict[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(unknown(prefix + name, [prefix + known for known in hints]))
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise ConfigError(f"{prefix}{name}: {value!r} is not a group of fields")
            value = _from_dict(typing.cast(type, hints[name]), value, f"{prefix}{name}.")
        arguments[name] = _tuples(value)
    made = cls(**arguments)
    made.__post_init__()  # only fields that differ from the defaults count as set by hand
    return made


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def check_types(config: Any, prefix: str = "") -> None:
    """Refuses a value that is not of its field's type.

    Converts a whole number to a float where the field is one, a single number to a tuple of one,
    and names with commas between them to several names.

    Raises:
      ConfigError: names the field.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, typing.cast(type, hint)):
                raise ConfigError(f"{prefix}{name}: {value!r} is not a {hint}")
            check_types(value, f"{prefix}{name}.")
            continue
        wanted = typing.get_origin(hint) or hint
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if wanted is tuple and number:
            made = (float(value),)  # one number where several are asked for
            object.__setattr__(config, name, made)  # not marked as set by hand, here and below
        elif hint == tuple[str, ...] and isinstance(value, tuple):  # a flag gives "conv1,conv2"
            names = [part.strip() for one in value for part in str(one).split(",")]
            object.__setattr__(config, name, tuple(part for part in names if part))
        elif wanted is float and isinstance(value, int) and number:
            object.__setattr__(config, name, float(value))
        elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise ConfigError(f"{prefix}{name}: {value!r} is not of type {wanted.__name__}")
        elif wanted is float and not math.isfinite(value):
            raise ConfigError(f"{prefix}{name}: {value!r} is not finite")


def num_train_steps(config: Config, num_examples: int) -> int:
    """Returns the updates of the whole run, for a training split of `num_examples`."""
    return config.num_steps or math.ceil(config.num_epochs * num_examples / config.batch_size)
