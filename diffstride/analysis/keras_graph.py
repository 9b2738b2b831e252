"""The layers in a Keras model and the calls in its graph.

Keras has no public way to read these. Only this module uses the private one,
so that a new version of Keras needs changes here alone.
"""

import collections
import contextlib

import keras


def sublayers(layer):
    """All layers within a layer, each once, an owner before its own layers.

    They come in the order of the calls in a Functional or Sequential model, in
    the order of the attributes in any other layer.
    (`keras.Layer._flatten_layers` lists inner layers backwards.)
    """
    found, waiting = {}, list(reversed(layer._layers))
    while waiting:
        inner = waiting.pop()
        if inner not in found:
            found[inner] = True
            waiting.extend(reversed(inner._layers))
    return list(found)


def is_graph(layer):
    """Whether a layer is a model that Keras knows the graph of."""
    return isinstance(layer, keras.Model) and hasattr(layer, "outputs")


def graph(model):
    """A Functional model on the same layers as a model.

    A Sequential model becomes Functional, and what was compiled is left out.
    """
    if isinstance(model, keras.Sequential):
        inputs, outputs = model.inputs[0], model.outputs[0]
    else:
        inputs, outputs = model.input, model.output
    return keras.Model(inputs, outputs, name=model.name)


def nodes(model):
    """The calls in the graph of a model, each after those it depends on."""
    by_depth = graph(model)._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if not node.is_input)


def users(model):
    """What takes the output of each operation, and None for the model's own."""
    found = collections.defaultdict(list)
    for node in nodes(model):
        if is_graph(node.operation):
            for operation, inner in users(node.operation).items():
                found[operation] += inner
        for tensor in node.input_tensors:
            found[tensor._keras_history.operation].append(node.operation)
    for tensor in graph(model).outputs:
        found[tensor._keras_history.operation].append(None)
    return found


def check_graph(model):
    """Raises an error if Keras does not know the graph of a model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a Keras model. "
            f"Received: model={model} of type {type(model).__name__}"
        )
    with contextlib.suppress(AttributeError, ValueError):
        if is_graph(model) and model.inputs:
            return
    raise ValueError(
        "`model` must be a Functional model, or a Sequential one that is "
        "built: Keras does not know the graph of others. "
        f"Received: model={model.name} of type {type(model).__name__}"
    )
