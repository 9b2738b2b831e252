"""The DiffStride layers of a model, and their strides."""

from diffstride.analysis.keras_graph import sublayers
from diffstride.layers.base_pooling import BaseDiffStride


def learned_layers(model):
    """The DiffStride layers of a model or of a layer, each once.

    They come in the order of the calls in a Functional or Sequential model, in
    the order of the attributes in a subclassed one.
    """
    return [
        layer
        for layer in (model, *sublayers(model))
        if isinstance(layer, BaseDiffStride)
    ]


def strides_of(layer):
    """The strides of a DiffStride layer, one for each axis."""
    strides = layer.strides
    return [strides[axis % strides.shape[0]] for axis in range(layer.rank)]
