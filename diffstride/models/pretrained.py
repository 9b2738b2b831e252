"""Weights of `keras.applications` for the networks of this package."""

import keras
import numpy as np


def load_keras_applications_weights(
    model: keras.Model, source: keras.Model, include_top: bool = True
) -> keras.Model:
    """Carries the weights of a model of `keras.applications` over.

    With `pooling_cls=None` and the standard strides the two models give equal
    outputs. With other strides or a pooling layer in its slots the model starts
    from the same kernels; the strides stay as they are.

    A normalisation that the source applies to its images is carried over where
    the model has one: see `include_preprocessing` of `efficientnet`. Otherwise
    the model expects images that are normalised already, for weights of
    ImageNet by its mean and standard deviation of each channel.

    Args:
        model: model that `efficientnet` or `densenet` has built; the latter
            with `imagenet_stem=True`.
        source: the model of `keras.applications` of the same kind.
        include_top: whether to carry the classifier over as well, which needs
            the same number of classes. Defaults to True.

    Returns:
        The model.

    Raises:
        ValueError: if one of the two has a layer that the other lacks, or has
            in other shapes. The model is then left as it was.

    Example:

    ```python
    source = keras.applications.DenseNet121(weights="imagenet")
    model = densenet(imagenet_stem=True, pooling_cls=DiffStride)
    load_keras_applications_weights(model, source, include_top=False)
    ```
    """
    targets, sources = (
        {layer.name: layer for layer in network.layers}
        for network in (model, source)
    )
    expected, offered = (
        _weight_shapes(layers, include_top) for layers in (targets, sources)
    )
    # Check all layers before the first one changes.
    for name in {**offered, **expected}:
        if offered.get(name) != expected.get(name):
            raise ValueError(
                "`model` must have the layers of `source`, in the same "
                f"shapes, and no others. Received: for layer '{name}' "
                f"source={offered.get(name)}, model={expected.get(name)}"
            )
    for name in offered:
        targets[name].set_weights(sources[name].get_weights())
    if "normalization" in targets:
        _carry_normalization(targets["normalization"], source)
    return model


def _weight_shapes(layers, include_top):
    """Shapes of the weights that two networks must have in common, by layer.

    Layers in pooling slots, whose strides stay as they are, are the model's
    alone, and normalisations of images are carried over in another way.
    """
    return {
        name: [weight.shape for weight in layer.weights]
        for name, layer in layers.items()
        if layer.weights
        and not isinstance(layer, keras.layers.Normalization)
        and not name.endswith("_pooling")
        and (include_top or name != "predictions")
    }


def _carry_normalization(target, source):
    """Sets one layer to all that the source does to a pixel value."""
    scale, offset = np.float64(1), np.float64(0)
    for layer in source.layers:
        if isinstance(layer, keras.layers.Rescaling):
            factor, shift = np.array(layer.scale), np.array(layer.offset)
        elif isinstance(layer, keras.layers.Normalization):
            deviation = np.sqrt(np.ravel(layer.variance))
            factor, shift = 1 / deviation, -np.ravel(layer.mean) / deviation
        else:
            continue
        scale, offset = scale * factor, offset * factor + shift
    channels = target.adapt_mean.shape
    target.adapt_mean.assign(np.broadcast_to(-offset / scale, channels))
    target.adapt_variance.assign(np.broadcast_to(scale**-2.0, channels))
    target.finalize_state()
