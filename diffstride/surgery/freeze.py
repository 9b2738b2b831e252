"""Models whose learned strides have become constants, ready to be exported."""

import keras
import numpy as np
from keras import ops

from diffstride.analysis.keras_graph import sublayers
from diffstride.analysis.learned_layers import learned_layers
from diffstride.layers.base_diffstride import BaseDiffStride
from diffstride.surgery.clone import clone
from diffstride.surgery.frozen_layers import BaseFrozenDiffStride, frozen_class
from diffstride.types import Shape


def freeze(
    model: keras.Model,
    input_shape: Shape | None = None,
    dtype: str | None = None,
) -> keras.Model:
    """Makes a model in which the learned strides are constants.

    The filters of a frozen layer are fixed matrices, the sizes of its output
    are integers, and its strides are no weight. All other weights are carried
    over, and the outputs are those of the model, to rounding. A
    `LogMelSpectrogram` computes its transform as a convolution, because
    TensorFlow's own format is the only one with a Fourier transform.

    XLA compiles a frozen model on every backend, `model.save` saves it, and
    `model.export` exports it: see `python -m diffstride.export`.

    DiffStride layers inside of other layers are found in the configs of these.
    A class that is derived from a DiffStride layer keeps what it adds.

    Args:
        model: a Functional model, or a Sequential one that is built.
        input_shape: shape of an example. It must be given where the model takes
            inputs of any size. Defaults to the shapes that the model has.
        dtype: dtype policy of all layers, such as `"float32"` for a model that
            was trained in mixed precision, as most formats need it. Defaults to
            those that the layers have.

    Returns:
        A Functional model, not compiled, with weights of its own.

    Example:

    >>> model = keras.Sequential([keras.Input((32, 32, 3)), DiffStride(2)])
    >>> frozen = freeze(model)
    >>> frozen.output_shape, frozen.count_params()
    ((None, 24, 24, 3), 0)
    """
    frozen = clone(
        model,
        lambda layer: _frozen_layer(layer, dtype),
        input_shape=input_shape,
        dtype=dtype,
    )
    for layer in learned_layers(frozen):
        if not isinstance(layer, BaseFrozenDiffStride):
            raise ValueError(
                "`model` must name its DiffStride layers in the configs of the "
                "layers that own them, or Keras cannot make them otherwise: "
                "let the owner take its pooling layer as an argument. "
                f"Received: model={model.name} with layer '{layer.name}' of "
                f"type {type(layer).__name__}"
            )
        layer.check_sizes()
        layer.keep_filters()
    for old, new in zip(
        learned_layers(model), learned_layers(frozen), strict=True
    ):
        _carry_added_weights(old, new)
    for layer in sublayers(frozen):
        _make_arrays_of_tensors(layer)
    return frozen


def _frozen_layer(layer, dtype):
    """The copy of a layer in which all strides are constants."""
    config = _frozen_config(layer.get_config(), layer, dtype)
    if dtype is not None and "dtype" in config:
        config["dtype"] = dtype
    learned_strides = None
    if isinstance(layer, BaseDiffStride):
        count = 1 if layer.shared_stride else layer.rank
        strides = ops.convert_to_numpy(layer.strides)[:count]
        config["learned_strides"] = learned_strides = strides.tolist()
        config["aliasing"] = float(ops.convert_to_numpy(layer.aliasing))
    new_class = frozen_class(type(layer), learned_strides)
    return new_class.from_config(config)


def _frozen_config(config, owner, dtype):
    """The config of a layer, with frozen layers in the place of its own.

    Args:
        config: the config, or a part of it.
        owner: the layer that it comes from.
        dtype: dtype policy of all layers, or None.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(_frozen_config(x, owner, dtype) for x in config)
    if isinstance(config, keras.layers.Layer):
        return _frozen_layer(config, dtype)
    if not isinstance(config, dict):
        return config
    layer = _described_layer(config, owner)
    if layer is None:
        return {
            key: _frozen_config(value, owner, dtype)
            for key, value in config.items()
        }
    frozen = _frozen_layer(layer, dtype)
    # In the config of a model, a layer comes with its calls.
    return {**config, **keras.saving.serialize_keras_object(frozen)}


def _described_layer(config, owner):
    """The layer inside of `owner` that a part of its config describes."""
    arguments = config.get("config")
    if not isinstance(arguments, dict):
        return None
    found = [
        layer
        for layer in sublayers(owner)
        if type(layer).__name__ == config.get("class_name")
        and layer.name == arguments.get("name", layer.name)
    ]
    learned = [layer for layer in found if isinstance(layer, BaseDiffStride)]
    if len(learned) > 1:
        raise ValueError(
            "DiffStride layers inside of one layer must have names of their "
            f"own. Received: several of the name '{learned[0].name}' in layer "
            f"'{owner.name}'"
        )
    return found[0] if found else None


def _carry_added_weights(layer, frozen):
    """Sets the weights that a derived class adds to those of DiffStride."""
    values = {weight.name: weight for weight in layer.weights}
    for weight in frozen.weights:
        weight.assign(np.array(ops.convert_to_numpy(values[weight.name])))


def _make_arrays_of_tensors(layer):
    """Makes arrays of the tensors that a layer holds beside its weights.

    `Normalization` holds its mean so. A format such as ONNX takes an array for
    a constant, but a tensor for one more input of the model.
    """
    for name, value in list(vars(layer).items()):
        if ops.is_tensor(value) and not isinstance(value, keras.Variable):
            setattr(layer, name, ops.convert_to_numpy(value))
