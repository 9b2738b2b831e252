"""What happens beside the fit: records, and a stop at NaN."""

import importlib.util
import json
import math
import pathlib
import time

import keras
from keras import ops

from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import layer_costs
from diffstride.analysis.resolution import resolution
from diffstride.training import processes
from diffstride.training.checkpoint_files import write_atomically


class StopOnNaN(keras.callbacks.Callback):
    """Raises `FloatingPointError` at the first step without a finite loss.

    Args:
        progress: the `Progress` of the run.
        checkpoints: the `Checkpoints` of the run, to name the last good one.
    """

    # Keras then reads the loss in a thread and need not wait for each step.
    async_safe = True

    def __init__(self, progress, checkpoints):
        super().__init__()
        self._progress = progress
        self._checkpoints = checkpoints

    def on_epoch_begin(self, epoch, logs=None):
        self._losses = {}
        self._checked = self._progress.step

    def on_train_batch_end(self, batch, logs=None):
        self._losses[batch] = logs["loss"]

    def on_train_batch_begin(self, batch, logs=None):
        self._check_losses()

    def on_test_begin(self, logs=None):
        self._check_losses()

    def on_epoch_end(self, epoch, logs=None):
        self._check_losses()
        for name, value in logs.items():
            if not math.isfinite(value):
                self._stop(f"`{name}` is {value} after epoch {epoch + 1}.")

    def _check_losses(self):
        # Threads may deliver the losses out of order.
        while self._checked in self._losses:
            loss = self._losses.pop(self._checked)
            self._checked += 1
            if not math.isfinite(loss):
                self._stop(
                    f"The loss is {loss} at step {self._checked} of epoch "
                    f"{self._progress.epoch + 1}."
                )

    def _stop(self, reason):
        steps = self._checkpoints.steps()
        kept = self._checkpoints.path(steps[-1]) if steps else "none yet"
        raise FloatingPointError(
            f"{reason} Training stops; a smaller learning rate or a warm-up "
            f"may help. Last good checkpoint: {kept}"
        )


class Recorder(keras.callbacks.Callback):
    """Adds one line to the history for each epoch.

    A line holds the metrics, the learning rate, the strides of every layer that
    learns them and the size of its output, what the model costs, the training
    functions compiled so far, and the time.

    Args:
        progress: the `Progress` of the run.
        path: the JSON-lines file.
        input_shape: shape of an example, to count operations with; where a
            size is None, nothing is counted.
        refresh: the `RefreshSizes` of the run.
    """

    def __init__(self, progress, path, input_shape, refresh):
        super().__init__()
        self._refresh = refresh
        self._progress = progress
        self._path = pathlib.Path(path)
        self._input_shape = input_shape
        self.costs = None

    def write(self):
        """Makes the file say what the progress says, and no more."""
        if not processes.is_first():
            return
        lines = [json.dumps(row) + "\n" for row in self._progress.history]
        write_atomically(
            self._path, lambda file: file.write("".join(lines).encode())
        )

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_began = time.monotonic() - self._progress.seconds
        self._training_began = time.monotonic()
        self._steps_before = self._steps = self._progress.step
        self._second_step = self._progress.step + 1

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self._second_step:  # The first step may also compile.
            self._training_began = time.monotonic()
            self._steps_before = self._steps
        self._steps += 1

    def on_test_begin(self, logs=None):
        seconds = time.monotonic() - self._training_began
        # The loss is a mean over all images of the epoch.
        images = float(ops.convert_to_numpy(self.model.metrics[0].count))
        share = (self._steps - self._steps_before) / self._steps
        self._images_per_second = images * share / seconds

    def on_epoch_end(self, epoch, logs=None):
        if learned_layers(self.model) or self.costs is None:
            self.costs = []
            if None not in self._input_shape:
                self.costs = layer_costs(self.model, self._input_shape)
        row = {
            "epoch": epoch + 1,
            **logs,
            "learning_rate": float(
                ops.convert_to_numpy(self.model.optimizer.learning_rate)
            ),
            **resolution(self.model, self.costs),
            "compilations": self._refresh.compilations,
            "seconds": round(time.monotonic() - self._epoch_began, 3),
            "images_per_second": round(self._images_per_second, 1),
        }
        self._progress.history.append(row)
        self.write()


def tensorboard_is_installed():
    """Whether `TensorBoard` can write: TensorFlow alone is not enough."""
    return keras.backend.backend() == "tensorflow" and bool(
        importlib.util.find_spec("tensorboard")
    )


class TensorBoard(keras.callbacks.Callback):
    """Writes what a `Recorder` has just recorded, for TensorBoard.

    Keras's own callback knows the metrics of an epoch, but not the strides,
    sizes and operations.

    Args:
        recorder: the `Recorder` of the run.
        progress: the `Progress` of the run.
        log_dir: directory of the event files.
    """

    def __init__(self, recorder, progress, log_dir):
        super().__init__()
        from tensorflow import summary

        self._summary = summary
        self._recorder = recorder
        self._progress = progress
        self._writers = {
            split: summary.create_file_writer(str(pathlib.Path(log_dir, split)))
            for split in ("train", "validation")
        }

    def on_epoch_end(self, epoch, logs=None):
        row = self._progress.history[-1]
        scalars = {"train": {}, "validation": {}}
        for name, value in row.items():
            if name.startswith("val_"):
                scalars["validation"][f"epoch_{name[4:]}"] = value
            elif isinstance(value, dict):
                for layer, numbers in value.items():
                    for axis, number in enumerate(numbers):
                        scalars["train"][f"{name}/{layer}/{axis}"] = number
            elif name != "epoch":
                scalars["train"][f"epoch_{name}"] = value
        for index, cost in enumerate(self._recorder.costs):
            if cost.macs:
                # Numbered, as layers of different blocks may share a name.
                scalars["train"][f"macs/{index:03d}_{cost.name}"] = cost.macs
        for split, values in scalars.items():
            with self._writers[split].as_default(step=epoch):
                for name, value in values.items():
                    self._summary.scalar(name, value)
            self._writers[split].flush()
