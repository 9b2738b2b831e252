"""A callback that takes a converted model from strides to DiffStride."""

import keras
from keras import ops

from diffstride.analysis.learned_layers import learned_layers
from diffstride.training.step_callback import StepCallback
from diffstride.validation import check_positive


class FadeAliasing(StepCallback):
    """Lowers the `aliasing` of DiffStride layers to zero during training.

    A model that `diffstride.learn_strides` has converted computes what it did
    before, aliasing included, and its strides have no gradient. This callback
    lowers the aliasing from what the layers were made with to zero, in a
    straight line over the first epochs. The weights follow, and strides begin
    to learn.

    It never raises the aliasing of a layer: in a second call of `fit` a model
    stays as it is.

    Args:
        epochs: number of epochs after which nothing aliases. It need not be an
            integer, if it is known of how many steps an epoch consists.
        every: `"epoch"`, to lower the aliasing between epochs alone, or an
            integer: after how many training steps it is lowered.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((16, 16, 1)),
    ...         keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...     ]
    ... )
    >>> model = learn_strides(model)
    >>> model.compile("sgd", "mse")
    >>> callbacks = [FadeAliasing(epochs=2), RefreshSizes()]
    >>> x, y = np.ones((4, 16, 16, 1)), np.zeros((4, 8))
    >>> _ = model.fit(x, y, epochs=3, callbacks=callbacks, verbose=0)
    >>> float(model.get_layer("conv2d_stride").aliasing)
    0.0
    """

    def __init__(self, epochs: float, every: str | int = 10):
        super().__init__(every)
        check_positive(epochs=epochs)
        self.epochs = epochs
        self._starts = {}
        self._epoch = 0

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._starts = {
            layer: layer.get_config()["aliasing"]
            for layer in learned_layers(self.model)
            if isinstance(layer.aliasing, keras.Variable)
        }
        if not self._starts:
            raise ValueError(
                "`model` must have DiffStride layers made with an `aliasing` "
                "above zero, as those of `diffstride.learn_strides`. "
                f"Received: model={self.model.name}, which has none"
            )

        for layer in self._starts:
            layer.is_fading = True

    def on_train_end(self, logs=None):
        for layer in self._starts:
            layer.is_fading = False

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._lower_to(epoch)

    def on_due_step(self):
        if self.params.get("steps"):
            share = self.steps_of_epoch / self.params["steps"]
            self._lower_to(self._epoch + share)

    def _lower_to(self, epoch):
        """Sets the aliasing to what it should be after some epochs."""
        share = max(0.0, 1 - epoch / self.epochs)
        for layer, start in self._starts.items():
            now = float(ops.convert_to_numpy(layer.aliasing))
            if share * start < now:
                layer.aliasing.assign(share * start)
