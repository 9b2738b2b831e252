"""Time-domain filterbanks: filters of a waveform, trained sample by sample."""

import keras
import numpy as np
from keras import ops

from diffstride.layers.filterbank import BaseFilterbank
from diffstride.ops.filterbanks import WIDTH_PRODUCT, gabor_filters, mel_bands
from diffstride.validation import check_positive


@keras.saving.register_keras_serializable(package="diffstride")
class TimeDomainFilterbank(BaseFilterbank):
    """Trainable front end: free complex filters, pooling, and a logarithm.

    Each band has a complex filter as long as the window, every sample of which
    is trained. A fixed window, a squared Hann window, averages the squared
    modulus of its output in each frame. The result is the natural logarithm
    of this energy plus `log_offset`. At the start the filters are Gabor filters
    that are like the triangles of a mel spectrogram, and so is the result.

    The entries of `filters`, the weight, are small: those of a band that is 70
    Hz wide are 0.005 and less. An optimizer such as Adam moves all entries
    equally far, which adds noise to them at the learning rate of a network;
    `diffstride.set_weight_rates` can give them a smaller one.

    All of it is computed in float32 under every dtype policy. The output is a
    logarithm, as that of `LogMelSpectrogram`, and `DiffRes` takes it so.

    Args:
        sample_rate: number. Samples per second.
        window_ms: number. Length of the filters, and of a frame in which
            energies are averaged, in milliseconds.
        hop_ms: number. Milliseconds from one frame to the next.
        num_filters: integer. Number of bands.
        fmin: number. Lower edge of the first band at the start, in hertz.
        fmax: number, or None for `sample_rate / 2`. Upper edge of the last
            band at the start, in hertz.
        filter_stride: integer that divides the hop. Samples from one output of
            a filter to the next: 1 as published; 8 is eight times as cheap, and
            averages fewer energies.
        log_offset: positive number. It is added before the logarithm, so that
            silence gives a finite number. The default is as small beside a tone
            as that of `LogMelSpectrogram`.
        center: whether frame `t` is centred at `t` hops, with zeros around the
            waveform, rather than beginning there.

    Input shape:
        `(batch, samples)`, of a floating-point dtype, with samples between -1
        and 1.

    Output shape:
        `(batch, frames, num_filters, 1)`, with as many frames, at the same
        times, as `LogMelSpectrogram`: `1 + (samples - window) // hop`, or
        `1 + samples // hop` if `center`.

    Example:

    >>> waveform = np.random.uniform(-1, 1, (2, 16000)).astype("float32")
    >>> tuple(TimeDomainFilterbank(num_filters=40)(waveform).shape)
    (2, 98, 40, 1)

    References:
        - Zeghidour et al., [Learning filterbanks from raw speech for phone
          recognition](https://arxiv.org/abs/1711.01161), 2018: section 2.
    """

    filters_per_band = 2

    def __init__(
        self,
        sample_rate: float = 16000,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        num_filters: int = 64,
        fmin: float = 60.0,
        fmax: float | None = 7800.0,
        filter_stride: int = 1,
        log_offset: float = 1e-9,
        center: bool = False,
        **kwargs,
    ):
        super().__init__(
            *(sample_rate, window_ms, hop_ms, num_filters, fmin, fmax),
            filter_stride=filter_stride,
            center=center,
            **kwargs,
        )
        check_positive(log_offset=log_offset)
        self.log_offset = log_offset
        self._pooling = self._squared_hann_window()

    def _squared_hann_window(self):
        """Weights of the outputs of a frame, as a sum of one over all samples
        of the window would have them."""
        (group,) = self._groups
        samples = np.arange(self._window_length)
        # Symmetric, and not zero at its ends.
        phase = 2 * np.pi * (samples + 0.5) / self._window_length
        window = np.square(0.5 - 0.5 * np.cos(phase))
        window = window[group.first : group.last + 1 : group.stride] / (
            window.sum() / group.stride
        )
        return np.tile(window[:, None], self.num_filters).astype("float32")

    def build(self, input_shape):
        super().build(input_shape)
        centers, bandwidths = mel_bands(self.fmin, self._fmax, self.num_filters)
        bandwidths = np.maximum(bandwidths, self.sample_rate / self._taps)
        deviations = WIDTH_PRODUCT * self.sample_rate / bandwidths
        self.filters = self.add_weight(
            name="filters",
            shape=(self._taps, 2 * self.num_filters),
            initializer=lambda shape, dtype: gabor_filters(
                ops.convert_to_tensor(centers / self.sample_rate, dtype),
                ops.convert_to_tensor(deviations, dtype),
                self._taps,
            ),
            dtype="float32",
            autocast=False,
        )

    def _kernel(self, group):
        return ops.convert_to_tensor(self.filters)

    def _features(self, waveforms):
        (group,) = self._groups
        energies = self._energies(waveforms, group)
        weights = ops.convert_to_tensor(self._pooling)
        pooled = self._pooled(energies, weights, group)
        return ops.log(pooled + self.log_offset)

    def get_config(self):
        return {
            **super().get_config(),
            "filter_stride": self.filter_stride,
            "log_offset": self.log_offset,
        }
