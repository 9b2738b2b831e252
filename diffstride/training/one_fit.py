"""A whole run as one call of `fit`, from any epoch and any step on.

Keras's callbacks (`EarlyStopping`, `ReduceLROnPlateau`, ...) start anew in each
call of `fit`, and an optimizer that averages weights ends its work there. So a
run is one call, also where it goes on after an interruption.
"""

import itertools

import keras


def batches_from(data, epoch, step):
    """All batches from a step of an epoch on, epoch after epoch.

    Args:
        data: a `diffstride.data.dataset.Dataset`.
        epoch: integer. The first epoch.
        step: integer. The first step in that epoch.

    Returns:
        What `fit` takes as `x`, together with `steps_per_epoch`. It has no
        end: `fit` knows when to stop.
    """

    def iterate():
        yield from data.train(epoch, step)
        for later_epoch in itertools.count(epoch + 1):
            yield from data.train(later_epoch)

    if keras.backend.backend() != "tensorflow":
        return iterate()
    # With several devices Keras iterates twice, first to build the model.
    # TensorFlow calls `iterate` again then, where a generator of Python would
    # go on after the batches that it gave already.
    import tensorflow as tf

    batches = tf.data.Dataset.from_generator(
        iterate, output_signature=_signature(data, next(iterate()))
    )
    return batches.prefetch(tf.data.AUTOTUNE)


def _signature(data, batch):
    """Types and shapes of all batches, told from one."""
    import tensorflow as tf

    def spec(array, shape=None):
        shape = array.shape[1:] if shape is None else shape
        return tf.TensorSpec((None, *shape), array.dtype)

    x, *others = batch
    if keras.tree.is_nested(x):
        x = keras.tree.map_structure(spec, x)
    else:
        # Sizes that vary from batch to batch are None in `input_shape`.
        x = spec(x, data.input_shape)
    return x, *keras.tree.map_structure(spec, others)


class Callbacks(keras.callbacks.CallbackList):
    """The callbacks of a run that may begin within an epoch.

    All epochs of a `fit` have the same number of steps. Where the first one is
    to have fewer, this list sets `model.stop_training` at its last step, so
    that Keras leaves the epoch, and takes that back before Keras looks again.
    Keras counts the steps of that epoch from 0. Callbacks get their places in
    the whole epoch, so that they do what they would do without a break.

    Args:
        callbacks: list of callbacks.
        first_steps: integer. Steps in the first epoch.
        **kwargs: as in `keras.callbacks.CallbackList`. The `steps` among them
            are those of the other epochs.
    """

    def __init__(self, callbacks, first_steps, steps, **kwargs):
        super().__init__(callbacks, steps=steps, **kwargs)
        # Steps of the first epoch that were made earlier.
        self._steps_before = steps - first_steps
        self._steps = steps
        self._stop_training = None
        self._has_begun = False

    def on_train_begin(self, logs=None):
        # The validation of an interrupted epoch may have come before `fit`.
        if not self._has_begun:
            self._has_begun = True
            super().on_train_begin(logs)

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch + self._steps_before, logs)

    def on_train_batch_end(self, batch, logs=None):
        batch += self._steps_before
        super().on_train_batch_end(batch, logs)
        if self._steps_before and batch == self._steps - 1:
            self._steps_before = 0
            self._stop_training = self.model.stop_training
            self.model.stop_training = True

    def on_test_begin(self, logs=None):
        if self._stop_training is not None:
            self.model.stop_training = self._stop_training
            self._stop_training = None
        super().on_test_begin(logs)
