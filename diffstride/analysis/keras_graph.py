"""The layers in a Keras model and the calls in its graph.

Keras has no public way to read these. Only this module uses the private one,
so that a new version of Keras needs changes here alone.
"""

import collections
import contextlib

import keras
from keras import tree


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


def step_graph(layer):
    """A model of what a `TimeDistributed` layer calls at each step.

    Returns:
        The model inside of it, or a new one around any other layer.
    """
    if is_graph(layer.layer):
        return layer.layer
    called_on = layer._inbound_nodes[0].input_tensors[0]
    batch, _, *shape = called_on.shape
    inputs = keras.Input(batch_shape=(batch, *shape), dtype=called_on.dtype)
    return keras.Model(inputs, layer.layer(inputs))


def trace(layer, args, kwargs):
    """Runs the `call` of a layer on symbolic tensors, to have its graph.

    Args:
        layer: a layer that is built.
        args: arguments of the call. A `keras.KerasTensor` in them stands for
            a tensor of its shape.
        kwargs: arguments by keyword, likewise.

    Returns:
        A `keras.Function`, or None if the call fails: it may need real tensors.
    """

    def placeholder(argument):
        if isinstance(argument, keras.KerasTensor):
            return keras.KerasTensor(argument.shape, argument.dtype)
        return argument

    args, kwargs = tree.map_structure(placeholder, (args, kwargs))
    inputs = [
        argument
        for argument in tree.flatten((args, kwargs))
        if isinstance(argument, keras.KerasTensor)
    ]
    # A layer may be anybody's: its call can raise any exception.
    with contextlib.suppress(Exception):
        return keras.Function(inputs, layer.call(*args, **kwargs))
    return None


def nodes(function):
    """The calls in a graph, each after those it depends on.

    Args:
        function: a model that `is_graph`, or a `keras.Function`.
    """
    if isinstance(function, keras.Model):
        function = graph(function)
    by_depth = function._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from (node for node in by_depth[depth] if not node.is_input)


def output_specs(node, specs):
    """What a call would put out if it was given tensors of other shapes.

    Args:
        node: one of `nodes`.
        specs: a `keras.KerasTensor` for the `id` of each tensor it is called
            on.

    Returns:
        A list of a `keras.KerasTensor` for each output.
    """
    args, kwargs = node.arguments.fill_in(specs)
    return tree.flatten(node.operation.compute_output_spec(*args, **kwargs))


def calls_on_specs(model, specs):
    """The calls in a graph, and in models inside of it, with what they read.

    Args:
        model: a model that `is_graph`.
        specs: a `keras.KerasTensor` for each input.

    Yields:
        Each of `nodes`, with a list of a `keras.KerasTensor` for each input.

    Returns:
        A list of a `keras.KerasTensor` for each output.
    """
    model = graph(model)
    known = dict(zip(map(id, model.inputs), specs, strict=True))
    for node in nodes(model):
        given = [known[id(tensor)] for tensor in node.input_tensors]
        yield node, given
        if is_graph(node.operation):
            made = yield from calls_on_specs(node.operation, given)
        else:
            made = output_specs(node, known)
        known.update(zip(map(id, node.outputs), made, strict=True))
    return [known[id(tensor)] for tensor in model.outputs]


def rebuild(model, inputs, call, taken):
    """Repeats the calls in the graph of a model on other inputs.

    Args:
        model: a model that `is_graph`.
        inputs: symbolic tensors in the structure that the model takes.
        call: function `(operation, *args, **kwargs)` that makes a call.
        taken: function `(tensor, reader, tensors)` to what takes the place of
            a tensor of the graph. `reader` is the call that reads it, None
            when it is made, and "output" when the model puts it out. `tensors`
            are the new ones so far, by the id of the tensor that they replace.

    Returns:
        What the model puts out, in its structure.
    """
    model = graph(model)
    tensors = {
        id(x): y
        for x, y in zip(model.inputs, tree.flatten(inputs), strict=True)
    }
    for node in nodes(model):
        args, kwargs = node.arguments.fill_in(
            {id(x): taken(x, node, tensors) for x in node.input_tensors}
        )
        outputs = tree.flatten(call(node.operation, *args, **kwargs))
        for x, y in zip(node.outputs, outputs, strict=True):
            tensors[id(x)] = y
            tensors[id(x)] = taken(x, None, tensors)
    return tree.map_structure(
        lambda x: taken(x, "output", tensors), model.output
    )


def maker(tensor):
    """The operation that a symbolic tensor is an output of."""
    return tensor._keras_history.operation


def users(model):
    """What takes the output of each operation, and None for the model's own."""
    found = collections.defaultdict(list)
    for node in nodes(model):
        inner_graph = node.operation
        if isinstance(inner_graph, keras.layers.TimeDistributed):
            inner_graph = inner_graph.layer
        if is_graph(inner_graph):
            for operation, inner in users(inner_graph).items():
                found[operation] += inner
        for tensor in node.input_tensors:
            found[maker(tensor)].append(node.operation)
    for tensor in graph(model).outputs:
        found[maker(tensor)].append(None)
    return found


def is_decayed(optimizer, variable):
    """Whether an optimizer lets a variable decay."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "weight_decay", None):
        return False
    return optimizer._use_weight_decay(variable)


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
    advice = ""
    if isinstance(model, keras.Sequential):
        advice = (
            ". Build it first, with `model.build((None, height, width, "
            "channels))` or, with the builders of this package, `input_shape`"
        )
    raise ValueError(
        "`model` must be a Functional model, or a Sequential one that is "
        "built: Keras does not know the graph of others. "
        f"Received: model={model.name} of type {type(model).__name__}{advice}"
    )
