"""The DiffStride layers of a model, and their strides."""

from diffstride.layers.base_pooling import BaseDiffStride


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
