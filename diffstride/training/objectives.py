"""Loss and accuracies of classifiers, for labels of either kind.

Training batches may hold one-hot targets, softened by label smoothing or mixup,
where test batches hold integers. These take both: a target with the rank and
the classes of the prediction is a distribution, any other a label.
"""

import keras
from keras import ops


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
        from_logits=True,
        reduction="sum_over_batch_size",
        name="cross_entropy",
        dtype=None,
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

    def __init__(self, k=1, name=None, dtype=None):
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


def cross_entropy(model, num_classes):
    """The cross-entropy of a classifier, or one for each of its heads.

    Args:
        model: a Keras model. A head whose layer, the last one if there is but
            one head, has no activation and is no softmax gives logits.
        num_classes: integer, or a dict of one for each head.
    """
    layers = {layer.name: layer for layer in model.layers}

    def loss(head):
        layer = layers.get(head, model.layers[-1])
        activation = getattr(layer, "activation", None)
        return CrossEntropy(
            from_logits=activation in (None, keras.activations.linear)
            and not isinstance(layer, keras.layers.Softmax)
        )

    if isinstance(num_classes, dict):
        return {head: loss(head) for head in num_classes}
    return loss(None)


def build_metrics(functions, num_classes):
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
