"""A callback that keeps what a model costs at a given number of operations."""

import math

from diffstride.analysis.budget import StrideCosts, check_target
from diffstride.training.step_callback import StepCallback, optimizer_steps
from diffstride.types import Shape
from diffstride.validation import check_not_negative


class MacsBudget(StepCallback):
    """Lets strides learn under a budget of operations.

    The loss decides where a network works at which resolution, and the budget
    what that costs in all: before training, before each validation and, if you
    like, every so many steps, the strides move together to where the network
    costs `target_macs`. Operations are counted at the sizes that the maps have,
    those of the spectral layers included.

    What stands below many layers moves most. See `diffstride.analysis.budget`.

    Args:
        target_macs: number of multiply-accumulate operations for one example;
            below 100, a ratio to those of the model when training begins.
        input_shape: shape of an example, without the batch. Defaults to that of
            the model's input.
        every: `"epoch"`, or an integer: a number of training steps. Strides
            that move fast leave the budget far behind within an epoch.
        approach: number of epochs over which the budget goes from what the
            model costs at first to its target. A converted model has time to
            follow then. By default it is at the target from the first step.

    Attributes:
        macs: operations of the model when they were last counted.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((16, 16, 1)),
    ...         DiffStride(2, norm="forward", ramp="inside"),
    ...         keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...     ]
    ... )
    >>> model.compile("sgd", "mse")
    >>> budget = MacsBudget(target_macs=0.5)
    >>> x, y = np.ones((4, 16, 16, 1)), np.zeros((4, 8))
    >>> _ = model.fit(x, y, callbacks=[budget, RefreshSizes()], verbose=0)
    >>> abs(budget.macs / budget.target - 1) < 0.1
    True
    """

    def __init__(
        self,
        target_macs: float,
        input_shape: Shape | None = None,
        every: str | int = "epoch",
        approach: float = 0.0,
    ):
        super().__init__(every)
        self.target_macs = target_macs
        self.input_shape = input_shape
        check_not_negative(approach=approach)
        self.approach = approach
        self.target = None
        self.macs = None
        self._costs = None
        self._is_fitting = False
        self._is_kept = False
        # Epochs that have passed, and what the model cost at which of them.
        self._epochs = 0.0
        self._start = None

    def find_target(self, model):
        """Makes a ratio a number of operations, those of the model now."""
        self._costs = StrideCosts(model, self.input_shape)
        if self.target is None:
            self.target = check_target(self.target_macs, self._costs)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.find_target(self.model)
        self._is_fitting = True
        self._start = None
        # An interrupted training goes on with the strides that it had.
        if not optimizer_steps(self.model) and not self.approach:
            self._keep()

    def on_epoch_begin(self, epoch, logs=None):
        self._epochs = epoch
        if self.approach and self._start is None:
            self._start = epoch, self._costs.count()

    def on_train_batch_end(self, batch, logs=None):
        self._is_kept = False
        super().on_train_batch_end(batch, logs)

    def on_due_step(self):
        share = self.steps_of_epoch / (self.params.get("steps") or math.inf)
        self._epochs = int(self._epochs) + min(share, 0.999)
        self._keep()

    def on_test_begin(self, logs=None):
        # So that what is validated is what is kept.
        if self._is_fitting and not self._is_kept:
            self._epochs = int(self._epochs) + 1
            self._keep()

    def on_epoch_end(self, epoch, logs=None):
        if not self._is_kept:
            self._epochs = epoch + 1
            self._keep()
        if logs is not None:
            logs["macs"] = self.macs

    def on_train_end(self, logs=None):
        self._is_fitting = False

    def _keep(self):
        self.macs = self._costs.move_to(self._target_now())
        self._is_kept = True

    def _target_now(self):
        """The target, or where the budget is on its way there."""
        if self._start is None or self._epochs >= self.approach:
            return self.target
        first, macs = self._start
        share = (self._epochs - first) / (self.approach - first)
        return macs ** (1 - share) * self.target**share
