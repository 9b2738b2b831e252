"""EfficientNets: against keras.applications, with every pooling layer."""

import functools
import math
import types

import gradients
import keras
import numpy as np
import pytest

from diffstride.layers.pooling import (
    DiffStride,
    FixedSpectralPooling,
    SpatialPooling,
)
from diffstride.models.efficientnet import Stage, efficientnet
from diffstride.models.pretrained import load_keras_applications_weights

POOLINGS = [None, SpatialPooling, FixedSpectralPooling, DiffStride]
without_weights = functools.partial(
    keras.StatelessScope, initialize_variables=False
)


def tiny(pooling_cls=None, **kwargs):
    arguments = {
        "strides": (1, 2),
        "stages": (Stage(8, 1, 3, 2), Stage(8, 2, 3, 2)),
        "width_coefficient": 0.25,
        "num_output_classes": 3,
        "input_shape": (16, 16, 3),
    }
    return efficientnet(pooling_cls=pooling_cls, **{**arguments, **kwargs})


def images(*shape):
    return np.random.default_rng(1).uniform(size=shape).astype("float32")


def randomize_statistics(model):
    """Batch normalisation that matters, as after training."""
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.gamma.assign(rng.uniform(0.5, 1.5, shape))
            layer.beta.assign(rng.normal(0, 0.1, shape))
            layer.moving_mean.assign(rng.normal(0, 0.1, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, shape))


@pytest.mark.tensorflow
@pytest.mark.parametrize("variant", ["b0", "b2"])
def test_equals_keras_applications(variant):
    builder = getattr(keras.applications, f"EfficientNet{variant.upper()}")
    source = builder(
        weights=None, input_shape=(64, 64, 3), classifier_activation=None
    )
    randomize_statistics(source)
    # What the weights of ImageNet hold, and more than the unit variance that
    # the source starts with.
    normalization = source.layers[2]
    normalization.adapt_mean.assign([0.485, 0.456, 0.406])
    normalization.adapt_variance.assign([0.229, 0.224, 0.225])
    normalization.finalize_state()
    model = efficientnet(
        variant,
        num_output_classes=1000,
        input_shape=(None, None, 3),
        include_preprocessing=True,
    )
    load_keras_applications_weights(model, source)
    x = 255 * images(2, 64, 64, 3)
    expected = keras.ops.convert_to_numpy(source(x))
    assert expected.std() > 0.01
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


