"""Copies of a model in which some layers are others.

Other than `keras.models.clone_model`, this copies models inside of models,
Sequential ones among them, and the state of the layers, and lets the caller
change single calls.
"""

import keras
import numpy as np
from keras import ops, tree

from diffstride.analysis.keras_graph import (
    check_graph,
    graph,
    is_graph,
    rebuild,
    sublayers,
)
from diffstride.layers.base_diffstride import BaseDiffStride


def clone(
    model,
    replace,
    call=None,
    input_shape=None,
    taken=None,
    inner_graph=None,
    inner_input=lambda tensor: tensor,
    dtype=None,
):
    """Copies a model with its weights.

    Args:
        model: a Functional model, or a Sequential one that is built.
        replace: function from a layer to the one that takes its place.
        call: function `(layer, replacement, *args, **kwargs)` that calls the
            replacement of a layer. The inputs are the first of `args`. Defaults
            to a plain call.
        input_shape: shape of an example, for a model with one input. Defaults
            to the shapes that the model has.
        taken: as for `keras_graph.rebuild`. Defaults to what a call has made.
        inner_graph: function from a layer to the model that is copied call by
            call, where the layer is this model or a `TimeDistributed` layer
            that calls it; None for a layer that is replaced. Defaults to models
            that are there.
        inner_input: function from an input of such a model to a tensor of the
            shape that it has from then on.
        dtype: dtype policy of the `TimeDistributed` layers that call these
            models. Defaults to those that they have.

    Returns:
        A Functional model that is not compiled.
    """
    check_graph(model)
    inner_graph = inner_graph or _inner_graph
    taken = taken or _as_it_was_made
    replacements, models = {}, {}

    def call_new(layer, *args, **kwargs):
        if not args and "inputs" in kwargs:
            args = (kwargs.pop("inputs"),)
        inner = inner_graph(layer)
        if inner is not None:
            if layer not in models:
                models[layer] = copy_of_graph(layer, inner)
            return models[layer](*args, **kwargs)
        if layer not in replacements:
            replacements[layer] = replace(layer)
        new = replacements[layer]
        if call is None:
            return new(*args, **kwargs)
        return call(layer, new, *args, **kwargs)

    def copy_of_graph(layer, inner):
        examples = tree.map_structure(inner_input, graph(inner).input)
        copied = clone_graph(inner, examples)
        if layer is inner:
            return copied
        config = layer.get_config()
        del config["layer"]
        config["dtype"] = dtype or layer.dtype_policy
        return type(layer)(copied, **config)

    def clone_graph(model, examples):
        inputs = tree.map_structure(
            lambda tensor, example: keras.Input(
                batch_shape=example.shape, dtype=tensor.dtype, name=tensor.name
            ),
            graph(model).input,
            examples,
        )
        outputs = rebuild(model, inputs, call_new, taken)
        return keras.Model(inputs, outputs, name=model.name)

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


def _inner_graph(layer):
    if is_graph(layer):
        return layer
    if isinstance(layer, keras.layers.TimeDistributed):
        return layer.layer if is_graph(layer.layer) else None
    return None


def _as_it_was_made(tensor, reader, tensors):
    return tensors[id(tensor)]


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
