"""Tests of models with maps that come back, which are made to learn strides."""

import keras
import numpy as np
import pytest
from keras import ops
from surgery_models import conv, images, network, set_strides, strides_of

from diffstride import (
    SpectralResize,
    conversion_summary,
    freeze,
    learn_strides,
    to_integer_strides,
)
from diffstride.layers.resize import BaseSpectralResize
from diffstride.models.unet import unet as models_unet

layers = keras.layers
KEEP = {"padding": "same", "activation": "relu"}


def outputs(model, inputs):
    return [
        ops.convert_to_numpy(y)
        for y in keras.tree.flatten(model(inputs, training=False))
    ]


def resizes_of(model):
    return [x for x in model.layers if isinstance(x, BaseSpectralResize)]


def up(kind, filters):
    if kind == "transposed":
        return layers.Conv2DTranspose(filters, 3, strides=2, **KEEP)
    return layers.UpSampling2D(2, interpolation=kind)


def unet(kind="nearest", shape=(16, 24, 2), inside=None):
    """Two levels, of which the first pools and the second has strides."""
    inputs = keras.Input(shape)
    skips, x = [], inputs
    skips.append(x := layers.Conv2D(3, 3, **KEEP)(x))
    x = layers.MaxPooling2D(2, name="pool")(x)
    skips.append(x := layers.Conv2D(4, 3, **KEEP)(x))
    x = layers.Conv2D(6, 3, strides=2, name="down", **KEEP)(x)
    for skip in reversed(skips):
        x = layers.Conv2D(4, 3, **KEEP)(up(kind, 4)(x))
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(4, 3, **KEEP)(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x))


def fpn():
    """Three levels; the smallest map goes up by 2 and by 4."""
    inputs = keras.Input((32, 32, 3))
    bottom_up, x = [], inputs
    for index in range(3):
        x = conv(2, f"stage{index}", activation="relu")(x)
        bottom_up.append(layers.Conv2D(3, 1)(x))
    x = bottom_up[-1]
    ends = [x]
    for lateral in reversed(bottom_up[:-1]):
        x = layers.Add()([layers.UpSampling2D(2)(x), lateral])
        ends.append(layers.Conv2D(3, 3, **KEEP)(x))
    ends.append(
        layers.Average()([layers.UpSampling2D(4)(ends[0]), bottom_up[0]])
    )
    return keras.Model(inputs, ends)


def autoencoder(size=24, sequential=False):
    encoder = [conv(2, "a", activation="relu"), layers.MaxPooling2D(2)]
    decoder = [
        layers.UpSampling2D(2),
        layers.Conv2D(3, 3, **KEEP),
        layers.Conv2DTranspose(1, 2, strides=2),
    ]
    if not sequential:
        return network(*encoder, *decoder, shape=(size, size, 1))
    small = size and size // 4
    return network(
        network(*encoder, shape=(size, size, 1)),
        network(*decoder, shape=(small, small, 4)),
        shape=(size, size, 1),
    )


def autoencoder_of_an_odd_size():
    """28 points become 4, which go up to 16, of which 14 are left."""
    return network(
        *(layers.MaxPooling2D(2, padding="same") for _ in range(3)),
        layers.UpSampling2D(2),
        layers.UpSampling2D(2),
        layers.Conv2D(2, 3),
        layers.UpSampling2D(2),
        shape=(28, 28, 1),
    )


def valid_unet():
    """As published in 2015: windows do not leave the map, skips are cut."""
    inputs = keras.Input((32, 32, 1))
    skip = layers.Conv2D(3, 3)(inputs)
    x = layers.Conv2D(4, 3)(layers.MaxPooling2D(2, name="pool")(skip))
    x = layers.Conv2DTranspose(3, 2, strides=2)(x)
    x = layers.Concatenate()([layers.Cropping2D(2)(skip), x])
    return keras.Model(inputs, layers.Conv2D(1, 3)(x))


def cut_to_an_odd_skip():
    inputs = keras.Input((17, 17, 1))
    x = conv(1, "stem")(inputs)
    up = layers.UpSampling2D(2)(conv(2, "a")(x))
    up = layers.Cropping2D(((0, 1), (0, 1)))(up)
    return keras.Model(inputs, layers.Add()([up, x]))


