"""Which layers with strides must share them, because their branches meet.

A map that went through layers with strides is described by its steps: the list
of these layers. Where maps meet, in an addition or a concatenation, they must
have taken as many steps, and the layers in the same place of their lists must
have the same strides from then on, so that the maps keep one size.
"""

import difflib

import keras
import numpy as np
from keras import layers

from diffstride.analysis.keras_graph import (
    graph,
    is_graph,
    nodes,
    output_specs,
    sublayers,
)
from diffstride.layers.base_pooling import BaseSpectralPooling
from diffstride.layers.pooling import SpatialPooling
from diffstride.models.residual_layer import ResidualLayer
from diffstride.models.resnet_block import ResnetBlock

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D, SpatialPooling)
# Layers that own a pooling slot.
WITH_SLOT = (ResidualLayer, ResnetBlock)

# Layers whose output has a size of its own, whatever the size of their input.
_FIXED_SIZE = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.Resizing,
)
# Operations that reduce axes. Keras has no common base class of theirs.
_REDUCTIONS = ("Amax", "Amin", "Max", "Mean", "Min", "Std", "Sum", "Var")
_FLATTENING = ("Flatten", "Ravel")
# The output of these has as many points as their first input. The others may
# have any number of points.
_PRODUCTS = (
    "AdditiveAttention",
    "Attention",
    "Dot",
    "Einsum",
    "GroupedQueryAttention",
    "Matmul",
    "MultiHeadAttention",
)


# Stands for the size of a map that a model leaves open. Strides divide it.
_ANY_SIZE = 2**6 * 3 * 5


def strided(operation):
    """Whether an operation in a graph downsamples maps by fixed strides."""
    if isinstance(operation, CONVOLUTIONS + POOLINGS):
        return tuple(operation.strides) != (1, 1)
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


def first_convolution(layer):
    """The convolution that downsamples in a layer with a slot."""
    if isinstance(layer, ResnetBlock):
        layer = layer.layers[0]
    return layer.convolution1


class SharedStrides:
    """The layers with strides of a model, in groups that must share them.

    Args:
        model: a Functional model, or a Sequential one that is built.

    Attributes:
        input_shapes: for each of the layers, the shape that it is called on, or
            the first one if there are several.
    """

    def __init__(self, model):
        self.input_shapes = {}
        self._name = model.name
        self._leaders = {}
        inputs = graph(model).inputs
        self._follow(
            model,
            [() if len(x.shape) == 4 else None for x in inputs],
            [_with_known_size(x) for x in inputs],
        )

    def __contains__(self, layer):
        return layer in self._leaders

    def __iter__(self):
        return iter(self._leaders)

    def __len__(self):
        return len(self._leaders)

    def leader(self, layer):
        """The layer that stands for the group of a layer."""
        while self._leaders[layer] is not layer:
            layer = self._leaders[layer]
        return layer

    def chosen(self, where=None):
        """The layers that somebody chooses, and those that share with them.

        Args:
            where: names of layers, or a function from a layer to True or False,
                or None for all layers.
        """
        if where is None:
            return set(self)
        if callable(where):
            chosen = {layer for layer in self if where(layer)}
        else:
            chosen = self._named([where] if isinstance(where, str) else where)
        if not chosen:
            raise ValueError(
                "`where` must choose at least one of the layers with strides: "
                f"{', '.join(layer.name for layer in self)}. "
                f"Received: where={where}, which chooses none"
            )
        leaders = {self.leader(layer) for layer in chosen}
        return {layer for layer in self if self.leader(layer) in leaders}

    def _named(self, names):
        by_name = {layer.name: layer for layer in self}
        for name in names:
            if name not in by_name:
                near = difflib.get_close_matches(name, by_name) or by_name
                raise ValueError(
                    "`where` must name layers with strides, such as "
                    f"{', '.join(near)}. Received: {name!r}, of which there is "
                    f"none in model={self._name}"
                )
        return {by_name[name] for name in names}

    def _follow(self, model, input_steps, input_specs):
        """Steps and specs of the outputs of a model from those of its inputs.

        The specs know the sizes with which a model inside of another is called,
        even if the inner one takes any size.
        """
        inputs, outputs = graph(model).inputs, graph(model).outputs
        steps = dict(zip(map(id, inputs), input_steps, strict=True))
        specs = dict(zip(map(id, inputs), input_specs, strict=True))
        for node in nodes(model):
            given = [id(tensor) for tensor in node.input_tensors]
            given_steps = [steps[key] for key in given]
            given_specs = [specs[key] for key in given]
            if is_graph(node.operation):
                made_steps, made_specs = self._follow(
                    node.operation, given_steps, given_specs
                )
            else:
                made_specs = [
                    _with_known_size(x) for x in output_specs(node, specs)
                ]
                made_steps = [
                    self._steps(node, given_steps, given_specs[0].shape)
                ] * len(made_specs)
            made = [id(tensor) for tensor in node.outputs]
            steps.update(zip(made, made_steps, strict=True))
            specs.update(zip(made, made_specs, strict=True))
        return tuple(
            [known[id(tensor)] for tensor in outputs]
            for known in (steps, specs)
        )

    def _steps(self, node, given, input_shape):
        """Steps of the output of a call, or None if its size is its own.

        A tensor of three axes or more may be a map, or the points of a map in
        one row. A matrix has no axis that could follow the strides.
        """
        operation = node.operation
        if type(operation).__name__ in _PRODUCTS:
            steps = given[0]
        else:
            steps = self._meet(operation, given)
        learned = [layer for layer in steps or () if layer in self]
        if learned:
            data_format = data_format_of(learned[0])
            if _has_fixed_size(node, data_format):
                return None
            self._check_shape_follows(node, data_format)
        if len(node.outputs[0].shape) < 3:
            return None
        if strided(operation):
            self._leaders.setdefault(operation, operation)
            self.input_shapes.setdefault(operation, input_shape)
            return (*(steps or ()), operation)
        if isinstance(operation, BaseSpectralPooling):
            return (*(steps or ()), operation)
        enlarged = _enlargement(operation)
        if enlarged != (1, 1):
            # Two such steps are alike if they enlarge by the same factors.
            return (*(steps or ()), enlarged)
        return steps

    def _meet(self, operation, given):
        given = [steps for steps in given if steps is not None]
        if not given:
            return None
        first, *others = given
        for other in others:
            if len(first) != len(other) or not all(map(_alike, first, other)):
                raise ValueError(
                    "`model` must downsample branches that meet in the same "
                    "steps, which can then share the strides they learn. "
                    f"Received: model={self._name}, with a branch through "
                    f"{_described(first)} and one through "
                    f"{_described(other)} in '{operation.name}'"
                )
            for one, two in zip(first, other, strict=True):
                if one is not two and one in self:
                    self._leaders[self.leader(two)] = self.leader(one)
        return first

    def _check_shape_follows(self, node, data_format):
        """Raises an error if a call needs maps of a size that is fixed."""
        operation = node.operation
        kind = type(operation).__name__
        if kind in _FLATTENING or (
            kind == "Reshape" and not _follows(node, data_format)
        ):
            raise ValueError(
                "`model` must not flatten or reshape a map of a learned size: "
                "let it end in global pooling, as with `include_top=False, "
                "pooling='avg'` in `keras.applications`, and reshape to "
                "`(-1, channels)`. Received: "
                f"model={self._name} with layer '{operation.name}'"
            )


