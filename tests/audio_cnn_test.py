"""The audio CNN: its shapes, its windows, its heads."""

import functools

import keras
import numpy as np
import pytest

from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.layers.pooling import (
    DiffStride,
    FixedSpectralPooling,
    SpatialPooling,
)
from diffstride.models.audio_cnn import AverageWindows, SplitWindows, audio_cnn
from tests.gradients import random, value

WINDOW = 1600
FRONTEND = functools.partial(LogMelSpectrogram, num_mels=16)
INSIDE = functools.partial(DiffStride, ramp="inside", smoothness_factor=1.0)


def small(num_output_classes=3, **kwargs):
    """Two blocks on a spectrogram of 8 frames and 16 channels."""
    arguments = {
        "input_shape": (WINDOW,),
        "channels": (4, 6),
        "strides": ((2, 2), (1, 2)),
        "frontend": FRONTEND,
        **kwargs,
    }
    return audio_cnn(num_output_classes, **arguments)


def shuffled_normalizations(model):
    """Statistics that are not the initial ones, which hide mistakes."""
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [generator.uniform(0.5, 1.5, w.shape) for w in layer.weights]
            )
    return model


def shapes(model):
    return {layer.name: layer.output.shape[1:] for layer in model.layers}


def test_published_architecture():
    model = audio_cnn(35)
    sizes = shapes(model)
    assert sizes["windows"] == (16000,)
    assert sizes["frontend"] == (98, 64, 1)
    expected = [
        ((49, 64, 64), (49, 32, 64)),
        ((25, 32, 128), (25, 16, 128)),
        ((25, 16, 256), (25, 16, 256)),
        ((13, 16, 256), (13, 8, 256)),
        ((13, 8, 512), (13, 8, 512)),
        ((7, 8, 512), (7, 4, 512)),
    ]
    for index, (time, frequency) in enumerate(expected):
        block = f"block{index + 1}"
        assert sizes[f"{block}_time_convolution"] == time
        assert sizes[f"{block}_frequency_convolution"] == frequency
    # Two convolutions of three taps each, with biases and normalisations.
    channels = [1, 64, 128, 256, 256, 512, 512]
    parameters = sum(
        3 * before * after + 3 * after * after + (2 + 2 * 4) * after
        for before, after in zip(channels[:-1], channels[1:], strict=True)
    )
    assert model.count_params() == parameters + (512 + 1) * 35
    order = [type(layer).__name__ for layer in model.layers[3:9]]
    assert order == ["Conv2D", "ReLU", "BatchNormalization"] * 2


def test_pooling_layers_take_the_place_of_strides():
    fixed = shapes(small(pooling_cls=FixedSpectralPooling))
    assert fixed["block1_frequency_convolution"] == (8, 16, 4)
    assert fixed["block1_pooling"] == (4, 8, 4)
    assert fixed["block2_frequency_convolution"] == (4, 8, 6)
    assert fixed["block2_pooling"] == (4, 4, 6)
    strided = small()
    names = [layer.name for layer in strided.layers]
    assert not [name for name in names if "pooling" in name][:-1]
    learned = small(pooling_cls=DiffStride)
    shared = small(
        pooling_cls=functools.partial(DiffStride, shared_stride=True),
        strides=((2, 2), (1.5, 1.5)),
    )
    assert learned.count_params() == strided.count_params() + 4
    assert shared.count_params() == strided.count_params() + 2
    order = [layer.name for layer in learned.layers]
    place = order.index("block1_pooling")
    assert order[place - 1 : place + 3] == [
        "block1_frequency_convolution",
        "block1_pooling",
        "block1_frequency_activation",
        "block1_frequency_normalization",
    ]


