"""Front ends that filter the waveform itself, and pool what comes out."""

import typing

import numpy as np
from keras import ops

from diffstride.layers.frontend import BaseFrontend, check_band_limits
from diffstride.layers.limits import Limits
from diffstride.ops.filterbanks import filter_waveforms, weighted_sums
from diffstride.validation import check_positive_integer

# Names of the weights of filters. They learn at a rate of their own, without a
# weight decay, which would move them to no purpose.
FILTER_WEIGHTS = (
    "filters",
    "log_center_frequencies",
    "log_low_frequencies",
    "log_bandwidths",
    "pooling_widths",
)

# Frequencies at which `frequency_responses` looks, per point of a filter.
_RESPONSE_FACTOR = 64


class FilterGroup(typing.NamedTuple):
    """Filters of one length, computed at every `stride`-th sample.

    `taps` is the length of the filters, an odd number, so that each has a
    middle. `outputs` is how many outputs a frame pools: those at `first`,
    `first + stride`, ... relative to the first sample of the frame.
    """

    filters: slice
    taps: int
    stride: int
    first: int
    outputs: int

    @property
    def last(self):
        return self.first + (self.outputs - 1) * self.stride


class BaseFilterbank(BaseFrontend):
    """Convolves waveforms with filters and pools the outputs in each frame.

    The filters see zeros before and after the waveform, where they reach
    beyond it; each frame pools the outputs at its own samples. So the frames
    are as many as those of a spectrogram with the same window and hop, and at
    the same times.

    A subclass implements `_kernel`, the filters of a group (taps, filters), and
    `_features`.

    Attributes:
        filters_per_band: 2 where a band has a real and an imaginary filter.
    """

    filters_per_band = 1

    def __init__(
        self,
        sample_rate: float,
        window_ms: float,
        hop_ms: float,
        num_filters: int,
        fmin: float,
        fmax: float | None,
        filter_stride: int,
        center: bool,
        **kwargs,
    ):
        num_filters = check_positive_integer(num_filters, "num_filters")
        super().__init__(
            sample_rate, window_ms, hop_ms, num_filters, center, **kwargs
        )
        self._fmax = check_band_limits(fmin, fmax, sample_rate)
        filter_stride = check_positive_integer(filter_stride, "filter_stride")
        self.num_filters = num_filters
        self.fmin = fmin
        self.fmax = fmax
        self.filter_stride = filter_stride
        if self._hop_length % filter_stride or (
            filter_stride > self._window_length
        ):
            raise ValueError(
                "`filter_stride` must divide the hop and be at most the "
                f"window, {self._hop_length} and {self._window_length} "
                f"samples. Received: filter_stride={filter_stride}"
            )
        # As long as the window, or a sample longer.
        self._taps = 2 * (self._window_length // 2) + 1
        self._groups = [
            self._group(slice(0, num_filters), self._taps, filter_stride)
        ]

    def _group(self, filters, taps, stride):
        outputs = self._window_length // stride
        margin = self._window_length - 1 - (outputs - 1) * stride
        return FilterGroup(filters, taps, stride, margin // 2, outputs)

    def _lowest_frequency(self):
        """Training keeps frequencies above this: they are logarithms."""
        return min(1.0, self.sample_rate / 100)

    def _add_parameter(self, name, values, lower, upper):
        """A weight with one entry for each band, which stays within limits."""
        return self.add_weight(
            name=name,
            shape=(self.num_filters,),
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                values, dtype
            ),
            constraint=Limits(lower, upper),
            dtype="float32",
            autocast=False,
        )

    def _kernel(self, group):
        raise NotImplementedError

    def _filtered(self, waveforms, group):
        """Outputs of the filters of a group, (batch, outputs, filters)."""
        left, right = self._padding()
        left += group.taps // 2 - group.first
        right += group.taps // 2 - (self._window_length - 1 - group.last)
        return filter_waveforms(
            _pad_or_crop(waveforms, left, right),
            self._kernel(group),
            group.stride,
        )

    def _energies(self, waveforms, group):
        """Squared moduli of complex filters, (batch, outputs, bands)."""
        squares = ops.square(self._filtered(waveforms, group))
        real, imaginary = ops.split(squares, 2, axis=-1)
        return real + imaginary

    def _pooled(self, outputs, weights, group):
        """Weighted sums of the outputs in each frame, (batch, frames, bands).

        Args:
            outputs: tensor (batch, outputs, bands).
            weights: tensor (outputs of a frame, bands).
            group: the `FilterGroup` that made the outputs.
        """
        return weighted_sums(outputs, weights, self._hop_length // group.stride)

    def macs(self, frames: int) -> int:
        """Multiply-accumulates of the filters and of their pooling.

        Args:
            frames: integer. Number of frames of the output.
        """
        total = 0
        for group in self._groups:
            bands = group.filters.stop - group.filters.start
            outputs = group.outputs + (frames - 1) * (
                self._hop_length // group.stride
            )
            total += outputs * bands * self.filters_per_band * group.taps
            if self.filters_per_band == 2:  # Others take the maximum.
                total += frames * bands * group.outputs
        return total

    def frequency_responses(self) -> tuple[np.ndarray, np.ndarray]:
        points = _RESPONSE_FACTOR * self._taps
        frequencies = np.arange(points // 2 + 1) * (self.sample_rate / points)
        responses = []
        for group in self._groups:
            kernel = ops.convert_to_numpy(self._kernel(group))
            if self.filters_per_band == 2:
                real, imaginary = np.split(kernel, 2, axis=1)
                kernel = real + 1j * imaginary
            spectrum = np.fft.fft(kernel, points, axis=0)
            responses.append(np.abs(spectrum[: points // 2 + 1].T) ** 2)
        return frequencies, np.concatenate(responses)

    def get_config(self):
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "fmin": self.fmin,
            "fmax": self.fmax,
        }


def _pad_or_crop(waveforms, left, right):
    """Adds zeros on both sides, or takes samples away for negative numbers."""
    if left < 0 or right < 0:
        waveforms = waveforms[:, max(0, -left) : min(0, right) or None]
    return ops.pad(waveforms, [(0, 0), (max(0, left), max(0, right))])
