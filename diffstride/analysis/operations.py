"""Operations of a model, counted from the sizes of its maps."""

import contextlib
import math
import typing

import keras
import numpy as np

from diffstride.analysis.keras_graph import sublayers
from diffstride.layers.base_pooling import BaseSpectralPooling
from diffstride.ops import windows


class LayerCost(typing.NamedTuple):
    """What one layer does to one example.

    `macs` counts multiplications with an addition each, `output_shape` is
    without the batch.
    """

    name: str
    output_shape: tuple
    macs: int


def layer_costs(model, input_shape=None):
    """Output shape and operations of each layer, from its actual sizes.

    Eq. 6 leaves out the margin of the windows, and knows no channels. This
    sends one example through the model and counts what convolutions, dense
    layers and spectral layers do with it; others count as nothing.

    Args:
        model: a Keras model with one input.
        input_shape: shape of an example, without the batch. Defaults to that
            of the model's input.

    Returns:
        A list of `LayerCost`, in the order of the calls.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, strides=2)]
    ... )
    >>> layer_costs(model)[-1].macs
    972
    """
    if input_shape is None:
        input_shape = getattr(model, "input_shape", (None, None))[1:]
    if not all(isinstance(size, int) for size in input_shape):
        raise ValueError(
            "`input_shape` must be given, as integers, unless the model has "
            "one input of a known size. Received: "
            f"input_shape={tuple(input_shape)}"
        )
    costs = []
    with contextlib.ExitStack() as stack:
        for layer in sublayers(model):
            if not sublayers(layer):
                stack.enter_context(_recorded(layer, costs))
        model(np.zeros((1, *input_shape), "float32"), training=False)
    return costs


def count_macs(model, input_shape=None):
    """Multiply-accumulate operations of a model for one example."""
    return sum(cost.macs for cost in layer_costs(model, input_shape))


@contextlib.contextmanager
def _recorded(layer, costs):
    """Appends what each call of `layer` costs while the context lasts."""
    call = layer.call

    def recording(inputs, *args, **kwargs):
        outputs = call(inputs, *args, **kwargs)
        if not isinstance(outputs, (dict, list, tuple)):
            shape = tuple(outputs.shape)
            macs = _macs(layer, inputs, shape)
            costs.append(LayerCost(layer.name, shape[1:], macs))
        return outputs

    layer.call = recording
    try:
        yield
    finally:
        del layer.call


def _macs(layer, inputs, output_shape):
    if isinstance(layer, BaseSpectralPooling):
        return _spectral_macs(layer, tuple(inputs.shape), output_shape)
    if isinstance(layer, keras.layers.Dense):
        return math.prod(output_shape) * layer.kernel.shape[0]
    if not hasattr(layer, "kernel_size"):
        return 0
    # Every point of the output sees a window of each channel it draws upon.
    window = math.prod(layer.kernel_size)
    filters_axis = -1 if layer.data_format == "channels_last" else 1
    points = math.prod(output_shape) // output_shape[filters_axis]
    if hasattr(layer, "pointwise_kernel"):
        channels = layer.pointwise_kernel.shape[-2]
        return points * channels * (window + layer.filters)
    if "Depthwise" in type(layer).__name__:
        return math.prod(output_shape) * window
    if "Transpose" in type(layer).__name__:
        points = math.prod(inputs.shape) // inputs.shape[filters_axis]
    return points * math.prod(layer.kernel.shape)


def _spectral_macs(layer, input_shape, output_shape):
    """Matrix products of the real parts, axis by axis, and of an imaginary one.

    See `diffstride.ops.spectral.resample`. Maps of 32 points and less are made
    in fewer products, of up to a half more operations.
    """
    shape, macs = list(input_shape), 0
    for axis in layer._axes:
        size, shape[axis] = shape[axis], output_shape[axis]
        macs += size * math.prod(shape)
    if layer._rules[0] == "height" and output_shape[layer._axes[0]] % 2 == 0:
        smoothness_factor = getattr(layer, "smoothness_factor", 0)
        height, width = layer._axes
        coefficients = 2 * min(
            windows.odd_count(smoothness_factor), output_shape[height] // 2 + 1
        )
        shape = list(input_shape)
        shape[height] = coefficients
        macs += input_shape[height] * math.prod(shape)
        shape[width] = output_shape[width]
        macs += input_shape[width] * math.prod(shape)
        macs += coefficients * math.prod(output_shape)
    return macs
