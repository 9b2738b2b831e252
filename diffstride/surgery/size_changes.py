"""What the operations of a model do to the size of a map."""

import keras
import numpy as np
from keras import layers

from diffstride.analysis.keras_graph import sublayers
from diffstride.layers.base_pooling import BaseSpectralPooling
from diffstride.layers.pooling import SpatialPooling
from diffstride.models.residual_layer import ResidualLayer
from diffstride.models.resnet_block import ResnetBlock

CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
POOLINGS = (
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    SpatialPooling,
)
# Layers that own a pooling slot.
WITH_SLOT = (ResidualLayer, ResnetBlock)
_UPSAMPLING = (
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
)
_TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)

# Operations whose output has a size of its own, whatever the size of their
# input. Keras has no common base class of theirs.
_ADAPTIVE = tuple(
    f"Adaptive{kind}Pooling{rank}D"
    for kind in ("Average", "Max")
    for rank in (1, 2, 3)
)
_FIXED_SIZE = (
    *_ADAPTIVE,
    *(name.replace("Adaptive", "Global") for name in _ADAPTIVE),
    "Resize",
    "Resizing",
)
_REDUCTIONS = ("Amax", "Amin", "Max", "Mean", "Min", "Std", "Sum", "Var")
_FLATTENING = ("Flatten", "Ravel")

# Stands for the size of a map that a model leaves open. Strides divide it.
_ANY_SIZE = 2**6 * 3 * 5


def strided(operation):
    """Whether an operation in a graph downsamples maps by fixed strides."""
    if isinstance(operation, CONVOLUTIONS + POOLINGS):
        return any(stride != 1 for stride in operation.strides)
    if not isinstance(operation, WITH_SLOT):
        return False
    is_spectral = any(
        isinstance(layer, BaseSpectralPooling) for layer in sublayers(operation)
    )
    return operation.strides != (1, 1) and not is_spectral


def data_format_of(layer):
    """Data format of a layer for which `strided` holds."""
    if isinstance(layer, WITH_SLOT):
        return "channels_first" if layer.channels_first else "channels_last"
    return layer.data_format


def rank_of(layer):
    """Number of axes that a layer for which `strided` holds downsamples."""
    return len(layer.strides)


def first_convolution(layer):
    """The convolution that downsamples in a layer with a slot."""
    if isinstance(layer, ResnetBlock):
        layer = layer.layers[0]
    return layer.convolution1


def spatial_axes(tensor_rank, data_format):
    """Axes of a map with `tensor_rank` axes in all."""
    if data_format == "channels_last":
        return range(1, tensor_rank - 1)
    return range(2, tensor_rank)


def spatial_sizes(shape, data_format):
    """Sizes of a map, without batch and channels."""
    return tuple(shape[axis] for axis in spatial_axes(len(shape), data_format))


def with_known_size(tensor):
    """A tensor of the same shape, with a size where that of a map is open."""
    batch, *shape = tensor.shape
    if len(shape) < 2:
        return tensor
    shape = [_ANY_SIZE if size is None else size for size in shape]
    return keras.KerasTensor((batch, *shape), tensor.dtype)


def enlargement(operation, sizes, out_sizes):
    """The integers by which an operation multiplies the sizes of a map.

    Args:
        operation: an operation with one input.
        sizes: spatial sizes of its input.
        out_sizes: spatial sizes of its output.

    Returns:
        A tuple with an integer for each axis, or None if nothing is enlarged.
    """
    if isinstance(operation, _UPSAMPLING):
        factors = tuple(np.atleast_1d(operation.size).tolist())
    elif isinstance(operation, _TRANSPOSED):
        # A window can add to this, as a window of a convolution takes away.
        factors = tuple(operation.strides)
    elif (
        len(sizes) == len(out_sizes)
        and all(
            1 < a and b % a == 0 for a, b in zip(sizes, out_sizes, strict=True)
        )
        and "Pad" not in type(operation).__name__
    ):
        # It may be anybody's layer.
        factors = tuple(b // a for a, b in zip(sizes, out_sizes, strict=True))
    else:
        return None
    return factors if any(factor != 1 for factor in factors) else None


def has_fixed_size(node, axes):
    """Whether the size of the output does not depend on that of the map.

    Args:
        node: a call of an operation.
        axes: spatial axes of its input.
    """
    operation = node.operation
    if any(kind.__name__ in _FIXED_SIZE for kind in type(operation).__mro__):
        return True
    if type(operation).__name__ not in _REDUCTIONS:
        return False
    if operation.axis is None:
        return True
    rank = len(node.input_tensors[0].shape)
    reduced = {axis % rank for axis in np.atleast_1d(operation.axis)}
    return reduced >= set(axes)


def needs_fixed_size(node, axes):
    """Whether a call works for maps of one size alone.

    Args:
        node: a call of an operation.
        axes: spatial axes of its input.
    """
    kind = type(node.operation).__name__
    return kind in _FLATTENING or (
        kind == "Reshape" and not _only_moves_points(node, axes)
    )


def needs_known_size(operation):
    """What to use in place of an operation that needs numbers for sizes.

    Returns:
        A sentence, or None if the graph need not know the sizes of maps.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    if type(operation).__name__ in _ADAPTIVE:
        return "use `diffstride.SpectralResize(size=...)`"
    if isinstance(
        operation, layers.UpSampling2D
    ) and operation.interpolation not in ("nearest", "bilinear"):
        return "set `interpolation` to 'nearest' or 'bilinear'"
    return None


def _only_moves_points(node, axes):
    """Whether a reshape only moves the points of a map, whatever its size.

    It does if one size is left open, which is not the number of channels, and
    the other sizes multiply to that number.
    """
    operation = node.operation
    if isinstance(operation, layers.Reshape):
        shape = operation.target_shape
    else:
        shape = operation.newshape[1:]
    input_shape = node.input_tensors[0].shape
    is_first = axes[0] == 2
    channels = input_shape[1 if is_first else -1]
    others = shape[1:] if is_first else shape[:-1]
    fixed = [size for size in shape if size not in (-1, None)]
    return (
        len(fixed) == len(shape) - 1
        and any(size in (-1, None) for size in others)
        and np.prod(fixed) == channels
    )
