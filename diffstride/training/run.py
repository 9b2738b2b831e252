"""One run: where it is, and what takes it further."""

import pathlib

import keras
from absl import logging

from diffstride.analysis.resolution import learned_strides
from diffstride.training import callbacks as callbacks_lib
from diffstride.training import one_fit, processes
from diffstride.training.checkpoint_callback import (
    Checkpointing,
    Progress,
    is_to_be_small,
)
from diffstride.training.checkpoint_files import Checkpoints
from diffstride.training.shift_consistency import RecordShiftConsistency
from diffstride.validation import ConfigError


class Run:
    """One run: where it is, and what takes it further.

    Args:
        model: a compiled Keras model.
        data: a `diffstride.data.dataset.Dataset`.
        num_epochs: integer.
        workdir: path of the work directory.
        keep: integer. How many checkpoints to keep.
        refresh: a `RefreshSizes`.
        verbose: 0, 1 or 2, as in `fit`.
        shift_consistency: a `ShiftConsistency`, or None.
        shift_consistency_every: integer or None. After how many epochs it is
            measured besides the last one.
    """

    def __init__(
        self,
        model,
        data,
        num_epochs,
        workdir,
        keep,
        refresh,
        verbose,
        shift_consistency=None,
        shift_consistency_every=None,
    ):
        self.model = model
        # What is evaluated on the test split.
        self.evaluated = model
        self.data = data
        # What tells the best epoch and when to stop.
        self.validation = data.validation or data.test
        self.num_epochs = num_epochs
        self.workdir = pathlib.Path(workdir)
        self.refresh = refresh
        self.verbose = verbose
        self.shift_consistency = shift_consistency
        self.shift_consistency_every = shift_consistency_every
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints", keep, data.train_steps
        )
        self.progress = Progress(initial_strides=learned_strides(model))

    def fit(
        self,
        callbacks,
        checkpoint_steps,
        monitor,
        asked_to_end,
        tensorboard,
    ):
        """Trains from the latest checkpoint, if there is one, to the end.

        Args:
            callbacks: the callbacks of the user.
            checkpoint_steps: integer or None. Save after so many steps.
            monitor: string or None. What tells the best epoch.
            asked_to_end: function that returns the number of the signal that
                asks to end, or None.
            tensorboard: whether to write for TensorBoard.
        """
        progress, train_steps = self.progress, self.data.train_steps
        recorder, beside = self._observers(self.shift_consistency)
        checkpointing = Checkpointing(
            self.checkpoints,
            progress,
            train_steps,
            every=checkpoint_steps,
            monitor=monitor,
            asked_to_end=asked_to_end,
            callbacks=callbacks,
        )
        if tensorboard and callbacks_lib.tensorboard_is_installed():
            log_dir = self.workdir / "tensorboard"
            beside.append(
                callbacks_lib.TensorBoard(recorder, progress, log_dir)
            )
        # The sizes come late, because the checkpoint after an epoch holds the
        # sizes for the next one.
        beside += [*callbacks, self.refresh, checkpointing]
        loaded = self.load()
        if loaded:
            arrays, state = loaded
            vars(progress).update(state)
            self.refresh.steps = progress.epoch * train_steps + progress.step
            if progress.history:
                last = progress.history[-1]
                self.refresh.compilations = last.get("compilations", 0)
        monitors = _monitors(monitor, callbacks)
        if progress.step or keras.backend.backend() == "jax" or monitors:
            # Keras makes the variables of metrics with the first batch. They
            # must be there before they are restored; and `fit` under JAX would
            # take a batch from the training data to make them.
            names = self.model.evaluate(
                self.validation(), steps=1, verbose=0, return_dict=True
            )
            _check_monitors(monitors, names)
        if loaded:
            checkpointing.restore(self.model, arrays)
            # Restored strides may ask for other sizes than this function has.
            self.model.test_function = None
            _append_to_csv_files(callbacks)
            logging.info(
                "Going on after %d epochs and %d steps.",
                progress.epoch,
                progress.step,
            )
        if self.data.validation is None:
            logging.info(
                "There is no validation split: `val_` figures are those of the "
                "test split, which tells the best epoch."
            )
        recorder.write()
        if not self._is_finished():
            self._fit(beside)

    def _observers(self, measure_shift_consistency):
        """The recorder, and the callbacks that come before all others.

        Args:
            measure_shift_consistency: function of a model and of a function
                that makes batches. It is called only where the run asks for
                the shift consistency.
        """
        recorder = callbacks_lib.Recorder(
            self.progress,
            self.workdir / "history.jsonl",
            self.data.input_shape,
            self.refresh,
        )
        observers = [
            callbacks_lib.StopOnNaN(self.progress, self.checkpoints),
            recorder,
        ]
        if self.shift_consistency:
            observers.append(
                RecordShiftConsistency(
                    measure_shift_consistency,
                    self.shift_consistency_every,
                    self,
                    recorder,
                )
            )
        return recorder, observers

    def load(self):
        """The latest checkpoint, the same one for all processes."""
        loaded = self.checkpoints.load() if processes.is_first() else None
        step = -1
        if loaded:
            _, state = loaded
            step = state["epoch"] * self.data.train_steps + state["step"]
        step = processes.agree(step)
        if processes.is_first() or step < 0:
            return loaded
        return self.checkpoints.load(step)

    def _is_finished(self):
        progress = self.progress
        is_last = progress.stopped or progress.epoch >= self.num_epochs
        return progress.finished and is_last

    def _fit(self, callbacks):
        progress, steps = self.progress, self.data.train_steps
        validate_only = progress.step == steps
        callbacks = one_fit.Callbacks(
            callbacks,
            first_steps=steps if validate_only else steps - progress.step,
            steps=steps,
            add_history=True,
            add_progbar=self.verbose != 0,
            model=self.model,
            verbose=self.verbose,
            epochs=self.num_epochs,
        )
        if validate_only:
            self._finish_epoch(callbacks)
        # Without an epoch left, `fit` still does what it does at its end.
        self.model.fit(
            one_fit.batches_from(self.data, progress.epoch, progress.step),
            initial_epoch=progress.epoch,
            epochs=progress.epoch if progress.stopped else self.num_epochs,
            steps_per_epoch=steps,
            validation_data=self.validation(),
            callbacks=callbacks,
            shuffle=False,
        )

    def _finish_epoch(self, callbacks):
        """What `fit` does when an epoch has no steps left."""
        epoch = self.progress.epoch
        self.model.stop_training = False
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(epoch)
        logs = self.model.get_metrics_result()
        test_logs = self.model.evaluate(
            self.validation(), callbacks=callbacks, return_dict=True
        )
        logs |= {f"val_{name}": value for name, value in test_logs.items()}
        callbacks.on_epoch_end(epoch, logs)


def _monitors(monitor, callbacks):
    """The logged values that somebody waits for, by who that is."""
    monitors = {} if monitor is None else {"`monitor`": monitor}
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if name is not None:
            monitors[f"`monitor` of {type(callback).__name__}"] = name
            if getattr(callback, "mode", None) == "auto":
                # Keras finds out at the end of the first epoch whether it can
                # tell the direction by itself, and raises an error if not.
                callback.mode = "min" if is_to_be_small(name) else "max"
    return monitors


def _check_monitors(monitors, names):
    logged = sorted([*names, *(f"val_{name}" for name in names)])
    for who, name in monitors.items():
        if name not in logged:
            raise ConfigError(
                f"{who} must be one of {logged}. Received: monitor={name!r}"
            )


def _append_to_csv_files(callbacks):
    """Lets files keep the epochs before the interruption."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            callback.append = True