@pytest.mark.tensorflow
def test_the_gain_of_a_pooling_layer_is_absorbed():
    """Normalisation follows pooling: `norm` does not matter in training."""
    x = random((4, WINDOW))
    outputs = []
    for norm in ("backward", "forward"):
        keras.utils.set_random_seed(1)
        pooling = functools.partial(FixedSpectralPooling, norm=norm)
        model = small(pooling_cls=pooling)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.epsilon = 1e-9
        outputs.append(np.array(model(x, training=True)))
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling_cls", [None, DiffStride])
def test_logits_are_averaged_over_windows(pooling_cls):
    model = shuffled_normalizations(small(pooling_cls=pooling_cls))
    one_window = keras.Model(
        model.get_layer("windows").output,
        model.get_layer("predictions").output,
    )
    clips = random((2, 3 * WINDOW + 700))
    windows = [
        value(one_window, clips[:, i * WINDOW : (i + 1) * WINDOW])
        for i in range(3)
    ]
    assert np.abs(windows[0] - windows[1]).max() > 1e-3
    # What is left over at the end is dropped.
    np.testing.assert_allclose(
        model.predict(clips, verbose=0), sum(windows) / 3, atol=1e-5
    )
    # A clip shorter than a window is followed by zeros.
    padded = np.pad(clips[:, :700], [(0, 0), (0, WINDOW - 700)])
    np.testing.assert_allclose(
        model.predict(clips[:, :700], verbose=0),
        value(one_window, padded),
        atol=1e-5,
    )


def test_windows_by_hand():
    clips = np.arange(14, dtype="float32").reshape(2, 7)
    windows = value(SplitWindows(3), clips)
    assert windows.tolist() == [[0, 1, 2], [3, 4, 5], [7, 8, 9], [10, 11, 12]]
    short = value(SplitWindows(np.int64(3)), clips[:, :2])
    assert short.tolist() == [[0, 1, 0], [7, 8, 0]]
    exact = value(SplitWindows(7), clips)
    assert exact.tolist() == clips.tolist()
    averages = value(AverageWindows(), windows, clips)
    assert averages.tolist() == [[1.5, 2.5, 3.5], [8.5, 9.5, 10.5]]


def test_clip_as_one_window():
    model = small(input_shape=(None,))
    assert "windows" not in shapes(model)
    x = random((1, 3 * WINDOW))
    logits = model.predict(x, verbose=0)
    assert logits.shape == (1, 3)
    # The maximum over time is that over the whole clip.
    x[:, 2 * WINDOW :] *= 10
    assert np.abs(logits - model.predict(x, verbose=0)).max() > 1e-3


def test_spectrogram_as_input():
    model = small(input_shape=(20, 16, 3), frontend=None)
    assert model.input_shape == (None, 20, 16, 3)
    assert model(np.zeros((2, 20, 16, 3), "float32")).shape == (2, 3)


@pytest.mark.parametrize(
    "pooling_cls",
    [None, {"class_name": "DiffStride"}],
    ids=["strided", "learned"],
)
def test_train_save_and_reload(pooling_cls, tmp_path):
    model = small({"a": 3, "b": 2}, pooling_cls=pooling_cls)
    model.compile(
        "sgd",
        loss={
            task: keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            for task in "ab"
        },
    )
    x = random((4, WINDOW))
    labels = {"a": np.array([0, 1, 2, 0]), "b": np.array([0, 1, 0, 1])}
    before = model.get_weights()
    assert np.all(np.isfinite(model.train_on_batch(x, labels)))
    after = model.get_weights()
    for variable, old, new in zip(model.weights, before, after, strict=True):
        assert not np.array_equal(old, new), variable.path
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    clips = random((2, 2 * WINDOW), seed=1)
    expected = model.predict(clips, verbose=0)
    actual = reloaded.predict(clips, verbose=0)
    assert set(actual) == {"a", "b"}
    for task in actual:
        np.testing.assert_array_equal(actual[task], expected[task])