def _with_known_size(tensor):
    batch, *shape = tensor.shape
    if len(shape) != 3:
        return tensor
    shape = [_ANY_SIZE if size is None else size for size in shape]
    return keras.KerasTensor((batch, *shape), tensor.dtype)


def _has_fixed_size(node, data_format):
    """Whether the size of the output does not depend on that of the map."""
    operation = node.operation
    if isinstance(operation, _FIXED_SIZE):
        return True
    if type(operation).__name__ not in _REDUCTIONS:
        return False
    if operation.axis is None:
        return True
    rank = len(node.input_tensors[0].shape)
    reduced = {axis % rank for axis in np.atleast_1d(operation.axis)}
    return reduced >= set(_spatial_axes(rank, data_format))


def _spatial_axes(rank, data_format):
    """Axes of a map. Points in a row are `(batch, points, channels)`."""
    if rank == 3 or data_format == "channels_last":
        return range(1, rank - 1)
    return range(2, rank)


def _follows(node, data_format):
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
    first = _spatial_axes(len(input_shape), data_format)[0] == 2
    channels = input_shape[1 if first else -1]
    others = shape[1:] if first else shape[:-1]
    fixed = [size for size in shape if size not in (-1, None)]
    return (
        len(fixed) == len(shape) - 1
        and any(size in (-1, None) for size in others)
        and np.prod(fixed) == channels
    )


def _enlargement(operation):
    if isinstance(operation, layers.UpSampling2D):
        return tuple(operation.size)
    if isinstance(operation, layers.Conv2DTranspose):
        return tuple(operation.strides)
    return (1, 1)


def _alike(one, two):
    """Whether two steps can be one and the same."""
    if one is two or isinstance(one, tuple):
        return one == two
    return (
        isinstance(one, CONVOLUTIONS + POOLINGS)
        and isinstance(two, CONVOLUTIONS + POOLINGS)
        and tuple(one.strides) == tuple(two.strides)
    )


def _described(steps):
    names = [
        f"enlargement by {step}" if isinstance(step, tuple) else step.name
        for step in steps
    ]
    return f"[{', '.join(names)}]"
