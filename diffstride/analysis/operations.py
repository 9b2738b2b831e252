"""Operations of a model, counted from the sizes of its maps."""

import contextlib
import functools
import inspect
import math
import typing

import keras
import numpy as np
from keras import ops, tree

from diffstride.analysis.keras_graph import graph, is_graph, sublayers
from diffstride.layers.base_pooling import BaseSpectralLayer
from diffstride.layers.blur_pool import BlurPool
from diffstride.layers.filterbank import BaseFilterbank
from diffstride.layers.local_importance_pooling import LocalImportancePooling
from diffstride.layers.polyphase import PolyphasePooling
from diffstride.ops import spectral, windows

layers = keras.layers


class LayerCost(typing.NamedTuple):
    """What one call of a layer does to one example.

    `macs` counts multiplications with an addition each. `output_shape` is
    without the batch; of several outputs it is that of the first.
    """

    name: str
    output_shape: tuple
    macs: int


def layer_costs(
    model: keras.Model,
    input_shape: typing.Any = None,
    strides: typing.Any = None,
) -> list[LayerCost]:
    """Output shape and operations of each layer, from its actual sizes.

    Eq. 6 leaves out the margin of the windows, and knows no channels. This
    function sends one example through the model instead. It counts what
    convolutions, dense layers, attention, recurrent layers, spectral layers and
    the filters of a front end do with it; all other layers count as nothing.

    Args:
        model: a Keras model.
        input_shape: shape of an example, without the batch. For a model with
            several inputs, shapes in the structure that the model takes: a
            list, a tuple or a dict. Defaults to the shapes of the model's
            inputs.
        strides: dict from DiffStride layers of the model to floats, to count
            what the model would cost at other strides than its own. The
            weights stay as they are.

    Returns:
        A list of `LayerCost`, in the order in which the calls end.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, strides=2)]
    ... )
    >>> layer_costs(model)[-1].macs
    972
    """
    example = _example(model, input_shape)
    if not model.built:  # The first call also makes layers, and builds them.
        model(example, training=False)
    costs = []
    with contextlib.ExitStack() as stack:
        for layer, values in (strides or {}).items():
            stack.enter_context(_sizes_of_strides(layer, values))
        for layer in sublayers(model):
            if _is_counted(layer) or not sublayers(layer):
                stack.enter_context(_recorded(layer, costs))
        _run(model, example)
    return costs


def count_macs(model: keras.Model, input_shape: typing.Any = None) -> int:
    """Multiply-accumulate operations of a model for one example.

    See `layer_costs` for what is counted, and for the arguments.
    """
    return sum(cost.macs for cost in layer_costs(model, input_shape))


def _example(model, input_shape):
    """Zeros in the shapes, and the dtypes, that the model takes."""
    inputs = None
    with contextlib.suppress(AttributeError, ValueError):  # Never built.
        inputs = graph(model).input if is_graph(model) else None
    if input_shape is None and inputs is not None:
        input_shape = tree.map_structure(lambda x: tuple(x.shape[1:]), inputs)
    sizes = tree.flatten(input_shape)
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            "`input_shape` must be given, as integers, unless the model knows "
            "the sizes of its inputs. Several inputs need one shape each. "
            f"Received: input_shape={input_shape}"
        )
    example = tree.map_shape_structure(
        lambda shape: np.zeros((1, *shape), "float32"), input_shape
    )
    if inputs is None:
        return example
    arrays, tensors = tree.flatten(example), tree.flatten(inputs)
    if len(arrays) != len(tensors):
        raise ValueError(
            "`input_shape` must have one shape for each of the model's "
            f"{len(tensors)} inputs. Received: input_shape={input_shape}"
        )
    arrays = [a.astype(x.dtype) for a, x in zip(arrays, tensors, strict=True)]
    return tree.pack_sequence_as(inputs, arrays)


class _Run(keras.Operation):
    """A model at inference, as an operation on symbolic tensors."""

    def __init__(self, model):
        super().__init__()
        self._model = model

    def call(self, inputs):
        return self._model(inputs, training=False)


def _run(model, example):
    """Calls a model, whose layers are recorded, on an example."""
    run = _Run(model)
    if keras.backend.backend() != "jax":
        return run.call(example)
    # Every new size would be compiled. A trace has all sizes without that.
    return run.compute_output_spec(
        tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, str(x.dtype)), example
        )
    )


