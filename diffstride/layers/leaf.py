"""LEAF: a front end of Gabor filters whose parameters are trained."""

import math

import keras
import numpy as np
from keras import ops

from diffstride.layers.filterbank import BaseFilterbank
from diffstride.layers.pcen import PCEN
from diffstride.ops.filterbanks import (
    WIDTH_PRODUCT,
    gabor_filters,
    gaussians,
    mel_bands,
)
from diffstride.validation import check_positive_integer

# Of an efficient filter bank, the length of a filter on each side, in standard
# deviations of its Gaussian: the rest is below 1.2 % of its peak.
_REACH = 3.0
# Of an efficient filter bank, the smallest standard deviation in filter
# strides. At twice this, where it begins, aliases of the energy are below
# 0.01 %, at this 3 %.
_SHORTEST = 0.6


@keras.saving.register_keras_serializable(package="diffstride")
class LEAF(BaseFilterbank):
    """Trainable front end: Gabor filters, Gaussian pooling, and PCEN.

    Each band has a complex Gabor filter: a wave in a Gaussian envelope, which
    has two parameters to train, a centre frequency and a bandwidth. The squared
    modulus of its output is the energy of the band. A Gaussian of a trained
    width averages the energies in each frame. `PCEN`, whose four parameters for
    each band are trained too, takes the place of a logarithm. These are seven
    parameters for each band. At the start the filters are those of a mel
    spectrogram.

    The layer computes 2 filters for each band at every sample, 512 million
    multiply-accumulates for 40 bands and a second at 16 kHz. With `num_groups`
    it computes the same more cheaply: neighbouring bands form groups, and
    each group has filters as short, and as far apart, as its bandwidths allow
    at the start. Training then keeps the bandwidths within what the group can
    compute.

    `log_center_frequencies` and `log_bandwidths`, the weights, are natural
    logarithms of hertz: a step of an optimizer changes all bands in the same
    proportion. (The paper trains frequencies in radians and bandwidths in
    samples.) `center_frequencies()` and `bandwidths()` return hertz. All of it
    is computed in float32 under every dtype policy.

    The output is on a linear scale: a `DiffRes` behind this layer needs
    `log_scale=False`.

    Args:
        sample_rate: number. Samples per second.
        window_ms: number. Length of the filters, and of a frame in which
            energies are averaged, in milliseconds.
        hop_ms: number. Milliseconds from one frame to the next.
        num_filters: integer. Number of bands.
        fmin: number. Lower edge of the first band at the start, in hertz.
        fmax: number, or None for `sample_rate / 2`. Upper edge of the last
            band at the start, in hertz.
        num_groups: integer, or None for the filters of the paper. A number
            about 8 is many times as fast.
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
    >>> tuple(LEAF(num_groups=8)(waveform).shape)
    (2, 98, 64, 1)

    References:
        - Zeghidour et al., [LEAF: a learnable frontend for audio
          classification](https://arxiv.org/abs/2101.08596), 2021: section 3.
        - Schlüter and Gutenbrunner, [EfficientLEAF: a faster learnable audio
          frontend of questionable use](https://arxiv.org/abs/2207.05508),
          2022: section III.
    """

    log_scale = False
    filters_per_band = 2

    def __init__(
        self,
        sample_rate: float = 16000,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        num_filters: int = 64,
        fmin: float = 60.0,
        fmax: float | None = 7800.0,
        num_groups: int | None = None,
        center: bool = False,
        **kwargs,
    ):
        super().__init__(
            *(sample_rate, window_ms, hop_ms, num_filters, fmin, fmax),
            filter_stride=1,
            center=center,
            **kwargs,
        )
        self._first_centers, widths = mel_bands(
            fmin, self._fmax, self.num_filters
        )
        # No filter of the window's length is narrower than this.
        self._first_bandwidths = np.maximum(widths, sample_rate / self._taps)
        self.num_groups = num_groups
        if num_groups is not None:
            self.num_groups = check_positive_integer(num_groups, "num_groups")
            if self.num_groups > self.num_filters:
                raise ValueError(
                    "`num_groups` must be at most `num_filters`. Received: "
                    f"num_groups={num_groups}, num_filters={num_filters}"
                )
            self._groups = self._efficient_groups()

    def _efficient_groups(self):
        deviations = WIDTH_PRODUCT * self.sample_rate / self._first_bandwidths
        strides = [
            stride
            for stride in range(1, self._window_length + 1)
            if self._hop_length % stride == 0
        ]
        groups = []
        for bands in np.array_split(
            np.arange(self.num_filters), self.num_groups
        ):
            reach = math.ceil(_REACH * deviations[bands].max())
            shortest = deviations[bands].min() / (2 * _SHORTEST)
            groups.append(
                self._group(
                    slice(int(bands[0]), int(bands[-1]) + 1),
                    min(self._taps, 2 * reach + 1),
                    max([s for s in strides if s <= shortest], default=1),
                )
            )
        return groups

    def build(self, input_shape):
        super().build(input_shape)
        # Limits of the bandwidths in hertz, and of the Gaussians that average,
        # in halves of the window.
        narrowest, widest, shortest = np.zeros((3, self.num_filters))
        for group in self._groups:
            narrowest[group.filters] = self.sample_rate / group.taps
            widest[group.filters] = self.sample_rate / 4
            if group.stride > 1:
                deviation = _SHORTEST * group.stride
                widest[group.filters] = (
                    WIDTH_PRODUCT * self.sample_rate / deviation
                )
            shortest[group.filters] = (
                max(2.0, group.stride) / self._window_length
            )
        # A filter of three samples or fewer has no choice of a bandwidth.
        widest = np.maximum(narrowest, widest)
        self.log_center_frequencies = self._add_parameter(
            "log_center_frequencies",
            np.log(self._first_centers),
            math.log(self._lowest_frequency()),
            math.log(self.sample_rate / 2),
        )
        self.log_bandwidths = self._add_parameter(
            "log_bandwidths",
            np.log(np.clip(self._first_bandwidths, narrowest, widest)),
            np.log(narrowest),
            np.log(widest),
        )
        self.pooling_widths = self._add_parameter(
            "pooling_widths",
            np.maximum(np.full(self.num_filters, 0.4), shortest),
            shortest,
            np.maximum(shortest, 0.5),
        )
        # The release clips energies at 1e-5, on a scale that is about 200 times
        # this one.
        self.compression = PCEN(
            gain=0.96,
            smoothing=0.04,
            epsilon=1e-7,
            dtype="float32",
            name="compression",
        )
        self.compression.build((None, None, self.num_filters))

    def center_frequencies(self):
        """Centre frequency of each band in hertz, a tensor."""
        return ops.exp(ops.convert_to_tensor(self.log_center_frequencies))

    def bandwidths(self):
        """Full width at half maximum of the amplitude of each filter, in hertz,
        a tensor."""
        return ops.exp(ops.convert_to_tensor(self.log_bandwidths))

    def _kernel(self, group):
        centers = self.center_frequencies()[group.filters]
        bandwidths = self.bandwidths()[group.filters]
        return gabor_filters(
            centers / self.sample_rate,
            WIDTH_PRODUCT * self.sample_rate / bandwidths,
            group.taps,
        )

    def _averaged(self, waveforms, group):
        half = (self._window_length - 1) / 2
        steps = group.first + group.stride * np.arange(group.outputs) - half
        widths = ops.convert_to_tensor(self.pooling_widths)[group.filters]
        # A sum of fewer outputs, so that each has a larger weight.
        weights = group.stride * gaussians(
            # A window of one sample has no width.
            max(half, 0.5) * widths,
            ops.convert_to_tensor(steps[:, None].astype("float32")),
        )
        energies = self._energies(waveforms, group)
        return self._pooled(energies, weights, group)

    def _features(self, waveforms):
        energies = [self._averaged(waveforms, group) for group in self._groups]
        return self.compression(ops.concatenate(energies, axis=-1))

    def get_config(self):
        return {**super().get_config(), "num_groups": self.num_groups}
