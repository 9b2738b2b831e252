"""Whether the output of a model is logits or probabilities."""

import keras
from keras import tree

from diffstride.analysis import keras_graph

# What these do to all values of a head alike leaves logits to be logits, and
# probabilities to be probabilities.
_NEUTRAL = {
    "Activation",
    "Average",
    "Cast",
    "Dropout",
    "ExpandDims",
    "Flatten",
    "GetItem",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "Identity",
    "Permute",
    "Reshape",
    "Squeeze",
    "Transpose",
}


def output_kind(model: keras.Model, head: str | None = None) -> str:
    """What a classifier gives, by the layer that makes its output.

    The output is followed back through inner models, and through layers that
    only reshape or average, to the first layer with an activation.

    Args:
        model: a Keras model. The graph of a subclassed model is not known; its
            last layer is taken for the one that makes the output.
        head: string. Name of an output. Defaults to the first one.

    Returns:
        - `"logits"`: the layer has no activation, or a linear one.
        - `"probabilities"`: the activation is softmax or sigmoid.
        - `"activated"`: it is another one.
        - `"unknown"`: the layer is of no kind that says what it gives.
    """
    if not keras_graph.is_graph(model):
        last = model.layers[-1] if model.layers else None
        return _kind_of_layer(last) or "unknown"
    graph = keras_graph.graph(model)
    if isinstance(graph.output, dict):
        outputs = graph.output
    else:
        names = graph.output_names
        outputs = dict(zip(names, tree.flatten(graph.output), strict=True))
    output = next(iter(outputs.values())) if head is None else outputs.get(head)
    return _kind_of_tensor(graph, output) or "unknown"


def _kind_of_tensor(graph, tensor):
    """As `output_kind`, or None if all that made the tensor is neutral."""
    calls = {
        id(output): (node, index)
        for node in keras_graph.nodes(graph)
        for index, output in enumerate(node.outputs)
    }

    def follow(tensor):
        if id(tensor) not in calls:  # An input of the graph.
            return None
        node, index = calls[id(tensor)]
        if keras_graph.is_graph(node.operation):
            inner = keras_graph.graph(node.operation)
            kind = _kind_of_tensor(inner, inner.outputs[index])
        else:
            kind = _kind_of_layer(node.operation)
        if kind is None:
            kinds = {follow(given) for given in node.input_tensors}
            kind = kinds.pop() if len(kinds) == 1 else "unknown"
        return kind

    return follow(tensor)


def _kind_of_layer(layer):
    """As `output_kind`, for a layer or an operation; None if it is neutral."""
    if isinstance(layer, keras.layers.Wrapper):
        return _kind_of_layer(layer.layer)
    name = type(layer).__name__
    if name in ("Softmax", "Sigmoid"):
        return "probabilities"
    activations = keras.activations
    activation = getattr(layer, "activation", None)
    is_linear = activation in (None, activations.linear)
    if name in _NEUTRAL and is_linear:
        return None
    if not hasattr(layer, "activation"):
        return "unknown"
    if is_linear or activation is activations.log_softmax:
        return "logits"
    if activation in (activations.softmax, activations.sigmoid):
        return "probabilities"
    return "activated"