def resized_by_hand():
    inputs = keras.Input((16, 16, 1))
    skip = conv(2, "a")(inputs)
    x = conv(2, "b")(skip)
    x = ops.image.resize(x, skip.shape[1:3])
    x = layers.Concatenate()([x, layers.Resizing(8, 8)(skip), skip])
    return keras.Model(inputs, layers.Resizing(16, 16)(x))


@keras.saving.register_keras_serializable(package="test")
class ResizeLike(layers.Layer):
    """Repeats points; `ops.image.resize` needs sizes that are numbers."""

    def call(self, inputs):
        x, like = inputs
        for axis in (1, 2):
            size, new = ops.shape(x)[axis], ops.shape(like)[axis]
            x = ops.take(x, ops.arange(new) * size // new, axis=axis)
        return x

    def compute_output_shape(self, shapes):
        (batch, *_, channels), like = shapes
        return (batch, *like[1:3], channels)


def resized_by_a_layer():
    inputs = keras.Input((16, 16, 1))
    skip = conv(2, "a")(inputs)
    x = ResizeLike()([conv(2, "b")(skip), skip])
    x = ResizeLike()([layers.Add()([x, skip]), inputs])
    return keras.Model(inputs, layers.Concatenate()([x, inputs]))


@keras.saving.register_keras_serializable(package="test")
class PixelShuffle(layers.Layer):
    def call(self, x):
        _, height, width, channels = x.shape
        height, width = (ops.shape(x)[axis] for axis in (1, 2))
        x = ops.reshape(x, (-1, height, width, 2, 2, channels // 4))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, 2 * height, 2 * width, channels // 4))

    def compute_output_shape(self, shape):
        batch, *sizes, channels = shape
        sizes = [None if size is None else 2 * size for size in sizes]
        return (batch, *sizes, channels // 4)


def shuffled():
    return network(conv(2, "a"), PixelShuffle())


def context():
    """The mean of a map beside the map, and steps that differ."""
    inputs = keras.Input((16, 16, 2))
    x = conv(2, "b")(conv(2, "a")(inputs))
    mean = layers.GlobalAveragePooling2D(keepdims=True)(x)
    mean = layers.UpSampling2D(4)(layers.Conv2D(2, 1)(mean))
    other = conv(4, "c")(inputs)
    gate = layers.Reshape((1, 1, 4))(layers.GlobalMaxPooling2D()(x))
    x = layers.Concatenate()([x * gate, mean, other])
    return keras.Model(inputs, layers.UpSampling2D(4)(x))


def two_inputs():
    """Two encoders, whose maps meet at each level, and two heads."""
    inputs = [keras.Input((16, 16, c), name=f"input{c}") for c in (1, 3)]
    levels = []
    for index, x in enumerate(inputs):
        skip = conv(2, f"a{index}", activation="relu")(x)
        levels.append((skip, conv(2, f"b{index}")(skip)))
    skips, small = zip(*levels, strict=True)
    x = layers.UpSampling2D(2)(layers.Add()(small))
    x = layers.Concatenate()([x, *skips])
    first = layers.UpSampling2D(2, name="up")(x)
    second = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, {"map": first, "classes": second})


def backbone_inside():
    """An encoder that is a model, and a decoder on its outputs."""
    inputs = keras.Input((None, None, 2))
    skip = conv(2, "a", activation="relu")(inputs)
    ends = [layers.Conv2D(1, 1)(inputs), skip, conv(2, "b")(skip)]
    encoder = keras.Model(inputs, ends)
    inputs = keras.Input((16, 24, 2))
    first, second, third = encoder(inputs)
    x = layers.Add()([layers.UpSampling2D(2)(third), second])
    x = layers.Concatenate()([layers.UpSampling2D(2)(x), first])
    return keras.Model(inputs, x)


def frames():
    """A U-Net over the frames of a film, layer by layer."""
    inputs = keras.Input((2, 8, 8, 1))
    skip = layers.TimeDistributed(layers.Conv2D(2, 3, **KEEP))(inputs)
    x = layers.TimeDistributed(conv(2, "a", activation="relu"))(skip)
    x = layers.TimeDistributed(layers.UpSampling2D(2))(x)
    return keras.Model(inputs, layers.Concatenate()([x, skip]))


# Models, and whether they run on TensorFlow alone, to save time.
MODELS = {
    "nearest": (unet, True),
    "bilinear": (lambda: unet("bilinear"), True),
    "transposed": (lambda: unet("transposed"), True),
    "any size": (lambda: unet(shape=(None, None, 2)), True),
    "fpn": (fpn, True),
    "autoencoder": (autoencoder, True),
    "autoencoder of any size": (lambda: autoencoder(None), True),
    "two models": (lambda: autoencoder(sequential=True), True),
    "two models of any size": (lambda: autoencoder(None, True), True),
    "odd autoencoder": (autoencoder_of_an_odd_size, True),
    "valid": (valid_unet, True),
    "odd skip": (cut_to_an_odd_skip, True),
    "resized by hand": (resized_by_hand, True),
    "resized by a layer": (resized_by_a_layer, False),
    "shuffled": (shuffled, True),
    "context": (context, True),
    "two inputs": (two_inputs, True),
    "backbone": (backbone_inside, False),
    "frames": (frames, False),
}


def examples(model):
    sizes = [
        [16 if size is None else size for size in x.shape[1:]]
        for x in model.inputs
    ]
    x = [images(2, *shape) for shape in sizes]
    return x if len(x) > 1 else x[0]


def check_close(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.tensorflow] * is_marked)
        for name, (_, is_marked) in MODELS.items()
    ],
)
def test_maps_come_back(name):
    build, _ = MODELS[name]
    model = build()
    x = examples(model)
    expected = outputs(model, x)
    learned = learn_strides(model)
    check_close(outputs(learned, x), expected, 1e-4)
    integer = to_integer_strides(learned)
    check_close(outputs(integer, x), expected, 1e-5)
    assert not resizes_of(integer)

    # The maps that learn move, and those that came back do not.
    set_strides(learned, (1.3, 2.6))
    moved = outputs(learned, x)
    if name != "fpn":
        assert [y.shape for y in moved] == [y.shape for y in expected]
    shape = None if isinstance(x, list) else x.shape[1:]
    check_close(outputs(freeze(learned, shape), x), moved, 1e-5)
    # Eagerly, as compiling takes longer than all the rest.
    is_eager = keras.backend.backend() == "tensorflow"
    learned.compile("sgd", "mse", run_eagerly=is_eager)
    labels = [np.zeros_like(y) for y in moved]
    if isinstance(learned.output, dict):
        labels = dict(zip(sorted(learned.output), labels, strict=True))
    elif len(labels) == 1:
        (labels,) = labels
    learned.train_on_batch(x, labels)
    assert all(np.isfinite(y).all() for y in outputs(learned, x))


