"""The log-mel front end against librosa, on any length and in any dtype."""

import json

import keras
import librosa
import numpy as np
import pytest

from diffstride.layers.log_mel import LogMelSpectrogram, mel_matrix
from tests.gradients import random, value, value_and_gradients


def waveforms(batch=2, samples=4000):
    """A rising tone in noise, from loud to nearly silent."""
    time = np.arange(samples) / 16000
    tone = np.sin(2 * np.pi * (300 + 4000 * time) * time) * np.exp(-9 * time)
    return (0.5 * tone + 1e-3 * random((batch, samples))).astype("float32")


def reference(
    samples,
    sample_rate=16000,
    window_length=400,
    hop_length=160,
    fft_length=512,
    num_mels=64,
    fmin=60.0,
    fmax=7800.0,
    window="hann",
    power=2.0,
    log_offset=1e-5,
    center=False,
):
    if not center:
        # librosa centres a short window in frames of the length of the
        # transform; ours begins with the waveform.
        margin = fft_length - window_length
        samples = np.pad(samples, (margin // 2, margin - margin // 2))
    mels = librosa.feature.melspectrogram(
        y=samples.astype("float64"),
        sr=sample_rate,
        n_fft=fft_length,
        win_length=window_length,
        hop_length=hop_length,
        window="boxcar" if window is None else window,
        center=center,
        pad_mode="constant",
        power=power,
        n_mels=num_mels,
        fmin=fmin,
        fmax=fmax,
        htk=True,
        norm=None,
    )
    return np.log(mels + log_offset).T[..., np.newaxis]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, {}),
        ({"center": True}, {"center": True}),
        ({"power": 1.0}, {"power": 1.0}),
        (
            {"window": "hamming", "log_offset": 0.01},
            {"window": "hamming", "log_offset": 0.01},
        ),
        ({"window": None}, {"window": None}),
        (
            {"fft_length": 1000, "num_mels": 128, "fmin": 0.0, "fmax": None},
            {"fft_length": 1000, "num_mels": 128, "fmin": 0.0, "fmax": 8000.0},
        ),
        (
            {
                "sample_rate": 8000,
                "window_ms": 32,
                "hop_ms": 12.5,
                "num_mels": 20,
                "fmax": 3500,
            },
            {
                "sample_rate": 8000,
                "window_length": 256,
                "hop_length": 100,
                "fft_length": 256,
                "num_mels": 20,
                "fmax": 3500,
            },
        ),
    ],
    ids=["default", "center", "power", "hamming", "boxcar", "fine", "8 kHz"],
)
def test_values_of_librosa(arguments, expected):
    inputs = waveforms()
    outputs = value(LogMelSpectrogram(**arguments), inputs)
    for output, waveform in zip(outputs, inputs, strict=True):
        # One unit is a factor of e in power.
        np.testing.assert_allclose(
            output, reference(waveform, **expected), rtol=0, atol=2e-3
        )


def test_mel_matrix_of_librosa():
    expected = librosa.filters.mel(
        sr=22050, n_fft=1024, n_mels=40, fmin=30, fmax=9000, htk=True, norm=None
    ).T
    np.testing.assert_allclose(
        mel_matrix(40, 1024, 22050, 30, 9000), expected, atol=1e-6
    )


@pytest.mark.parametrize("center", [False, True])
def test_number_of_frames(center):
    layer = LogMelSpectrogram(center=center)
    for samples in (400, 559, 560, 2000, 561):
        frames = 1 + samples // 160 if center else 1 + (samples - 400) // 160
        assert layer.compute_output_shape((3, samples)) == (3, frames, 64, 1)
    outputs = value(layer, np.zeros((1, samples), "float32"))
    assert outputs.shape == (1, frames, 64, 1)


def test_a_second_makes_98_frames_and_101_centered():
    assert LogMelSpectrogram().compute_output_shape((1, 16000))[1] == 98
    layer = LogMelSpectrogram(center=True)
    assert layer.compute_output_shape((1, 16000))[1] == 101


def test_frames_are_local():
    """Frame t looks at samples from t hops on, for the length of a window."""
    inputs = waveforms(1)
    changed = inputs.copy()
    changed[0, 1600:2000] += 0.5  # The tenth window.
    layer = LogMelSpectrogram()
    difference = np.abs(value(layer, inputs) - value(layer, changed))
    frames = np.flatnonzero(difference.max(axis=(0, 2, 3)) > 1e-3)
    # Windows of 2.5 hops: two begin before and overlap, two within.
    assert frames.tolist() == [8, 9, 10, 11, 12]


def test_a_tone_shows_in_its_channel():
    time = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 1000 * time).astype("float32")[np.newaxis]
    channel = value(LogMelSpectrogram(), tone)[0, ..., 0].argmax(axis=1)
    mels = 2595 * np.log10(1 + np.array([60.0, 7800.0, 1000.0]) / 700)
    expected = (mels[2] - mels[0]) / (mels[1] - mels[0]) * 65 - 1
    assert np.all(np.abs(channel - expected) < 1)


