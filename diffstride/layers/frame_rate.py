"""The reduction rate of a layer: one number, or a range to draw from.

A graph holds the rate as a constant, because the number of output frames
depends on it. Where a rate is set later, the compiled functions of Keras that
hold another one are replaced. Functions of earlier rates are kept.
"""

import weakref

import keras

from diffstride.layers import compiled_functions
from diffstride.layers.graph_sizes import sizes_can_follow
from diffstride.layers.strides import as_floats
from diffstride.validation import is_number


def check_reduction_rate(value):
    """A number, or a tuple of two with the lower one first."""
    is_range = isinstance(value, (tuple, list))
    numbers = tuple(value) if is_range else (value,)
    if (
        not all(is_number(number) and 0 <= number < 1 for number in numbers)
        or (is_range and len(numbers) != 2)
        or list(numbers) != sorted(numbers)
    ):
        raise ValueError(
            "`reduction_rate` must be a number of 0 or more, below 1, or a "
            "range of two such numbers, the lower one first. "
            f"Received: reduction_rate={value}"
        )
    numbers = tuple(float(number) for number in numbers)
    return numbers if is_range else numbers[0]


class FrameRate:
    """The reduction rate of a layer, and the functions that were made with it.

    Args:
        value: number, or a tuple of two.

    Attributes:
        value: number, or a tuple of two. Set it by `set`.
        held: number or None. What `DrawReductionRate` has drawn for this step
            of training.
    """

    def __init__(self, value):
        self.value = value
        self.held = None
        self._functions = weakref.WeakSet()

    @property
    def is_range(self):
        return isinstance(self.value, tuple)

    @property
    def outside_of_training(self):
        """The rate, or the middle of the range."""
        return sum(self.value) / 2 if self.is_range else self.value

    def set(self, value):
        self.value = value
        # A `fit` that was interrupted may have left the rate of its last step.
        self.held = None
        self._follow()

    def hold(self, rate):
        """Lets steps of training have this rate; None ends that."""
        self.held = rate
        self._follow()

    def _follow(self):
        for function in list(self._functions):
            function.follow()

    def in_graph(self, training, seed_generator, layer_name):
        """The rate of a call: a number, or a scalar tensor if it is drawn."""
        function = compiled_functions.being_traced()
        if function is not None:
            function.note(self, bool(training), self._of_call(bool(training)))
            self._functions.add(function)
        rate = self._of_call(training)
        if not isinstance(rate, tuple):
            return rate
        if not sizes_can_follow():
            raise ValueError(
                "A range of `reduction_rate` needs the callback "
                "`diffstride.DrawReductionRate` under JAX, because the number "
                "of output frames must be a constant of a compiled function. "
                "In a training loop of your own, set `reduction_rate` to a "
                "number before each compiled step. Received: reduction_rate="
                f"{rate} in layer '{layer_name}'"
            )
        drawn = keras.random.uniform((), *rate, seed=seed_generator)
        known = as_floats(drawn)
        return drawn if known is None else known[0]

    def is_current(self, pairs, is_training=False):
        """Whether a graph with these pairs of `training` and rate is valid."""
        del is_training
        return all(rate == self._of_call(training) for training, rate in pairs)

    def _of_call(self, training):
        if not training:
            return self.outside_of_training
        return self.value if self.held is None else self.held
