"""Weights of `keras.applications` for the networks of this package."""

import keras
import numpy as np


def load_keras_applications_weights(model, source, include_top=True):
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

    Example:

    ```python
    source = keras.applications.DenseNet121(weights="imagenet")
    model = densenet(imagenet_stem=True, pooling_cls=DiffStride)
    load_keras_applications_weights(model, source, include_top=False)
    ```
    """
    targets = {layer.name: layer for layer in model.layers}
    for layer in source.layers:
        if isinstance(layer, keras.layers.Normalization) or not layer.weights:
            continue
        if layer.name == "predictions" and not include_top:
            continue
        shapes = [weight.shape for weight in layer.weights]
        target = targets.get(layer.name)
        target_shapes = target and [weight.shape for weight in target.weights]
        if shapes != target_shapes:
            raise ValueError(
                "`model` must have the layers of `source`, in the same "
                f"shapes. Received: for layer '{layer.name}' "
                f"source={shapes}, model={target_shapes}"
            )
        target.set_weights(layer.get_weights())
    if "normalization" in targets:
        _carry_normalization(targets["normalization"], source)
    return model


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
