"""From a network that learns its strides to one with integer strides."""

import keras
from keras import layers

from diffstride.analysis import keras_graph
from diffstride.analysis.learned_layers import learned_layers, strides_of
from diffstride.layers.base_diffstride import BaseDiffStride
from diffstride.layers.padded_pooling import BasePaddedPooling
from diffstride.layers.pooling import SpatialPooling
from diffstride.layers.resize import BaseSpectralResize
from diffstride.layers.upsampling import UpSampling2D
from diffstride.surgery.clone import clone
from diffstride.surgery.size_changes import (
    WITH_SLOT,
    spatial_sizes,
    with_known_size,
)

_DEPTHWISE = (
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
# What can downsample by itself, on any number of axes.
_ABLE_TO_STRIDE = (
    *_DEPTHWISE,
    *(
        getattr(layers, f"{kind}{rank}D")
        for kind in ("Conv", "MaxPooling", "AveragePooling")
        for rank in (1, 2, 3)
    ),
    BasePaddedPooling,
    SpatialPooling,
)


def to_integer_strides(model: keras.Model) -> keras.Model:
    """Rounds learned strides, for convolutions and poolings with strides.

    The strides of a DiffStride layer go to the convolution or pooling in front
    of it. If there is none, as on an identity shortcut, single points are taken
    at equal distances. Residual blocks of this package are built without a
    pooling layer. All other weights are carried over. Outputs differ from those
    of the model, so train the new one further.

    A resize of one map to the size of another (`SpectralResize`) is left out
    where the sizes agree by themselves. Sizes that the model leaves open are
    taken for ones that the strides divide.

    Args:
        model: a Functional model, or a Sequential one that is built, with
            DiffStride layers.

    Returns:
        A Functional model without DiffStride layers, not compiled, with weights
        of its own.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((32, 32, 3)),
    ...         keras.layers.Conv2D(8, 3, padding="same", name="stem"),
    ...         DiffStride((1.6, 3.2)),
    ...     ]
    ... )
    >>> to_integer_strides(model).get_layer("stem").strides
    (2, 3)

    Reference:
        Riad et al., [Learning strides in convolutional neural networks](
        https://arxiv.org/abs/2202.01653), 2022, section 3.2.
    """
    keras_graph.check_graph(model)
    if not learned_layers(model):
        raise ValueError(
            "`model` must have DiffStride layers. "
            f"Received: model={model.name}, which has none"
        )
    strides = {
        layer: _rounded_strides(users[0])
        for layer, users in keras_graph.users(model).items()
        if _can_stride(layer, users)
    }
    strided = set()

    def replace(layer):
        config = layer.get_config()
        if isinstance(layer, BaseDiffStride):
            return _subsampling(layer)
        if isinstance(layer, UpSampling2D):
            return layers.UpSampling2D.from_config(config)
        if isinstance(layer, WITH_SLOT) and learned_layers(layer):
            config["pooling_cls"] = config["border"] = None
            config["strides"] = _rounded_strides(learned_layers(layer)[0])
        if layer in strides:
            config["strides"] = strides[layer]
        replacement = type(layer).from_config(config)
        if layer in strides:
            strided.add(replacement)
        return replacement

    def call(layer, replacement, *args, **kwargs):
        if (
            isinstance(layer, BaseDiffStride)
            and keras_graph.maker(args[0]) in strided
        ):
            return args[0]
        return replacement(*args, **kwargs)

    converted = clone(model, replace, call)
    for layer in learned_layers(converted):
        raise ValueError(
            "`model` must have its DiffStride layers in its graph, or in the "
            f"residual blocks of this package. Received: model={model.name} "
            f"with layer '{layer.name}' inside of another"
        )
    return _without_idle_resizes(converted)


def _without_idle_resizes(model):
    """The model without resizes to the size that a map has by itself."""
    specs = [with_known_size(x) for x in keras_graph.graph(model).inputs]
    is_idle = {}
    for node, given in keras_graph.calls_on_specs(model, specs):
        layer = node.operation
        if isinstance(layer, BaseSpectralResize) and len(given) == 2:
            x, like = (
                spatial_sizes(spec.shape, layer.data_format) for spec in given
            )
            is_idle[layer] = x == like and is_idle.get(layer, True)
    if not any(is_idle.values()):
        return model

    def call(layer, replacement, *args, **kwargs):
        if is_idle.get(layer):
            return args[0][0]
        return replacement(*args, **kwargs)

    return clone(
        model, lambda layer: type(layer).from_config(layer.get_config()), call
    )


def _rounded_strides(layer):
    if not layer.cropping:
        return (1,) * layer.rank
    return tuple(int(float(stride) + 0.5) for stride in strides_of(layer))


def _can_stride(layer, users):
    """Whether a layer can take the strides of the DiffStride layer after it."""
    if not isinstance(layer, _ABLE_TO_STRIDE) or len(set(users)) > 1:
        return False
    if not isinstance(users[0], BaseDiffStride):
        return False
    if any(step != 1 for step in layer.strides):
        return False
    if any(rate != 1 for rate in getattr(layer, "dilation_rate", ())):
        return False
    # TensorFlow has no depthwise convolution with unequal strides.
    is_depthwise = isinstance(layer, _DEPTHWISE)
    return not is_depthwise or len(set(_rounded_strides(users[0]))) == 1


def _subsampling(layer):
    """Takes the points that a 1x1 convolution with strides would read."""
    pooling_class = getattr(layers, f"MaxPooling{layer.rank}D")
    return pooling_class(
        1,
        _rounded_strides(layer),
        padding="same",
        data_format=layer.data_format,
        name=layer.name,
        dtype=layer.dtype_policy,
    )
