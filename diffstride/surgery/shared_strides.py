"""Which layers with strides must have the same ones, as their branches meet.

The resolution of a tensor is the list of the strided layers it went through.
Where tensors meet, in an addition or a concatenation, their lists must be
alike, and layers in the same place of them must have the same strides.
"""

import numpy as np
from keras import layers

from diffstride.analysis.keras_graph import (
    graph,
    is_graph,
    nodes,
    sublayers,
)
from diffstride.layers.base_pooling import BaseSpectralPooling
from diffstride.layers.pooling import SpatialPooling
from diffstride.models.residual import ResidualLayer, ResnetBlock

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D, SpatialPooling)
# Layers that own a pooling slot.
WITH_SLOT = (ResidualLayer, ResnetBlock)

# What a map, of a size that is learned, cannot enter.
_FLATTENING = ("Flatten", "Reshape", "Ravel")


def strided(operation):
    """Whether something in a graph downsamples by strides that are fixed."""
    if isinstance(operation, CONVOLUTIONS + POOLINGS):
        return operation.strides != (1, 1)
    if not isinstance(operation, WITH_SLOT):
        return False
    is_spectral = any(
        isinstance(layer, BaseSpectralPooling) for layer in sublayers(operation)
    )
    strides = tuple(np.broadcast_to(operation.strides, 2))
    return strides != (1, 1) and not is_spectral


class SharedStrides:
    """The strided layers of a model, in groups that must share their strides.

    Args:
        model: a Functional model, or a Sequential one that is built.

    Attributes:
        shapes: the shape of the input of each layer.
    """

    def __init__(self, model):
        self.shapes = {}
        self._name = model.name
        self._leaders = {}
        self._follow(
            model,
            [() if len(x.shape) == 4 else None for x in graph(model).inputs],
        )

    def __contains__(self, layer):
        return layer in self._leaders

    def __len__(self):
        return len(self._leaders)

    def leader(self, layer):
        """The layer that stands for all with which this one shares strides."""
        while self._leaders[layer] is not layer:
            layer = self._leaders[layer]
        return layer

    def _follow(self, model, resolutions):
        """Resolutions of the outputs of a model from those of its inputs."""
        known = dict(
            zip(map(id, graph(model).inputs), resolutions, strict=True)
        )
        for node in nodes(model):
            given = [known[id(tensor)] for tensor in node.input_tensors]
            if is_graph(node.operation):
                made = self._follow(node.operation, given)
            else:
                made = [self._resolution(node, given)] * len(node.outputs)
            known.update(zip(map(id, node.outputs), made, strict=True))
        return [known[id(tensor)] for tensor in graph(model).outputs]

    def _resolution(self, node, resolutions):
        """Of the output of a call; None for anything but a map."""
        operation = node.operation
        resolution = self._meet(operation, resolutions)
        if type(operation).__name__ in _FLATTENING and any(
            layer in self for layer in resolution or ()
        ):
            raise ValueError(
                "`model` must not flatten or reshape a map of a learned size: "
                "let it end in global pooling, as with `include_top=False, "
                "pooling='avg'` in `keras.applications`. Received: "
                f"model={self._name} with layer '{operation.name}'"
            )
        if len(node.outputs[0].shape) != 4:
            return None
        if strided(operation):
            self._leaders.setdefault(operation, operation)
            self.shapes[operation] = node.input_tensors[0].shape
            return (*(resolution or ()), operation)
        if isinstance(operation, BaseSpectralPooling):
            return (*(resolution or ()), operation)
        enlarged = _enlargement(operation)
        if enlarged != (1, 1):
            # Two such steps are alike where they enlarge by the same.
            return (*(resolution or ()), enlarged)
        return resolution

    def _meet(self, operation, resolutions):
        resolutions = [known for known in resolutions if known is not None]
        if not resolutions:
            return None
        first, *others = resolutions
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


def _enlargement(operation):
    if isinstance(operation, layers.UpSampling2D):
        return tuple(operation.size)
    if isinstance(operation, layers.Conv2DTranspose):
        return tuple(operation.strides)
    return (1, 1)


def _alike(one, two):
    """Whether two steps of a resolution can be one and the same."""
    if one is two or isinstance(one, tuple):
        return one == two
    return (
        isinstance(one, CONVOLUTIONS + POOLINGS)
        and isinstance(two, CONVOLUTIONS + POOLINGS)
        and one.strides == two.strides
    )


def _described(resolution):
    steps = [
        f"enlargement by {step}" if isinstance(step, tuple) else step.name
        for step in resolution
    ]
    return f"[{', '.join(steps)}]"
