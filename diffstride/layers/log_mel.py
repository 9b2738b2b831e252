"""From a waveform to a log-compressed mel spectrogram, inside the model."""

import math

import keras
import numpy as np
from keras import ops

from diffstride.layers.frontend import BaseFrontend, check_band_limits
from diffstride.ops.filterbanks import mel_points
from diffstride.validation import check_positive, check_positive_integer


@keras.saving.register_keras_serializable(package="diffstride")
class LogMelSpectrogram(BaseFrontend):
    """Log-compressed mel spectrogram of waveforms.

    The layer cuts the waveform into frames of `window_ms` every `hop_ms` and
    multiplies them by a window. It takes the magnitude of their Fourier
    transform to the power of `power`, and sums it with the weights of
    `num_mels` overlapping triangles, which are equally wide on the mel scale
    and one at their peak. The result is the natural logarithm of the sum plus
    `log_offset`.

    The spectrogram is computed in float32 under every dtype policy; only the
    result is cast. The layer has no weights. In a model it takes the place of
    preprocessing, so that the saved model takes audio.

    The defaults are the paper's 64 channels, 25 ms window and 10 ms hop at
    16 kHz, between the 60 Hz and 7800 Hz of Tagliasacchi et al. (2019), whose
    architecture the paper follows.

    Args:
        sample_rate: number. Samples per second.
        window_ms: number. Length of a frame in milliseconds.
        hop_ms: number. Milliseconds from one frame to the next.
        num_mels: integer. Number of mel channels.
        fmin: number. Lower edge of the first channel in hertz.
        fmax: number, or None for `sample_rate / 2`. Upper edge of the last
            channel in hertz.
        fft_length: integer of at least the window, or None for the next power
            of two. A longer transform resolves narrow channels better.
        window: `"hann"`, `"hamming"`, both periodic, or None.
        power: number. Exponent of the magnitude: 1 for the amplitude, 2 for the
            power.
        log_offset: positive number. It is added before the logarithm, so that
            silence gives a finite number. The default is larger than the
            rounding noise of 16-bit samples. With None there is no logarithm:
            the layer returns energies, for a layer such as `PCEN`. They are in
            float32 under every dtype policy, because float16 holds neither the
            loud ones nor the quiet ones.
        center: whether frame `t` is centred at `t` hops, with zeros around the
            waveform, rather than beginning there.

    Input shape:
        `(batch, samples)`, of a floating-point dtype, with samples between -1
        and 1. Integers are an error: divide 16-bit samples by 32768 first.

    Output shape:
        `(batch, frames, num_mels, 1)`, with `1 + (samples - window) // hop`
        frames, or `1 + samples // hop` if `center`. A second at 16 kHz makes 98
        frames of 400 samples every 160 samples, or 101 if `center`.

    Example:

    >>> waveform = np.random.uniform(-1, 1, (2, 16000)).astype("float32")
    >>> tuple(LogMelSpectrogram()(waveform).shape)
    (2, 98, 64, 1)

    References:
        - Riad et al., 2022, section 3.1.
        - Tagliasacchi et al., [Self-supervised audio representation learning
          for mobile devices](https://arxiv.org/abs/1905.11796), 2019.
    """

    def __init__(
        self,
        sample_rate: float = 16000,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        num_mels: int = 64,
        fmin: float = 60.0,
        fmax: float | None = 7800.0,
        fft_length: int | None = None,
        window: str | None = "hann",
        power: float = 2.0,
        log_offset: float | None = 1e-5,
        center: bool = False,
        **kwargs,
    ):
        num_mels = check_positive_integer(num_mels, "num_mels")
        if fft_length is not None:
            fft_length = check_positive_integer(fft_length, "fft_length")
        super().__init__(
            sample_rate, window_ms, hop_ms, num_mels, center, **kwargs
        )
        check_positive(power=power)
        if log_offset is not None:
            check_positive(log_offset=log_offset)
        self.num_mels = num_mels
        self.fmin = fmin
        self.fmax = fmax
        self.fft_length = fft_length
        self.window = window
        self.power = power
        self.log_offset = log_offset

        self._fft_length = fft_length or 2 ** math.ceil(
            math.log2(self._window_length)
        )
        if self._fft_length < self._window_length:
            raise ValueError(
                "`fft_length` must be at least the window, "
                f"{self._window_length} samples. "
                f"Received: fft_length={fft_length}"
            )
        self._window = _window(window, self._window_length)
        self._mel_matrix = mel_matrix(
            num_mels, self._fft_length, sample_rate, fmin, fmax
        )

    @property
    def log_scale(self):
        return self.log_offset is not None

    def _frame_length(self):
        return self._fft_length

    def _padding(self):
        """Zeros before and after the waveform, so that each frame is as long
        as the transform."""
        if self.center:
            return self._fft_length // 2, self._fft_length // 2
        left = (self._fft_length - self._window_length) // 2
        return left, self._fft_length - self._window_length - left

    def _output_dtype(self):
        return self.compute_dtype if self.log_scale else "float32"

    def _features(self, waveforms):
        real, imaginary = self._short_time_transform(waveforms)
        spectrum = ops.square(real) + ops.square(imaginary)
        if self.power != 2:
            # The gradient of a root is infinite at zero.
            spectrum = ops.power(
                ops.maximum(spectrum, keras.config.epsilon() ** 2),
                self.power / 2,
            )
        mels = ops.matmul(spectrum, self._mel_matrix)
        return ops.log(mels + self.log_offset) if self.log_scale else mels

    def _short_time_transform(self, waveforms):
        """Real and imaginary parts of the transform of every frame."""
        return ops.stft(
            ops.pad(waveforms, [(0, 0), self._padding()]),
            sequence_length=self._window_length,
            sequence_stride=self._hop_length,
            fft_length=self._fft_length,
            window=self._window,
            center=False,
        )

    def frequency_responses(self) -> tuple[np.ndarray, np.ndarray]:
        bins = np.arange(self._fft_length // 2 + 1)
        return bins * (self.sample_rate / self._fft_length), self._mel_matrix.T

    def get_config(self):
        return {
            **super().get_config(),
            "num_mels": self.num_mels,
            "fmin": self.fmin,
            "fmax": self.fmax,
            "fft_length": self.fft_length,
            "window": self.window,
            "power": self.power,
            "log_offset": self.log_offset,
        }


def mel_matrix(
    num_mels: int,
    fft_length: int,
    sample_rate: float,
    fmin: float = 0.0,
    fmax: float | None = None,
) -> np.ndarray:
    """Weights that sum the bins of a spectrum in mel channels.

    Args:
        num_mels: integer. Number of channels.
        fft_length: integer. Length of the Fourier transform.
        sample_rate: number. Samples per second.
        fmin: number. Lower edge of the first channel in hertz.
        fmax: number, or None for `sample_rate / 2`. Upper edge of the last
            channel in hertz.

    Returns:
        A float32 array of shape `(fft_length // 2 + 1, num_mels)`.

    Example:

    >>> mel_matrix(64, 512, 16000, 60, 7800).shape
    (257, 64)
    """
    upper = check_band_limits(fmin, fmax, sample_rate)
    num_mels = check_positive_integer(num_mels, "num_mels")
    fft_length = check_positive_integer(fft_length, "fft_length")
    bins = np.arange(fft_length // 2 + 1) * (sample_rate / fft_length)
    edges = mel_points(fmin, upper, num_mels + 2)
    # Lower edge, peak and upper edge of each channel in hertz. The triangles
    # have straight sides on the scale of hertz, as those of librosa do.
    lower, peak, higher = (
        edges[index : index + num_mels] for index in range(3)
    )
    rise = (bins[:, np.newaxis] - lower) / (peak - lower)
    fall = (higher - bins[:, np.newaxis]) / (higher - peak)
    matrix = np.maximum(0, np.minimum(rise, fall))
    empty = np.flatnonzero(matrix.sum(axis=0) == 0)
    if empty.size:
        raise ValueError(
            "`num_mels` is too large for the resolution of the transform: "
            f"channels {empty.tolist()} contain no frequency. Take fewer "
            "channels, or a longer `fft_length`. "
            f"Received: num_mels={num_mels}, fft_length={fft_length}"
        )
    return matrix.astype("float32")


def _window(window, length):
    weights = {None: (1.0, 0.0), "hann": (0.5, 0.5), "hamming": (0.54, 0.46)}
    if window not in list(weights):
        raise ValueError(
            "`window` must be 'hann', 'hamming' or None. "
            f"Received: window={window!r}"
        )
    constant, cosine = weights[window]
    phase = 2 * np.pi * np.arange(length) / length
    return (constant - cosine * np.cos(phase)).astype("float32")
