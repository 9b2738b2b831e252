"""The first layer of SincNet: band-pass filters whose edges are trained."""

import math

import keras
import numpy as np
from keras import ops

from diffstride.layers.filterbank import BaseFilterbank
from diffstride.ops.filterbanks import mel_points, sinc_filters


@keras.saving.register_keras_serializable(package="diffstride")
class SincFilterbank(BaseFilterbank):
    """Trainable front end: ideal band-pass filters, and the maximum of each.

    Each band has a filter that passes the frequencies between two edges, cut to
    the length of the window by a Hamming window. The two edges are its only
    parameters. The maximum of its output in each frame is normalized over the
    bands of the frame, with a trained scale and offset for each band, and goes
    through a leaky rectifier. These are four parameters for each band. At the
    start the bands are side by side and equally wide on the mel scale.

    `log_low_frequencies` and `log_bandwidths`, the weights, are natural
    logarithms of hertz: a step of an optimizer changes all bands in the same
    proportion. (The paper trains hertz.) `low_frequencies()` and
    `high_frequencies()` return hertz. All of it is computed in float32 under
    every dtype policy.

    The output is on a linear scale: a `DiffRes` behind this layer needs
    `log_scale=False`.

    Args:
        sample_rate: number. Samples per second.
        window_ms: number. Length of the filters, and of a frame of which the
            maximum is taken, in milliseconds.
        hop_ms: number. Milliseconds from one frame to the next.
        num_filters: integer of 2 or more. Number of bands.
        fmin: number. Lower edge of the first band at the start, in hertz.
        fmax: number, or None for `sample_rate / 2`. Upper edge of the last
            band at the start, in hertz.
        filter_stride: integer that divides the hop. Samples from one output of
            a filter to the next: 1 as published; 4 is four times as cheap, and
            takes the maximum of fewer outputs.
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
    >>> tuple(SincFilterbank(num_filters=40)(waveform).shape)
    (2, 98, 40, 1)

    References:
        - Ravanelli and Bengio, [Speaker recognition from raw waveform with
          SincNet](https://arxiv.org/abs/1808.00158), 2018: section 2.
    """

    log_scale = False

    def __init__(
        self,
        sample_rate: float = 16000,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        num_filters: int = 64,
        fmin: float = 60.0,
        fmax: float | None = 7800.0,
        filter_stride: int = 1,
        center: bool = False,
        **kwargs,
    ):
        super().__init__(
            *(sample_rate, window_ms, hop_ms, num_filters, fmin, fmax),
            filter_stride=filter_stride,
            center=center,
            **kwargs,
        )
        if self.num_filters < 2:
            raise ValueError(
                "`num_filters` of a SincFilterbank must be 2 or more, because "
                "the outputs are normalized over the bands. "
                f"Received: num_filters={num_filters}"
            )

    def build(self, input_shape):
        super().build(input_shape)
        edges = mel_points(self.fmin, self._fmax, self.num_filters + 1)
        # No filter of the window's length is narrower than this.
        narrowest = self.sample_rate / self._taps
        # A filter of one sample passes all frequencies.
        highest = max(self.sample_rate / 2, narrowest)
        # The logarithm of zero hertz is not finite.
        limits = {
            "low_frequencies": self._lowest_frequency(),
            "bandwidths": narrowest,
        }
        self.log_low_frequencies, self.log_bandwidths = (
            self._add_parameter(
                f"log_{name}",
                np.log(np.maximum(hertz, limits[name])),
                math.log(limits[name]),
                math.log(highest),
            )
            for name, hertz in [
                ("low_frequencies", edges[:-1]),
                ("bandwidths", np.diff(edges)),
            ]
        )
        self.normalization = keras.layers.LayerNormalization(
            epsilon=1e-6, dtype="float32", name="normalization"
        )
        self.normalization.build((None, None, self.num_filters))

    def low_frequencies(self):
        """Lower edge of each band in hertz, a tensor."""
        return ops.exp(ops.convert_to_tensor(self.log_low_frequencies))

    def high_frequencies(self):
        """Upper edge of each band in hertz, at most half the sample rate, a
        tensor."""
        widths = ops.exp(ops.convert_to_tensor(self.log_bandwidths))
        edges = self.low_frequencies() + widths
        # Gradients pass the limit, so that a band at it can become narrower.
        beyond = ops.maximum(edges - self.sample_rate / 2, 0)
        return edges - ops.stop_gradient(beyond)

    def _kernel(self, group):
        return sinc_filters(
            self.low_frequencies() / self.sample_rate,
            self.high_frequencies() / self.sample_rate,
            group.taps,
        )

    def _features(self, waveforms):
        (group,) = self._groups
        maxima = ops.max_pool(
            self._filtered(waveforms, group),
            group.outputs,
            strides=self._hop_length // group.stride,
            padding="valid",
            data_format="channels_last",
        )
        return ops.leaky_relu(self.normalization(maxima), negative_slope=0.2)

    def get_config(self):
        return {**super().get_config(), "filter_stride": self.filter_stride}
