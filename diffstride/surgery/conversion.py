"""From networks with fixed strides to networks that learn them, and back."""

from keras import activations, layers

from diffstride.analysis import keras_graph
from diffstride.analysis.learned_layers import learned_layers, strides_of
from diffstride.layers.base_pooling import BaseDiffStride
from diffstride.layers.pooling import SpatialPooling
from diffstride.models import pooling_slot
from diffstride.surgery import clone
from diffstride.surgery.shared_strides import (
    CONVOLUTIONS,
    POOLINGS,
    WITH_SLOT,
    SharedStrides,
)

_DEPTHWISE = (
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
# What can downsample by itself, of any rank.
_ABLE_TO_STRIDE = (
    *_DEPTHWISE,
    *(
        getattr(layers, f"{kind}{rank}D")
        for kind in ("Conv", "MaxPooling", "AveragePooling")
        for rank in (1, 2, 3)
    ),
    SpatialPooling,
)
# A scale-preserving layer, whose maps have the size that a stride leaves.
_DEFAULT_POOLING = {
    "class_name": "DiffStride",
    "config": {"norm": "forward", "ramp": "inside"},
}


def learn_strides(model, pooling_cls=None):
    """Lets a model learn its strides.

    Every convolution and pooling with strides (`Conv2D`, `DepthwiseConv2D`,
    `SeparableConv2D`, `MaxPooling2D`, `AveragePooling2D`) becomes one that
    keeps the size of the map, followed by a DiffStride layer that starts at
    these strides. All weights are carried over. Branches that meet, in an
    addition or a concatenation, get one DiffStride layer for all of them: they
    keep meeting whatever it learns.

    A convolution combines the same points as before, so that slow changes of a
    map come out as they did: this takes a `ZeroPadding2D` in front of it, or
    more padding where there is one. An activation inside a convolution comes
    after the DiffStride layer.

    Args:
        model: a Functional model, or a Sequential one that is built. It must
            end in global pooling, as `Flatten` cannot follow sizes that move.
        pooling_cls: class, function or config dict. What makes the layers that
            learn strides (see `diffstride.models.pooling_slot`). Defaults to
            `DiffStride` with `norm="forward"` and `ramp="inside"`, which
            preserves scales and leaves the sizes that the strides leave.

    Returns:
        A Functional model, not compiled, with weights of its own.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((32, 32, 3)),
    ...         keras.layers.Conv2D(8, 3, strides=2, name="stem"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...     ]
    ... )
    >>> model = learn_strides(model)
    >>> model.get_layer("stem_stride").strides.numpy()
    array([2., 2.], dtype=float32)
    """
    keras_graph.check_graph(model)
    pooling_cls = _DEFAULT_POOLING if pooling_cls is None else pooling_cls
    shared = SharedStrides(model)
    if not shared:
        raise ValueError(
            "`model` must have convolutions or poolings with strides. "
            f"Received: model={model.name}, which has none"
        )
    paddings = _paddings(model, shared)
    padded = {layer for users in paddings.values() for layer in users}
    own_paddings = {
        layer: _own_padding(layer, shape)
        for layer, shape in shared.shapes.items()
        if isinstance(layer, CONVOLUTIONS) and layer not in padded
    }
    poolings = {}

    def replace(layer):
        config = layer.get_config()
        if layer in paddings:
            config["padding"] = _size_keeping(layer, paddings[layer])
        elif isinstance(layer, WITH_SLOT) and layer in shared:
            config["pooling_cls"] = pooling_cls
        elif layer in shared:
            config["strides"] = (1, 1)
            if layer not in padded and not own_paddings.get(layer):
                config["padding"] = "same"
            else:
                config["padding"] = "valid"
            if "activation" in config:
                config["activation"] = None
        return type(layer).from_config(config)

    def call(layer, replacement, inputs, *args, **kwargs):
        if own_paddings.get(layer):
            inputs = layers.ZeroPadding2D(
                own_paddings[layer],
                data_format=layer.data_format,
                name=f"{layer.name}_padding",
            )(inputs)
        outputs = replacement(inputs, *args, **kwargs)
        if layer not in shared or isinstance(layer, WITH_SLOT):
            return outputs
        leader = shared.leader(layer)
        if leader not in poolings:
            poolings[leader] = pooling_slot.make_pooling(
                pooling_cls,
                leader.strides,
                leader.data_format,
                f"{leader.name}_stride",
            )
            poolings[leader].dtype_policy = leader.dtype_policy
        outputs = poolings[leader](outputs)
        activation = getattr(layer, "activation", activations.linear)
        if activation is not activations.linear:
            name = f"{layer.name}_activation"
            outputs = layers.Activation(activation, name=name)(outputs)
        return outputs

    return clone.clone(model, replace, call)


def _paddings(model, shared):
    """Paddings in front of strided layers alone: {padding: layers}."""
    return {
        layer: users
        for layer, users in keras_graph.users(model).items()
        if isinstance(layer, layers.ZeroPadding2D)
        and all(
            user in shared
            and not isinstance(user, WITH_SLOT)
            and user.padding == "valid"
            for user in users
        )
        and len(set(map(_window, users))) == 1
    }


def _window(layer):
    if isinstance(layer, POOLINGS):
        return tuple(layer.pool_size)
    return tuple(layer.kernel_size)


def _size_keeping(padding, users):
    """As before on the one side, so that the same points are combined."""
    return tuple(
        (before, max(after, size - 1 - before))
        for (before, after), size in zip(
            padding.padding, _window(users[0]), strict=True
        )
    )


def _own_padding(layer, shape):
    """What keeps the size, and the points that a convolution combines.

    None where it is what `padding="same"` does without strides.
    """
    first = 1 if layer.data_format == "channels_last" else 2
    padding = []
    for size, kernel_size, stride in zip(
        shape[first : first + 2], layer.kernel_size, layer.strides, strict=True
    ):
        before = 0
        if layer.padding == "same":
            # Of an unknown size we expect that it is a multiple of the stride.
            rest = (size or stride) % stride or stride
            before = max(kernel_size - rest, 0) // 2
        padding.append((before, kernel_size - 1 - before))
    is_same = all(after - before in (0, 1) for before, after in padding)
    return None if is_same else tuple(padding)


def to_integer_strides(model):
    """Rounds learned strides, for convolutions and poolings with strides.

    The strides of a DiffStride layer go to the convolution or pooling in front
    of it. Where there is none, as on an identity shortcut, single points are
    taken at equal distances, and residual blocks of this package are built
    without a pooling layer. All other weights are carried over. Outputs differ
    from those of the model, which is to be trained further.

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
        if isinstance(layer, WITH_SLOT) and learned_layers(layer):
            config["pooling_cls"] = None
            config["strides"] = _rounded_strides(learned_layers(layer)[0])
        if layer in strides:
            config["strides"] = strides[layer]
        replacement = type(layer).from_config(config)
        if layer in strides:
            strided.add(replacement)
        return replacement

    def call(layer, replacement, inputs, *args, **kwargs):
        if isinstance(layer, BaseDiffStride) and (
            inputs._keras_history.operation in strided
        ):
            return inputs
        return replacement(inputs, *args, **kwargs)

    converted = clone.clone(model, replace, call)
    for layer in learned_layers(converted):
        raise ValueError(
            "`model` must have its DiffStride layers in its graph, or in the "
            f"residual blocks of this package. Received: model={model.name} "
            f"with layer '{layer.name}' inside of another"
        )
    return converted


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
