"""Back from the output frames of DiffRes to the frames of its input."""

import keras
from keras import ops

from diffstride.layers.frame_reduction import fits
from diffstride.ops import unwarping, warping


@keras.saving.register_keras_serializable(package="diffstride")
class RestoreFrames(keras.layers.Layer):
    """Brings what a model finds in output frames of DiffRes back in time.

    Each frame of the input receives the features of the output frame that it
    became a part of. A frame that was split between two receives their average,
    weighted by its pieces. So a model can find events in few frames, and say
    for each frame of the input what happens there.

    Frames of padding receive the features of some output frame. A mask of the
    spectrograms becomes the mask of the output, so that Keras leaves them out
    of the loss.

    Call arguments:
        outputs: (batch, output frames, channels), features such as predictions.
        warp: (batch, time, 3), the second output of a `DiffRes` with
            `return_warp=True`.
        warp_mask: booleans (batch, time), False for padding. Defaults to the
            mask of `warp`, which `DiffRes` gives it if it has one.

    Output shape:
        `(batch, time, channels)`

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> merge = DiffRes(0.75, features="mean", return_warp=True)
    >>> merged, warp = merge(log_mel)
    >>> predictions = keras.layers.Dense(1, activation="sigmoid")(merged)
    >>> tuple(predictions.shape)
    (2, 25, 1)
    >>> tuple(RestoreFrames()(predictions, warp).shape)
    (2, 100, 1)
    """

    def __init__(self, **kwargs):
        # The warp stays in float32: its first number is an index.
        super().__init__(autocast=False, **kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.supports_masking = True
        # From a call to the `compute_mask` that follows it.
        self._mask = None

    def build(self, outputs_shape, warp_shape):
        self._check(outputs_shape, warp_shape)

    def _check(self, outputs_shape, warp_shape):
        if not fits(warp_shape, (outputs_shape[0], None, 3)):
            raise ValueError(
                f"`warp` of layer '{self.name}' must have the shape (batch, "
                "time, 3) and the batch of `outputs`: it is the second output "
                "of a `DiffRes` with `return_warp=True`. Received: "
                f"warp.shape={tuple(warp_shape)}, "
                f"outputs.shape={tuple(outputs_shape)}"
            )

    def call(self, outputs, warp, warp_mask=None):
        self._check(outputs.shape, warp.shape)
        self._mask = warp_mask
        restored = unwarping.to_frames(
            ops.cast(outputs, "float32"), warping.from_tensor(warp)
        )
        return ops.cast(restored, self.compute_dtype)

    def compute_mask(self, outputs, previous_mask=None):
        # The mask of `outputs` is that of other frames.
        mask, self._mask = self._mask, None
        return mask

    def compute_output_shape(self, outputs_shape, warp_shape):
        return (*warp_shape[:2], outputs_shape[-1])
