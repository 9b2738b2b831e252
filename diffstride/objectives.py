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
