"""Metrics that a layer measures while it is trained."""

import keras
from keras import ops

# How many batches the moving averages look back on.
WINDOW = 100


def add_statistic(layer, name):
    """Adds the weight of a moving average to a layer that is being built."""
    return layer.add_weight(
        name=name,
        shape=(),
        initializer="zeros",
        trainable=False,
        dtype="float32",
        autocast=False,
        aggregation="mean",
    )


class TrainingStatistics(keras.metrics.Metric):
    """Moving averages over batches of training, among the metrics of a model.

    The averages are weights of the layer that owns this metric. They are not
    state of the metric, because under JAX a call of a layer can change weights
    but no state of metrics.

    Keras asks for the result of all metrics after an evaluation too, and would
    show it as `val_...`. These numbers are not of the data of the evaluation.
    Therefore the result is empty unless there was a batch of training since the
    last reset, which Keras does before each epoch and each evaluation.

    The owner must set `is_training` at each call. It tells apart the functions
    for a step of training and of evaluation while these are compiled and the
    weights hold no numbers.

    Args:
        batches: weight that counts the batches of training.
        **averages: weights, by the names of the metrics.
    """

    def __init__(self, batches, **averages):
        super().__init__(name="training_statistics")
        self.is_training = False
        self._batches_at_reset = None
        # In a function, because Keras takes a variable in an attribute for
        # state of the metric.
        self._weights = lambda: (batches, averages)

    def update_state(self, **values):
        batches, averages = self._weights()
        batches.assign_add(1.0)
        share = 1.0 / ops.minimum(batches, WINDOW)
        for name, value in values.items():
            average = averages[name]
            average.assign(average + share * (value - average))

    def reset_state(self):
        self._batches_at_reset = self._batches()

    def result(self):
        batches = self._batches()
        if batches is None:
            has_trained = self.is_training
        else:
            has_trained = batches != self._batches_at_reset
        if not has_trained:
            return {}
        _, averages = self._weights()
        return {name: _copy(average) for name, average in averages.items()}

    def _batches(self):
        """How many batches of training there were, or None inside a step."""
        batches, _ = self._weights()
        try:
            return float(ops.convert_to_numpy(batches))
        except (TypeError, NotImplementedError):
            return None


def _copy(weight):
    try:
        # A copy: a step of training may take over the memory of a weight.
        return ops.copy(weight)
    except TypeError:
        # Inside a step under JAX, the weights of a model hold nothing. Keras
        # reads the metrics of an epoch when the epoch is over.
        return ops.zeros(())
