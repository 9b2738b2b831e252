"""Losses and metrics of models that classify images, sounds or pixels.

Batches of training may hold one-hot targets, softened by label smoothing or
mixup, while test batches hold integers. `CrossEntropy` and `TopAccuracy` take
both: a target with the rank and the number of classes of the prediction is a
distribution, any other target is a label. What has a label below 0 does not
count: these are the pixels of label maps that have no class.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import keras
from keras import ops

from diffstride.training.output_kind import output_kind
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


def _weights_of_counted(y_true, y_pred, sample_weight):
    """Sample weights that are 0 where the label is below 0."""
    counted = ops.cast(_labels(y_true, y_pred) >= 0, "float32")
    if sample_weight is None:
        return counted
    return counted * ops.cast(sample_weight, "float32")


@keras.saving.register_keras_serializable(package="diffstride")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy between targets of either kind and predictions.

    The loss of a batch is a mean, weighted by `class_weights`, over what has a
    label of 0 or more.

    Args:
        from_logits: whether predictions are logits rather than probabilities.
        class_weights: list of a number for each class, or None if all classes
            count alike.
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
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.from_logits = from_logits
        if class_weights is not None:
            class_weights = list(map(float, class_weights))
        self.class_weights = class_weights

    def call(self, y_true, y_pred):
        if _is_distribution(y_true, y_pred):
            values = ops.categorical_crossentropy(
                y_true, y_pred, from_logits=self.from_logits
            )
            if self.class_weights is None:
                return values
            weights = ops.matmul(y_true, self._weights(y_true.dtype))
        else:
            labels = _labels(y_true, y_pred)
            # Not -1, for which TensorFlow has an error or NaN.
            classes = ops.maximum(labels, 0)
            values = ops.sparse_categorical_crossentropy(
                classes, y_pred, from_logits=self.from_logits
            )
            weights = ops.cast(labels >= 0, values.dtype)
            if self.class_weights is not None:
                weights *= ops.take(self._weights(values.dtype), classes)
        # With weights of mean 1, Keras's mean over all values is the mean over
        # those that count.
        return values * ops.divide_no_nan(weights, ops.mean(weights))

    def _weights(self, dtype):
        return ops.convert_to_tensor(self.class_weights, dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "class_weights": self.class_weights,
        }


@keras.saving.register_keras_serializable(package="diffstride")
class TopAccuracy(keras.metrics.MeanMetricWrapper):
    """How often the true class is among the `k` most probable ones.

    What has a label below 0 does not count.

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

    def update_state(self, y_true, y_pred, sample_weight=None):
        if not _is_distribution(y_true, y_pred):
            sample_weight = _weights_of_counted(y_true, y_pred, sample_weight)
        return super().update_state(y_true, y_pred, sample_weight)

    def _among_top(self, y_true, y_pred):
        # Not `in_top_k`, which counts ties: equal logits would all be right.
        _, classes = ops.top_k(ops.cast(y_pred, "float32"), self.k)
        labels = ops.expand_dims(_labels(y_true, y_pred), axis=-1)
        hits = ops.any(ops.equal(ops.cast(classes, "int32"), labels), axis=-1)
        return ops.cast(hits, self.dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype, "k": self.k}


@keras.saving.register_keras_serializable(package="diffstride")
class MeanIoU(keras.metrics.MeanIoU):
    """Mean over the classes of intersection over union, of all pixels at once.

    For each class, it is the number of pixels that both the label map and the
    prediction give to the class, over the number of those that one of them
    does. A class in neither of them is left out of the mean, and so are pixels
    with a label below 0.

    Args:
        num_classes: integer.
        name: string. Name of the metric.

    Example:

    >>> metric = MeanIoU(num_classes=2)
    >>> label_maps = np.array([[[0, 1, 1, -1]]])
    >>> predictions = np.eye(2)[[[[0, 0, 1, 1]]]]
    >>> metric.update_state(label_maps, predictions)
    >>> float(metric.result())
    0.5
    """

    def __init__(
        self, num_classes: int, name: str = "mean_iou", dtype: str | None = None
    ):
        # Keras's own default, integers, overflows and truncates weights.
        super().__init__(
            num_classes,
            name=name,
            dtype=dtype or "float32",
            ignore_class=-1,
            sparse_y_pred=False,
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        with warnings.catch_warnings():
            # JAX makes int32 of the integers that Keras asks for.
            warnings.filterwarnings("ignore", "Explicitly requested dtype")
            super().update_state(y_true, y_pred, sample_weight)

    def get_config(self):
        return {
            "num_classes": self.num_classes,
            "name": self.name,
            "dtype": self.dtype,
        }


def build_loss(
    model: keras.Model,
    num_classes: int | Mapping[str, int],
    is_multi_label: bool = False,
    loss: Loss | Mapping[str, Loss] | None = None,
    class_weights: Sequence[float] | None = None,
) -> Loss | Mapping[str, Loss]:
    """The loss of a classifier, or one for each of its heads.

    Args:
        model: a Keras model. See `output_kind` for how logits and probabilities
            are told apart.
        num_classes: integer, or a dict of one for each head.
        is_multi_label: whether an example may be of several classes at once.
        loss: a Keras loss, a dict of one for each head, or None for
            cross-entropy; binary cross-entropy if `is_multi_label`.
        class_weights: list of a number for each class, or None.

    Raises:
        ConfigError: if `loss` expects logits and the model gives probabilities,
            or the other way round.
    """
    if loss is not None:
        if class_weights is not None:
            raise ConfigError(
                "`class_weights` of the data set must be None if `loss` is "
                "given: a loss has its own weights, as in "
                "`objectives.CrossEntropy.class_weights`. Received: "
                f"class_weights={class_weights}"
            )
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
    return cross_entropy(model, num_classes, class_weights)


def cross_entropy(
    model: keras.Model,
    num_classes: int | Mapping[str, int],
    class_weights: Sequence[float] | None = None,
) -> Loss | Mapping[str, Loss]:
    """The cross-entropy of a classifier, or one for each of its heads.

    Args:
        model: a Keras model.
        num_classes: integer, or a dict of one for each head.
        class_weights: list of a number for each class, or None. Only for a
            model of one head.
    """
    if isinstance(num_classes, dict):
        return {
            head: CrossEntropy(from_logits=_from_logits(model, head))
            for head in num_classes
        }
    return CrossEntropy(
        from_logits=_from_logits(model), class_weights=class_weights
    )


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


def build_metrics(
    functions: Sequence[Callable[[], keras.Metric]] | None,
    num_classes: int | Mapping[str, int],
    has_label_maps: bool = False,
) -> list[keras.Metric] | dict[str, list[keras.Metric]]:
    """Fresh metrics of a classifier, or a list for each of its heads.

    Args:
        functions: list of functions that make a metric, or None for accuracy
            and, with more than five classes, top-5 accuracy; of label maps, for
            the accuracy of pixels and the mean intersection over union.
        num_classes: integer, or a dict of one for each head.
        has_label_maps: whether labels are maps.
    """

    def metrics(classes):
        if functions is not None:
            return [function() for function in functions]
        if has_label_maps:
            return [TopAccuracy(name="pixel_accuracy"), MeanIoU(classes)]
        return [TopAccuracy(k) for k in (1, 5) if k < classes]

    if isinstance(num_classes, dict):
        return {head: metrics(count) for head, count in num_classes.items()}
    return metrics(num_classes)
