"""A callback that draws how many frames are left in each step of training."""

import keras
import numpy as np

from diffstride.analysis.keras_graph import sublayers
from diffstride.layers.compiled_functions import CompiledFunction
from diffstride.layers.frame_rate import FrameRate
from diffstride.layers.frame_reduction import BaseFrameReduction
from diffstride.validation import check_integer


def ranges_to_draw_from(model: keras.Model) -> list[FrameRate]:
    """The rates of all layers of a model whose `reduction_rate` is a range."""
    return [
        layer.frame_rate
        for layer in sublayers(model)
        if isinstance(layer, BaseFrameReduction)
        and isinstance(layer.reduction_rate, tuple)
    ]


class DrawReductionRate(keras.callbacks.Callback):
    """Draws the `reduction_rate` of layers that have a range, at each step.

    On TensorFlow a `DiffRes` with a range draws by itself, inside of the graph,
    and needs no callback; Keras then compiles without XLA. Under JAX the number
    of output frames must be a constant of a compiled function. This callback
    then draws from a few rates between both ends of the range, and makes a
    function for each. So a model is compiled as many times as there are rates,
    and every step has exactly the frames of its rate, without padding.

    All layers of a model draw at the same place of their ranges. The draws
    follow from the seed, the epoch and the step, so that several processes draw
    alike.

    Args:
        num_rates: integer. From how many rates to draw. They are at equal
            distances, and the ends of the range are among them.
        seed: integer of 0 or more.

    Example:

    >>> pooling = DiffRes((0.5, 0.75))
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((20, 8)),
    ...         pooling,
    ...         keras.layers.GlobalAveragePooling2D(),
    ...     ]
    ... )
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((4, 20, 8)), np.zeros((4, 3))
    >>> draw = DrawReductionRate(num_rates=2)
    >>> _ = model.fit(x, y, callbacks=[draw], verbose=0)
    >>> pooling.reduction_rate = 0.6
    >>> model.predict(x, verbose=0).shape
    (4, 3)
    """

    def __init__(self, num_rates: int = 4, seed: int = 0):
        super().__init__()
        self.num_rates = check_integer(num_rates, "num_rates", least=2)
        self.seed = check_integer(seed, "seed", least=0)
        self._epoch = 0
        self._rates = []

    def on_train_begin(self, logs=None):
        self._rates = ranges_to_draw_from(self.model)
        if self._rates:
            # Otherwise the first function would be compiled twice.
            CompiledFunction.of(self.model, "train_function").take_over()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        rng = np.random.default_rng([self.seed, self._epoch, batch])
        place = int(rng.integers(self.num_rates)) / (self.num_rates - 1)
        for rate in self._rates:
            low, high = rate.value
            rate.hold(low + (high - low) * place)

    def on_train_end(self, logs=None):
        for rate in self._rates:
            rate.hold(None)
