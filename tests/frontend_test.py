"""What every front end must be able to do, whatever its filters are."""

import json

import keras
import numpy as np
import pytest
from gradients import random, value

from diffstride import (
    LEAF,
    PCEN,
    DiffRes,
    LogMelSpectrogram,
    SincFilterbank,
    SpecAugment,
    TimeDomainFilterbank,
)

RATE = {"sample_rate": 2000, "fmin": 60, "fmax": 900}
FRONTENDS = {
    "mel": (LogMelSpectrogram, {"num_mels": 4, "fft_length": 512}),
    "leaf": (LEAF, {"num_filters": 4}),
    "leaf efficient": (LEAF, {"num_filters": 4, "num_groups": 2}),
    "sinc": (SincFilterbank, {"num_filters": 4}),
    "filterbank": (
        TimeDomainFilterbank,
        {"num_filters": 4, "filter_stride": 2},
    ),
}
LEARNED = [name for name in FRONTENDS if name != "mel"]


def frontend(kind, **kwargs):
    make, arguments = FRONTENDS[kind]
    return make(**{**RATE, **arguments, **kwargs})


def model(*layers):
    return keras.Sequential([keras.Input((None,)), *layers])


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("name", FRONTENDS)
def test_frames_are_those_of_the_mel_spectrogram(name, center):
    layer = frontend(name, center=center)
    for samples in (50, 69, 70, 400):
        frames = 1 + samples // 20 if center else 1 + (samples - 50) // 20
        assert layer.compute_output_shape((3, samples)) == (3, frames, 4, 1)
    assert value(layer, random((2, 409))).shape == (
        *(2, 21 if center else 18),
        *(4, 1),
    )
    message = "layer 'x' must last a window or more, 50 .*49 .*`window_ms`"
    with pytest.raises(ValueError, match=message):
        frontend(name, name="x")(np.zeros((1, 49), "float32"))


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("name", FRONTENDS)
def test_frames_are_at_the_times_of_the_mel_spectrogram(name, center):
    """A click is heard as long before a frame's middle as after it."""
    x = np.zeros((1, 1000), "float32")
    middle = 20 * 25 + (0 if center else 25)
    x[0, middle - 1 : middle + 1] = 1
    layer = frontend(name, center=center)
    change = np.abs(value(layer, x) - value(layer, 0 * x))[0, ..., 0]
    heard = np.flatnonzero(change.max(axis=1) > 1e-6)
    assert abs(heard[0] + heard[-1] - 2 * 25) <= 1


