"""Time-domain filterbanks against loops over their formulas."""

import math

import keras
import numpy as np
import pytest
from gradients import random, value

from diffstride import LEAF, LogMelSpectrogram, TimeDomainFilterbank

TINY = {"sample_rate": 1000, "num_filters": 3, "fmin": 60, "fmax": 450}


def reference(layer, waveform):
    """Frames of one clip, from the filters of a layer."""
    kernel = keras.ops.convert_to_numpy(layer.filters)
    bands = kernel.shape[1] // 2
    window = round(layer.sample_rate * layer.window_ms / 1000)
    hop = round(layer.sample_rate * layer.hop_ms / 1000)
    reach, stride = window // 2, layer.filter_stride
    outputs = window // stride
    first = (window - 1 - (outputs - 1) * stride) // 2
    hann = [
        math.sin(math.pi * (index + 0.5) / window) ** 2
        for index in range(window)
    ]
    total_weight = sum(h**2 for h in hann) / stride
    if layer.center:
        waveform = np.pad(waveform, (window // 2, window - window // 2))
    frames = 1 + (len(waveform) - window) // hop
    result = np.zeros((frames, bands))
    for frame, band in np.ndindex(result.shape):
        pooled = 0
        for output in range(outputs):
            position = first + output * stride
            sample = frame * hop + position
            filtered = np.zeros(2)
            for step in range(-reach, reach + 1):
                if 0 <= sample + step < len(waveform):
                    pair = kernel[step + reach, [band, bands + band]]
                    filtered += waveform[sample + step] * pair
            weight = hann[position] ** 2 / total_weight
            pooled += weight * np.sum(filtered**2)
        result[frame, band] = math.log(pooled + layer.log_offset)
    return result


@pytest.mark.parametrize(
    "window_ms, center, filter_stride", [(25, False, 1), (24, True, 2)]
)
def test_values_of_the_formulas(window_ms, center, filter_stride):
    layer = TimeDomainFilterbank(
        window_ms=window_ms, center=center, filter_stride=filter_stride, **TINY
    )
    layer.build((None, None))
    kernel = keras.ops.convert_to_numpy(layer.filters)
    layer.filters.assign(kernel + 0.05 * random(kernel.shape))
    waveform = 0.3 * random((1, 90))
    np.testing.assert_allclose(
        value(layer, waveform)[0, ..., 0],
        reference(layer, waveform[0].astype("float64")),
        rtol=1e-3,
        atol=1e-3,
    )


def test_parameters_are_two_filters_for_each_band():
    layer = TimeDomainFilterbank()
    layer.build((None, 16000))
    # 51 k in Table 3 of the DiffRes paper.
    assert layer.count_params() == 2 * 64 * 401


def test_filters_begin_as_those_of_leaf():
    layers = [TimeDomainFilterbank(num_filters=128), LEAF(num_filters=128)]
    kernels = []
    for layer in layers:
        layer.build((None, 16000))
        kernel = layer._kernel(layer._groups[0])
        kernels.append(keras.ops.convert_to_numpy(kernel))
    np.testing.assert_allclose(*kernels, atol=1e-6)


def test_it_begins_like_a_mel_spectrogram():
    pulses = np.exp(2 * np.sin(np.arange(8000) / 800)) * random((1, 8000))
    x = (0.05 * pulses).astype("float32")
    found = value(TimeDomainFilterbank(num_filters=40, filter_stride=8), x)
    mel = LogMelSpectrogram(num_mels=40, fft_length=2048)
    expected = value(mel, x)
    for band in range(40):
        both = np.corrcoef(found[0, :, band, 0], expected[0, :, band, 0])
        assert both[0, 1] > 0.9


def test_errors():
    with pytest.raises(ValueError, match="`log_offset` must be a positive"):
        TimeDomainFilterbank(log_offset=0)
