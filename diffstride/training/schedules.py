"""Learning rates that know epochs.

The trainer calls a schedule with the length of the run,
`schedule(steps_per_epoch=..., num_epochs=...)`, and receives a learning rate
that `keras.optimizers` accept; a number is as good a schedule.
"""

import itertools
from collections.abc import Sequence

import keras
from absl import logging
from keras import ops

from diffstride.validation import is_number


def piecewise(
    steps_per_epoch: int,
    num_epochs: int,
    values: Sequence[float] = (0.1, 0.01, 0.001),
    boundaries: Sequence[float] = (0.5, 0.75),
    warmup_epochs: float = 0,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """A constant learning rate that drops at the given epochs.

    Args:
        steps_per_epoch: integer. Training steps in one epoch.
        num_epochs: integer. Epochs in the whole run.
        values: learning rates, one more than `boundaries`.
        boundaries: epochs after which the next value holds: integers count
            epochs, floats below 1 are fractions of `num_epochs`.
        warmup_epochs: number. Epochs over which the rate first rises linearly
            from 0.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Example:

    >>> schedule = piecewise(10, 4, values=(1.0, 0.5), boundaries=(2,))
    >>> float(schedule(19)), float(schedule(20))
    (1.0, 0.5)
    """
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            "`values` must have one entry more than `boundaries`. "
            f"Received: values={values}, boundaries={boundaries}"
        )
    _check_numbers(values=values, warmup_epochs=warmup_epochs)
    epochs = [
        boundary * num_epochs if 0 < boundary < 1 else boundary
        for boundary in boundaries
    ]
    if any(start >= end for start, end in itertools.pairwise([0, *epochs])):
        raise ValueError(
            "`boundaries` must be positive, each larger than the one before. "
            f"Received: boundaries={boundaries}"
        )
    late = [epoch for epoch in epochs if epoch >= num_epochs]
    if late:
        logging.warning(
            "The run ends after %s epochs, so that the learning rates after "
            "%s epochs are not reached: see `boundaries`.",
            num_epochs,
            ", ".join(map(str, late)),
        )
    # Keras holds a value up to and including its boundary.
    steps = [round(epoch * steps_per_epoch) - 1 for epoch in epochs]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        steps, [float(value) for value in values]
    )
    return _warm_up(schedule, warmup_epochs * steps_per_epoch)


