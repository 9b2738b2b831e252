"""Exact mean average precision of classifiers with several labels."""

import keras
import numpy as np
from keras import ops

from diffstride.validation import check_positive_integer


def average_precision(
    targets: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Average precision of each class: precision averaged over recall.

    The sum over the distinct scores of the recall gained there, times the
    precision reached, without interpolation, as in scikit-learn.

    Args:
        targets: array `(examples, classes)`; above one half is true.
        scores: array `(examples, classes)`.
        weights: array `(examples,)`. Defaults to ones.

    Returns:
        A float64 array `(classes,)`, NaN for a class without a true example.

    Example:

    >>> targets = np.array([[1, 0], [0, 0], [1, 0]])
    >>> scores = np.array([[0.9, 0.5], [0.8, 0.5], [0.7, 0.5]])
    >>> average_precision(targets, scores).round(4).tolist()
    [0.8333, nan]
    """
    if weights is None:
        weights = np.ones(len(scores))
    weights = np.asarray(weights, "float64")
    values = np.full(scores.shape[1], np.nan)
    for index in range(scores.shape[1]):
        order = np.argsort(-scores[:, index], kind="stable")
        ranked = scores[order, index]
        found = np.cumsum(weights[order])
        hits = np.cumsum(weights[order] * (targets[order, index] > 0.5))
        if not len(hits) or not hits[-1]:
            continue
        # Examples of equal scores are found at once.
        last = np.append(ranked[1:] != ranked[:-1], True)
        found, hits = found[last], hits[last]
        gained = np.diff(hits, prepend=0.0) / hits[-1]
        nothing_found = found == 0
        precision = hits / np.where(nothing_found, 1, found)
        values[index] = np.sum(gained * precision)
    return values


@keras.saving.register_keras_serializable(package="diffstride")
class MeanAveragePrecision(keras.metrics.Metric):
    """Mean over the classes of the exact average precision.

    The metric keeps all predictions. It is computed when an epoch or an
    evaluation is over, outside the compiled steps, in which it is shown as 0.
    Classes without a true example do not count; without any true example it is
    0, and NaN where a score is.

    Args:
        num_classes: integer.
        max_examples: integer. How many predictions to keep, the latest ones:
            as many as there are test examples, or more. For training it is the
            mean average precision of so many last examples.
        name: string. Defaults to `"mean_average_precision"`.

    Example:

    >>> metric = MeanAveragePrecision(num_classes=2, max_examples=100)
    >>> targets = np.array([[1, 0], [0, 1], [1, 0]])
    >>> scores = np.array([[0.9, 0.1], [0.8, 0.3], [0.7, 0.2]])
    >>> metric.update_state(targets, scores)
    >>> round(float(metric.result()), 4)
    0.9167
    """

    def __init__(
        self,
        num_classes: int,
        max_examples: int,
        name: str = "mean_average_precision",
        dtype: str | None = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.num_classes = check_positive_integer(num_classes, "num_classes")
        self.max_examples = check_positive_integer(max_examples, "max_examples")
        shape = (self.max_examples, self.num_classes)
        self._scores, self._targets, self._weights, self._count = (
            # Over several devices these are sums: each fills other rows.
            self.add_variable(size, "zeros", dtype=dtype, name=name)
            for name, size, dtype in [
                ("scores", shape, "float32"),
                ("targets", shape, "uint8"),
                ("weights", shape[:1], "float32"),
                ("count", (), "int32"),
            ]
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = map(ops.convert_to_tensor, (y_true, y_pred))
        for name, value in [("y_true", y_true), ("y_pred", y_pred)]:
            shape = tuple(value.shape)
            if len(shape) != 2 or shape[1] not in (None, self.num_classes):
                raise ValueError(
                    f"`{name}` must have the shape (examples, "
                    f"{self.num_classes}). Received: {name}.shape={shape}"
                )
        examples = ops.shape(y_pred)[0]
        if sample_weight is None:
            sample_weight = ops.ones((examples,))
        device, devices = _device()
        rows = self._count + ops.arange(examples, dtype="int32")
        rows = (rows * devices + device) % self.max_examples
        rows = rows[:, None]
        for variable, values in [
            (self._scores, y_pred),
            (self._targets, ops.cast(y_true, "float32") > 0.5),
            (self._weights, ops.reshape(sample_weight, (-1,))),
        ]:
            values = ops.cast(values, variable.dtype)
            variable.assign(ops.scatter_update(variable, rows, values))
        self._count.assign_add(examples)

    def result(self):
        try:
            scores, targets, weights = map(
                ops.convert_to_numpy,
                (self._scores, self._targets, self._weights),
            )
        except (AttributeError, NotImplementedError, TypeError):
            return ops.zeros(())  # A step is being compiled.
        kept = weights > 0
        if not kept.any():
            return ops.zeros(())
        if np.isnan(scores[kept]).any():
            return ops.convert_to_tensor(np.nan, self.dtype)
        values = average_precision(targets[kept], scores[kept], weights[kept])
        if np.isnan(values).all():
            return ops.zeros(())
        return ops.convert_to_tensor(np.nanmean(values), self.dtype)

    def get_config(self):
        return {
            "name": self.name,
            "dtype": self.dtype,
            "num_classes": self.num_classes,
            "max_examples": self.max_examples,
        }


def _device():
    """The number of this device, and of all that train in step."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            device = context.replica_id_in_sync_group
            return ops.cast(device, "int32"), context.num_replicas_in_sync
    return 0, 1