@contextlib.contextmanager
def _sizes_of_strides(layer, strides):
    """Lets a DiffStride layer make zeros, of the sizes of given strides."""
    strides = tuple(map(float, strides))

    def resample(inputs):
        shape = list(inputs.shape)
        if layer.cropping:
            sizes = layer._sizes_from(strides, layer._sizes(shape))
            for axis, size in zip(layer._axes, sizes, strict=True):
                shape[axis] = int(size)
        return ops.zeros(shape, inputs.dtype)

    layer._resample = resample
    try:
        yield
    finally:
        del layer._resample


@contextlib.contextmanager
def _recorded(layer, costs):
    """Appends what each call of `layer` costs while the context lasts."""
    call = layer.call
    signature = inspect.signature(call)

    def recording(*args, **kwargs):
        calls_before = len(costs)
        outputs = call(*args, **kwargs)
        if isinstance(layer, layers.RNN):
            # The layer's own count has all steps of its cell.
            del costs[calls_before:]
        arguments = signature.bind(*args, **kwargs).arguments
        first, *_ = tree.flatten(outputs)
        shape = tuple(first.shape)
        macs = _macs(layer, arguments, shape)
        costs.append(LayerCost(layer.name, shape[1:], macs))
        return outputs

    layer.call = recording
    try:
        yield
    finally:
        del layer.call


def _shapes(arguments):
    """Shapes of all tensors in the arguments of a call, in their order."""
    tensors = tree.flatten(list(arguments.values()))
    return [tuple(x.shape) for x in tensors if hasattr(x, "shape")]


@functools.singledispatch
def _macs(layer, arguments, output_shape):
    """Operations of one call of a layer, by the class of the layer."""
    return 0


def _is_counted(layer):
    return _macs.dispatch(type(layer)) is not _macs.dispatch(object)


@_macs.register(layers.Dense)
def _dense(layer, arguments, output_shape):
    return math.prod(output_shape) * layer.kernel.shape[0]


@_macs.register(layers.EinsumDense)
def _einsum(layer, arguments, output_shape):
    # One for each combination of the indices on the left of the arrow.
    inputs, kernel = layer.equation.split("->")[0].split(",")
    new = [
        size
        for index, size in zip(kernel, layer.kernel.shape, strict=True)
        if index not in inputs
    ]
    return math.prod(_shapes(arguments)[0]) * math.prod(new)


def _points(shape, layer):
    """Batch size times spatial sizes of a map."""
    channels_axis = -1 if layer.data_format == "channels_last" else 1
    return math.prod(shape) // shape[channels_axis]


# Every point of the output sees a window of each channel it draws upon.
@_macs.register(layers.Conv1D)
@_macs.register(layers.Conv2D)
@_macs.register(layers.Conv3D)
def _convolution(layer, arguments, output_shape):
    return _points(output_shape, layer) * math.prod(layer.kernel.shape)


@_macs.register(layers.DepthwiseConv1D)
@_macs.register(layers.DepthwiseConv2D)
def _depthwise(layer, arguments, output_shape):
    return math.prod(output_shape) * math.prod(layer.kernel_size)


@_macs.register(BlurPool)
def _blur(layer, arguments, output_shape):
    """As the depthwise convolution that the filter is."""
    return math.prod(output_shape) * math.prod(layer.filter_size)


@_macs.register(LocalImportancePooling)
@_macs.register(PolyphasePooling)
def _weighted(layer, arguments, output_shape):
    """A product for each point: with its weight, or with itself for a norm.

    Layers inside that make weights or scores are counted by themselves.
    """
    if getattr(layer, "choice", None) == "learned":
        return 0
    return math.prod(_shapes(arguments)[0])


@_macs.register(layers.SeparableConv1D)
@_macs.register(layers.SeparableConv2D)
def _separable(layer, arguments, output_shape):
    channels = layer.pointwise_kernel.shape[-2]
    window = math.prod(layer.kernel_size)
    return _points(output_shape, layer) * channels * (window + layer.filters)


@_macs.register(layers.Conv1DTranspose)
@_macs.register(layers.Conv2DTranspose)
@_macs.register(layers.Conv3DTranspose)
def _transposed(layer, arguments, output_shape):
    points = _points(_shapes(arguments)[0], layer)
    return points * math.prod(layer.kernel.shape)