def step_decay(
    steps_per_epoch: int,
    num_epochs: int,
    initial: float = 1e-4,
    factor: float = 0.5,
    first_epoch: int = 11,
    every: int = 5,
    warmup_epochs: float = 0,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that drops by a factor, again and again.

    Args:
        steps_per_epoch: integer. Training steps in one epoch.
        num_epochs: integer. Epochs in the whole run.
        initial: number. The first learning rate.
        factor: number. What a drop leaves of it.
        first_epoch: integer. The first epoch with less, counted from 1.
        every: integer. Epochs from one drop to the next.
        warmup_epochs: number. Epochs over which the rate first rises linearly
            from 0.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Example:

    >>> schedule = step_decay(10, 6, initial=1.0, first_epoch=3, every=2)
    >>> [float(schedule(10 * epoch)) for epoch in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    References:
        - Liu et al., [Learning the spectrogram temporal resolution for audio
          classification](https://arxiv.org/abs/2210.01719), 2022: Table 4.
    """
    if first_epoch < 2 or every < 1:
        raise ValueError(
            "`first_epoch` must be 2 or more, and `every` 1 or more. "
            f"Received: first_epoch={first_epoch}, every={every}"
        )
    _check_numbers(initial=initial, factor=factor, warmup_epochs=warmup_epochs)
    boundaries = range(first_epoch - 1, num_epochs, every)
    if not boundaries:
        # The run ends before the first drop: warm up, then stay.
        warmup_steps = round(warmup_epochs * steps_per_epoch)
        if not warmup_steps:
            return initial
        return PiecewiseLinear([0, warmup_steps], [0.0, initial])
    return piecewise(
        steps_per_epoch,
        num_epochs,
        [initial * factor**drop for drop in range(len(boundaries) + 1)],
        boundaries,
        warmup_epochs,
    )


def cosine(
    steps_per_epoch: int,
    num_epochs: int,
    peak: float = 0.1,
    final_fraction: float = 0.0,
    warmup_epochs: float = 0,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Half a cosine from `peak` down to `final_fraction * peak`.

    Args:
        steps_per_epoch: integer. Training steps in one epoch.
        num_epochs: integer. Epochs in the whole run.
        peak: number. The highest learning rate.
        final_fraction: number. What is left of it at the end.
        warmup_epochs: number. Epochs over which the rate first rises linearly
            from 0 to `peak`.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Example:

    >>> schedule = cosine(10, 5, peak=0.2, warmup_epochs=1)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 30, 50)]
    [0.0, 0.1, 0.2, 0.1, 0.0]
    """
    _check_numbers(
        peak=peak, final_fraction=final_fraction, warmup_epochs=warmup_epochs
    )
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    decay_steps = num_epochs * steps_per_epoch - warmup_steps
    if decay_steps <= 0:
        raise ValueError(
            "`warmup_epochs` must be less than `num_epochs`. "
            f"Received: warmup_epochs={warmup_epochs}, num_epochs={num_epochs}"
        )
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(
            peak, decay_steps, alpha=final_fraction
        )
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps,
        alpha=final_fraction,
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


def one_cycle(
    steps_per_epoch: int,
    num_epochs: int,
    peak: float = 0.4,
    peak_epoch: float = 0.25,
    initial_fraction: float = 0.1,
    final_fraction: float = 0.0,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linearly up to `peak`, then linearly down.

    Args:
        steps_per_epoch: integer. Training steps in one epoch.
        num_epochs: integer. Epochs in the whole run.
        peak: number. The highest learning rate.
        peak_epoch: number. When it is reached: an epoch, or below 1 a fraction
            of `num_epochs`.
        initial_fraction: number. The first learning rate over `peak`.
        final_fraction: number. The last learning rate over `peak`.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Example:

    >>> schedule = one_cycle(10, 4, peak=1.0, initial_fraction=0.5)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 25, 40)]
    [0.5, 0.75, 1.0, 0.5, 0.0]
    """
    _check_numbers(
        peak=peak,
        peak_epoch=peak_epoch,
        initial_fraction=initial_fraction,
        final_fraction=final_fraction,
    )
    if peak_epoch < 1:
        peak_epoch = peak_epoch * num_epochs
    total_steps = num_epochs * steps_per_epoch
    peak_step = peak_epoch * steps_per_epoch
    if not 0 < peak_step < total_steps:
        raise ValueError(
            "`peak_epoch` must lie inside the run. "
            f"Received: peak_epoch={peak_epoch}, num_epochs={num_epochs}"
        )
    return PiecewiseLinear(
        [0, peak_step, total_steps],
        [initial_fraction * peak, peak, final_fraction * peak],
    )


def _check_numbers(**arguments):
    """Checks that arguments are numbers of 0 or more, or lists of such."""
    for name, value in arguments.items():
        numbers = value if isinstance(value, (list, tuple, range)) else [value]
        if not all(is_number(number) and number >= 0 for number in numbers):
            raise ValueError(
                f"`{name}` must be 0 or more. Received: {name}={value!r}"
            )


def _warm_up(schedule, steps):
    return Warmup(schedule, round(steps)) if round(steps) else schedule


@keras.saving.register_keras_serializable(package="diffstride")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule, scaled linearly from 0 to 1 over the first steps.

    Args:
        schedule: the schedule that holds afterwards.
        warmup_steps: integer. Steps until it holds.

    Example:

    >>> from keras.optimizers.schedules import PiecewiseConstantDecay
    >>> schedule = Warmup(PiecewiseConstantDecay([9], [1.0, 0.5]), 4)
    >>> [float(schedule(step)) for step in (0, 2, 4, 10)]
    [0.0, 0.5, 1.0, 0.5]
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        warmup_steps: int,
    ):
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        rate = ops.convert_to_tensor(self.schedule(step))
        step = ops.cast(step, rate.dtype)
        return rate * ops.minimum(step / self.warmup_steps, 1.0)

    def get_config(self):
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "warmup_steps": self.warmup_steps,
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["warmup_steps"])


@keras.saving.register_keras_serializable(package="diffstride")
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Straight lines between given steps; constant outside them.

    Args:
        steps: increasing numbers.
        values: the learning rate at each of them.

    Example:

    >>> schedule = PiecewiseLinear([0, 10], [0.0, 1.0])
    >>> [float(schedule(step)) for step in (0, 5, 10, 20)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, steps: Sequence[float], values: Sequence[float]):
        self.steps = steps
        self.values = values

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = ops.convert_to_tensor(self.values[0], "float32")
        for i in range(1, len(self.steps)):
            start, end = self.steps[i - 1], self.steps[i]
            progress = ops.clip((step - start) / (end - start), 0.0, 1.0)
            rate = rate + progress * (self.values[i] - self.values[i - 1])
        # Sums of differences end a rounding error beside the last value.
        return ops.clip(rate, min(self.values), max(self.values))

    def get_config(self):
        return {"steps": self.steps, "values": self.values}
