"""Warnings, once for each layer, where strides cannot or will not learn.

They come in the first training step of a model, when all that matters is known:
the model, the optimizer and the callbacks.
"""

import warnings
import weakref

import keras

from diffstride.analysis import keras_graph
from diffstride.layers import compiled_functions
from diffstride.layers.base_pooling import BaseSpectralLayer
from diffstride.layers.graph_sizes import in_another_thread
from diffstride.layers.strides import as_floats

_GLOBAL_AVERAGES = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)
# Layers that keep the mean over space apart from everything else.
_LINEAR = (
    BaseSpectralLayer,
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.Rescaling,
    keras.layers.Subtract,
)
# Those that do, if they look at one point at a time and have no activation.
_POINTWISE = (
    keras.layers.Activation,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
)
_checked = weakref.WeakSet()


def check_strides(layer, model):
    """Warns if the strides of a layer cannot or will not learn.

    Args:
        layer: a built DiffStride layer.
        model: the compiled Keras model that is about to be trained.
    """
    if layer in _checked or not (layer.trainable and layer.strides.trainable):
        return
    _checked.add(layer)
    for check in (
        _check_sizes,
        _check_decay,
        _check_average,
        _check_flatten,
        _check_aliasing,
    ):
        message = check(layer, model)
        if message:
            warnings.warn(message, stacklevel=2)


def _check_sizes(layer, model):
    if not layer.is_static or layer.graph_sizes.is_holding:
        return None
    if model.run_eagerly or keras.backend.backend() == "torch":
        return None  # Without a graph, sizes are those of the strides.
    when = " within an epoch" if keras.backend.backend() == "jax" else ""
    return (
        f"The sizes of layer '{layer.name}' are constants in the compiled "
        f"training step, and do not follow the strides{when}. Add "
        "`diffstride.RefreshSizes()` to the callbacks of `fit`."
    )


def _check_decay(layer, model):
    if not keras_graph.is_decayed(model.optimizer, layer.strides):
        return None
    return (
        f"The optimizer decays the strides of layer '{layer.name}'. Call "
        '`optimizer.exclude_from_weight_decay(var_names=["strides"])` before '
        "`fit`."
    )


def _check_average(layer, model):
    users = keras_graph.users(model) if keras_graph.is_graph(model) else {}

    def only_the_mean_counts(operation):
        after = users.get(operation, [])
        return bool(after) and all(
            isinstance(user, _GLOBAL_AVERAGES)
            or (_is_linear(user) and only_the_mean_counts(user))
            for user in after
        )

    if not only_the_mean_counts(layer):
        return None
    return (
        f"The strides of layer '{layer.name}' do not learn: its output goes "
        "into a global average without an activation in between, and the mean "
        "of a map does not depend on the strides. Put the activation of the "
        "convolution in front of the layer after the layer."
    )


def _check_aliasing(layer, model):
    if layer.is_fading or not isinstance(layer.aliasing, keras.Variable):
        return None
    # This may run while a graph is built, which does not know the value: read
    # it outside. Under JAX that is impossible, so take the constructor's.
    known = in_another_thread(as_floats, layer.aliasing)
    if (known or (layer.get_config()["aliasing"],)) != (1.0,):
        return None
    return (
        f"The strides of layer '{layer.name}' do not learn while its "
        "`aliasing` is 1. Add `diffstride.FadeAliasing(epochs=...)` to the "
        "callbacks of `fit`, or lower it by `layer.aliasing.assign(0)`."
    )


def _is_linear(operation):
    if isinstance(operation, _POINTWISE):
        sizes = getattr(operation, "kernel_size", (1,))
        steps = getattr(operation, "strides", (1,))
        is_linear = operation.activation is keras.activations.linear
        return is_linear and {*sizes, *steps} == {1}
    return isinstance(operation, _LINEAR)


def _check_flatten(layer, model):
    if not layer.is_static or not keras_graph.is_graph(model):
        return None
    users, reached, waiting = keras_graph.users(model), set(), [layer]
    while waiting:
        for user in users.get(waiting.pop(), []):
            if _has_fixed_size(user):
                return (
                    f"The sizes of layer '{layer.name}' cannot change: "
                    f"'{user.name}', which comes after it, makes a vector of a "
                    "fixed length of its output. Use global pooling instead, "
                    "or `trainable=False`."
                )
            if user is not None and user not in reached:
                reached.add(user)
                if not type(user).__name__.startswith("Global"):
                    waiting.append(user)
    return None


def _has_fixed_size(operation):
    if isinstance(operation, keras.layers.Reshape):
        return -1 not in operation.target_shape
    return isinstance(operation, keras.layers.Flatten)


compiled_functions.CHECKS.append(check_strides)
