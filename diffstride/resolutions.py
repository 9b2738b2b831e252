"""Which layers with strides must have the same ones, as their branches meet.

The resolution of a tensor is the list of the strided layers it went through.
Where tensors meet, in an addition or a concatenation, their lists must be
alike, and layers in the same place of them must have the same strides.
"""

import keras
from keras import layers

from diffstride.base_pooling import BaseSpectralPooling
from diffstride.cloning import graph, is_graph, nodes
from diffstride.residual import ResidualLayer, ResnetBlock

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D)
# Layers that own a pooling slot.
WITH_SLOT = (ResidualLayer, ResnetBlock)

# What other layers do to the size of a map, for comparison.
_RESIZING = {
    layers.UpSampling2D: "size",
    layers.Conv2DTranspose: "strides",
}
# Layers and operations that a map enters with its size.
_FLATTENING = ("Flatten", "Reshape", "Ravel")


def strided(operation):
    """Whether a layer downsamples by integer strides that could be learned."""
    if isinstance(operation, WITH_SLOT):
        return not any(
            isinstance(layer, BaseSpectralPooling)
            for layer in operation._flatten_layers()
        ) and _pair(operation.strides) != (1, 1)
    return isinstance(
        operation, CONVOLUTIONS + POOLINGS
    ) and operation.strides != (1, 1)


def _pair(strides):
    return tuple(strides) if hasattr(strides, "__len__") else (strides,) * 2


class SharedStrides:
    """The strided layers of a model, in groups that must share their strides.

    Args:
        model: a Functional model, or a Sequential one that is built.
    """

    def __init__(self, model):
        self._name = model.name
        self._leaders = {}
        self._follow(model, [()] * len(graph(model).inputs))

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
            return (*(resolution or ()), operation)
        if isinstance(operation, BaseSpectralPooling):
            return (*(resolution or ()), operation)
        for resizing, argument in _RESIZING.items():
            if isinstance(operation, resizing):
                factors = tuple(getattr(operation, argument))
                if factors != (1, 1):
                    return (*(resolution or ()), ("larger", factors))
        return resolution

    def _meet(self, operation, resolutions):
        resolutions = [known for known in resolutions if known is not None]
        if not resolutions:
            return None
        first, *others = resolutions
        for other in others:
            if len(first) != len(other) or not all(map(_alike, first, other)):
                raise ValueError(
                    "`model` must downsample branches that meet in as many "
                    "steps and by the same strides, so that they can share "
                    f"those that are learned. Received: model={self._name}, "
                    f"where in '{operation.name}' {_described(first)} meets "
                    f"{_described(other)}"
                )
            for one, two in zip(first, other, strict=True):
                if one is not two and one in self:
                    self._leaders[self.leader(two)] = self.leader(one)
        return first


def _alike(one, two):
    if one is two:
        return True
    if isinstance(one, keras.layers.Layer) and strided(one) and strided(two):
        return (
            not isinstance(one, WITH_SLOT)
            and not isinstance(two, WITH_SLOT)
            and one.strides == two.strides
        )
    return isinstance(one, tuple) and one == two


def _described(resolution):
    steps = [
        f"'{step.name}'"
        if isinstance(step, keras.layers.Layer)
        else "upsampling"
        for step in resolution
    ]
    return " > ".join(steps) or "the full resolution"