@_macs.register(BaseFilterbank)
def _filterbank(layer, arguments, output_shape):
    batch, frames = output_shape[:2]
    return batch * layer.macs(frames)


@_macs.register(layers.Attention)
def _attention(layer, arguments, output_shape):
    """Scores, then values in the proportion of the scores."""
    (batch, queries, depth), (_, keys, values_depth), *_ = _shapes(
        {"inputs": arguments["inputs"]}
    )
    return batch * queries * keys * (depth + values_depth)


@_macs.register(layers.MultiHeadAttention)
def _multi_head(layer, arguments, output_shape):
    """The same for each head. Its projections are layers of their own."""
    config = layer.get_config()
    shapes = [tuple(arguments[name].shape) for name in ("query", "value")]
    axes = config["attention_axes"] or range(1, len(shapes[0]) - 1)
    # `attention_axes` may be one integer.
    queries, keys = (
        math.prod(shape[axis] for axis in np.atleast_1d(axes))
        for shape in shapes
    )
    apart = math.prod(shapes[0][:-1]) // queries
    depth = config["key_dim"] + (config["value_dim"] or config["key_dim"])
    return int(apart * queries * keys * config["num_heads"] * depth)


@_macs.register(layers.GroupQueryAttention)
def _grouped_query(layer, arguments, output_shape):
    (batch, queries, _), (_, keys, _), *_ = _shapes(arguments)
    heads = layer.num_query_heads
    return batch * queries * keys * heads * 2 * layer.head_dim


@_macs.register(layers.LSTMCell)
@_macs.register(layers.GRUCell)
@_macs.register(layers.SimpleRNNCell)
def _cell(layer, arguments, output_shape):
    return _shapes(arguments)[0][0] * _kernel_entries(layer)


@_macs.register(layers.RNN)
def _recurrent(layer, arguments, output_shape):
    batch, steps = _shapes(arguments)[0][:2]
    points = 1
    if isinstance(
        layer, (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
    ):
        rank = len(layer.kernel_size)
        is_last = layer.data_format == "channels_last"
        map_shape = output_shape[-rank - 1 :]
        points = math.prod(map_shape[:-1] if is_last else map_shape[1:])
    return batch * steps * points * _kernel_entries(layer.cell)


def _kernel_entries(cell):
    """Each entry is used once at every step; biases are added alone."""
    return sum(
        math.prod(weight.shape)
        for weight in cell.weights
        if len(weight.shape) > 1 and weight.name != "bias"
    )


@_macs.register(BaseSpectralLayer)
def _spectral(layer, arguments, output_shape):
    """Products of the real parts, axis by axis, and of an imaginary one.

    See `diffstride.ops.spectral.resample`. Maps of 32 points and less are made
    in fewer products, of up to a half more operations.
    """
    input_shape = _shapes(arguments)[0]
    shape, macs = list(input_shape), 0
    for axis in layer._axes:
        macs += _axis_macs(shape, axis, output_shape[axis])
        shape[axis] = output_shape[axis]
    if layer._rules[0] == "height" and output_shape[layer._axes[0]] % 2 == 0:
        smoothness_factor = getattr(layer, "smoothness_factor", 0)
        height, width = layer._axes
        coefficients = 2 * min(
            windows.odd_count(
                smoothness_factor, getattr(layer, "cropping", True)
            ),
            output_shape[height] // 2 + 1,
        )
        shape = list(input_shape)
        shape[height] = coefficients
        macs += input_shape[height] * math.prod(shape)
        macs += _axis_macs(shape, width, output_shape[width])
        macs += coefficients * math.prod(output_shape)
    return macs


def _axis_macs(shape, axis, out_size):
    """Operations that resize one axis of a tensor, by a matrix or transforms.

    A fast Fourier transform of n real numbers counts as n log2(n). The count
    is the same everywhere, although JAX on a CPU takes more transforms.
    """
    size = shape[axis]
    others = math.prod(shape) // size
    if size * out_size > spectral.MATRIX_ENTRIES:
        return others * round(
            size * math.log2(size) + out_size * math.log2(out_size)
        )
    return others * size * out_size
