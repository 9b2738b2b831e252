"""What the layers that reduce the frames of a spectrogram share.

The documentation of the arguments is with the layers in
`diffstride.layers.diffres`.
"""

import keras
import numpy as np
from keras import ops

from diffstride.ops import warping
from diffstride.validation import check_positive_integer, is_number

# Clip log-mel values to ±80, because exp() overflows float32 above 88.
LOG_RANGE = 80.0


@keras.saving.register_keras_serializable(package="diffstride")
class ResConv1D(keras.layers.Layer):
    """Two convolutions over time, the second one residual (Figure 3).

    Each is followed by a leaky rectifier and batch normalization, with the
    settings of the released PyTorch code.

    Args:
        filters: integer. Number of output channels.
        kernel_size: integer. Frames that a convolution sees. Defaults to 5.

    Input shape:
        `(batch, time, channels)`

    Output shape:
        `(batch, time, filters)`

    Example:

    >>> x = np.ones((2, 50, 16), "float32")
    >>> tuple(ResConv1D(8)(x).shape)
    (2, 50, 8)
    """

    def __init__(self, filters: int, kernel_size: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.filters = check_positive_integer(filters, "filters")
        self.kernel_size = check_positive_integer(kernel_size, "kernel_size")
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self._convolutions = [
            keras.layers.Conv1D(
                filters, kernel_size, padding="same", dtype=self.dtype_policy
            )
            for _ in range(2)
        ]
        self._normalizations = [
            keras.layers.BatchNormalization(
                momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy
            )
            for _ in range(2)
        ]

    def build(self, input_shape):
        hidden_shape = self.compute_output_shape(input_shape)
        shapes = (input_shape, hidden_shape)
        for convolution, shape in zip(self._convolutions, shapes, strict=True):
            convolution.build(shape)
        for normalization in self._normalizations:
            normalization.build(hidden_shape)

    def call(self, inputs, training=None):
        hidden = self._half(0, inputs, training)
        return hidden + self._half(1, hidden, training)

    def _half(self, index, inputs, training):
        x = self._convolutions[index](inputs)
        x = ops.leaky_relu(x, negative_slope=0.01)
        return self._normalizations[index](x, training=training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
        }


def build_all(layers, input_shape):
    """Builds layers that follow one another."""
    for layer in layers:
        layer.build(input_shape)
        input_shape = layer.compute_output_shape(input_shape)


class BaseFrameReduction(keras.layers.Layer):
    """Reduces the frames of a spectrogram; computes in float32.

    A subclass makes the features, a list of (batch, output frames, mel).
    """

    # All frame reductions output three channels, so that one classifier fits
    # after each. A layer with fewer features repeats them.
    channels = 3

    def __init__(
        self,
        reduction_rate: float | None = None,
        output_frames: int | None = None,
        log_scale: bool = True,
        **kwargs,
    ):
        # Compute in float32, because float16 gives errors of 6 % after exp(),
        # and larger ones in running sums.
        super().__init__(autocast=False, **kwargs)
        if (reduction_rate is None) == (output_frames is None):
            raise ValueError(
                "Exactly one of `reduction_rate` and `output_frames` must be "
                f"given. Received: reduction_rate={reduction_rate}, "
                f"output_frames={output_frames}"
            )
        if output_frames is not None:
            output_frames = check_positive_integer(
                output_frames, "output_frames"
            )
        elif is_number(reduction_rate) and 0 <= reduction_rate < 1:
            reduction_rate = float(reduction_rate)
        else:
            raise ValueError(
                "`reduction_rate` must be a number of 0 or more, below 1. "
                f"Received: reduction_rate={reduction_rate}"
            )
        self.reduction_rate = reduction_rate
        self.output_frames = output_frames
        self.log_scale = log_scale
        self.input_spec = keras.layers.InputSpec(min_ndim=3, max_ndim=4)

    def _check_input_shape(self, input_shape):
        """Raises an error for a wrong shape; returns the number of mels."""
        if len(input_shape) == 4 and input_shape[3] != 1:
            raise ValueError(
                f"Inputs of layer '{self.name}' with four axes must have one "
                f"channel. Received: input_shape={tuple(input_shape)}"
            )
        if input_shape[2] is None:
            raise ValueError(
                f"Inputs of layer '{self.name}' must have a known number of "
                f"mel channels. Received: input_shape={tuple(input_shape)}"
            )
        return input_shape[2]

    def build(self, input_shape):
        mels = self._check_input_shape(input_shape)
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={2: mels}
        )

    def call(self, inputs, training=None):
        spectrogram, output_frames = self._spectrogram(inputs)
        features = self._features(spectrogram, output_frames, training)
        features = [
            features[channel % len(features)]
            for channel in range(self._channels())
        ]
        # On a CPU this is faster than to stack along the last axis.
        outputs = ops.transpose(ops.stack(features, axis=1), (0, 2, 3, 1))
        return ops.cast(outputs, self.compute_dtype)

    def _features(self, spectrogram, output_frames, training):
        raise NotImplementedError

    def _channels(self):
        return self.channels

    def _output_frames(self, frames):
        if self.output_frames is not None:
            return self.output_frames
        return warping.reduced_frames(frames, self.reduction_rate)

    def _spectrogram(self, inputs):
        """Frames (batch, time, mel) in float32, and how many are to be left."""
        if inputs.shape[1] == 0:
            raise ValueError(
                f"Inputs of layer '{self.name}' must have frames. "
                f"Received: inputs.shape={tuple(inputs.shape)}"
            )
        if len(inputs.shape) == 4:
            inputs = ops.squeeze(inputs, axis=3)
        spectrogram = ops.cast(inputs, "float32")
        if self.log_scale:
            spectrogram = ops.clip(spectrogram, -LOG_RANGE, LOG_RANGE)
        frames = ops.shape(spectrogram)[1]
        output_frames = self._output_frames(frames)
        if self.output_frames is None:
            return spectrogram, output_frames
        # A clip with too few frames is stretched by repeating each.
        repeats = self._repeats(frames)
        if isinstance(repeats, int):
            if repeats > 1:
                spectrogram = ops.repeat(spectrogram, repeats, axis=1)
        else:
            indices = ops.arange(frames * repeats, dtype="int32") // repeats
            spectrogram = ops.take(spectrogram, indices, axis=1)
        return spectrogram, output_frames

    def _repeats(self, frames):
        return -(-self._output_frames(frames) // frames)

    def _to_linear(self, spectrogram):
        return ops.exp(spectrogram) if self.log_scale else spectrogram

    def _from_linear(self, features, linear):
        """The logarithm of features, if the input was one.

        Features below the quietest point of the clip are raised to it, because
        the logarithm of zero is not finite.
        """
        if not self.log_scale:
            return features
        # `initial` gives an empty batch a minimum.
        quietest = ops.min(linear, axis=(1, 2), keepdims=True, initial=np.inf)
        return ops.log(ops.maximum(features, ops.stop_gradient(quietest)))

    def compute_output_shape(self, input_shape):
        mels = self._check_input_shape(input_shape)
        frames = self._output_frames(input_shape[1])
        return (input_shape[0], frames, mels, self._channels())

    def get_config(self):
        return {
            **super().get_config(),
            "reduction_rate": self.reduction_rate,
            "output_frames": self.output_frames,
            "log_scale": self.log_scale,
        }