def test_any_length_in_one_model():
    inputs = keras.Input((None,))
    outputs = LogMelSpectrogram()(inputs)
    assert outputs.shape == (None, None, 64, 1)
    model = keras.Model(inputs, outputs)
    for samples in (4000, 1234):
        x = waveforms(1, samples)
        assert model.predict(x, verbose=0).shape == (
            1,
            1 + (samples - 400) // 160,
            64,
            1,
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_rounds_only_the_result(dtype):
    inputs = waveforms()
    outputs = value(LogMelSpectrogram(dtype=f"mixed_{dtype}"), inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype
    expected = value(LogMelSpectrogram(), inputs).astype(outputs.dtype)
    np.testing.assert_array_equal(outputs, expected)


def test_quiet_sounds_survive_mixed_precision():
    """In float16 from the start, these samples would be zero."""
    inputs = np.full((1, 400), 1e-8, "float32")
    layer = LogMelSpectrogram(dtype="mixed_float16", log_offset=1e-15)
    loud, quiet = value(layer, inputs), value(layer, 0 * inputs)
    assert loud.astype("float32").max() > quiet.astype("float32").max() + 1


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gradients_are_finite_in_silence(power):
    layer = LogMelSpectrogram(power=power)
    x = np.zeros((1, 800), "float32")
    outputs, (gradient,) = value_and_gradients(
        layer, [x], np.ones((1, 3, 64, 1), "float32")
    )
    if power == 2:
        outputs = keras.ops.convert_to_numpy(outputs)
        np.testing.assert_allclose(outputs, np.log(1e-5), rtol=1e-6)
    assert np.all(np.isfinite(keras.ops.convert_to_numpy(outputs)))
    assert np.all(np.isfinite(keras.ops.convert_to_numpy(gradient)))


def test_gradient_by_central_differences():
    layer = LogMelSpectrogram(log_offset=0.1)
    x, direction = 0.1 * random((1, 800)), random((1, 800), seed=1)
    direction /= np.linalg.norm(direction)
    upstream = random((1, 3, 64, 1), seed=2)
    _, (gradient,) = value_and_gradients(layer, [x], upstream)
    step = 1e-2
    ahead, behind = (
        value(layer, x + sign * step * direction).astype("float64")
        for sign in (1, -1)
    )
    expected = np.sum(upstream * (ahead - behind)) / (2 * step)
    actual = np.sum(keras.ops.convert_to_numpy(gradient) * direction)
    np.testing.assert_allclose(actual, expected, rtol=2e-3)


def test_save_and_reload(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None,)),
            LogMelSpectrogram(
                num_mels=20, window_ms=20, power=1.5, center=True, window=None
            ),
        ]
    )
    assert not model.weights
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    x = waveforms()
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), reloaded.predict(x, verbose=0)
    )


def test_config_holds_every_argument():
    arguments = {
        "sample_rate": 22050,
        "window_ms": 20.0,
        "hop_ms": 5.0,
        "num_mels": 32,
        "fmin": 100.0,
        "fmax": 9000.0,
        "fft_length": 1024,
        "window": "hamming",
        "power": 1.0,
        "log_offset": 0.5,
        "center": True,
    }
    config = LogMelSpectrogram(**arguments).get_config()
    assert {key: config[key] for key in arguments} == arguments
    layer = LogMelSpectrogram.from_config(json.loads(json.dumps(config)))
    assert layer.get_config() == config


def test_errors():
    for arguments, message in [
        ({"sample_rate": 0}, "`sample_rate` must be a positive number"),
        ({"window_ms": -1}, "`window_ms` must be .*window_ms=-1"),
        ({"hop_ms": "10"}, "`hop_ms` must be a positive number"),
        ({"hop_ms": 0.01}, "must last a sample or more"),
        ({"power": 0}, "`power` must be a positive number"),
        ({"log_offset": 0}, "`log_offset` must be a positive number"),
        ({"fmin": 8000}, "`fmin` must be less than `fmax`"),
        ({"fmax": 9000}, "half the sample rate, 8000.0 Hz"),
        ({"num_mels": 0}, "`num_mels` must be a positive integer"),
        ({"num_mels": True}, "`num_mels` must be a positive integer"),
        ({"num_mels": 200}, "`num_mels` is too large .*num_mels=200"),
        ({"fft_length": 256}, "`fft_length` must be at least the window, 400"),
        ({"fft_length": 0}, "`fft_length` must be a positive integer"),
        ({"fft_length": 512.5}, "`fft_length` must be a positive integer"),
        ({"window": [1]}, r"`window` must be 'hann', .*window=\[1\]"),
        ({"window": "kaiser"}, "`window` must be 'hann', 'hamming' or None"),
    ]:
        with pytest.raises(ValueError, match=message):
            LogMelSpectrogram(**arguments)


def test_unknown_arguments_are_errors():
    with pytest.raises(ValueError, match="n_mels"):
        LogMelSpectrogram(n_mels=80)


def test_waveform_shorter_than_a_window():
    with pytest.raises(ValueError, match="400 samples. Received: 399 samples"):
        LogMelSpectrogram()(np.zeros((1, 399), "float32"))


@pytest.mark.parametrize("dtype", ["int16", "int32", "bool"])
def test_integers_are_an_error(dtype):
    """Of 16-bit samples the loudness would be off by a factor of 32768."""
    layer = LogMelSpectrogram(name="front_end")
    message = "layer 'front_end' must have a floating.*32768.*" + dtype
    with pytest.raises(TypeError, match=message):
        layer(np.ones((1, 16000), dtype))
    with pytest.raises(TypeError, match=message):
        layer(keras.Input((16000,), dtype=dtype))
    x = 1000 * np.random.default_rng(0).normal(size=(1, 16000))
    scaled = keras.layers.Rescaling(1 / 32768)(x.astype("int16"))
    np.testing.assert_allclose(
        layer(scaled), layer((x.astype("int16") / 32768).astype("float32"))
    )
