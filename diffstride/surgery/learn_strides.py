"""From a network with fixed strides to one that learns them."""

from keras import activations, layers

from diffstride.analysis.keras_graph import check_graph, is_graph, nodes
from diffstride.layers.padded_pooling import PaddedPooling2D
from diffstride.models import pooling_slot
from diffstride.surgery.alignment import (
    aligned_paddings,
    same_padding,
    window_of,
)
from diffstride.surgery.clone import clone
from diffstride.surgery.shared_strides import (
    CONVOLUTIONS,
    POOLINGS,
    WITH_SLOT,
    SharedStrides,
)

# A layer that preserves scales, and leaves maps of the size that strides leave.
_DEFAULT_POOLING = {
    "class_name": "DiffStride",
    "config": {"norm": "forward", "ramp": "inside"},
}


def learn_strides(model, pooling_cls=None):
    """Lets a model learn its strides.

    Every convolution and pooling with strides (`Conv2D`, `DepthwiseConv2D`,
    `SeparableConv2D`, `MaxPooling2D`, `AveragePooling2D`, `SpatialPooling`)
    becomes one without, followed by a DiffStride layer that starts at these
    strides. All weights are carried over. Branches that meet, in an addition or
    a concatenation, get one DiffStride layer for all of them, so that their
    sizes agree whatever it learns. Layers of one or three axes, such as
    `Conv1D` and `Conv3D`, stay as they are.

    The windows of a layer start where they started, so that slow changes of a
    map come out as they did, and branches stay aligned. A layer with
    `padding="same"` keeps the size of its map, one with `padding="valid"` loses
    the border as before. This takes some padding: a `ZeroPadding2D` in front of
    a convolution, a `PaddedPooling2D` instead of a pooling. As long as strides
    are as they were, `to_integer_strides` leads back to a network with the
    outputs of `model`.

    An activation inside of a convolution comes after the DiffStride layer. If
    it came before, nothing but linear layers might lie between DiffStride and a
    global average; but an average reads the lowest frequency alone, which every
    stride keeps, so the strides would have a gradient of zero, and never learn.

    Args:
        model: a Functional model, or a Sequential one that is built. Its maps
            must end in global pooling, as `Flatten` cannot follow sizes that
            move. They may be reshaped to `(-1, channels)`.
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
    check_graph(model)
    shared = SharedStrides(model)
    if not shared:
        raise ValueError(
            "`model` must have convolutions or poolings of two axes with "
            f"strides. Received: model={model.name}, which has none"
            f"{_others_with_strides(model)}"
        )
    pooling_cls = _DEFAULT_POOLING if pooling_cls is None else pooling_cls
    conversion = _Conversion(shared, pooling_cls, _operation_names(model))
    return clone(model, conversion.replace, conversion.call)


class _Conversion:
    """What takes the place of each layer of a model.

    Args:
        shared: the `SharedStrides` of the model.
        pooling_cls: what makes the layers that learn strides.
        names: names that the new layers cannot have. They are added to it.
    """

    def __init__(self, shared, pooling_cls, names):
        self._shared = shared
        self._pooling_cls = pooling_cls
        self._names = names
        self._paddings = aligned_paddings(shared)
        # The layers that are new, by the layer that they stand beside.
        self._zero_paddings = {}
        self._strides = {}
        self._activations = {}

    def replace(self, layer):
        """The layer that takes the place of another."""
        config = layer.get_config()
        if layer not in self._shared:
            return type(layer).from_config(config)
        if isinstance(layer, WITH_SLOT):
            config["pooling_cls"] = self._pooling_cls
            config["strides"] = layer.strides
            return type(layer).from_config(config)
        padding = self._paddings[layer]
        config["strides"] = (1, 1)
        is_same = padding == same_padding(layer)
        config["padding"] = "same" if is_same else "valid"
        needs_padding = not is_same and padding != ((0, 0), (0, 0))
        if isinstance(layer, POOLINGS) and needs_padding:
            return _padded_pooling(layer, padding)
        if needs_padding:
            self._zero_paddings[layer] = layers.ZeroPadding2D(
                padding,
                data_format=layer.data_format,
                **self._new(layer, "padding"),
            )
        if isinstance(layer, CONVOLUTIONS):
            config["activation"] = None
            if layer.activation is not activations.linear:
                self._activations[layer] = layers.Activation(
                    layer.activation, **self._new(layer, "activation")
                )
        return type(layer).from_config(config)

    def call(self, layer, replacement, *args, **kwargs):
        """The output of what takes the place of a layer."""
        if layer not in self._paddings:
            return replacement(*args, **kwargs)
        inputs, *args = args
        if layer in self._zero_paddings:
            inputs = self._zero_paddings[layer](inputs)
        outputs = replacement(inputs, *args, **kwargs)
        outputs = self._stride(self._shared.leader(layer))(outputs)
        if layer in self._activations:
            outputs = self._activations[layer](outputs)
        return outputs

    def _stride(self, leader):
        """The DiffStride layer of all layers that share their strides."""
        if leader not in self._strides:
            new = self._new(leader, "stride")
            self._strides[leader] = pooling_slot.make_pooling(
                self._pooling_cls,
                leader.strides,
                leader.data_format,
                new["name"],
            )
            self._strides[leader].dtype_policy = new["dtype"]
        return self._strides[leader]

    def _new(self, layer, role):
        """Name and dtype policy of a new layer beside another."""
        name, number = f"{layer.name}_{role}", 1
        while name in self._names:
            name, number = f"{layer.name}_{role}_{number}", number + 1
        self._names.add(name)
        return {"name": name, "dtype": layer.dtype_policy}


def _padded_pooling(layer, padding):
    is_max = isinstance(layer, layers.MaxPooling2D)
    return PaddedPooling2D(
        window_of(layer),
        padding=padding,
        pool_mode=getattr(layer, "pool_mode", "max" if is_max else "average"),
        data_format=layer.data_format,
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def _operation_names(model):
    """Names of all operations in a model, and in models inside of it."""
    names = {tensor.name for tensor in model.inputs}
    for node in nodes(model):
        names.add(node.operation.name)
        if is_graph(node.operation):
            names |= _operation_names(node.operation)
    return names


def _others_with_strides(model):
    """Names the layers of one or three axes that have strides."""
    kinds = [
        f"{kind}{rank}D"
        for kind in ("Conv", "SeparableConv", "MaxPooling", "AveragePooling")
        for rank in (1, 3)
    ]
    found = sorted(
        {
            node.operation.name
            for node in nodes(model)
            if type(node.operation).__name__ in kinds
            and any(stride != 1 for stride in node.operation.strides)
        }
    )
    return f": {', '.join(found)} have one axis or three" if found else ""
