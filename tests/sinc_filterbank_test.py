"""The sinc front end against loops over its formulas."""

import math

import keras
import numpy as np
import pytest
from gradients import random, to_numpy, value

from diffstride import SincFilterbank

TINY = {"sample_rate": 1000, "num_filters": 3, "fmin": 60, "fmax": 450}


def reference(layer, waveform):
    """Frames of one clip, from the parameters of a layer."""
    rate = layer.sample_rate
    edges = [layer.low_frequencies(), layer.high_frequencies()]
    lows, highs = (edge / rate for edge in to_numpy(edges))
    scale, offset = to_numpy(layer.normalization.weights)
    window = round(rate * layer.window_ms / 1000)
    hop = round(rate * layer.hop_ms / 1000)
    reach, stride = window // 2, layer.filter_stride
    outputs = window // stride
    first = (window - 1 - (outputs - 1) * stride) // 2
    if layer.center:
        waveform = np.pad(waveform, (window // 2, window - window // 2))
    frames = 1 + (len(waveform) - window) // hop
    maxima = np.zeros((frames, len(lows)))
    for frame, band in np.ndindex(maxima.shape):
        filtered = []
        for output in range(outputs):
            sample = frame * hop + first + output * stride
            total = 0
            for step in range(-reach, reach + 1):
                if not 0 <= sample + step < len(waveform):
                    continue
                ideal = 2 * (highs[band] - lows[band])
                if step:
                    ideal = math.sin(2 * math.pi * highs[band] * step)
                    ideal -= math.sin(2 * math.pi * lows[band] * step)
                    ideal /= math.pi * step
                hamming = 0.54 + 0.46 * math.cos(math.pi * step / reach)
                total += waveform[sample + step] * ideal * hamming
            filtered.append(total)
        maxima[frame, band] = max(filtered)
    mean = maxima.mean(axis=1, keepdims=True)
    deviation = np.sqrt(maxima.var(axis=1, keepdims=True) + 1e-6)
    x = (maxima - mean) / deviation * scale + offset
    return np.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize(
    "window_ms, center, filter_stride", [(25, False, 1), (24, True, 5)]
)
def test_values_of_the_formulas(window_ms, center, filter_stride):
    layer = SincFilterbank(
        window_ms=window_ms, center=center, filter_stride=filter_stride, **TINY
    )
    layer.build((None, None))
    for index, weight in enumerate(layer.weights):
        old = keras.ops.convert_to_numpy(weight)
        weight.assign(old + 0.1 * random((3,), seed=index))
    waveform = 0.3 * random((1, 90))
    np.testing.assert_allclose(
        value(layer, waveform)[0, ..., 0],
        reference(layer, waveform[0].astype("float64")),
        rtol=2e-3,
        atol=1e-4,
    )


def test_four_parameters_for_each_band():
    layer = SincFilterbank(num_filters=64)
    layer.build((None, 16000))
    assert layer.count_params() == 256  # Table 3 of the DiffRes paper.


def test_bands_begin_side_by_side():
    layer = SincFilterbank(num_filters=40)
    layer.build((None, 16000))
    low, high = to_numpy([layer.low_frequencies(), layer.high_frequencies()])
    np.testing.assert_allclose(high[10:-1], low[11:], rtol=1e-4)
    assert low[0] == pytest.approx(60) and high[-1] == pytest.approx(7800)
    assert (high - low).min() > 39.8


def test_upper_edges_end_at_half_the_sample_rate():
    layer = SincFilterbank(**TINY)
    layer.build((None, None))
    layer.log_bandwidths.assign(np.full(3, math.log(490)))
    (high,) = to_numpy([layer.high_frequencies()])
    np.testing.assert_allclose(high, 500, rtol=1e-6)
    # A band at the limit still learns its width.
    waveform = keras.Input((None,))
    model = keras.Model(waveform, layer(waveform))
    model.compile(
        keras.optimizers.SGD(0.1),
        "mse",
        run_eagerly=keras.backend.backend() == "tensorflow",
    )
    before = keras.ops.convert_to_numpy(layer.log_bandwidths).copy()
    model.train_on_batch(random((2, 90)), random((2, 7, 3, 1), seed=1))
    assert (keras.ops.convert_to_numpy(layer.log_bandwidths) != before).all()


def test_one_band_is_an_error():
    """Normalized over the bands, a single one is always zero."""
    with pytest.raises(ValueError, match="2 or more.* num_filters=1"):
        SincFilterbank(num_filters=1)


@pytest.mark.parametrize("filter_stride", [3, 32, 0, 2.5])
def test_filter_stride_must_divide_the_hop(filter_stride):
    with pytest.raises(ValueError, match="`filter_stride` must"):
        SincFilterbank(filter_stride=filter_stride, window_ms=1)