def test_a_head_gets_no_gradient_from_other_tasks():
    """What a weight of 0 hides may be anything: no weight feels it."""
    x = random((4, WINDOW))
    weights = {
        "a": np.array([1, 1, 0, 0], "float32"),
        "b": np.array([0, 0, 1, 1], "float32"),
    }
    model = small({"a": 3, "b": 2})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss={"a": loss, "b": loss})
    initial = model.get_weights()

    def trained(labels, weights):
        model.set_weights(initial)
        model.train_on_batch(x, labels, sample_weight=weights)
        return dict(
            zip(
                [w.path for w in model.weights],
                model.get_weights(),
                strict=True,
            )
        )

    own = {"a": np.array([2, 1, 0, 0]), "b": np.array([0, 0, 1, 0])}
    other = {"a": np.array([2, 1, 1, 2]), "b": np.array([1, 1, 1, 0])}
    expected, actual = trained(own, weights), trained(other, weights)
    for path in expected:
        np.testing.assert_array_equal(actual[path], expected[path])
    # Without a weight of its own, a head stays as it is; the other moves.
    only_a = trained(own, {"a": weights["a"], "b": 0 * weights["b"]})
    model.set_weights(initial)
    for task, moved in [("a", True), ("b", False)]:
        for w in model.get_layer(task).weights:
            before = keras.ops.convert_to_numpy(w)
            assert np.array_equal(before, only_a[w.path]) != moved


def test_mixed_precision():
    full = shuffled_normalizations(small())
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = small()
    mixed.set_weights(full.get_weights())
    x = 0.1 * random((2, 2 * WINDOW))
    logits = mixed.predict(x, verbose=0)
    assert logits.dtype == np.float32
    expected = full.predict(x, verbose=0)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, atol=0.05 * scale)


def test_learns_to_tell_tones_apart():
    generator = np.random.default_rng(0)
    labels = np.arange(32) % 3
    frequencies = np.array([500, 1500, 3500])[labels, np.newaxis]
    phase = generator.uniform(0, 2 * np.pi, (32, 1))
    time = np.arange(WINDOW) / 16000
    x = 0.1 * np.sin(2 * np.pi * frequencies * time + phase)
    x = (x + 0.01 * generator.normal(size=x.shape)).astype("float32")
    model = small(pooling_cls=INSIDE, momentum=0.8)
    model.compile(
        keras.optimizers.Adam(0.02),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # Without optimizations (`XLA_FLAGS` in conftest.py) XLA computes wrong
        # gradients of a global maximum behind a normalization. On TensorFlow
        # Keras does not use XLA here, as sizes are dynamic.
        run_eagerly=keras.backend.backend() == "jax",
    )
    model.fit(x, labels, batch_size=16, epochs=12, verbose=0)
    _, accuracy = model.evaluate(x, labels, batch_size=16, verbose=0)
    assert accuracy == 1


def test_frontend_from_config_and_instance():
    layer = LogMelSpectrogram(num_mels=16, hop_ms=5, name="mels")
    config = keras.saving.serialize_keras_object(layer)
    for frontend in (layer, config):
        assert shapes(small(frontend=frontend))["mels"] == (16, 16, 1)


def test_errors():
    for arguments, error, message in [
        ({"channels": (4,)}, ValueError, "`channels` and `strides` must have"),
        ({"channels": (), "strides": ()}, ValueError, "`channels` and"),
        ({"input_shape": (8, 16)}, ValueError, "`input_shape` must be"),
        ({"frontend": None}, TypeError, "`frontend` must be a Keras layer"),
        ({"strides": (1.5, 2)}, ValueError, "`strides` must be integers"),
        ({"pooling_cls": SpatialPooling()}, TypeError, "`pooling_cls` must"),
        ({"window": 3}, TypeError, "unexpected keyword argument 'window'"),
    ]:
        with pytest.raises(error, match=message):
            small(**arguments)
    with pytest.raises(ValueError, match="`window` must be a positive integer"):
        SplitWindows(0)