@pytest.mark.tensorflow
def test_normalization_of_imagenet():
    # Keras divides by the root of its variance, and the second `Rescaling`
    # that comes with the weights of ImageNet by that root once more.
    deviation = np.array([0.229, 0.224, 0.225])
    preprocessing = keras.Sequential(
        [
            keras.Input((2, 2, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Normalization(
                mean=[0.485, 0.456, 0.406], variance=deviation
            ),
            keras.layers.Rescaling(list(1 / np.sqrt(deviation))),
        ]
    )
    model = tiny(include_preprocessing=True)
    source = types.SimpleNamespace(
        layers=[*preprocessing.layers, *tiny().layers]
    )
    normalization = model.get_layer("normalization")
    x = 255 * images(1, 2, 2, 3)
    before = keras.ops.convert_to_numpy(normalization(x))
    np.testing.assert_allclose(before, preprocessing(x), rtol=1e-4, atol=1e-4)
    normalization.adapt_mean.assign([0, 0, 0])
    load_keras_applications_weights(model, source)
    np.testing.assert_allclose(normalization(x), before, rtol=1e-4, atol=1e-4)


def test_same_weights_as_keras_applications():
    shape = (64, 64, 3)
    with without_weights():
        source = keras.applications.EfficientNetB4(
            weights=None, input_shape=shape
        )
        model = efficientnet("b4", num_output_classes=1000, input_shape=shape)
    weights = [(w.path, w.shape) for w in model.weights]
    # All but mean, variance and count of the normalisation of pixels.
    assert weights == [(w.path, w.shape) for w in source.weights[3:]]
    top = (layer for layer in source.layers if "top" in layer.name)
    shapes = [layer.output.shape for layer in top]
    assert shapes == [
        layer.output.shape for layer in model.layers if "top" in layer.name
    ]


def test_seven_learned_strides():
    strides = (1, 2, 2, 2, (1, 1.5), 2, 1)
    with without_weights():
        plain = efficientnet()
        learned = efficientnet(strides=strides, pooling_cls=DiffStride)
    added = {w.path for w in learned.trainable_weights} - {
        w.path for w in plain.trainable_weights
    }
    assert added == {f"block{i}a_pooling/strides" for i in range(1, 8)}
    initial = [
        tuple(learned.get_layer(f"block{i}a_pooling").get_config()["strides"])
        for i in range(1, 8)
    ]
    assert initial == [(s, s) if s != (1, 1.5) else s for s in strides]


def test_resize_to():
    with without_weights():
        model = efficientnet(
            resize_to=128, pooling_cls=FixedSpectralPooling, include_top=False
        )
    assert model.get_layer("stem_conv").input.shape == (None, 128, 128, 3)
    assert model.output.shape == (None, 4, 4, 1280)


@pytest.mark.parametrize("pooling_cls", POOLINGS)
def test_save_and_reload(pooling_cls, tmp_path):
    model = tiny(pooling_cls, include_preprocessing=True, resize_to=(12, 16))
    randomize_statistics(model)
    for weight in model.weights:
        if weight.name == "strides":
            weight.assign([1.7, 2.6])
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    x = 255 * images(2, 16, 16, 3)
    np.testing.assert_array_equal(
        gradients.value(reloaded, x), gradients.value(model, x)
    )
    assert reloaded.to_json() == model.to_json()


def test_every_weight_learns_in_fit():
    # Away from the smallest stride, where the constraint holds it.
    model = tiny(DiffStride, strides=(1.6, 1.9), stem_strides=1)
    model.compile("sgd", "mse")
    before = [
        keras.ops.convert_to_numpy(w).copy() for w in model.trainable_weights
    ]
    model.fit(images(4, 16, 16, 3), images(4, 3), batch_size=2, verbose=0)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.any(keras.ops.convert_to_numpy(weight) != old), weight.path


@pytest.mark.tensorflow
@pytest.mark.parametrize("pooling_cls", [None, DiffStride])
def test_data_formats_agree(pooling_cls):
    last = tiny(pooling_cls)
    randomize_statistics(last)
    first = tiny(
        pooling_cls, input_shape=(3, 16, 16), data_format="channels_first"
    )
    first.set_weights(last.get_weights())
    x = images(2, 16, 16, 3)
    np.testing.assert_allclose(
        first(x.transpose(0, 3, 1, 2)), last(x), rtol=1e-4, atol=1e-4
    )


def test_data_format_reaches_all_layers():
    keras.config.set_image_data_format("channels_first")
    with without_weights():
        assert tiny(input_shape=None).input_shape == (None, 3, 32, 32)
        model = tiny(
            FixedSpectralPooling,
            data_format="channels_last",
            input_shape=None,
            resize_to=24,
            include_preprocessing=True,
        )
    assert model.input_shape == (None, 32, 32, 3)
    formats = {getattr(layer, "data_format", None) for layer in model.layers}
    assert formats == {None, "channels_last"}
    axes = {getattr(layer, "axis", None) for layer in model.layers}
    assert axes <= {None, -1, 3, (-1,), (3,)}


def test_pooling_is_shared_with_the_shortcut():
    # The first block of a stage has a shortcut where the stride is 1 and the
    # number of channels stays.
    stages = (Stage(8, 1, 3, 1),)
    pooling_cls = functools.partial(DiffStride, static_sizes=True)
    with without_weights():
        model = tiny(pooling_cls, stages=stages, strides=(1,), stem_strides=1)
    pooling = model.get_layer("block1a_pooling")
    assert len(pooling._inbound_nodes) == 2
    assert model.get_layer("block1a_add").output.shape == (None, 16, 16, 8)


def test_drop_connect_grows_with_depth():
    with without_weights():
        model = efficientnet(drop_connect_rate=0.32)
    # 16 blocks, of which the ninth within the fifth stage is the second.
    assert math.isclose(model.get_layer("block5b_drop").rate, 0.32 * 9 / 16)
    with without_weights():
        model = efficientnet(drop_connect_rate=0.0)
    assert not [w for w in model.layers if w.name.endswith("_drop")]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"variant": "b8"}, "`variant` must be one of .*variant='b8'"),
        ({"strides": (1, 2, 2)}, "`strides` must have 2 entries.*1, 2, 2"),
        ({"strides": (1, 1.5)}, "`strides` must be integers.*block2a_pooling"),
        ({"stem_strides": 1.5}, "`strides` must be integers.*1.5 for stem"),
        (
            {"include_preprocessing": True, "input_shape": (16, 16, 1)},
            r"`input_shape` must have three channels.*\(16, 16, 1\)",
        ),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message), without_weights():
        tiny(**arguments)


def test_weights_of_another_network():
    with without_weights():
        source = tiny(width_coefficient=0.5)
        model = tiny()
    with pytest.raises(ValueError, match="`model` must have.*'stem_conv'"):
        load_keras_applications_weights(model, source)


def test_weights_of_a_smaller_network():
    """All of B0's layers are in B1 too, in the same shapes."""
    with without_weights():
        source = efficientnet("b0", input_shape=(64, 64, 3))
        model = efficientnet("b1", input_shape=(64, 64, 3))
    with pytest.raises(ValueError, match="no others.*'block1b_.*source=None"):
        load_keras_applications_weights(model, source)


@pytest.mark.parametrize("deeper", ["model", "source"])
def test_weights_of_another_network_change_nothing(deeper):
    shallow = tiny()
    deep = tiny(stages=(Stage(8, 1, 3, 2), Stage(8, 3, 3, 2)))
    model, source = (shallow, deep)[:: 1 if deeper == "source" else -1]
    before = model.get_weights()
    with pytest.raises(ValueError, match="Received.*block2c_"):
        load_keras_applications_weights(model, source)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_strides_are_no_part_of_the_weights():
    source, model = tiny(), tiny(DiffStride)
    load_keras_applications_weights(model, source)
    np.testing.assert_array_equal(
        model.get_layer("block2a_pooling").strides, [2, 2]
    )
    np.testing.assert_array_equal(
        model.get_layer("stem_conv").kernel,
        source.get_layer("stem_conv").kernel,
    )
