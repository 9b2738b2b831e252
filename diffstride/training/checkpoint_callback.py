"""When a run is saved, and what a checkpoint says about where it was."""

import dataclasses
import inspect
import time

import keras
import numpy as np
from absl import logging
from keras import ops

from diffstride.training import processes
from diffstride.training.checkpoint_files import (
    model_arrays,
    restore_model,
    to_numpy,
    variable_paths,
)


@dataclasses.dataclass
class Progress:
    """Where a run is: what a checkpoint holds besides the variables.

    Args:
        epoch: Epochs done.
        step: Steps done in the epoch under way.
        seconds: Seconds spent in it.
        history: One dict for each epoch done.
        initial_strides: The learned strides before the first step, by layer.
        best: The epoch with the best monitored value: its checkpoint's step
            and the value, or None.
        stopped: Whether a callback ended the training before its last epoch.
        finished: Whether the training is over, and these are its final
            weights.
        callbacks: For each callback of the user, what it has remembered.
        paths: The paths of all variables, by group.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list = dataclasses.field(default_factory=list)
    initial_strides: dict = dataclasses.field(default_factory=dict)
    best: dict | None = None
    stopped: bool = False
    finished: bool = False
    callbacks: list = dataclasses.field(default_factory=list)
    paths: dict | None = None


class Checkpointing(keras.callbacks.Callback):
    """Saves the run after each epoch, within epochs, and before it is ended.

    It must be the last callback, so that it saves what the others have done.

    Args:
        checkpoints: the `Checkpoints` of the run.
        progress: the `Progress` of the run.
        train_steps: integer. Steps in an epoch.
        every: integer or None. Also save after so many steps of an epoch.
        monitor: string. The logged value that tells the best epoch. None
            stands for the validation accuracy or, where there is none, the
            validation loss.
        asked_to_end: function that returns the number of the signal that asks
            to end, or None.
        callbacks: the callbacks whose memory belongs into a checkpoint, such
            as the patience that an `EarlyStopping` has left.
    """

    def __init__(
        self,
        checkpoints,
        progress,
        train_steps,
        every,
        monitor,
        asked_to_end,
        callbacks=(),
    ):
        super().__init__()
        self._checkpoints = checkpoints
        self._progress = progress
        self._train_steps = train_steps
        self._every = every
        self._monitor = monitor
        self._asked_to_end = asked_to_end
        self._callbacks = callbacks
        self._saved_callbacks = []
        self._metrics = None

    def restore(self, model, arrays):
        """Puts a model where it was, the metrics of an epoch half done too."""
        paths = self._progress.paths
        restore_model(model, arrays, ("model", "optimizer"), paths)
        self._saved_callbacks = [
            _with_arrays(state, arrays, index)
            for index, state in enumerate(self._progress.callbacks)
        ]
        if self._progress.step:
            restore_model(model, arrays, ("metrics",), paths)
            self._metrics = _values(model.metrics_variables)

    def on_train_begin(self, logs=None):
        # The other callbacks have just been reset by their `on_train_begin`.
        self._fresh_callbacks = [_memory(each) for each in self._callbacks]
        for callback, saved in zip(
            self._callbacks, self._saved_callbacks, strict=False
        ):
            vars(callback).update(saved)

    def on_epoch_begin(self, epoch, logs=None):
        self._start_step = self._progress.step
        self._began = time.monotonic() - self._progress.seconds
        if self._metrics is not None:
            # `fit` has just reset them.
            for variable, value in zip(
                self.model.metrics_variables, self._metrics, strict=True
            ):
                variable.assign(value)
            self._metrics = None

    def on_train_batch_begin(self, batch, logs=None):
        is_first = batch == self._start_step
        self._progress.step = batch
        if self._every and not is_first and batch % self._every == 0:
            self._save()
        self._end_if_asked()

    def on_test_begin(self, logs=None):
        self._progress.step = self._train_steps
        # `evaluate` is about to reset them.
        self._metrics = _values(self.model.metrics_variables)

    def on_test_batch_begin(self, batch, logs=None):
        self._end_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        progress = self._progress
        progress.epoch = epoch + 1
        progress.step = 0
        progress.stopped = self.model.stop_training
        self._metrics = None
        progress.best = self._better(progress.best, logs)
        self._save(seconds=0.0)
        self._end_if_asked(saved=True)

    def on_train_end(self, logs=None):
        # An optimizer that averages weights, or `EarlyStopping`, has just
        # changed the weights once more.
        self._progress.finished = True
        self._save(seconds=0.0)

    def _better(self, best, logs):
        monitor = self._monitor
        if monitor is None:
            monitor = next(name for name in MONITORS if name in logs)
        value = logs[monitor]
        if best is not None:
            sign = 1 if is_to_be_small(monitor) else -1
            if sign * value >= sign * best["value"]:
                return best
        step = self._progress.epoch * self._train_steps
        return {"epoch": self._progress.epoch, "step": step, "value": value}

    def _save(self, seconds=None):
        if not processes.is_first():
            return
        progress = self._progress
        progress.seconds = (
            time.monotonic() - self._began if seconds is None else seconds
        )
        arrays = model_arrays(self.model)
        if self._metrics is not None:
            for index, value in enumerate(self._metrics):
                arrays[f"metrics/{index}"] = value
        for variable in self.model.trainable_variables:
            if not np.isfinite(to_numpy(variable)).all():
                # The next loss will not be finite and will end the run.
                logging.warning(
                    "No checkpoint: `%s` is not finite.", variable.path
                )
                return
        progress.paths = variable_paths(self.model)
        progress.callbacks = []
        for index, (callback, fresh) in enumerate(
            zip(self._callbacks, self._fresh_callbacks, strict=True)
        ):
            state, more = _changes(_memory(callback), fresh, index)
            progress.callbacks.append(state)
            arrays |= more
        self._checkpoints.save(
            progress.epoch * self._train_steps + progress.step,
            arrays,
            dataclasses.asdict(progress),
            best_step=progress.best and progress.best["step"],
        )

    def _end_if_asked(self, saved=False):
        signal = self._asked_to_end()
        if signal is None:
            return
        if not saved:
            self._save()
        logging.info("Signal %d: checkpoint saved, training ends.", signal)
        raise SystemExit(128 + signal)


def _values(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


# What tells the best epoch by default: the first of these that a run logs.
MONITORS = ("val_accuracy", "val_mean_iou", "val_loss")


def is_to_be_small(name):
    """Whether a logged value is better where it is smaller."""
    return name.endswith(("loss", "error"))


def _memory(callback):
    """The attributes of a callback that a checkpoint can hold.

    These are numbers, strings and lists of arrays. Keras's callbacks need no
    more: see `EarlyStopping`, `ReduceLROnPlateau` and `SwapEMAWeights`. The
    arguments of the constructor are not among them.
    """
    arguments = inspect.signature(type(callback)).parameters
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in vars(callback).items()
        if name not in arguments
        and (
            value is None
            or isinstance(value, (bool, int, float, str, np.generic))
            or _is_list_of_arrays(value)
        )
    }


def _is_list_of_arrays(value):
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(each, np.ndarray) for each in value)
    )


def _changes(memory, fresh, index):
    """What a callback has remembered since training began.

    Returns:
        JSON values by name (of a list of arrays its length), and the arrays.
    """
    state, arrays = {}, {}
    for name, value in memory.items():
        if _is_list_of_arrays(value):
            state[name] = {"arrays": len(value)}
            for number, array in enumerate(value):
                arrays[f"callback{index}/{name}/{number}"] = array
        elif name not in fresh or value != fresh[name]:
            state[name] = value
    return state, arrays


def _with_arrays(state, arrays, index):
    """The attributes of a callback: the inverse of `_changes`."""
    return {
        name: [
            arrays[f"callback{index}/{name}/{number}"]
            for number in range(value["arrays"])
        ]
        if isinstance(value, dict)
        else value
        for name, value in state.items()
    }
