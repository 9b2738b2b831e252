"""From a network with fixed strides to one that learns them."""

from collections.abc import Callable, Sequence

import keras
from keras import activations, layers

from diffstride.analysis.keras_graph import check_graph, maker, nodes
from diffstride.layers import padded_pooling, resize
from diffstride.layers.upsampling import UpSampling2D
from diffstride.models import pooling_slot
from diffstride.surgery.alignment import (
    aligned_paddings,
    beyond,
    own_padding,
    window_of,
)
from diffstride.surgery.clone import clone
from diffstride.surgery.shared_strides import SharedStrides
from diffstride.surgery.size_changes import (
    CONVOLUTIONS,
    POOLINGS,
    WITH_SLOT,
    data_format_of,
    rank_of,
    spatial_axes,
)
from diffstride.types import Pooling

# After a convolution, DiffStride begins as the strides that it stands for.
_ALIASING = {"after": 1.0, "before": 0.0}
_DIFFSTRIDE = {1: "DiffStride1D", 2: "DiffStride", 3: "DiffStride3D"}
_RESIZE = {
    1: resize.SpectralResize1D,
    2: resize.SpectralResize,
    3: resize.SpectralResize3D,
}


def learn_strides(
    model: keras.Model,
    pooling_cls: Pooling = None,
    *,
    where: Sequence[str] | Callable[[keras.layers.Layer], bool] | None = None,
    pooling_order: str = "after",
) -> keras.Model:
    """Lets a model learn its strides.

    Every convolution and pooling with strides, of one, two or three axes
    (`Conv2D`, `DepthwiseConv2D`, `SeparableConv2D`, `MaxPooling2D`,
    `AveragePooling2D`, those of the same names for signals and volumes, and
    `SpatialPooling`), becomes one without, followed by a DiffStride layer that
    starts at these strides. All weights are carried over. Models inside of the
    model are converted with it, also in `TimeDistributed`. Branches that meet
    after equal steps, in an addition or a concatenation, get one DiffStride
    layer for all of them, so that their sizes agree whatever it learns.

    In a U-Net, an FPN or an autoencoder, maps come back to a size of before.
    What enlarges them by a fixed factor (`UpSampling2D`, `Conv2DTranspose`)
    stays, and a `SpectralResize` follows it, to the size of the map of before.
    So a decoder follows its encoder, and a network that ends at the size of its
    input always does. Maps that meet otherwise after different steps, such as
    strides of 4 on one branch and twice 2 on the other, or after
    `ops.image.resize`, are resized where they meet. As long as strides are as
    they were, such a resize changes nothing. A map that is put out at a learned
    size stays so: if it is compared with labels of a fixed size, add
    `SpectralResize(size=...)` at the end.

    By default, the new model gives the outputs of the old one: its DiffStride
    layers have `aliasing=1`, with which they take every second point of a map
    as strides of 2 do. At that value strides have no gradient. The callback
    `diffstride.FadeAliasing` lowers it while the model is trained further, and
    strides begin to learn.

    The model costs more operations than before, because its convolutions work
    on maps that are not downsampled yet. `diffstride.conversion_summary` shows
    where, before anything is converted. Choose layers by `where`, use
    `pooling_order="before"`, or let `diffstride.MacsBudget` lead the model back
    to what it had cost.

    The windows of a layer start where they started, so that branches stay
    aligned. This takes some padding: a `ZeroPadding2D` in front of a
    convolution, a `PaddedPooling2D` instead of a pooling, or those of as many
    axes. A causal convolution stays one, but a DiffStride layer with an
    `aliasing` below 1 reads the whole signal, what comes later too. As long as
    strides are as they were, `to_integer_strides` leads back to a network with
    the outputs of `model`.

    An activation inside of a convolution comes after the DiffStride layer. If
    it came before, nothing but linear layers might lie between DiffStride and a
    global average; but an average reads the lowest frequency alone, which every
    stride keeps, so the strides would have a gradient of zero, and never learn.

    Args:
        model: a Functional model, or a Sequential one that is built, with any
            number of inputs and outputs. Sizes of inputs may be None. Its maps
            must end in global pooling, or be put out, as `Flatten` cannot
            follow sizes that move. They may be reshaped to `(-1, channels)`.
        pooling_cls: class, function or config dict. What makes the layers that
            learn strides (see `diffstride.models.pooling_slot`). Defaults to
            `DiffStride`, or that of one or three axes, with `norm="forward"`,
            which preserves scales, with `ramp="inside"`, which leaves the sizes
            that the strides leave, and, after convolutions, with `aliasing=1`.
        where: names of layers, or a function from a layer to True or False.
            Which of the layers learn their strides. Layers that must share
            their strides with one of them learn them, too. Defaults to all.
        pooling_order: `"after"` or `"before"`: where the DiffStride layer
            stands. Before a convolution, the convolution works on the small map
            and costs what it did, but no longer computes what it did. After a
            pooling it stands in any case.

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
    pooling_slot.check_pooling_order(pooling_order)
    shared = SharedStrides(model)
    if not shared:
        raise ValueError(
            "`model` must have convolutions or poolings with strides. "
            f"Received: model={model.name}, which has none"
        )
    conversion = _Conversion(
        shared,
        shared.chosen(where),
        pooling_cls,
        pooling_order,
        _operation_names(model, shared.inner_graph),
    )
    return clone(
        model,
        conversion.replace,
        conversion.call,
        taken=conversion.taken,
        inner_graph=conversion.inner_graph,
        inner_input=conversion.inner_input,
    )


class _Conversion:
    """What takes the place of each layer of a model.

    Args:
        shared: the `SharedStrides` of the model.
        chosen: the layers that learn their strides.
        pooling_cls: what makes the layers that learn strides, or None.
        pooling_order: whether these stand before convolutions, or after.
        names: names that the new layers cannot have. They are added to it.
    """

    def __init__(self, shared, chosen, pooling_cls, pooling_order, names):
        self._shared = shared
        self._chosen = chosen
        self._pooling_cls = pooling_cls
        self._pooling_order = pooling_order
        self._is_before = pooling_order == "before"
        self._names = names
        self._paddings = {
            layer: padding
            for layer, padding in aligned_paddings(shared).items()
            if layer in chosen
        }
        # The layers that are new, by the layer that they stand beside.
        self._borders = {}
        self._strides = {}
        self._activations = {}
        # Maps that were resampled before a convolution, for the next one that
        # reads the same map.
        self._resampled = {}
        # Maps that were resized to others, likewise.
        self._resized = {}

    def inner_graph(self, layer):
        """The model in a layer that is copied call by call, or None."""
        inner = self._shared.inner_graph(layer)
        if inner in (None, layer, getattr(layer, "layer", None)):
            return inner
        # A layer for each time step becomes a model if it learns its strides.
        return inner if layer.layer in self._chosen else None

    def inner_input(self, tensor):
        """The input of a model inside of the model, of any size if needed."""
        before = self._shared.inner_strides[id(tensor)]
        if not before & self._chosen:
            return tensor
        shape = list(tensor.shape)
        (layer, *_) = before & self._chosen
        for axis in spatial_axes(len(shape), data_format_of(layer)):
            shape[axis] = None
        return keras.KerasTensor(shape, tensor.dtype)

    def taken(self, tensor, reader, tensors):
        """What stands for a tensor of the graph: itself, or resized."""
        new = tensors[id(tensor)]
        needed = self._shared.resizes.get((id(tensor), reader))
        if needed is None or not self._chosen.intersection(needed.because):
            return new
        layer = needed.because[-1]
        options = {
            "data_format": data_format_of(layer),
            "dtype": layer.dtype_policy,
        }
        resize_class = _RESIZE[len(new.shape) - 2]
        if isinstance(needed.like, tuple):
            name = self._name(maker(tensor), "resize")
            return resize_class(size=needed.like, name=name, **options)(new)
        like = tensors[id(needed.like)]
        key = id(new), id(like)
        if key not in self._resized:
            name = self._name(maker(tensor), "resize")
            made = resize_class(name=name, **options)([new, like])
            # Keep the tensors, because an `id` is of a living object alone.
            self._resized[key] = new, like, made
        return self._resized[key][-1]

    def replace(self, layer):
        """The layer that takes the place of another."""
        config = layer.get_config()
        if isinstance(layer, layers.UpSampling2D):
            return UpSampling2D.from_config(config)
        if layer not in self._chosen:
            return type(layer).from_config(config)
        padding = self._paddings[layer]
        if isinstance(layer, WITH_SLOT):
            is_strided = config["pooling_cls"] is None
            config["pooling_cls"] = self._pooling(layer)
            config["strides"] = layer.strides
            config["pooling_order"] = self._pooling_order
            if is_strided and not self._is_before:
                config["border"] = padding
            return type(layer).from_config(config)
        config["strides"] = (1,) * rank_of(layer)
        own = "causal" if layer.padding == "causal" else "same"
        if self._reads_small_maps(layer):
            config["padding"] = own
            return type(layer).from_config(config)
        is_own = padding == own_padding(layer)
        config["padding"] = own if is_own else "valid"
        border = ((0, 0),) * rank_of(layer) if is_own else padding
        if isinstance(layer, POOLINGS) and any(map(any, border)):
            return _padded_pooling(layer, padding)
        self._borders[layer] = self._border_layers(layer, border)
        if isinstance(layer, CONVOLUTIONS):
            config["activation"] = None
            if layer.activation is not activations.linear:
                self._activations[layer] = layers.Activation(
                    layer.activation, **self._new(layer, "activation")
                )
        return type(layer).from_config(config)

    def call(self, layer, replacement, *args, **kwargs):
        """The output of what takes the place of a layer."""
        if layer not in self._paddings or isinstance(layer, WITH_SLOT):
            return replacement(*args, **kwargs)
        inputs, *args = args
        if self._reads_small_maps(layer):
            inputs = self._resample_once(layer, inputs)
            return replacement(inputs, *args, **kwargs)
        for border in self._borders.get(layer, ()):
            inputs = border(inputs)
        outputs = replacement(inputs, *args, **kwargs)
        outputs = self._stride(self._shared.leader(layer))(outputs)
        if layer in self._activations:
            outputs = self._activations[layer](outputs)
        return outputs

    def _reads_small_maps(self, layer):
        """Whether DiffStride stands before a layer."""
        return self._is_before and isinstance(layer, CONVOLUTIONS)

    def _resample_once(self, layer, inputs):
        """The map that a convolution reads, with its border, resampled."""
        leader = self._shared.leader(layer)
        border = beyond(self._paddings[layer], own_padding(layer))
        key = id(inputs), leader, border
        if key not in self._resampled:
            x = inputs
            for border_layer in self._border_layers(layer, border):
                x = border_layer(x)
            # Keep the input, because an `id` is of a living object alone.
            self._resampled[key] = inputs, self._stride(leader)(x)
        return self._resampled[key][1]

    def _border_layers(self, layer, border):
        """Layers that widen a map by a border, or cut off what is negative."""
        made = []
        for role, kind, sign in [
            ("padding", "ZeroPadding", 1),
            ("cropping", "Cropping", -1),
        ]:
            widths = tuple(
                tuple(max(sign * width, 0) for width in axis) for axis in border
            )
            if any(map(any, widths)):
                made.append(
                    _border_layer(kind, layer, widths, **self._new(layer, role))
                )
        return made

    def _stride(self, leader):
        """The DiffStride layer of all layers that share their strides."""
        if leader not in self._strides:
            new = self._new(leader, "stride")
            self._strides[leader] = pooling_slot.make_pooling(
                self._pooling(leader),
                leader.strides,
                data_format_of(leader),
                new["name"],
                rank=rank_of(leader),
            )
            self._strides[leader].dtype_policy = new["dtype"]
        return self._strides[leader]

    def _pooling(self, layer):
        """What makes the layer that learns the strides of another."""
        return self._pooling_cls or {
            "class_name": _DIFFSTRIDE[rank_of(layer)],
            # It preserves scales, and leaves maps of the size that strides
            # leave. After a convolution, it begins as the strides were.
            "config": {
                "norm": "forward",
                "ramp": "inside",
                "aliasing": _ALIASING[self._pooling_order],
            },
        }

    def _new(self, layer, role):
        """Name and dtype policy of a new layer beside another."""
        return {"name": self._name(layer, role), "dtype": layer.dtype_policy}

    def _name(self, operation, role):
        """A new name for a layer beside an operation."""
        name, number = f"{operation.name}_{role}", 1
        while name in self._names:
            name, number = f"{operation.name}_{role}_{number}", number + 1
        self._names.add(name)
        return name


def _padded_pooling(layer, padding):
    pooling_class = getattr(padded_pooling, f"PaddedPooling{rank_of(layer)}D")
    is_max = "Max" in type(layer).__name__
    return pooling_class(
        window_of(layer),
        padding=padding,
        pool_mode=getattr(layer, "pool_mode", "max" if is_max else "average"),
        data_format=layer.data_format,
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def _border_layer(kind, layer, widths, **options):
    if rank_of(layer) == 1:
        (widths,) = widths
    options["data_format"] = layer.data_format
    if kind == "Cropping" and rank_of(layer) == 1:
        # Keras has no such layer for channels in front.
        if options.pop("data_format") == "channels_first":
            raise ValueError(
                "`pooling_order` must be 'after' for a convolution of signals "
                "with `data_format='channels_first'`. "
                f"Received: pooling_order='before' with layer '{layer.name}'"
            )
    return getattr(layers, f"{kind}{rank_of(layer)}D")(widths, **options)


def _operation_names(model, inner_graph):
    """Names of all operations in a model, and in models inside of it."""
    names = {tensor.name for tensor in model.inputs}
    for node in nodes(model):
        names.add(node.operation.name)
        inner = inner_graph(node.operation)
        if inner is not None:
            names |= _operation_names(inner, inner_graph)
    return names
