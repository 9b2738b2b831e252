"""What the strides of a model do during a `fit`."""

import keras

from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import layer_costs
from diffstride.analysis.resolution import resolution
from diffstride.training.plots import plot_strides
from diffstride.types import FilePath, Shape


class StrideHistory(keras.callbacks.Callback):
    """Records strides, sizes of maps and operations, epoch by epoch.

    They also become part of the logs of each epoch: `strides/LAYER/AXIS`,
    `sizes/LAYER/AXIS` and `macs`. The history that `fit` returns has them, and
    so have `keras.callbacks.TensorBoard` and `CSVLogger`, if they come later in
    the list of callbacks.

    Args:
        input_shape: shape of an example, without the batch. Defaults to that of
            the model's input. Where a size of it is unknown, only the strides
            are recorded.

    Attributes:
        history: list of dicts, one before training and one for each epoch, with
            `epoch`, `strides`, `sizes` and `macs`.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((16, 16, 1)),
    ...         DiffStride(2, name="pooling"),
    ...         keras.layers.GlobalMaxPooling2D(),
    ...     ]
    ... )
    >>> model.compile("sgd", "mse")
    >>> strides = StrideHistory()
    >>> x, y = np.ones((4, 16, 16, 1)), np.zeros((4, 1))
    >>> _ = model.fit(x, y, callbacks=[strides], verbose=0)
    >>> strides.history[0]["strides"], strides.history[0]["sizes"]
    ({'pooling': [2.0, 2.0]}, {'pooling': [16, 16]})

    `strides.plot("strides.png")` then draws the strides by epoch.
    """

    def __init__(self, input_shape: Shape | None = None):
        super().__init__()
        self.input_shape = input_shape
        self.history = []

    def on_train_begin(self, logs=None):
        # A second call of `fit` goes on with the history of the first.
        if not self.history and all(
            layer.built for layer in learned_layers(self.model)
        ):
            self._record(0)

    def on_epoch_end(self, epoch, logs=None):
        row = self._record(epoch + 1)
        if logs is None:
            return
        for name in ("strides", "sizes"):
            for layer, values in row[name].items():
                for axis, value in enumerate(values):
                    logs[f"{name}/{layer}/{axis}"] = value
        if "macs" in row:
            logs["macs"] = row["macs"]

    def _record(self, epoch):
        costs = ()
        shape = self.input_shape
        if shape is None:
            shape = getattr(self.model, "input_shape", (None, None))[1:]
        if all(isinstance(size, int) for size in shape):
            costs = layer_costs(self.model, shape)
        row = {"epoch": epoch, **resolution(self.model, costs)}
        self.history.append(row)
        return row

    def plot(self, path: FilePath) -> None:
        """Draws the strides of each layer by epoch.

        Args:
            path: the file to write. Its suffix tells the format.
        """
        if not self.history or not self.history[0]["strides"]:
            raise ValueError(
                "There are no strides to plot: call `fit` first, with a model "
                f"that has DiffStride layers. Received: {len(self.history)} "
                "epochs in `history`"
            )
        plot_strides([row["strides"] for row in self.history], path)
