"""DenseNets: against keras.applications, with every pooling layer."""

import functools

import gradients
import keras
import numpy as np
import pytest

from diffstride.layers.pooling import (
    DiffStride,
    FixedSpectralPooling,
    SpatialPooling,
)
from diffstride.models.densenet import densenet
from diffstride.models.pretrained import load_keras_applications_weights

POOLINGS = [None, SpatialPooling, FixedSpectralPooling, DiffStride]
without_weights = functools.partial(
    keras.StatelessScope, initialize_variables=False
)


def tiny(pooling_cls=None, **kwargs):
    arguments = {
        "blocks": (1, 1),
        "growth": 4,
        "strides": (2,),
        "num_output_classes": 3,
        "input_shape": (16, 16, 3),
    }
    return densenet(pooling_cls=pooling_cls, **{**arguments, **kwargs})


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
def test_equals_keras_applications():
    source = keras.applications.DenseNet121(
        weights=None, input_shape=(64, 64, 3), classifier_activation=None
    )
    randomize_statistics(source)
    model = densenet(
        num_output_classes=1000,
        imagenet_stem=True,
        input_shape=(None, None, 3),
    )
    load_keras_applications_weights(model, source)
    x = images(2, 64, 64, 3)
    expected = keras.ops.convert_to_numpy(source(x))
    assert expected.std() > 0.1
    np.testing.assert_allclose(model(x), expected, atol=1e-5)

    classifier = densenet(imagenet_stem=True, pooling_cls=DiffStride)
    with pytest.raises(ValueError, match="`model` must .*'predictions'"):
        load_keras_applications_weights(classifier, source)
    before = keras.ops.convert_to_numpy(
        classifier.get_layer("predictions").kernel
    ).copy()
    load_keras_applications_weights(classifier, source, include_top=False)
    np.testing.assert_array_equal(
        classifier.get_layer("predictions").kernel, before
    )
    np.testing.assert_array_equal(
        classifier.get_layer("conv5_block16_2_conv").kernel,
        source.get_layer("conv5_block16_2_conv").kernel,
    )


def test_same_weights_as_keras_applications():
    with without_weights():
        source = keras.applications.DenseNet121(weights=None)
        model = densenet(
            num_output_classes=1000,
            imagenet_stem=True,
            input_shape=(224, 224, 3),
        )
    assert [(w.path, w.shape) for w in model.weights] == [
        (w.path, w.shape) for w in source.weights
    ]
    assert model.get_layer("relu").output.shape == (None, 7, 7, 1024)


def test_two_downsampling_steps_of_the_paper():
    with without_weights():
        model = densenet(strides=(3, 1, None), pooling_cls=DiffStride)
    strides = [w.path for w in model.weights if w.name == "strides"]
    assert strides == ["pool2_pooling/strides", "pool3_pooling/strides"]
    # One in the stem, three transitions, the classifier: 121 in all.
    kernels = [w for w in model.trainable_weights if w.name == "kernel"]
    assert len(kernels) == 121
    assert model.get_layer("pool2_pooling").get_config()["strides"] == [3, 3]


def test_map_sizes():
    with without_weights():
        model = densenet(strides=(2, (1, 3), None), include_top=False)
    assert model.get_layer("conv2_block1_0_bn").input.shape[1:3] == (32, 32)
    assert model.output.shape == (None, 16, 5, 1024)


@pytest.mark.parametrize("pooling_cls", POOLINGS)
def test_save_and_reload(pooling_cls, tmp_path):
    model = tiny(pooling_cls)
    randomize_statistics(model)
    for weight in model.weights:
        if weight.name == "strides":
            weight.assign([1.7, 2.6])
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images(2, 16, 16, 3)
    np.testing.assert_array_equal(
        gradients.value(reloaded, x), gradients.value(model, x)
    )
    assert reloaded.to_json() == model.to_json()


def test_every_weight_learns_in_fit():
    model = tiny(DiffStride, weight_decay=1e-3)
    model.compile("sgd", "mse")
    before = [
        keras.ops.convert_to_numpy(w).copy() for w in model.trainable_weights
    ]
    model.fit(images(4, 16, 16, 3), images(4, 3), batch_size=2, verbose=0)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.any(keras.ops.convert_to_numpy(weight) != old), weight.path


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "pooling_cls, imagenet_stem", [(None, True), (DiffStride, False)]
)
def test_data_formats_agree(pooling_cls, imagenet_stem):
    last = tiny(pooling_cls, imagenet_stem=imagenet_stem)
    randomize_statistics(last)
    keras.config.set_image_data_format("channels_first")
    first = tiny(
        pooling_cls, imagenet_stem=imagenet_stem, input_shape=(3, 16, 16)
    )
    first.set_weights(last.get_weights())
    x = images(2, 16, 16, 3)
    np.testing.assert_allclose(
        first(x.transpose(0, 3, 1, 2)), last(x), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("imagenet_stem", [True, False])
def test_data_format_reaches_all_layers(imagenet_stem):
    keras.config.set_image_data_format("channels_first")
    with without_weights():
        model = tiny(
            imagenet_stem=imagenet_stem,
            data_format="channels_last",
            input_shape=(32, 32, 3),
        )
    formats = {getattr(layer, "data_format", None) for layer in model.layers}
    assert formats == {None, "channels_last"}
    axes = {getattr(layer, "axis", None) for layer in model.layers}
    assert axes <= {None, -1, 3}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strides": (2, 2)}, r"`strides` must have one entry.*blocks=\(1, 1"),
        ({"strides": (1.5,)}, "`strides` must be integers.*pool2_pooling"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message), without_weights():
        tiny(**arguments)
