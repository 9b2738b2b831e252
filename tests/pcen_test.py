"""Per-channel energy normalization, against a loop over frames."""

import keras
import numpy as np
import pytest
from gradients import random, value

from diffstride import PCEN, LogMelSpectrogram


def reference(energies, gain, bias, power, smoothing, epsilon):
    outputs = np.zeros(energies.shape)
    for clip, band in np.ndindex(energies.shape[0], energies.shape[2]):
        mean = energies[clip, 0, band]
        for frame, energy in enumerate(energies[clip, :, band]):
            mean = (1 - smoothing[band]) * mean + smoothing[band] * energy
            outputs[clip, frame, band] = (
                energy / (epsilon + mean) ** gain[band] + bias[band]
            ) ** power[band] - bias[band] ** power[band]
    return outputs


def test_values_of_the_formula():
    energies = np.square(random((2, 150, 3))).astype("float32")
    layer = PCEN()
    layer.build(energies.shape)
    parameters = [[0.9, 0.0, 1.0], [2, 0.1, 5], [0.5, 0.2, 1], [0.02, 0.5, 0.9]]
    for weight, values in zip(layer.weights, parameters, strict=True):
        weight.assign(values)
    np.testing.assert_allclose(
        value(layer, energies),
        reference(energies.astype("float64"), *parameters, 1e-6),
        rtol=2e-4,
        atol=1e-5,
    )


def test_a_channel_axis_changes_nothing():
    energies = np.square(random((2, 9, 3)))
    layer = PCEN()
    expected = value(layer, energies)[..., None]
    np.testing.assert_array_equal(value(PCEN(), energies[..., None]), expected)


def test_loudness_is_divided_out():
    """With a gain of 1, a recording a hundred times louder is the same."""
    energies = 1 + np.square(random((1, 50, 4)))
    layer = PCEN(gain=1.0)
    np.testing.assert_allclose(
        value(layer, 1e4 * energies), value(layer, energies), rtol=1e-3
    )


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e12])
def test_it_is_finite_on_long_clips(scale):
    energies = scale * np.square(random((1, 20_000, 2)))
    energies[:, 5000:10_000] = 0
    for gain, power, smoothing in [(1, 0.01, 0.001), (0, 1, 0.999)]:
        layer = PCEN(gain=gain, power=power, smoothing=smoothing)
        assert np.isfinite(value(layer, energies)).all()


def test_gradients_are_finite_in_silence():
    energies = keras.Input((40, 3))
    outputs = keras.layers.GlobalMaxPooling1D()(PCEN()(energies))
    model = keras.Model(energies, outputs)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.zeros((4, 40, 3)), np.ones((4, 3)), verbose=0)
    for weight in model.weights:
        assert np.isfinite(keras.ops.convert_to_numpy(weight)).all()


def test_training_keeps_its_parameters_in_range():
    x = np.square(random((4, 40, 3)))
    energies = keras.Input((40, 3))
    outputs = keras.layers.GlobalAveragePooling1D()(PCEN()(energies))
    model = keras.Model(energies, outputs)
    model.compile(keras.optimizers.Adam(10.0), "mse")
    model.fit(x, np.full((4, 3), 50.0), epochs=3, verbose=0)
    gain, bias, power, smoothing = map(
        keras.ops.convert_to_numpy, model.trainable_weights
    )
    assert ((gain >= 0) & (gain <= 1)).all()
    assert ((power >= 0.01) & (power <= 1)).all()
    assert ((smoothing >= 1e-3) & (smoothing <= 0.9991)).all()
    assert np.isfinite(model.predict(x, verbose=0)).all()


def test_parameters_that_are_not_trained():
    layer = PCEN(trainable=False)
    layer.build((None, None, 8))
    assert len(layer.weights) == 4 and not layer.trainable_weights


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_energies_keep_their_range_in_mixed_precision(dtype):
    """Energies of a loud clip are above the largest number of float16."""
    waveform = keras.Input((None,))
    policy = f"mixed_{dtype}"
    mel = LogMelSpectrogram(num_mels=8, log_offset=None, dtype=policy)
    energies = mel(waveform)
    assert keras.backend.standardize_dtype(energies.dtype) == "float32"
    model = keras.Model(waveform, PCEN(dtype=policy)(energies))
    expected = PCEN()(LogMelSpectrogram(num_mels=8, log_offset=None)(waveform))
    expected = keras.Model(waveform, expected)
    tone = np.sin(np.arange(4000) * 0.3)[None].astype("float32")
    for x in (100 * tone, 1e-4 * tone):
        assert keras.ops.convert_to_numpy(mel(x)).max() > 7e4 * (x.max() > 1)
        found = model.predict(x, verbose=0)
        assert keras.backend.standardize_dtype(found.dtype) == dtype
        np.testing.assert_array_equal(
            found, expected.predict(x, verbose=0).astype(found.dtype)
        )


def test_energies_are_what_the_logarithm_is_of():
    x = 0.1 * random((2, 2000))
    mel, log_mel = LogMelSpectrogram(log_offset=None), LogMelSpectrogram()
    assert log_mel.log_scale and not mel.log_scale
    np.testing.assert_allclose(
        np.log(value(mel, x) + 1e-5), value(log_mel, x), rtol=1e-5, atol=1e-5
    )


def test_a_mask_goes_through_it():
    """The frames that follow a clip have no share in its average."""
    layer = PCEN()
    model = keras.Sequential(
        [
            keras.Input((None, 4)),
            keras.layers.Masking(100),
            layer,
            keras.layers.GlobalAveragePooling1D(),
        ]
    )
    x = np.square(random((1, 20, 4)))
    padded = np.pad(x, [(0, 0), (0, 12), (0, 0)], constant_values=100)
    np.testing.assert_allclose(
        model.predict_on_batch(padded), value(layer, x).mean(axis=1), rtol=1e-4
    )


def test_errors():
    for arguments, message in [
        ({"gain": 1.5}, "`gain` must be a number from 0.0 to 1.0.*gain=1.5"),
        ({"bias": 0}, "`bias` must be a number from 0.001"),
        ({"power": True}, "`power` must be a number"),
        ({"smoothing": 1}, "`smoothing` must be .*smoothing=1"),
        ({"epsilon": 0}, "`epsilon` must be a positive number"),
    ]:
        with pytest.raises(ValueError, match=message):
            PCEN(**arguments)
    for shape in [(None, 9, None), (None, 9, 3, 2)]:
        with pytest.raises(ValueError, match="known number of bands, and one"):
            PCEN().build(shape)
