"""A callback that keeps static sizes, and what is compiled, up to date."""

import weakref

from diffstride.analysis.learned_layers import learned_layers
from diffstride.layers import compiled_functions
from diffstride.layers.compiled_functions import CompiledFunction
from diffstride.training.step_callback import StepCallback


class RefreshSizes(StepCallback):
    """Lets the static sizes of DiffStride layers follow their strides.

    If a layer has static sizes (always under JAX, and with
    `static_sizes=True`), its strides move at every training step, but the sizes
    of a training step change only when this callback looks. If a size changed,
    the compiled functions of the model are replaced. Those of earlier sizes are
    kept, so that a size seen before costs no compilation.

    `evaluate` and `predict`, and the validation inside `fit`, always have the
    sizes of the strides of now. Outside of `fit` this holds without a callback:
    whatever sets the strides of a layer has the compiled functions replaced.

    The callback should be the last of a list, so that it sees what the others
    do to the weights.

    Args:
        every: `"epoch"`, or an integer: a number of training steps.

    Attributes:
        steps: number of training steps so far, if `every` is a number of them.
        compilations: number of training functions compiled so far.

    Example:

    >>> pooling = DiffStride(4, 1, ramp="inside", static_sizes=True)
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((16, 16, 1)),
    ...         pooling,
    ...         keras.layers.ReLU(),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...     ]
    ... )
    >>> model.compile("sgd", "mse")
    >>> refresh = RefreshSizes()
    >>> x, y = np.ones((4, 16, 16, 1)), np.zeros((4, 1))
    >>> _ = model.fit(x, y, epochs=2, callbacks=[refresh], verbose=0)
    >>> pooling.compute_output_shape((None, 16, 16, 1)), refresh.compilations
    ((None, 4, 4, 1), 1)
    """

    def __init__(self, every: str | int = "epoch"):
        super().__init__(every)
        # Once an epoch, Keras need not wait for the result of each step.
        self.async_safe = self.every == "epoch"
        self.compilations = 0
        self._counted = weakref.WeakSet()

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        # Under JAX, every look at `self.model` copies the state of the training
        # into the model, so it is not for every step.
        self._trained_model = self.model
        self._take_over()
        for layer in self._static_layers():
            layer.graph_sizes.hold()

    def on_train_batch_end(self, batch, logs=None):
        function = self._trained_model.train_function
        if function not in self._counted:
            self._counted.add(function)
            self.compilations += 1
        super().on_train_batch_end(batch, logs)

    def on_due_step(self):
        self.refresh()

    def on_epoch_end(self, epoch, logs=None):
        if self.every == "epoch":
            self.refresh()

    def on_train_end(self, logs=None):
        for layer in self._static_layers():
            layer.graph_sizes.release()

    def on_test_begin(self, logs=None):
        self._look()

    def on_predict_begin(self, logs=None):
        self._look()

    def refresh(self) -> None:
        """Lets all sizes follow the strides."""
        for layer in self._static_layers():
            layer.refresh_sizes()

    def _look(self):
        """Lets the sizes of everything but training steps follow."""
        self._take_over()
        for layer in self._static_layers():
            layer.graph_sizes.read()
            layer.graph_sizes.follow()

    def _take_over(self):
        if self._static_layers():
            for name in compiled_functions.NAMES:
                CompiledFunction.of(self.model, name).take_over()

    def _static_layers(self):
        return [
            layer for layer in learned_layers(self.model) if layer.is_static
        ]
