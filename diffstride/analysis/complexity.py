"""What a model costs: Eq. 6 of the paper, operations, cut-off frequencies.

Reference:
    Riad et al., [Learning strides in convolutional neural networks](
    https://arxiv.org/abs/2202.01653), ICLR 2022, section 2.4.2 and Table 2.
"""

import contextlib
import math
import typing

import keras
import numpy as np
from keras import ops

from diffstride.layers.base_pooling import BaseDiffStride, BaseSpectralPooling
from diffstride.ops import spectral
from diffstride.validation import is_number


def complexity(strides):
    """Computation and memory of a network, up to a factor (J in Eq. 6).

    Args:
        strides: for each downsampling layer in order of depth, its strides: a
            number for each axis, or a tensor of them.

    Returns:
        The sum over layers of the share of the input that is left there.

    Example:

    >>> complexity([(2, 2), (2, 2)])
    0.3125
    """
    total, share = 0.0, 1.0
    for layer_strides in strides:
        for axis in range(len(layer_strides)):
            share = share / layer_strides[axis]
        total = total + share
    return total


def learned_layers(model):
    """The DiffStride layers of a model, each once.

    They come in the order in which Keras lists the layers: that of depth in a
    Sequential or Functional model, that of attributes in a subclassed one.
    """
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, BaseDiffStride)
    ]


def strides_of(layer):
    """The strides of a DiffStride layer, one for each axis."""
    strides = layer.strides
    return [strides[axis % strides.shape[0]] for axis in range(layer.rank)]


def add_complexity_loss(model, weight):
    """Adds `weight` times Eq. 6 to the loss of a built model.

    The sum couples the strides of all layers (see `learned_layers` for their
    order), while Keras knows regularizers of one weight each: it counts with
    the first layer whose strides are trained, and reads those of the others.
    It belongs to the training, not to the model: it is not saved, and is to be
    added again to a model that was loaded.

    Args:
        model: a built Keras model with DiffStride layers.
        weight: number of 0 or more, the λ of Eq. 6.

    Example:

    >>> model = keras.Sequential([keras.Input((32, 32, 3)), DiffStride(2)])
    >>> add_complexity_loss(model, weight=0.1)
    >>> round(float(sum(model.losses)), 3)
    0.025
    """
    if not is_number(weight) or not 0 <= weight < math.inf:
        raise ValueError(
            "`weight` must be a finite number of 0 or more. "
            f"Received: weight={weight}"
        )
    layers = learned_layers(model)
    if not all(layer.built for layer in layers) or not any(
        layer.trainable for layer in layers
    ):
        raise ValueError(
            "`model` must be built and have DiffStride layers whose strides "
            f"are trained. Received: model={model.name}, with "
            f"{len(layers)} DiffStride layers"
        )

    def regularizer(of_layer):
        trained = [layer for layer in layers if layer.trainable]
        if of_layer is not trained[0]:
            return ops.zeros(())
        return weight * complexity([strides_of(layer) for layer in layers])

    for layer in layers:
        layer.strides.regularizer = lambda _, layer=layer: regularizer(layer)


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
        for layer in model._flatten_layers(include_self=False):
            if not list(layer._flatten_layers(include_self=False)):
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
            spectral.odd_count(smoothness_factor), output_shape[height] // 2 + 1
        )
        shape = list(input_shape)
        shape[height] = coefficients
        macs += input_shape[height] * math.prod(shape)
        shape[width] = output_shape[width]
        macs += input_shape[width] * math.prod(shape)
        macs += coefficients * math.prod(output_shape)
    return macs


def cutoff_frequency(stride, sampling_rate=1.0, size=None):
    """Highest frequency that a stride lets pass.

    Args:
        stride: number of 1 or more.
        sampling_rate: samples per unit: 100 for frames every 10 ms gives Hz,
            1 for mel channels gives cycles per mel.
        size: number of samples of the axis, or None. With it, the highest
            frequency below the cut-off that a Fourier transform of that size
            knows, as in Table 2.

    Example:

    >>> cutoff_frequency(2, sampling_rate=100)
    25.0
    """
    if size is None:
        return sampling_rate / (2 * stride)
    return math.floor(size / (2 * stride)) * sampling_rate / size
