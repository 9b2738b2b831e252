"""Layers that are computed from images before a training begins."""

import keras
import numpy as np

from diffstride.analysis.keras_graph import sublayers
from diffstride.layers.whitening import Whitening
from diffstride.training import processes
from diffstride.validation import ConfigError

_EXAMPLES = 5000


def adapt(model, data):
    """Computes the whitening layers of a model from its training images.

    Of several processes, all take the filters of the first.

    Args:
        model: a built Keras model.
        data: a `diffstride.data.dataset.Dataset`.
    """
    layers = [x for x in sublayers(model) if isinstance(x, Whitening)]
    if not layers:
        return
    inner = [
        layer
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    if layers != inner[:1]:
        raise ConfigError(
            "A `Whitening` layer must be the first layer of the model, because "
            "its filters are computed from the images. Received: the layers "
            f"{[layer.name for layer in layers]} in model={model.name}"
        )
    images = []
    for batch in data.train(epoch=0):
        images.append(np.asarray(batch[0]))
        if sum(map(len, images)) >= _EXAMPLES:
            break
    layer = layers[0]
    layer.adapt(np.concatenate(images))
    kernels = processes.gather(np.asarray(layer.kernel))
    layer.kernel.assign(kernels[0])
