"""The base class of callbacks that act after every so many training steps."""

import keras
from keras import ops

from diffstride.validation import check_every


class StepCallback(keras.callbacks.Callback):
    """Counts training steps, and calls `on_due_step` after every `every`.

    One call of Keras runs several steps with `steps_per_execution`, of which
    the last call of an epoch may have fewer. Keras does not say so.

    Args:
        every: an integer: a number of training steps. With `"epoch"` no steps
            are counted, and none is due.

    Attributes:
        steps: number of training steps so far. A training that goes on begins
            with those of its optimizer.
        steps_of_epoch: number of steps done in this epoch, with those before an
            interruption.
    """

    def __init__(self, every: str | int):
        super().__init__()
        self.every = check_every(every)
        self.steps = 0
        self.steps_of_epoch = 0

    def on_train_begin(self, logs=None):
        if self.every != "epoch" and not self.steps:
            self.steps = optimizer_steps(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        self._first_step = batch

    def on_train_batch_end(self, batch, logs=None):
        if self.every == "epoch":
            return
        self.steps_of_epoch = batch + 1
        if self.params.get("steps"):
            self.steps_of_epoch = min(batch + 1, self.params["steps"])
        before = self.steps
        self.steps += self.steps_of_epoch - self._first_step
        if self.steps // self.every > before // self.every:
            if keras.backend.backend() == "jax":
                # The variables lag behind the state of the training step.
                self.model.jax_state_sync()
            self.on_due_step()

    def on_due_step(self) -> None:
        """Is called after every `every` steps."""
        raise NotImplementedError


def optimizer_steps(model):
    """How many steps the optimizer of a model has made."""
    return int(ops.convert_to_numpy(model.optimizer.iterations))
