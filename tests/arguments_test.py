"""Wrong arguments are refused before data and model are made."""

import functools

import keras
import numpy as np
import pytest

from diffstride.training import schedules, trainer
from diffstride.validation import ConfigError

SGD = keras.optimizers.SGD


def must_not_be_called(**kwargs):
    raise AssertionError("data or model were made")


def train(workdir="here", **arguments):
    trainer.train(
        **{
            "dataset": must_not_be_called,
            "model": must_not_be_called,
            "workdir": workdir,
            **arguments,
        }
    )


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("dataset", [None, "cifar10"], "a data set, or a function"),
        ("model", [None, keras.Sequential()], "a function that builds"),
        ("mode", ["test", None], "'train' or 'eval'"),
        ("seed", [-1, 1.0, True, 2**32, "1"], "an integer from 0"),
        ("num_epochs", [2.5, 0, -1, "3", None], "a positive integer"),
        ("optimizer", [None, "SGD", SGD()], "a function of `learning_rate`"),
        ("learning_rate", [-0.1, np.nan, np.inf, None], "a finite number of 0"),
        ("loss", ["mse", keras.losses.MeanSquaredError], "a Keras loss"),
        ("loss", [{"left": "mse"}], "a Keras loss, or a dict"),
        ("metrics", ["acc", [keras.metrics.AUC()]], "a list of functions"),
        ("complexity_weight", [-1, np.inf, None, True], "a finite number"),
        ("target_macs", [0, -2, "half"], "a positive number, or None"),
        ("filter_rate", [-1, np.inf], "a finite number of 0 or more"),
        ("stride_rate", [-1, np.inf, None], "a finite number of 0 or more"),
        ("dtype_policy", ["float31"], "one that Keras knows"),
        ("jit_compile", ["yes", 1, None], "True, False or 'auto'"),
        ("deterministic", ["no", 0], "True or False"),
        ("devices", [["GPU:9"], "CPU:0", []], "None or a list of names"),
        ("refresh_sizes", ["step", 0, 1.5], "'epoch' or a positive integer"),
        ("checkpoint_steps", [0, -3, 1.5, True], "None or a positive integer"),
        ("keep_checkpoints", [1.5, 0, None], "a positive integer"),
        ("monitor", [3], "None or a name in the history"),
        ("eval_checkpoint", ["worst", 3], "'latest', 'best' or 'average'"),
        ("tensorboard", ["no", None], "True or False"),
        (
            "callbacks",
            [None, [keras.callbacks.EarlyStopping], keras.callbacks.History()],
            "a list of Keras callbacks",
        ),
        ("verbose", ["no", 3], "0, 1, 2 or 'auto'"),
        ("workdir", ["", None, 3], "the path of a directory"),
    ],
)
def test_wrong_values(name, values, message):
    for value in values:
        with pytest.raises(ConfigError) as error:
            train(**{name: value})
        text = str(error.value)
        assert text.startswith(f"`{name}` must be {message}"), text
        assert f" Received: {name}=" in text


@pytest.mark.parametrize(
    "monitor, meant",
    [
        ("val_acuracy", "val_accuracy"),
        ("val_los", "val_loss"),
        ("top5_acuracy", "top5_accuracy"),
    ],
)
def test_a_monitor_that_is_misspelled(monitor, meant):
    stopping = keras.callbacks.EarlyStopping(monitor)
    for arguments in ({"monitor": monitor}, {"callbacks": [stopping]}):
        with pytest.raises(ConfigError, match=f"Did you mean '{meant}'?"):
            train(**arguments)


@pytest.mark.parametrize("monitor", ["val_left_accuracy", "guide_loss", "rho"])
def test_a_monitor_that_may_be_right(monitor):
    with pytest.raises(AssertionError, match="data or model were made"):
        train(monitor=monitor)


@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.ReduceLROnPlateau(),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
    ],
)
def test_a_schedule_and_a_callback_that_changes_it(callback):
    for rate in (
        functools.partial(schedules.cosine, peak=0.1),
        keras.optimizers.schedules.CosineDecay(0.1, 100),
    ):
        message = f"must be a number for {type(callback).__name__}"
        with pytest.raises(ConfigError, match=message):
            train(callbacks=[callback], learning_rate=rate)
