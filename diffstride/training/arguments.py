"""Checks of the trainer's arguments, before data and model are made."""

import difflib
import inspect
import math
import numbers
import pathlib

import keras

from diffstride.data.dataset import Dataset
from diffstride.validation import ConfigError, is_number


def check(arguments):
    """Refuses values that `diffstride.training.trainer.train` cannot have.

    Args:
        arguments: dict of all arguments, by name.

    Raises:
        ConfigError: it names the argument and what it must be.
    """
    for name, (what, is_right) in _MUST_BE.items():
        if not is_right(arguments[name]):
            raise ConfigError(
                f"`{name}` must be {what}. Received: {name}={arguments[name]!r}"
            )
    try:
        keras.dtype_policies.get(arguments["dtype_policy"])
    except ValueError as error:
        raise ConfigError(
            "`dtype_policy` must be one that Keras knows, like 'float32', "
            "'mixed_bfloat16' or 'mixed_float16'. Received: "
            f"dtype_policy={arguments['dtype_policy']!r}"
        ) from error
    _check_learning_rate(arguments["learning_rate"], arguments["callbacks"])
    _check_spelling(
        **{
            name: arguments[name]
            for name in ("monitor", "callbacks", "metrics")
        }
    )


def _is_integer(value, least):
    is_integer = isinstance(value, numbers.Integral)
    return is_integer and not isinstance(value, bool) and value >= least


def _is_boolean(value):
    return isinstance(value, bool)


def _is_rate(value):
    if is_number(value):
        return math.isfinite(value) and value >= 0
    return callable(value)


def _is_function(value, of_class=()):
    """A function or a class, but no object of the class."""
    return callable(value) and not isinstance(value, of_class)


def _is_list_of_callbacks(value):
    return isinstance(value, (list, tuple)) and all(
        isinstance(each, keras.callbacks.Callback) for each in value
    )


def _is_loss(value):
    if isinstance(value, dict):
        return all(map(_is_loss, value.values()))
    return value is None or (callable(value) and not inspect.isclass(value))


# For each argument, what it must be, and a function that tells whether it is.
_MUST_BE = {
    "dataset": (
        "a data set, or a function that loads one (in gin files without "
        "brackets, as in `@images.tfds_images`)",
        lambda value: isinstance(value, Dataset) or _is_function(value),
    ),
    "model": (
        "a function that builds a model (in gin files without brackets, as in "
        "`@resnet.resnet18`)",
        lambda value: _is_function(value, keras.Model),
    ),
    "workdir": (
        "the path of a directory",
        lambda value: isinstance(value, (str, pathlib.PurePath)) and value,
    ),
    "mode": ("'train' or 'eval'", lambda value: value in ("train", "eval")),
    "seed": (
        "an integer from 0 to 4294967295",
        lambda value: _is_integer(value, 0) and value < 2**32,
    ),
    "num_epochs": ("a positive integer", lambda value: _is_integer(value, 1)),
    "optimizer": (
        "a function of `learning_rate` (in gin files without brackets, as in "
        "`@optimizers.SGD`)",
        lambda value: _is_function(value, keras.Optimizer),
    ),
    "learning_rate": (
        "a finite number of 0 or more, or a schedule (in gin files without "
        "brackets, as in `@schedules.cosine`)",
        _is_rate,
    ),
    "loss": (
        "a Keras loss, or a dict of one for each head (in gin files with "
        "brackets, as in `@losses.BinaryCrossentropy()`)",
        _is_loss,
    ),
    "metrics": (
        "a list of functions that make metrics (in gin files without brackets, "
        "as in `[@metrics.AUC]`)",
        lambda value: (
            value is None
            or isinstance(value, (list, tuple))
            and all(_is_function(each, keras.Metric) for each in value)
        ),
    ),
    "target_macs": (
        "a positive number, or None",
        lambda value: (
            value is None or is_number(value) and 0 < value < math.inf
        ),
    ),
    "stride_rate": (
        "a finite number of 0 or more",
        lambda value: is_number(value) and 0 <= value < math.inf,
    ),
    "filter_rate": (
        "a finite number of 0 or more",
        lambda value: is_number(value) and 0 <= value < math.inf,
    ),
    "complexity_weight": (
        "a finite number of 0 or more",
        lambda value: is_number(value) and 0 <= value < math.inf,
    ),
    "jit_compile": (
        "True, False or 'auto'",
        lambda value: _is_boolean(value) or value == "auto",
    ),
    "deterministic": ("True or False", _is_boolean),
    "refresh_sizes": (
        "'epoch' or a positive integer",
        lambda value: value == "epoch" or _is_integer(value, 1),
    ),
    "checkpoint_steps": (
        "None or a positive integer",
        lambda value: value is None or _is_integer(value, 1),
    ),
    "keep_checkpoints": (
        "a positive integer",
        lambda value: _is_integer(value, 1),
    ),
    "monitor": (
        "None or a name in the history",
        lambda value: value is None or isinstance(value, str),
    ),
    "eval_checkpoint": (
        "'latest', 'best' or 'average'",
        lambda value: value in ("latest", "best", "average"),
    ),
    "test_flips": ("True or False", _is_boolean),
    "tensorboard": ("True or False", _is_boolean),
    "pictures_every": (
        "None or a positive integer",
        lambda value: value is None or _is_integer(value, 1),
    ),
    "shift_consistency": (
        "None or a positive integer",
        lambda value: value is None or _is_integer(value, 1),
    ),
    "shift_consistency_every": (
        "None or a positive integer",
        lambda value: value is None or _is_integer(value, 1),
    ),
    "callbacks": (
        "a list of Keras callbacks (in gin files with brackets, as in "
        "`[@callbacks.EarlyStopping()]`)",
        _is_list_of_callbacks,
    ),
    "verbose": ("0, 1, 2 or 'auto'", lambda value: value in (0, 1, 2, "auto")),
}


def _check_learning_rate(learning_rate, callbacks):
    """Keras would find this out at the end of some epoch."""
    for callback in callbacks:
        changes_the_rate = isinstance(
            callback,
            (
                keras.callbacks.LearningRateScheduler,
                keras.callbacks.ReduceLROnPlateau,
            ),
        )
        if changes_the_rate and callable(learning_rate):
            raise ConfigError(
                "`learning_rate` must be a number for "
                f"{type(callback).__name__}, which changes it. Received: "
                f"learning_rate={learning_rate!r}"
            )


def _check_spelling(monitor, callbacks, metrics):
    """Refuses a name that is almost that of a value in the history.

    Which values there are is known for certain when the model is made.
    """
    known = ["loss"]
    if metrics is None:
        known += ["accuracy", "top5_accuracy", "pixel_accuracy", "mean_iou"]
    for name in (
        monitor,
        *(getattr(each, "monitor", None) for each in callbacks),
    ):
        if name is None:
            continue
        short = name.removeprefix("val_")
        if any(short == each or short.endswith(f"_{each}") for each in known):
            continue
        if near := difflib.get_close_matches(short, known, 1, cutoff=0.75):
            prefix = name.removesuffix(short)
            raise ConfigError(
                "`monitor` must be a name in the history. Did you mean "
                f"{prefix + near[0]!r}? Received: monitor={name!r}"
            )
