"""What all front ends share: from waveforms to frames of bands."""

import keras
import numpy as np
from keras import ops

from diffstride.validation import (
    check_choice,
    check_floating_point,
    check_positive,
    is_number,
)


def check_band_limits(fmin, fmax, sample_rate):
    """Returns `fmax` in hertz; its default is half the sample rate."""
    check_positive(sample_rate=sample_rate)
    nyquist = sample_rate / 2
    upper = nyquist if fmax is None else fmax
    if not is_number(fmin) or not is_number(upper):
        raise ValueError(
            "`fmin` must be a number, and `fmax` a number or None. "
            f"Received: fmin={fmin!r}, fmax={fmax!r}"
        )
    if not 0 <= fmin < upper <= nyquist:
        advice = ". Pass `fmax=None` for half of the sample rate"
        raise ValueError(
            "`fmin` must be less than `fmax`, and both between 0 and half the "
            f"sample rate, {nyquist} Hz. Received: fmin={fmin}, fmax={fmax}"
            + (advice if upper > nyquist else "")
        )
    return upper


class BaseFrontend(keras.layers.Layer):
    """Cuts waveforms into frames and computes the bands of each.

    Frame `t` covers the samples from `t` hops on, for the length of a window;
    with `center` its middle is at `t` hops, and there are zeros around the
    waveform. Everything is computed in float32 under every dtype policy,
    because quiet samples are below the resolution of float16; only the result
    is cast.

    A waveform must last a window or more. Where its length is known only when
    the graph runs, a shorter one gets zeros at its end, up to one frame.

    A subclass implements `_features`, from (batch, samples) in float32 to
    (batch, frames, bands), and `frequency_responses`.

    Attributes:
        log_scale: whether the outputs are logarithms of energies, so that a
            layer such as `DiffRes` merges frames on the linear scale.
    """

    log_scale = True

    def __init__(
        self,
        sample_rate: float,
        window_ms: float,
        hop_ms: float,
        num_bands: int,
        center: bool,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        check_positive(
            sample_rate=sample_rate, window_ms=window_ms, hop_ms=hop_ms
        )
        self.sample_rate = sample_rate
        self.window_ms = window_ms
        self.hop_ms = hop_ms
        self.center = check_choice(center, "center", (True, False))
        self.input_spec = keras.layers.InputSpec(ndim=2)
        self._num_bands = num_bands
        self._window_length = round(sample_rate * window_ms / 1000)
        self._hop_length = round(sample_rate * hop_ms / 1000)
        if self._window_length < 1 or self._hop_length < 1:
            raise ValueError(
                "`window_ms` and `hop_ms` must last a sample or more. Received:"
                f" window_ms={window_ms}, hop_ms={hop_ms} at "
                f"sample_rate={sample_rate}"
            )

    def _frame_length(self):
        """Samples that a frame needs, with padding."""
        return self._window_length

    def _padding(self):
        """Zeros before and after the waveform."""
        if not self.center:
            return 0, 0
        before = self._window_length // 2
        return before, self._window_length - before

    def _fewest_samples(self):
        """Samples that the first frame needs of the waveform."""
        return self._frame_length() - sum(self._padding())

    def _frames(self, samples):
        samples -= self._fewest_samples()
        return max(0, 1 + samples // self._hop_length)

    def _check_length(self, samples):
        if samples is not None and self._frames(samples) < 1:
            raise ValueError(
                f"`inputs` of layer '{self.name}' must last a window or more, "
                f"{self._fewest_samples()} samples. Received: {samples} "
                "samples. Pad them with zeros, or pass a shorter `window_ms`."
            )

    def _check_floating(self, inputs):
        check_floating_point(
            inputs,
            self.name,
            "divide 16-bit samples by 32768, for instance with "
            "`keras.layers.Rescaling(1 / 32768)`",
        )

    def _output_dtype(self):
        return self.compute_dtype

    def build(self, input_shape):
        self._check_length(input_shape[-1])

    def call(self, inputs):
        self._check_floating(inputs)
        self._check_length(inputs.shape[-1])
        if inputs.shape[0] == 0 and inputs.shape[1] is not None:
            # Transforms and convolutions of some backends return other shapes
            # for an empty batch.
            shape = self.compute_output_shape(inputs.shape)
            return ops.zeros(shape, self._output_dtype())
        waveforms = ops.cast(inputs, "float32")
        if inputs.shape[1] is None:
            missing = self._fewest_samples() - ops.shape(inputs)[1]
            waveforms = ops.pad(
                waveforms, [(0, 0), (0, ops.maximum(missing, 0))]
            )
        features = self._features(waveforms)
        return ops.cast(ops.expand_dims(features, -1), self._output_dtype())

    def _features(self, waveforms):
        raise NotImplementedError

    def frequency_responses(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns what each band makes of a tone.

        Returns:
            Two arrays: frequencies in hertz, and the power with which each
            band passes them (bands, frequencies).
        """
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        batch, samples = input_shape
        self._check_length(samples)
        frames = None if samples is None else self._frames(samples)
        return (batch, frames, self._num_bands, 1)

    def compute_output_spec(self, inputs):
        self._check_floating(inputs)
        return keras.KerasTensor(
            self.compute_output_shape(inputs.shape), self._output_dtype()
        )

    def get_config(self):
        return {
            **super().get_config(),
            "sample_rate": self.sample_rate,
            "window_ms": self.window_ms,
            "hop_ms": self.hop_ms,
            "center": self.center,
        }
