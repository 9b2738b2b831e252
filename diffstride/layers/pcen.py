"""Per-channel energy normalization, in place of the logarithm."""

import keras
from keras import ops

from diffstride.layers.limits import Limits
from diffstride.ops.filterbanks import running_mean
from diffstride.validation import check_positive, is_number

# The range in which training keeps each weight. A power of zero would leave
# nothing of the sound, a smoothing of one has no memory, and the gradient of
# the power of zero is infinite.
RANGES = {
    "gain": (0.0, 1.0),
    "bias": (1e-3, 1e3),
    "power": (0.01, 1.0),
    "smoothing": (1e-3, 0.999),
}


@keras.saving.register_keras_serializable(package="diffstride")
class PCEN(keras.layers.Layer):
    """Divides energies by their running mean, and compresses the quotient.

    With the energy E of a band and its running mean M over time,

        M(t) = (1 - s) M(t - 1) + s E(t), which begins as E(0),
        PCEN(t) = (E(t) / (ε + M(t))^α + δ)^r - δ^r.

    The division makes loud and quiet recordings alike, and what does not
    change in time goes down. Each band has a `gain` α, a `bias` δ, a `power` r
    and a `smoothing` s of its own. All are trained, and training keeps them in
    a range in which the result is finite; with `trainable=False` they keep
    their first values. The defaults are those of Wang et al.

    Everything is computed in float32, powers as exponentials of logarithms,
    and the running mean by products with small matrices instead of a loop.
    Negative inputs count as zero. After a NaN or an infinity, the later frames
    of that band are not finite either, because the mean remembers it.

    The layer passes a mask of frames on. A mean has seen no later frame, so
    padding at the end of a clip changes nothing before it.

    The layer takes energies, not their logarithms:
    `LogMelSpectrogram(log_offset=None)` returns them. Its output is on a
    linear scale: a `DiffRes` behind it needs `log_scale=False`.

    Args:
        gain: number from 0 to 1, α. 0 leaves the loudness as it is.
        bias: number of 0.001 or more, δ.
        power: number from 0.01 to 1, r.
        smoothing: number from 0.001 to 0.999, s. The mean forgets within about
            1 / s frames.
        epsilon: positive number, ε. Energies far below it stay quiet.

    Input shape:
        `(batch, frames, bands, 1)` or `(batch, frames, bands)`

    Output shape:
        Same as the input shape.

    Example:

    >>> waveform = np.random.uniform(-1, 1, (2, 16000)).astype("float32")
    >>> energies = LogMelSpectrogram(log_offset=None)(waveform)
    >>> tuple(PCEN()(energies).shape)
    (2, 98, 64, 1)

    References:
        - Wang et al., [Trainable frontend for robust and far-field keyword
          spotting](https://arxiv.org/abs/1607.05666), 2017: Eqs. 1 and 2.
    """

    # The outputs are no logarithms (see `BaseFrontend`).
    log_scale = False

    def __init__(
        self,
        gain: float = 0.98,
        bias: float = 2.0,
        power: float = 0.5,
        smoothing: float = 0.025,
        epsilon: float = 1e-6,
        **kwargs,
    ):
        # Keep the energies in float32, because their range is larger than that
        # of float16.
        super().__init__(autocast=False, **kwargs)
        values = {
            "gain": gain,
            "bias": bias,
            "power": power,
            "smoothing": smoothing,
        }
        for name, value in values.items():
            lower, upper = RANGES[name]
            if not is_number(value) or not lower <= value <= upper:
                raise ValueError(
                    f"`{name}` must be a number from {lower} to {upper}. "
                    f"Received: {name}={value}"
                )
        check_positive(epsilon=epsilon)
        self.gain = gain
        self.bias = bias
        self.power = power
        self.smoothing = smoothing
        self.epsilon = epsilon
        self.input_spec = keras.layers.InputSpec(min_ndim=3, max_ndim=4)
        self.supports_masking = True

    def build(self, input_shape):
        if input_shape[2] is None or tuple(input_shape[3:]) not in ((), (1,)):
            raise ValueError(
                f"Inputs of layer '{self.name}' must have a known number of "
                "bands, and one channel where they have four axes. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={2: input_shape[2]}
        )
        self._gain, self._bias, self._power, self._smoothing = (
            self.add_weight(
                name=name,
                shape=(input_shape[2],),
                initializer=keras.initializers.Constant(getattr(self, name)),
                constraint=Limits(*RANGES[name]),
                dtype="float32",
                autocast=False,
            )
            for name in RANGES
        )

    def call(self, inputs):
        energies = ops.relu(ops.cast(inputs, "float32"))
        if len(inputs.shape) == 4:
            energies = ops.squeeze(energies, axis=3)
        gain, bias, power, smoothing = map(
            ops.convert_to_tensor,
            (self._gain, self._bias, self._power, self._smoothing),
        )
        means = running_mean(energies, smoothing)
        normalized = energies * ops.exp(-gain * ops.log(self.epsilon + means))
        outputs = ops.exp(power * ops.log(normalized + bias)) - ops.exp(
            power * ops.log(bias)
        )
        if len(inputs.shape) == 4:
            outputs = ops.expand_dims(outputs, -1)
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "gain": self.gain,
            "bias": self.bias,
            "power": self.power,
            "smoothing": self.smoothing,
            "epsilon": self.epsilon,
        }
