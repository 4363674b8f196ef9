"""The peak FLOP/s of devices, from their makers' data sheets."""

_H100 = {"bfloat16": 989e12, "float16": 989e12, "TF32": 494e12, "float32": 67e12}
_A100 = {"bfloat16": 312e12, "float16": 312e12, "TF32": 156e12, "float32": 19.5e12}

# Peak FLOP/s of dense products, by operand type and JAX device (a chip; on TPU v2 and v3 a core).
# Names are matched whole: a slice of a card, or a card whose name begins alike, has another peak.
_OF_KINDS: dict[str, dict[str, float]] = {
    "NVIDIA H200": _H100,
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H100 PCIe": {"bfloat16": 756e12, "float16": 756e12, "TF32": 378e12, "float32": 51e12},
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA L4": {"bfloat16": 121e12, "float16": 121e12, "TF32": 60e12, "float32": 30.3e12},
    "Tesla V100-SXM2-16GB": {"float16": 125e12, "float32": 15.7e12},
    "Tesla V100-SXM2-32GB": {"float16": 125e12, "float32": 15.7e12},
    "Tesla T4": {"float16": 65e12, "float32": 8.1e12},
    "TPU v2": {"bfloat16": 22.5e12},
    "TPU v3": {"bfloat16": 61.5e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5e": {"bfloat16": 197e12},
    "TPU v5": {"bfloat16": 459e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
    "TPU v6e": {"bfloat16": 918e12},
}


def flops(device_kind: str, numbers: str) -> float | None:
    """Returns a device's peak FLOP/s, or None if it is unknown.

    Args:
      device_kind: as JAX names it.
      numbers: the operand type: bfloat16, TF32, float32, ...

    >>> flops("NVIDIA A100-SXM4-80GB", "TF32") / 1e12
    156.0
    """
    return _OF_KINDS.get(device_kind, {}).get(numbers)
