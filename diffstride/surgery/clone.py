"""Copies of a model in which some layers are others.

`keras.models.clone_model` does the walk; this adds what it leaves out: models
inside of models, Sequential ones among them, and the state of the layers.
"""

import keras
import numpy as np
from keras import ops, tree

from diffstride.analysis.keras_graph import (
    check_graph,
    graph,
    is_graph,
    sublayers,
)
from diffstride.layers.base_diffstride import BaseDiffStride


def clone(model, replace, call=None, input_shape=None):
    """Copies a model with its weights.

    Args:
        model: a Functional model, or a Sequential one that is built.
        replace: function from a layer to the one that takes its place.
        call: function `(layer, replacement, *args, **kwargs)` that calls the
            replacement of a layer. The inputs are the first of `args`. Defaults
            to a plain call.
        input_shape: shape of an example, for a model with one input. Defaults
            to the shapes that the model has.

    Returns:
        A Functional model that is not compiled.
    """
    check_graph(model)
    replacements, originals, models = {}, {}, {}

    def clone_function(layer):
        if is_graph(layer):
            return layer  # Copied where it is called.
        if layer not in replacements:
            replacements[layer] = replace(layer)
            originals[replacements[layer]] = layer
        return replacements[layer]

    def call_function(layer, *args, **kwargs):
        if not args and "inputs" in kwargs:
            args = (kwargs.pop("inputs"),)
        if is_graph(layer):
            if layer not in models:
                models[layer] = clone_graph(layer, graph(layer).input)
            return models[layer](*args, **kwargs)
        if call is None:
            return layer(*args, **kwargs)
        return call(originals[layer], layer, *args, **kwargs)

    def clone_graph(model, examples):
        model = graph(model)
        inputs = tree.map_structure(
            lambda tensor, example: keras.Input(
                batch_shape=example.shape, dtype=tensor.dtype, name=tensor.name
            ),
            model.input,
            examples,
        )
        return keras.models.clone_model(
            model, inputs, clone_function, call_function
        )

    inputs = graph(model).input
    if input_shape is not None:
        inputs = _examples(inputs, input_shape)
    cloned = clone_graph(model, inputs)
    for layer, replacement in replacements.items():
        carry_state(layer, replacement)
    # Keras exports a model to ONNX only after it was called.
    cloned(
        tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, x.dtype), cloned.input
        )
    )
    return cloned


def _examples(inputs, input_shape):
    if tree.is_nested(inputs) and len(tree.flatten(inputs)) > 1:
        raise ValueError(
            "`input_shape` must be None for a model of several inputs. "
            f"Received: input_shape={input_shape} for inputs {inputs}"
        )
    shape = tuple(input_shape)

    def example(tensor):
        known = tensor.shape[1:]
        if len(shape) != len(known) or any(
            size not in (None, given)
            for size, given in zip(known, shape, strict=True)
        ):
            raise ValueError(
                "`input_shape` must be a shape that the model takes, without "
                f"the batch: {known}. Received: input_shape={shape}"
            )
        return keras.KerasTensor((None, *shape), tensor.dtype)

    return tree.map_structure(example, inputs)


def carry_state(source, target):
    """Sets a layer, and all layers in it, to the state of another.

    Learned strides are carried if both have as many layers with them, of the
    same classes.
    """
    strides, others = _states(source)
    target_strides, target_others = _states(target)
    pairs = list(zip(others, target_others, strict=True))
    if len(strides) == len(target_strides):
        pairs += [
            pair
            for pair in zip(strides, target_strides, strict=True)
            if type(pair[0][0]) is type(pair[1][0])
        ]
    for (_, state), (layer, _) in pairs:
        # JAX would let both models have the same arrays, and Keras deletes the
        # arrays of a model when it trains it: so take copies.
        layer.load_own_variables(
            {
                name: np.array(ops.convert_to_numpy(value))
                for name, value in state.items()
            }
        )


def _states(layer):
    """Layers that have a state of their own, each with what it saves.

    Returns:
        Pairs of DiffStride layers, and pairs of all others.
    """
    strides, others = [], []
    # An operation in a graph, such as an addition, is not a layer.
    if isinstance(layer, keras.layers.Layer):
        for inner in (layer, *sublayers(layer)):
            state = {}
            if inner.built:
                inner.save_own_variables(state)
            if state:
                learns = isinstance(inner, BaseDiffStride)
                (strides if learns else others).append((inner, state))
    return strides, others
