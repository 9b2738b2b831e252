"""Losses and metrics of classifiers.

Batches of training may hold one-hot targets, softened by label smoothing or
mixup, while test batches hold integers. `CrossEntropy` and `TopAccuracy` take
both: a target with the rank and the number of classes of the prediction is a
distribution, any other target is a label.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
from keras import ops, tree

from diffstride.analysis import keras_graph
from diffstride.types import Loss
from diffstride.validation import ConfigError


def _is_distribution(y_true, y_pred):
    return (
        len(y_true.shape) == len(y_pred.shape)
        and y_true.shape[-1] == y_pred.shape[-1]
    )


def _labels(y_true, y_pred):
    if _is_distribution(y_true, y_pred):
        return ops.cast(ops.argmax(y_true, axis=-1), "int32")
    return ops.cast(ops.reshape(y_true, ops.shape(y_pred)[:-1]), "int32")


@keras.saving.register_keras_serializable(package="diffstride")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy between targets of either kind and predictions.

    Args:
        from_logits: whether predictions are logits rather than probabilities.
        reduction: as in `keras.losses.Loss`.
        name: string. Name of the loss.

    Example:

    >>> loss = CrossEntropy()
    >>> logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    >>> integers = loss(np.array([0, 1]), logits)
    >>> distributions = loss(np.eye(2), logits)
    >>> round(float(integers), 4), round(float(distributions), 4)
    (0.1269, 0.1269)
    """

    def __init__(
        self,
        from_logits: bool = True,
        reduction: str | None = "sum_over_batch_size",
        name: str = "cross_entropy",
        dtype: str | None = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.from_logits = from_logits

    def call(self, y_true, y_pred):
        if _is_distribution(y_true, y_pred):
            return ops.categorical_crossentropy(
                y_true, y_pred, from_logits=self.from_logits
            )
        return ops.sparse_categorical_crossentropy(
            _labels(y_true, y_pred), y_pred, from_logits=self.from_logits
        )

    def get_config(self):
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="diffstride")
class TopAccuracy(keras.metrics.MeanMetricWrapper):
    """How often the true class is among the `k` most probable ones.

    Args:
        k: integer. Defaults to 1.
        name: string. Defaults to `"accuracy"`, or `"top5_accuracy"` for k=5.

    Example:

    >>> metric = TopAccuracy(k=2)
    >>> metric.update_state(np.array([0, 2]), np.array([[3, 2, 1.0]] * 2))
    >>> float(metric.result())
    0.5
    """

    def __init__(
        self, k: int = 1, name: str | None = None, dtype: str | None = None
    ):
        if name is None:
            name = "accuracy" if k == 1 else f"top{k}_accuracy"
        super().__init__(self._among_top, name=name, dtype=dtype)
        self.k = k

    def _among_top(self, y_true, y_pred):
        # Not `in_top_k`, which counts ties: equal logits would all be right.
        _, classes = ops.top_k(ops.cast(y_pred, "float32"), self.k)
        labels = ops.expand_dims(_labels(y_true, y_pred), axis=-1)
        hits = ops.any(ops.equal(ops.cast(classes, "int32"), labels), axis=-1)
        return ops.cast(hits, self.dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype, "k": self.k}


def build_loss(
    model: keras.Model,
    num_classes: int | Mapping[str, int],
    is_multi_label: bool = False,
    loss: Loss | Mapping[str, Loss] | None = None,
) -> Loss | Mapping[str, Loss]:
    """The loss of a classifier, or one for each of its heads.

    Args:
        model: a Keras model. See `output_kind` for how logits and probabilities
            are told apart.
        num_classes: integer, or a dict of one for each head.
        is_multi_label: whether an example may be of several classes at once.
        loss: a Keras loss, a dict of one for each head, or None for
            cross-entropy; binary cross-entropy if `is_multi_label`.

    Raises:
        ConfigError: if `loss` expects logits and the model gives probabilities,
            or the other way round.
    """
    if loss is not None:
        _check_loss(loss, model)
        return loss
    if is_multi_label and isinstance(num_classes, dict):
        raise ConfigError(
            "`loss` must be given, as a dict of one for each head, if examples "
            "are of several classes at once and the model has several heads. "
            f"Received: loss=None for the heads {list(num_classes)}"
        )
    if is_multi_label:
        return keras.losses.BinaryCrossentropy(from_logits=_from_logits(model))
    return cross_entropy(model, num_classes)


def cross_entropy(
    model: keras.Model, num_classes: int | Mapping[str, int]
) -> Loss | Mapping[str, Loss]:
    """The cross-entropy of a classifier, or one for each of its heads.

    Args:
        model: a Keras model.
        num_classes: integer, or a dict of one for each head.
    """
    if isinstance(num_classes, dict):
        return {
            head: CrossEntropy(from_logits=_from_logits(model, head))
            for head in num_classes
        }
    return CrossEntropy(from_logits=_from_logits(model))


def _from_logits(model, head=None):
    return output_kind(model, head) in ("logits", "unknown")


def _check_loss(loss, model):
    for head, one in (loss if isinstance(loss, dict) else {None: loss}).items():
        from_logits = getattr(one, "from_logits", None)
        kind = output_kind(model, head)
        if (kind, from_logits) in [("logits", False), ("probabilities", True)]:
            name = type(one).__name__
            raise ConfigError(
                f"`loss` must expect what the model gives, {kind}: set "
                f"`{name}.from_logits = {not from_logits}`, or leave `loss` "
                f"out. Received: {name} with from_logits={from_logits} for the "
                f"output {head or 'of the model'}"
            )


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


def build_metrics(
    functions: Sequence[Callable[[], keras.Metric]] | None,
    num_classes: int | Mapping[str, int],
) -> list[keras.Metric] | dict[str, list[keras.Metric]]:
    """Fresh metrics of a classifier, or a list for each of its heads.

    Args:
        functions: list of functions that make a metric, or None for accuracy
            and, with more than five classes, top-5 accuracy.
        num_classes: integer, or a dict of one for each head.
    """

    def metrics(classes):
        if functions is not None:
            return [function() for function in functions]
        return [TopAccuracy(k) for k in (1, 5) if k < classes]

    if isinstance(num_classes, dict):
        return {head: metrics(count) for head, count in num_classes.items()}
    return metrics(num_classes)
