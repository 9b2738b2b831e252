"""Back from the output frames of DiffRes to the frames of its input."""

import keras
from keras import ops

from diffstride.ops import unwarping, warping


@keras.saving.register_keras_serializable(package="diffstride")
class RestoreFrames(keras.layers.Layer):
    """Brings what a model finds in output frames of DiffRes back in time.

    Each frame of the input receives the features of the output frame that it
    became a part of. A frame that was split between two receives their average,
    weighted by its pieces. So a model can find events in few frames, and say
    for each frame of the input what happens there.

    Frames of padding receive the features of some output frame; leave them out
    of the loss.

    Call arguments:
        outputs: (batch, output frames, channels), features such as predictions.
        warp: (batch, time, 3), the second output of a `DiffRes` with
            `return_warp=True`.

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

    def build(self, outputs_shape, warp_shape):
        del outputs_shape, warp_shape

    def call(self, outputs, warp):
        restored = unwarping.to_frames(
            ops.cast(outputs, "float32"), warping.from_tensor(warp)
        )
        return ops.cast(restored, self.compute_dtype)

    def compute_output_shape(self, outputs_shape, warp_shape):
        return (*warp_shape[:2], outputs_shape[-1])