def test_fit_with_strides_that_move():
    learned = learn_strides(unet("transposed"), where="pool")
    set_strides(learned, (1.3, 2.6))
    learned.compile("sgd", "mse")
    x = images(2, 16, 24, 2)
    learned.fit(x, x, verbose=0)
    assert learned.predict(x, verbose=0).shape == x.shape


def test_the_unet_of_this_package():
    """It resizes to its skips by itself."""
    model = models_unet(2, (2, 2, 4), (2, 2), input_shape=(None, 2))
    learned = learn_strides(model)
    assert len(strides_of(learned)) == 2
    assert len(resizes_of(learned)) == len(resizes_of(model)) == 2
    x = images(2, 24, 2)
    check_close(outputs(learned, x), outputs(model, x), 1e-4)
    set_strides(learned, 1.3)
    assert outputs(learned, x)[0].shape == (2, 24, 2)


def test_convolutions_run_on_the_size_of_the_skip():
    learned = learn_strides(unet())
    names = [layer.name for layer in learned.layers]
    enlarging = names.index("up_sampling2d")
    assert names[enlarging + 1] == "up_sampling2d_resize"
    assert isinstance(learned.layers[enlarging + 1], BaseSpectralResize)


def test_levels_of_an_encoder_have_strides_of_their_own():
    learned = learn_strides(fpn())
    assert list(strides_of(learned)) == [f"stage{i}_stride" for i in range(3)]


