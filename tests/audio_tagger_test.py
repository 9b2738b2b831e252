"""The classifier with attention heads: pooling, parameters, weights, inputs."""

import gradients
import keras
import numpy as np
import pytest
from keras import ops

from diffstride.layers.diffres import AvgPool, DiffRes
from diffstride.layers.leaf import LEAF
from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.models.audio_tagger import AttentionPooling, audio_tagger

TINY = {
    "variant": "b0",
    "num_output_classes": 5,
    "width_coefficient": 0.1,
    "depth_coefficient": 0.1,
}


def predict(model, x):
    """Compiled under JAX, where single operations take long to compile."""
    if keras.backend.backend() == "jax":
        return model.predict_on_batch(x)
    return ops.convert_to_numpy(model(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def built_pooling(x, **kwargs):
    """A pooling with random weights, biases too."""
    layer = AttentionPooling(3, **kwargs)
    layer.build(x.shape)
    for seed, weight in enumerate(layer.weights):
        weight.assign(gradients.random(weight.shape, seed + 1))
    return layer


@pytest.mark.parametrize("activation", ("sigmoid", None))
def test_attention_pooling(activation):
    x = gradients.random((2, 4, 7, 6))
    layer = built_pooling(x, num_heads=2, activation=activation)
    found = ops.convert_to_numpy(layer(x))

    steps = x.mean(axis=1)
    expected = np.zeros((2, 3))
    for head in range(2):
        attention, classes = (
            steps @ ops.convert_to_numpy(dense.kernel)[:, head]
            + ops.convert_to_numpy(dense.bias)[head]
            for dense in (layer._attention, layer._classifier)
        )
        attention = sigmoid(attention)
        attention = attention / attention.sum(axis=1, keepdims=True)
        if activation == "sigmoid":
            classes = sigmoid(classes)
        weight = ops.convert_to_numpy(layer.head_weights)[head]
        expected += weight * (attention * classes).sum(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_attention_pooling_of_channels_first():
    x = gradients.random((2, 4, 7, 6))
    last = built_pooling(x)
    first = AttentionPooling(3, data_format="channels_first")
    first.build((2, 6, 4, 7))
    first.set_weights(last.get_weights())
    np.testing.assert_allclose(
        ops.convert_to_numpy(first(x.transpose(0, 3, 1, 2))),
        ops.convert_to_numpy(last(x)),
        atol=1e-6,
    )


def test_attention_that_vanishes_is_uniform():
    x = gradients.random((2, 4, 7, 6))
    layer = built_pooling(x, activation=None)
    layer._attention.kernel.assign(ops.zeros((6, 4, 3)))
    layer._attention.bias.assign(ops.full((4, 3), -200.0))
    uniform = ops.convert_to_numpy(layer(x))
    layer._attention.bias.assign(ops.zeros((4, 3)))
    np.testing.assert_allclose(
        uniform, ops.convert_to_numpy(layer(x)), atol=1e-5
    )


def test_probabilities_at_the_start():
    x = gradients.random((2, 4, 7, 6))
    layer = AttentionPooling(3)
    found = ops.convert_to_numpy(layer(x))
    assert np.all((found > 0) & (found < 1))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(layer.head_weights), [0.25] * 4
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "variant,trunk,features",
    # What keras.applications has without its top, but for the normalization.
    [("b0", 4_007_548, 1280), ("b2", 7_700_994, 1408)],
)
def test_parameters(variant, trunk, features):
    model = audio_tagger(variant, input_shape=(None, 128, 3))
    parameters = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    heads = 4 * 2 * (features + 1) * 527 + 4
    assert parameters == trunk + heads
    if variant == "b2":
        assert round(parameters / 1e6, 1) == 13.6


@pytest.mark.tensorflow
def test_weights_of_keras_applications():
    source = keras.applications.EfficientNetB0(
        weights=None, include_top=False, input_shape=(32, 64, 3)
    )
    for seed, weight in enumerate(source.weights):
        # Whatever the initial values, of a size that keeps activations alive.
        weight.assign(np.abs(gradients.random(weight.shape, seed)) * 0.1 + 0.01)
    model = audio_tagger(
        "b0", 5, input_shape=(64, 32, 3), weights=source, output_activation=None
    )
    trunk = model.get_layer("efficientnetb0")
    for layer in trunk.layers:
        if layer.weights:
            for one, other in zip(
                layer.get_weights(),
                source.get_layer(layer.name).get_weights(),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("output_activation", ("sigmoid", "softmax", None))
def test_output_activations(output_activation):
    model = audio_tagger(
        **TINY, input_shape=(40, 32), output_activation=output_activation
    )
    x = gradients.random((3, 40, 32))
    found = predict(model, x)
    assert found.shape == (3, 5) and found.dtype == "float32"
    if output_activation is not None:
        assert np.all((found > 0) & (found < 1))
    sums_to_one = np.allclose(found.sum(axis=1), 1, atol=1e-5)
    assert sums_to_one == (output_activation == "softmax")


def test_spectrograms_of_one_channel_are_repeated():
    x = gradients.random((2, 40, 32))
    two_axes = audio_tagger(**TINY, input_shape=(None, 32))
    three_axes = audio_tagger(**TINY, input_shape=(None, 32, 3))
    three_axes.set_weights(two_axes.get_weights())
    np.testing.assert_allclose(
        predict(two_axes, x),
        predict(three_axes, np.repeat(x[..., None], 3, axis=-1)),
        atol=1e-6,
    )


def frontend(name):
    return LogMelSpectrogram(num_mels=32, name=name)


def test_from_waveform_to_label(tmp_path):
    model = audio_tagger(
        **TINY,
        input_shape=(8000,),
        frontend=frontend,
        augmentation=keras.layers.GaussianNoise(0.1),
        frame_reduction=lambda name: DiffRes(output_frames=40, name=name),
    )
    layers = [type(layer) for layer in model.layers[1:4]]
    assert layers == [LogMelSpectrogram, keras.layers.GaussianNoise, DiffRes]
    x = gradients.random((2, 8000)) * 0.1
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        copy.predict_on_batch(x), model.predict_on_batch(x)
    )


def test_layers_from_config_dicts():
    layer = AvgPool(reduction_rate=0.5, name="pool")
    config = keras.saving.serialize_keras_object(layer)
    model = audio_tagger(**TINY, input_shape=(40, 32), frame_reduction=config)
    assert model.get_layer("pool").get_config() == layer.get_config()


@pytest.mark.parametrize(
    "options,frames",
    [({"reduction_rate": 0.75}, 10), ({"output_frames": 16}, 16)],
)
def test_a_class_is_told_how_many_frames_to_leave(options, frames):
    model = audio_tagger(
        **TINY, input_shape=(40, 32), frame_reduction=AvgPool, **options
    )
    layer = model.get_layer("frame_reduction")
    assert layer.output.shape == (None, frames, 32, 3)


@pytest.mark.tensorflow
def test_the_rate_of_a_trained_model_is_set_again(tmp_path):
    """The network behind takes any number of frames, also once it is saved."""
    options = {"frame_reduction": DiffRes, "input_shape": (40, 8), **TINY}
    x = gradients.random((2, 40, 8)) - 4
    model = audio_tagger(reduction_rate=(0.25, 0.75), **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for rate in (0.5, 0.75):
        loaded.get_layer("frame_reduction").reduction_rate = rate
        of_rate = audio_tagger(reduction_rate=rate, **options)
        of_rate.set_weights(model.get_weights())
        np.testing.assert_allclose(
            predict(loaded, x), predict(of_rate, x), atol=1e-5
        )
        # Models of one rate can be set to another, too.
        of_rate.get_layer("frame_reduction").reduction_rate = 0.9
        assert predict(of_rate, x).shape == (2, 5)


def test_a_layer_behind_the_front_end_keeps_its_scale():
    model = audio_tagger(
        **TINY,
        input_shape=(1600,),
        frontend=[LEAF(num_filters=8), keras.layers.Identity()],
        frame_reduction=DiffRes,
        reduction_rate=0.5,
    )
    assert not model.get_layer("frame_reduction").log_scale


def test_every_weight_learns_in_fit():
    model = audio_tagger(
        **TINY,
        input_shape=(40, 32),
        frame_reduction=DiffRes(reduction_rate=0.5),
    )
    model.compile(
        keras.optimizers.SGD(0.1),
        "binary_crossentropy",
        metrics=[keras.metrics.AUC(curve="PR", multi_label=True)],
        # One step is faster than building its graph, but not under JAX.
        run_eagerly=keras.backend.backend() == "tensorflow",
    )
    before = [
        ops.convert_to_numpy(weight).copy()
        for weight in model.trainable_weights
    ]
    x = gradients.random((4, 40, 32))
    y = (gradients.random((4, 5)) > 0).astype("float32")
    history = model.fit(x, y, verbose=0).history
    assert {"guide_loss", "activeness"} <= set(history)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.any(old != ops.convert_to_numpy(weight)), weight.path


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = audio_tagger(
        **TINY,
        input_shape=(40, 32),
        frame_reduction=DiffRes(reduction_rate=0.5),
    )
    found = predict(model, gradients.random((2, 40, 32)))
    assert found.dtype == "float32"
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "error,kwargs,message",
    [
        (ValueError, {"output_activation": "tanh"}, "`output_activation` must"),
        (ValueError, {"input_shape": (1, 2, 3, 4)}, "`input_shape` must"),
        (
            TypeError,
            {"input_shape": (None,), "frontend": 3},
            "`frontend` must be a Keras layer",
        ),
        (TypeError, {"frame_reduction": 2}, "`frame_reduction` must be"),
        (TypeError, {"reduction_rate": 0.5}, "`frame_reduction` must be"),
        (
            ValueError,
            {"frame_reduction": AvgPool(0.5), "output_frames": 9},
            "`frame_reduction` must be a class or a function to be told",
        ),
        (ValueError, {"num_heads": 0}, "`num_heads` must be"),
        (ValueError, {"num_output_classes": 2.5}, "`num_classes` must be"),
    ],
)
def test_arguments_are_checked(error, kwargs, message):
    with pytest.raises(error, match=message + "(.|\n)*Received: "):
        audio_tagger(**{**TINY, "input_shape": (40, 32), **kwargs})


def test_momentum():
    model = audio_tagger(**TINY, input_shape=(40, 32), momentum=0.75)
    found = [
        layer.momentum
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(found) > 10 and set(found) == {0.75}
