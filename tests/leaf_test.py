"""LEAF against loops over its formulas, and its efficient form against it."""

import math

import keras
import numpy as np
import pytest
from gradients import random, to_numpy, value

from diffstride import LEAF, LogMelSpectrogram

TINY = {"sample_rate": 1000, "num_filters": 3, "fmin": 60, "fmax": 450}


def reference(layer, waveform):
    """Frames of one clip, band by band, from the parameters of a layer."""
    centers = to_numpy([layer.center_frequencies()])[0] / layer.sample_rate
    widths = to_numpy([layer.bandwidths()])[0] / layer.sample_rate
    pooling = keras.ops.convert_to_numpy(layer.pooling_widths)
    parameters = to_numpy(layer.compression.weights)
    window = round(layer.sample_rate * layer.window_ms / 1000)
    hop = round(layer.sample_rate * layer.hop_ms / 1000)
    reach = window // 2
    if layer.center:
        waveform = np.pad(waveform, (window // 2, window - window // 2))
    frames = 1 + (len(waveform) - window) // hop
    outputs = np.zeros((frames, len(centers)))
    for band, (center, width) in enumerate(zip(centers, widths, strict=True)):
        deviation = math.sqrt(2 * math.log(2)) / (math.pi * width)
        energies = []
        for sample in range(len(waveform)):
            total = 0
            for step in range(-reach, reach + 1):
                if 0 <= sample + step < len(waveform):
                    wave = np.exp(2j * math.pi * center * step)
                    wave *= math.exp(-(step**2) / (2 * deviation**2))
                    wave /= math.sqrt(2 * math.pi) * deviation
                    total += waveform[sample + step] * wave
            energies.append(abs(total) ** 2)
        half = (window - 1) / 2
        deviation = pooling[band] * half
        mean = None
        for frame in range(frames):
            energy = 0
            for step in range(window):
                weight = math.exp(-((step - half) ** 2) / (2 * deviation**2))
                weight /= math.sqrt(2 * math.pi) * deviation
                energy += energies[frame * hop + step] * weight
            gain, bias, power, smoothing = (p[band] for p in parameters)
            mean = energy if mean is None else mean
            mean = (1 - smoothing) * mean + smoothing * energy
            outputs[frame, band] = (
                energy / (1e-7 + mean) ** gain + bias
            ) ** power - bias**power
    return outputs


@pytest.mark.parametrize("window_ms", [24, 25])
@pytest.mark.parametrize("center", [False, True])
def test_values_of_the_formulas(window_ms, center):
    layer = LEAF(window_ms=window_ms, center=center, **TINY)
    layer.build((None, None))
    for index, weight in enumerate(layer.weights):
        # Other values than the first, and another one for each band.
        weight.assign(weight.numpy() * (1 + 0.02 * random((3,), seed=index)))
    waveform = 0.3 * random((1, 90))
    np.testing.assert_allclose(
        value(layer, waveform)[0, ..., 0],
        reference(layer, waveform[0].astype("float64")),
        rtol=2e-3,
        atol=1e-5,
    )


def test_seven_parameters_for_each_band():
    layer = LEAF(num_filters=40)
    layer.build((None, 16000))
    assert layer.count_params() == 7 * 40
    assert len(layer.trainable_weights) == 7


@pytest.mark.parametrize("num_filters", [40, 128])
def test_no_two_bands_begin_alike(num_filters):
    layer = LEAF(num_filters=num_filters)
    layer.build((None, 16000))
    centers, widths = to_numpy([layer.center_frequencies(), layer.bandwidths()])
    points = 700 * np.expm1(
        np.linspace(np.log1p(60 / 700), np.log1p(7800 / 700), num_filters + 2)
    )
    np.testing.assert_allclose(centers, points[1:-1], rtol=1e-4)
    # A window of 25 ms resolves no less than 40 Hz.
    expected = np.maximum(0.75 * (points[2:] - points[:-2]), 16000 / 401)
    np.testing.assert_allclose(widths, expected, rtol=1e-4)


def sound(samples=16000):
    """Noise that pulses, and a rising tone."""
    time = np.arange(samples) / 16000
    tone = np.sin(2 * np.pi * (100 + 3600 * time) * time)
    pulses = np.exp(2 * np.sin(2 * np.pi * 3 * time)) * random((1, samples))
    return (0.05 * pulses + 0.05 * tone).astype("float32")


def energies(layer, x):
    def function(x):
        return keras.ops.concatenate(
            [layer._averaged(x, group) for group in layer._groups], axis=-1
        )

    layer.build(x.shape)
    return value(function, x)


def test_it_begins_like_a_mel_spectrogram():
    """Band by band, over time; and the efficient form as the plain one."""
    x = sound()
    plain = LEAF(num_filters=40)
    efficient = LEAF(num_filters=40, num_groups=8)
    mel = LogMelSpectrogram(num_mels=40, fft_length=2048, log_offset=1e-9)
    expected = value(mel, x)[..., 0]
    logarithms = [np.log(energies(layer, x)) for layer in (plain, efficient)]
    for found in logarithms:
        for band in range(40):
            both = np.corrcoef(found[0, :, band], expected[0, :, band])
            assert both[0, 1] > 0.95
    assert np.abs(logarithms[1] - logarithms[0]).mean() < 0.005
    assert plain.macs(98) > 30 * efficient.macs(98)


@pytest.mark.parametrize(
    "rate, window_ms, center",
    [(22050, 25, False), (22050, 25, True), (8000, 16, True), (1000, 8, False)],
)
def test_groups_of_any_size_keep_the_frames(rate, window_ms, center):
    arguments = {"sample_rate": rate, "window_ms": window_ms, "fmax": None}
    mel = LogMelSpectrogram(num_mels=2, **arguments)
    for samples in (rate // 10, rate // 10 + 9):
        expected = mel.compute_output_shape((1, samples))[1]
        if center:
            expected = 1 + samples // round(rate / 100)
        for num_groups in (None, 3):
            layer = LEAF(
                num_filters=7,
                num_groups=num_groups,
                center=center,
                **arguments,
            )
            x = random((1, samples))
            assert layer.compute_output_shape(x.shape) == (1, expected, 7, 1)
            assert value(layer, x).shape == (1, expected, 7, 1)


@pytest.mark.parametrize("num_groups", [None, 2])
def test_every_parameter_learns_within_its_limits(num_groups):
    waveform = keras.Input((None,))
    layer = LEAF(num_groups=num_groups, **TINY)
    model = keras.Model(waveform, layer(waveform))
    model.compile(
        keras.optimizers.Adam(1.0),
        "mse",
        # A few steps are faster than building a graph, but not under JAX.
        run_eagerly=keras.backend.backend() == "tensorflow",
    )
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    x = 0.3 * random((4, 90))
    model.fit(x, random((4, 7, 3, 1)), epochs=3, verbose=0)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        new = keras.ops.convert_to_numpy(weight)
        assert np.all(new != old), weight.path
        limits = weight.constraint
        assert np.all(new >= np.array(limits.lower) - 1e-5), weight.path
        assert np.all(new <= np.array(limits.upper) + 1e-5), weight.path
    assert np.isfinite(model.predict(x, verbose=0)).all()


def test_errors():
    for arguments, message in [
        ({"num_filters": 0}, "`num_filters` must be a positive integer"),
        ({"num_groups": 0}, "`num_groups` must be a positive integer"),
        ({"num_groups": 65}, "`num_groups` must be at most `num_filters`"),
        ({"fmin": 9000}, "`fmin` must be less than `fmax`"),
        ({"hop_ms": 0}, "`hop_ms` must be a positive number"),
    ]:
        with pytest.raises(ValueError, match=message):
            LEAF(**arguments)
