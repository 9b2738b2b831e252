"""Checks of constructor arguments, with the errors a reader can act on."""

import math
import numbers

import keras
import numpy as np


def is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


class ConfigError(ValueError):
    """A configuration that a run cannot have; the message names the culprit."""


def check_floating_point(inputs, layer_name, advice):
    """Refuses inputs of a layer that are integers or booleans."""
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise TypeError(
            f"`inputs` of layer '{layer_name}' must have a floating-point "
            f"dtype: {advice}. Received: inputs.dtype={dtype}"
        )


def check_positive(**arguments):
    """Each argument must be a positive number, and finite."""
    for name, value in arguments.items():
        if not is_number(value) or not 0 < value < math.inf:
            raise ValueError(
                f"`{name}` must be a positive number, and finite. "
                f"Received: {name}={value!r}"
            )


def check_not_negative(**arguments):
    """Each argument must be a finite number of 0 or more."""
    for name, value in arguments.items():
        if not is_number(value) or not 0 <= value < math.inf:
            raise ValueError(
                f"`{name}` must be a finite number of 0 or more. "
                f"Received: {name}={value}"
            )


def _is_integer(value, least):
    return is_number(value) and value == value // 1 and value >= least


def check_integer(value, name, least):
    """An integer of `least` or more, whatever holds it."""
    if not _is_integer(value, least):
        needed = "a positive integer"
        if least != 1:
            needed = f"an integer of {least} or more"
        raise ValueError(
            f"`{name}` must be {needed}. Received: {name}={value!r}"
        )
    return int(value)


def check_positive_integer(value, name):
    return check_integer(value, name, least=1)


def check_every(value):
    """How often a callback acts: `"epoch"`, or a number of steps."""
    if value == "epoch":
        return value
    if not _is_integer(value, least=1):
        raise ValueError(
            "`every` must be 'epoch' or a positive integer. "
            f"Received: every={value!r}"
        )
    return int(value)


def check_strides(strides, rank, stage=None):
    """A stride of 1 or more for each of `rank` axes.

    Args:
        strides: number, or a tuple, a list or an array with one for each axis.
        rank: integer. The number of axes.
        stage: string or None. What the strides are for, named in errors.

    Returns:
        A tuple of floats.
    """
    values = _for_each_axis(strides, rank)
    if values is None or not all(
        is_number(stride) and 1 <= stride < math.inf for stride in values
    ):
        several = f", or a tuple of {rank} such numbers" if rank > 1 else ""
        place = "" if stage is None else f" for {stage}"
        raise ValueError(
            f"`strides` must be a finite number of 1 or more{several}. "
            f"Received: strides={strides!r}{place}"
        )
    return tuple(float(stride) for stride in values)


def check_choice(value, name, choices):
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {choices}. Received: {name}={value!r}"
        )
    return value


def check_data_format(data_format):
    if data_format is None:
        return keras.config.image_data_format()
    return check_choice(
        data_format, "data_format", ("channels_last", "channels_first")
    )


def check_aliasing(value, is_symmetric):
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(
            "`aliasing` must be a number from 0 to 1. "
            f"Received: aliasing={value!r}"
        )
    if value and not is_symmetric:
        raise ValueError(
            "`aliasing` needs a symmetric window: use `ramp='inside'` or "
            f"`symmetric=True`. Received: aliasing={value!r}"
        )
    return float(value)


def check_size_multiple(value):
    is_integer = isinstance(value, numbers.Integral) and value is not True
    if not is_integer or value < 1 or (value > 1 and value % 2):
        raise ValueError(
            "`size_multiple` must be 1 or an even positive integer. "
            f"Received: size_multiple={value}"
        )
    return int(value)


def check_limits(lower, upper):
    for name, value in [
        ("lower_limit_stride", lower),
        ("upper_limit_stride", upper),
    ]:
        if value is not None and not (
            is_number(value) and math.isfinite(value) and value >= 1
        ):
            raise ValueError(
                f"`{name}` must be None or a finite number of 1 or more. "
                f"Received: {name}={value}"
            )
    if None not in (lower, upper) and lower > upper:
        raise ValueError(
            "`lower_limit_stride` must not exceed `upper_limit_stride`. "
            f"Received: lower_limit_stride={lower}, upper_limit_stride={upper}"
        )


def check_integers(value, name, rank):
    """An integer of 1 or more for each of `rank` axes."""
    values = _check_axes(
        value,
        name,
        rank,
        lambda number: number == number // 1 and number >= 1,
        "an integer of 1 or more",
    )
    return tuple(int(number) for number in values)


def check_factor(value, rank):
    """A finite number above 0 for each of `rank` axes."""
    values = _check_axes(
        value,
        "factor",
        rank,
        lambda number: 0 < number < math.inf,
        "a finite number above 0",
    )
    return tuple(float(number) for number in values)


def _check_axes(value, name, rank, is_valid, expected):
    """A list of one number for each axis, all of which must be valid."""
    values = _for_each_axis(value, rank)
    if values is None or not all(
        is_number(number) and is_valid(number) for number in values
    ):
        several = f", or a tuple of {rank}" if rank > 1 else ""
        raise ValueError(
            f"`{name}` must be {expected}{several}. Received: {name}={value!r}"
        )
    return values


def _for_each_axis(value, rank):
    """A list of one value for each axis, or None if that is impossible."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if is_number(value):
        return [value] * rank
    if isinstance(value, (tuple, list)) and len(value) == rank:
        return list(value)
    return None
