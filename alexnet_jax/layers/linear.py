"""Layers with weights as linen modules: a convolution and a matrix, each with its bias."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers

from alexnet_jax.layers.initialisation import BiasInit
from alexnet_jax.ops import convolution, convolution_xla, matmul

PACKED = "packed"  # a collection: kernels in a form that inference is fastest with
View = Callable[[jax.Array], jax.Array]  # from a device's own channels to those that a layer reads


def left_out(x: jax.Array, see: View | None = None) -> jax.Array:
    """Returns x: the layer that a variant removes (paper section 7)."""
    return x


def parameter_dtype(compute: jnp.dtype) -> jnp.dtype:
    """Returns the type of parameters: float64 if the network computes in it, else float32."""
    return jnp.promote_types(compute, jnp.float32)


def packed_kernel(layer: nn.Module, pack: Callable[[], jax.Array | None]) -> jax.Array | None:
    """Returns a layer's kernel as `standard_tree.packed` packed it; None if it did not.

    Args:
      layer: the kernel's layer. If its collection `packed` is mutable, packs the kernel now.
      pack: packs the kernel, or returns None where that gains nothing.
    """
    if layer.is_mutable_collection(PACKED) and not layer.is_initializing():
        kernel = pack()
        if kernel is not None:
            layer.put_variable(PACKED, "packed", kernel)
    return layer.get_variable(PACKED, "packed", None)


class Conv(nn.Module):
    """A convolution with bias; kernel (size, size, in / groups, features)."""

    features: int
    size: int
    kernel_init: initializers.Initializer
    bias_init: BiasInit
    stride: int = 1
    padding: int | convolution_xla.Padding = 0
    groups: int = 1
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: jax.Array, see: View | None = None) -> jax.Array:
        """Maps (B, H, W, C) to (B, H', W', features); first, `see` fetches the channels to read."""
        x = see(x) if see else x
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        dtype = parameter_dtype(self.dtype)
        bias_init = self.bias_init(math.prod(shape[:-1]))
        kernel = self.param("kernel", self.kernel_init, shape, dtype).astype(self.dtype)
        bias = self.param("bias", bias_init, (self.features,), dtype).astype(self.dtype)
        how = self.stride, self.padding, self.groups
        packed = packed_kernel(self, lambda: convolution.pack(kernel, *how))
        if packed is None:
            y = convolution.conv(x, kernel, *how)
        else:
            y = convolution.packed_conv(x, packed, self.padding)
        return convolution.add_bias(y, bias, self.groups)


class FullyConnected(nn.Module):
    """A matrix with bias; kernel (values of an image / groups, features)."""

    features: int
    kernel_init: initializers.Initializer
    bias_init: BiasInit
    groups: int = 1
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: jax.Array, see: View | None = None) -> jax.Array:
        """Maps (B, ..., C) to (B, features); first, `see` fetches the channels to read."""
        x = see(x) if see else x
        shape = (math.prod(x.shape[1:]) // self.groups, self.features)
        dtype = parameter_dtype(self.dtype)
        bias_init = self.bias_init(math.prod(shape[:-1]))
        kernel = self.param("kernel", self.kernel_init, shape, dtype).astype(self.dtype)
        bias = self.param("bias", bias_init, (self.features,), dtype).astype(self.dtype)
        packed = packed_kernel(self, lambda: matmul.pack(kernel, self.groups))
        if packed is None:
            return matmul.fully_connected(x, kernel, self.groups) + bias
        return matmul.packed(x, packed, self.features) + bias