@pytest.mark.parametrize("name", FRONTENDS)
def test_any_length_in_one_model(name):
    network = model(frontend(name))
    assert network.output_shape == (None, None, 4, 1)
    for samples in (200, 331):
        x = random((2, samples))
        np.testing.assert_allclose(
            network.predict(x, verbose=0),
            value(frontend(name), x),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.tensorflow
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("name", FRONTENDS)
def test_a_short_clip_of_unknown_length_is_padded(name, center):
    import tensorflow as tf

    layer = frontend(name, center=center)
    function = tf.function(
        layer, input_signature=[tf.TensorSpec([None, None], "float32")]
    )
    for samples in (0, 19, 50):
        x = random((2, samples))
        # Its zeros change nothing: they are where the padding of `center` is.
        padded = np.pad(x, [(0, 0), (0, 50 - samples)])
        expected = layer(padded)[:, : 1 + (samples // 20 if center else 0)]
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(function(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FRONTENDS)
def test_an_empty_batch_has_frames(name):
    layer = frontend(name)
    assert layer(np.zeros((0, 409), "float32")).shape == (0, 18, 4, 1)
    outputs = model(layer).predict_on_batch(np.zeros((0, 409), "float32"))
    assert outputs.shape == (0, 18, 4, 1)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", FRONTENDS)
def test_an_empty_batch_of_unknown_size_has_frames(name):
    import tensorflow as tf

    function = tf.function(
        frontend(name), input_signature=[tf.TensorSpec([None, None])]
    )
    assert function(np.zeros((0, 409), "float32")).shape == (0, 18, 4, 1)


@pytest.mark.parametrize("name", FRONTENDS)
def test_a_nan_changes_no_frame_long_before_it(name):
    x = random((1, 2000))
    expected = value(frontend(name), x)[:, :60]
    x[:, 1800] = np.nan
    found = value(frontend(name), x)
    np.testing.assert_allclose(found[:, :60], expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(found[:, 89]).all()


@pytest.mark.parametrize("name", FRONTENDS)
def test_integers_may_have_other_types(name):
    make, arguments = FRONTENDS[name]
    config = frontend(name, name="x").get_config()
    for kind in (np.int64, float):
        others = {key: kind(number) for key, number in arguments.items()}
        layer = make(**RATE, **others, name="x")
        assert json.dumps(layer.get_config()) == json.dumps(config)
    assert value(layer, random((1, 90))).shape == (1, 3, 4, 1)


@pytest.mark.parametrize("name", FRONTENDS)
def test_errors(name):
    for arguments, message in [
        ({"center": "reflect"}, "`center` must be one of .*center='reflect'"),
        ({"fmin": None}, "`fmin` must be a number, .* fmin=None"),
        ({"fmax": "a"}, "`fmax` a number or None.* fmax='a'"),
        ({"fmax": True}, "`fmax` a number or None.* fmax=True"),
        ({"fmin": 950}, "`fmin` must be less than `fmax`.* fmax=900$"),
        ({"fmax": 1001}, "1000.0 Hz.* fmax=1001. Pass `fmax=None`"),
        ({"sample_rate": np.inf}, "`sample_rate` .* finite.*sample_rate=inf"),
        ({"sample_rate": "a"}, "`sample_rate` .*sample_rate='a'"),
    ]:
        with pytest.raises(ValueError, match=message):
            frontend(name, **arguments)


@pytest.mark.parametrize("window, rate", [(1, 1), (3, 50)])
@pytest.mark.parametrize("make", [LEAF, SincFilterbank])
def test_short_filters_and_low_rates_have_limits_in_order(make, window, rate):
    """The constraints leave what the filters begin with as it is."""
    layer = make(
        sample_rate=rate,
        window_ms=1000 * window / rate,
        hop_ms=1000 / rate,
        num_filters=2,
        fmin=0,
        fmax=None,
    )
    layer.build((None, 20))
    assert np.isfinite(value(layer, random((1, 20)))).all()
    for weight in layer.weights:
        if weight.constraint is not None:
            np.testing.assert_allclose(
                weight.constraint(weight), weight, rtol=1e-6
            )


@pytest.mark.parametrize("name", FRONTENDS)
def test_integers_are_an_error(name):
    with pytest.raises(TypeError, match="32768.*int16"):
        frontend(name)(np.ones((1, 400), "int16"))


@pytest.mark.parametrize("name", LEARNED)
def test_mixed_precision_rounds_only_the_result(name):
    x = 1e-3 * random((2, 400))
    found = value(frontend(name, dtype="mixed_float16"), x)
    assert found.dtype == "float16"
    expected = value(frontend(name), x).astype(found.dtype)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", LEARNED)
def test_every_parameter_learns_also_from_silence_and_noise(name):
    """A long clip, first without a sound, then as loud as can be."""
    noise = random((2, 20_000))
    clips = np.sign(noise) * (np.arange(20_000) > 9000)
    clips[0] = 0
    layer = frontend(name)
    network = model(layer, keras.layers.GlobalAveragePooling2D())
    network.compile(
        keras.optimizers.SGD(1e-3),
        "mse",
        # One step is faster than building its graph, but not under JAX.
        run_eagerly=keras.backend.backend() == "tensorflow",
    )

    def weights():
        return [keras.ops.convert_to_numpy(w).copy() for w in layer.weights]

    before = weights()
    assert np.isfinite(network.predict_on_batch(clips)).all()
    network.train_on_batch(clips, np.ones((2, 1)))
    names = [weight.path for weight in layer.weights]
    for path, old, new in zip(names, before, weights(), strict=True):
        assert np.isfinite(new).all() and (old != new).any(), path
    network.train_on_batch(0 * clips, np.ones((2, 1)))
    assert all(np.isfinite(weight).all() for weight in weights())
    assert np.isfinite(network.predict_on_batch(clips)).all()


@pytest.mark.parametrize("name", ["leaf", "sinc", "filterbank", "mel and PCEN"])
def test_diffres_takes_its_output(name):
    layers = (
        [frontend("mel", log_offset=None), PCEN()]
        if name == "mel and PCEN"
        else [frontend(name)]
    )
    diffres = DiffRes(reduction_rate=0.5, log_scale=layers[-1].log_scale)
    network = model(*layers, SpecAugment(), diffres)
    outputs = network.predict(0.1 * random((2, 409)), verbose=0)
    assert outputs.shape == (2, 9, 4, 3) and np.isfinite(outputs).all()


@pytest.mark.parametrize("name", FRONTENDS)
def test_responses_are_those_of_tones(name):
    """A tone comes out of a band with the power that the response says."""
    layer = frontend(name)
    layer.build((None, 4000))
    frequencies, responses = layer.frequency_responses()
    assert responses.shape == (4, len(frequencies))
    assert frequencies[-1] == pytest.approx(1000, rel=5e-3)
    peaks = frequencies[responses.argmax(axis=1)]
    assert (np.diff(peaks) > 50).all()
    assert 100 < peaks[0] < peaks[-1] < 900


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", LEARNED)
def test_it_is_exported_for_any_length(name, tmp_path):
    import tensorflow as tf

    network = model(frontend(name))
    network.export(tmp_path / "model", verbose=False)
    served = tf.saved_model.load(tmp_path / "model")
    x = random((2, 431))
    np.testing.assert_allclose(
        served.serve(x), network.predict_on_batch(x), rtol=1e-4, atol=1e-5
    )
