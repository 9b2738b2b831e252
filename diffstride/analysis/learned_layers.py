"""The DiffStride layers of a model, their order and their strides."""

import itertools

import keras
from keras import tree

from diffstride.analysis import keras_graph
from diffstride.layers.base_diffstride import BaseDiffStride


def learned_layers(model):
    """The DiffStride layers of a model or of a layer, each once.

    They come in the order of the calls in a Functional or Sequential model, in
    the order of the attributes in a subclassed one.
    """
    return [
        layer
        for layer in (model, *keras_graph.sublayers(model))
        if isinstance(layer, BaseDiffStride)
    ]


def strides_of(layer):
    """The strides of a DiffStride layer, one for each axis."""
    axes = [0] * layer.rank if layer.shared_stride else range(layer.rank)
    return [layer.strides[axis] for axis in axes]


def upstream_layers(model):
    """The DiffStride layers of a model, and which ones feed each of them.

    The calls are read from the graph of a Functional or Sequential model. The
    `call` of a subclassed model, or of a layer that holds several DiffStride
    layers, is run once on symbolic tensors, so that it has a graph too. If that
    fails, because `call` needs real tensors, the layers in it are taken for a
    chain in the order of the attributes.

    Args:
        model: a built Keras model.

    Returns:
        A dict with an entry for each DiffStride layer, in the order of the
        first calls: a tuple of the last DiffStride layers on the paths that
        lead to its input. None in this tuple stands for a path from the input
        of the model without a DiffStride layer. What a layer receives at later
        calls is left out.

    Example:

    >>> first, second = DiffStride(2, name="a"), DiffStride(2, name="b")
    >>> model = keras.Sequential([keras.Input((32, 32, 3)), first, second])
    >>> upstream_layers(model) == {first: (None,), second: (first,)}
    True
    """
    found = {}
    graph = _graph(model)
    if graph is None:
        _follow_chain(model, (None,), found)
    else:
        _follow(graph, [(None,)] * len(graph.inputs), found)
    for layer in learned_layers(model):  # Those that are never called.
        found.setdefault(layer, (None,))
    return found


def _graph(model):
    if keras_graph.is_graph(model):
        return keras_graph.graph(model)
    shapes = model.get_build_config() or {}
    if "input_shape" in shapes:
        args, kwargs = (shapes["input_shape"],), {}
    elif "shapes_dict" in shapes:
        shapes = shapes["shapes_dict"].items()
        args, kwargs = (), {k.removesuffix("_shape"): v for k, v in shapes}
    else:
        return None
    args, kwargs = tree.map_shape_structure(
        lambda shape: keras.KerasTensor(shape), (args, kwargs)
    )
    return keras_graph.trace(model, args, kwargs)


def _follow(graph, upstream, found):
    """Enters the DiffStride layers of a graph into `found`.

    Args:
        graph: a `keras.Function` or a Functional model.
        upstream: for each input, the last DiffStride layers in front of it.
        found: the dict that `upstream_layers` returns.

    Returns:
        For each output, the last DiffStride layers in front of it.
    """
    known = dict(zip(map(id, graph.inputs), upstream, strict=True))
    for node in keras_graph.nodes(graph):
        # Vectors, such as globally pooled features, have no resolution.
        maps = [x for x in node.input_tensors if len(x.shape) > 2]
        joined = _joined(known[id(tensor)] for tensor in maps)
        made = _follow_call(node, joined, known, found)
        known.update(zip(map(id, node.outputs), made, strict=True))
    return [known[id(tensor)] for tensor in graph.outputs]


def _follow_call(node, joined, known, found):
    """As `_follow`, for one call in a graph."""
    layer, graph = node.operation, None
    # An operation such as an addition is no layer.
    inner = (
        learned_layers(layer) if isinstance(layer, keras.layers.Layer) else []
    )
    if keras_graph.is_graph(layer):
        graph = keras_graph.graph(layer)
    elif len(inner) > 1:
        arguments = node.arguments
        graph = keras_graph.trace(layer, arguments.args, arguments.kwargs)
    if graph is None:
        made = _follow_chain(layer, joined, found) if inner else joined
        return [made] * len(node.outputs)
    upstream = [known[id(tensor)] for tensor in node.input_tensors]
    if len(upstream) != len(graph.inputs):  # A mask, for instance.
        upstream = [joined] * len(graph.inputs)
    return _follow(graph, upstream, found)


def _follow_chain(layer, upstream, found):
    for inner in learned_layers(layer):
        found.setdefault(inner, upstream or (None,))
        upstream = (inner,)
    return upstream


def _joined(paths):
    return tuple(dict.fromkeys(itertools.chain.from_iterable(paths)))