def test_what_does_not_learn_is_not_resized():
    model = unet()
    learned = learn_strides(model, where="down")
    # The map of the first level has a fixed size, that of the second moves.
    assert [x.name for x in resizes_of(learned)] == ["up_sampling2d_resize"]
    set_strides(learned, 1.4)
    assert learned(images(1, 16, 24, 2)).shape == (1, 16, 24, 2)


@pytest.mark.tensorflow
def test_pooling_before_convolutions_in_a_unet():
    learned = learn_strides(unet(), pooling_order="before")
    set_strides(learned, (1.7, 2.3))
    assert learned(images(1, 16, 24, 2)).shape == (1, 16, 24, 2)


def test_a_summary_of_a_unet():
    lines = []
    conversion_summary(unet(), print_fn=lines.append)
    assert [line.split()[0] for line in lines[1:3]] == ["pool", "down"]


def test_a_map_of_a_learned_size_is_compared_with_labels():
    """What the guide says of a discriminator that judges patches."""
    model = network(conv(2, "a"), layers.Conv2D(1, 3, padding="same"))
    learned = learn_strides(model)
    resized = SpectralResize(size=(8, 8))(learned.output)
    learned = keras.Model(learned.input, resized)
    x = images(2, 16, 16, 1)
    check_close(outputs(learned, x), outputs(model, x), 1e-4)
    set_strides(learned, 1.4)
    learned.compile("sgd", "mse")
    learned.train_on_batch(x, np.ones((2, 8, 8, 1)))


def test_a_size_that_no_map_has():
    def build(size):
        return network(
            conv(2, "a", padding="valid"),
            layers.MaxPooling2D(2),
            layers.UpSampling2D(4, name="last"),
            shape=(size, size, 1),
        )

    model = build(14)
    learned = learn_strides(model)
    x = images(2, 14, 14, 1)
    set_strides(learned, 1.3)
    assert outputs(learned, x)[0].shape == outputs(model, x)[0].shape
    with pytest.raises(ValueError, match="known sizes.*'last', which comes"):
        learn_strides(build(None))


@pytest.mark.tensorflow
def test_layers_that_need_known_sizes():
    with pytest.raises(ValueError, match="'nearest' or .*'up_sampling2d'"):
        learn_strides(unet("bicubic"))
    if hasattr(layers, "AdaptiveMaxPooling2D"):
        pooling = layers.AdaptiveMaxPooling2D(4, name="pool")
        with pytest.raises(ValueError, match="SpectralResize.*'pool'"):
            learn_strides(network(conv(2, "a"), pooling))


def test_points_in_a_row_are_not_resized():
    inputs = keras.Input((16, 16, 1))
    rows = [
        layers.Reshape((-1, 4))(x)
        for x in (conv(4, "c")(inputs), conv(2, "b")(conv(2, "a")(inputs)))
    ]
    x = layers.GlobalAveragePooling1D()(layers.Add(name="sum")(rows))
    with pytest.raises(ValueError, match=r"row.*\[c\] .*\[a, b\] in 'sum'"):
        learn_strides(keras.Model(inputs, x))


def test_a_converted_unet_reloads_and_is_exported(tmp_path):
    learned = learn_strides(unet("bilinear"))
    set_strides(learned, (1.3, 2.6))
    x = images(2, 16, 24, 2)
    learned.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    check_close(outputs(reloaded, x), outputs(learned, x), 1e-6)
    frozen = freeze(learned)
    frozen.save(tmp_path / "frozen.keras")
    reloaded = keras.saving.load_model(tmp_path / "frozen.keras")
    check_close(outputs(reloaded, x), outputs(learned, x), 1e-5)


@pytest.mark.tensorflow
def test_a_frozen_unet_in_other_formats(tmp_path):
    import tensorflow as tf

    learned = learn_strides(unet("bilinear"))
    set_strides(learned, (1.3, 2.6))
    x = images(1, 16, 24, 2)
    frozen = freeze(learned)
    frozen.export(tmp_path / "saved_model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved_model")
    check_close([loaded.serve(x).numpy()], outputs(learned, x), 1e-4)
