"""Tests of models that are made to learn their strides."""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import ops
from surgery_models import (
    branches,
    conv,
    images,
    network,
    outputs,
    set_strides,
    strides_of,
)

from diffstride import (
    DiffStride,
    FixedSpectralPooling,
    SpatialPooling,
    freeze,
    learn_strides,
    to_integer_strides,
)
from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import count_macs
from diffstride.models.residual_layer import ResidualLayer
from diffstride.models.resnet import Resnet

layers = keras.layers


def waves(size):
    """A batch of one image of a few low frequencies in both directions."""
    angle = 2 * np.pi * np.arange(size) / size
    wave = 0.3 + np.cos(angle) + 0.5 * np.sin(2 * angle)
    return (wave[:, None] * wave[None, :] + 1)[None, :, :, None]


APPLICATIONS = {
    "ResNet50": (keras.applications.ResNet50, 5, "conv3_block1_0_conv_stride"),
    "MobileNetV2": (
        functools.partial(keras.applications.MobileNetV2, alpha=0.35),
        5,
        "block_1_depthwise_stride",
    ),
    "EfficientNetB0": (
        keras.applications.EfficientNetB0,
        5,
        "block2a_dwconv_stride",
    ),
    "VGG16": (keras.applications.VGG16, 5, "block1_pool_stride"),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("ResNet50", "EfficientNetB0")
        else name
        for name in APPLICATIONS
    ],
)
def test_keras_applications(name):
    build, count, one_of_them = APPLICATIONS[name]
    model = build(
        input_shape=(32, 32, 3), weights=None, include_top=False, pooling="avg"
    )
    learned = learn_strides(model)
    strides = strides_of(learned)
    assert len(strides) == count
    assert strides[one_of_them] == [2.0, 2.0]
    assert learned.output_shape == model.output_shape
    # Two strides and the aliasing.
    assert learned.count_params() == model.count_params() + 3 * count

    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3))
    # The way back, with weights and all.
    restored = to_integer_strides(learned)
    expected = outputs(model, x)
    np.testing.assert_allclose(
        outputs(restored, x), expected, atol=1e-6 * np.abs(expected).max()
    )
    np.testing.assert_allclose(
        outputs(learned, x), expected, atol=1e-5 * np.abs(expected).max()
    )

    for layer in learned_layers(learned):
        layer.aliasing.assign(0.3)
    set_strides(learned, (1.7, 2.4))
    expected = outputs(learned, x)
    np.testing.assert_allclose(
        outputs(freeze(learned), x), expected, atol=5e-6 * expected.max()
    )
    # Eagerly, as compiling takes longer than all the rest.
    learned.compile("sgd", "mse", run_eagerly=True)
    learned.train_on_batch(x, np.ones_like(expected))
    for layer in learned_layers(learned):
        trained = ops.convert_to_numpy(layer.strides)
        assert np.isfinite(trained).all()
    assert strides_of(learned) != strides


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_keras_applications_compiled(name):
    build, *_ = APPLICATIONS[name]
    learned = learn_strides(
        build(
            input_shape=(45, 38, 3),
            weights=None,
            include_top=False,
            pooling="avg",
        )
    )
    set_strides(learned, (1.3, 1.9))
    learned.compile("sgd", "mse")
    x = images(2, 45, 38, 3)
    learned.train_on_batch(x, np.ones((2, learned.output_shape[-1])))
    assert np.isfinite(learned.predict(x, verbose=0)).all()


@pytest.mark.parametrize("size", [16, 17])
def test_a_converted_model_computes_what_it_did(size):
    inputs = keras.Input((size, size, 3))
    x = conv(2, "a", activation="gelu")(inputs)
    # Keras averages borders in another way on torch.
    on_torch = keras.backend.backend() == "torch"
    pooling = layers.MaxPooling2D if on_torch else layers.AveragePooling2D
    ends = [
        pooling(3, 3, padding="same")(x),
        conv(3, "b", padding="valid", kernel_size=2)(x),
    ]
    x = layers.GlobalMaxPooling2D()(layers.Concatenate()(ends))
    model = keras.Model(inputs, x)
    learned = learn_strides(model)
    x = images(2, size, size, 3)
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(learned, x), expected, atol=1e-5)
    np.testing.assert_allclose(outputs(freeze(learned), x), expected, atol=1e-5)
    # Without the aliasing it is another network.
    for layer in learned_layers(learned):
        layer.aliasing.assign(0)
    assert np.abs(outputs(learned, x) - expected).max() > 0.1


@pytest.mark.parametrize("size", [16, 15])
@pytest.mark.parametrize("modern", [False, True])
def test_a_converted_resnet_computes_what_it_did(modern, size):
    options = {"stem_slot": False, "downsample_identity": True}
    model = Resnet(
        filters=2,
        strides=(2, 3) if modern else (1, 2, 3),
        num_layers=2,
        input_shape=(size, size, 3),
        **(options if modern else {}),
    )
    x = images(2, size, size, 3)
    expected = outputs(model, x)
    learned = learn_strides(model)
    np.testing.assert_allclose(outputs(learned, x), expected, atol=1e-5)
    integer = to_integer_strides(learned)
    np.testing.assert_allclose(outputs(integer, x), expected, atol=1e-6)
    before = learn_strides(model, pooling_order="before")
    assert count_macs(model) < count_macs(before) < count_macs(learned)


def two_stages():
    """A stem, and a residual block of two branches that downsample."""
    inputs = keras.Input((32, 32, 3))
    x = conv(2, "stem", activation="relu")(inputs)
    main = conv(1, "main2")(conv(2, "main1", activation="relu")(x))
    shortcut = conv(2, "shortcut", kernel_size=1)(x)
    x = layers.GlobalMaxPooling2D()(layers.Add()([main, shortcut]))
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    "where",
    [
        ["main1", "shortcut"],
        "main1",
        ["shortcut"],
        lambda layer: layer.kernel_size == (1, 1),
    ],
    ids=["list", "name", "shortcut", "predicate"],
)
def test_some_layers_learn_and_their_branches_with_them(where):
    model = two_stages()
    learned = learn_strides(model, where=where)
    assert strides_of(learned) == {"main1_stride": [2.0, 2.0]}
    assert learned.get_layer("stem").strides == (2, 2)
    x = images(2, 32, 32, 3)
    np.testing.assert_allclose(
        outputs(learned, x), outputs(model, x), atol=1e-5
    )


def test_layers_that_are_not_there_are_an_error():
    model = two_stages()
    with pytest.raises(ValueError, match="such as main1. Received: 'mian1'"):
        learn_strides(model, where=["mian1"])
    with pytest.raises(ValueError, match="such as stem, main1, shortcut"):
        learn_strides(model, where=["block"])
    with pytest.raises(ValueError, match="at least one .*: stem, main1"):
        learn_strides(model, where=lambda layer: False)
    with pytest.raises(ValueError, match="`pooling_order` must be one of"):
        learn_strides(model, pooling_order="between")


def test_pooling_before_convolutions():
    model = two_stages()
    learned = learn_strides(model, pooling_order="before")
    set_strides(learned, (1.6, 2.5))
    x = images(2, 32, 32, 3)

    # Written out by hand: the stem and the first convolution read a map that
    # begins one point later, as their windows did.
    def layer(name):
        return learned.get_layer(name)

    def shifted(x):
        return np.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))

    small = layer("stem_stride")(shifted(x))
    small = ops.convert_to_numpy(layer("stem")(small))
    assert small.shape == (2, 20, 13, 4)
    main = layer("main1")(layer("main1_stride")(shifted(small)))
    assert main.shape[1:3] == (13, 5)
    expected = layer("main2")(main) + layer("shortcut")(
        layer("main1_stride")(small)
    )
    expected = ops.convert_to_numpy(ops.max(expected, axis=(1, 2)))
    np.testing.assert_allclose(outputs(learned, x), expected, atol=1e-5)


def test_pooling_before_costs_what_strides_cost():
    inputs = keras.Input((64, 64, 8))
    x = conv(2, "a", kernel_size=1)(inputs)
    x = layers.Add()([conv(2, "b", kernel_size=1)(inputs), x])
    x = layers.GlobalMaxPooling2D()(conv(1, "c")(x))
    model = keras.Model(inputs, x)
    learned = learn_strides(model, pooling_order="before")
    # One map serves both convolutions.
    assert list(strides_of(learned)) == ["b_stride"]
    spectral = (64 * 64 * 32 + 64 * 32 * 32) * 8
    assert count_macs(learned) == count_macs(model) + spectral


def test_branches_that_meet_share_their_strides():
    model = branches(
        [conv(2, "a"), conv(1, "b")], [conv(2, "c", kernel_size=1)]
    )
    learned = learn_strides(model)
    assert strides_of(learned) == {"a_stride": [2.0, 2.0]}
    assert learned.get_layer("a").strides == (1, 1)
    assert learned.get_layer("c").strides == (1, 1)
    # The layer is called on both branches, at one size.
    set_strides(learned, (1.3, 2.6))
    assert outputs(learned, images(2, 16, 16, 4)).shape == (2, 4)


def test_steps_of_branches_share_their_strides_one_by_one():
    model = branches(
        [conv(2, "a"), layers.ReLU(), conv((1, 3), "b")],
        [layers.MaxPooling2D(2, name="c"), conv((1, 3), "d")],
        meet=layers.Concatenate,
    )
    assert strides_of(learn_strides(model)) == {
        "a_stride": [2.0, 2.0],
        "b_stride": [1.0, 3.0],
    }


def test_branches_that_do_not_meet_have_strides_of_their_own():
    inputs = keras.Input((16, 16, 4))
    ends = [layers.GlobalMaxPooling2D()(conv(2, name)(inputs)) for name in "ab"]
    model = keras.Model(inputs, layers.Add()(ends))
    assert set(strides_of(learn_strides(model))) == {"a_stride", "b_stride"}


def test_a_gate_without_a_size_meets_any():
    inputs = keras.Input((16, 16, 4))
    x = conv(2, "a")(inputs)
    gate = layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Conv2D(4, 1)(gate)])
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x + 1.0))
    assert set(strides_of(learn_strides(model))) == {"a_stride"}


def test_models_inside_of_models():
    inner = keras.Sequential(
        [
            keras.Input((None, None, 4)),
            conv(2, "a"),
            layers.BatchNormalization(),
        ]
    )
    outer = branches([inner], [conv(2, "b"), layers.ReLU()])
    learned = learn_strides(outer)
    assert list(strides_of(learned)) == ["a_stride"]
    x = images(2, 16, 16, 4)
    np.testing.assert_allclose(
        outputs(to_integer_strides(learned), x), outputs(outer, x), atol=1e-6
    )


def test_a_model_inside_that_is_called_with_several_sizes():
    inner = keras.Sequential([keras.Input((None, None, 3)), conv(2, "a")])
    inputs = keras.Input((16, 16, 3))
    small = layers.Cropping2D(4)(inputs)
    ends = [layers.GlobalMaxPooling2D()(inner(x)) for x in (inputs, small)]
    model = keras.Model(inputs, layers.Add()(ends))
    learned = learn_strides(model)
    assert list(strides_of(learned)) == ["a_stride"]
    x = images(2, 16, 16, 3)
    np.testing.assert_allclose(
        outputs(to_integer_strides(learned), x), outputs(model, x), atol=1e-6
    )


@pytest.mark.parametrize(
    "body",
    [
        [layers.MaxPooling2D(1, strides=2)],
        [layers.Conv2D(1, 1, strides=2)],
        [layers.Conv2D(1, 3, strides=2, padding="same")],
        [layers.Conv2D(1, 4, strides=4)],
        # The kernel reads where the window of the strided convolution begins.
        [
            layers.ZeroPadding2D(((0, 1), (0, 1))),
            layers.Conv2D(1, 3, strides=2),
        ],
        [
            layers.ZeroPadding2D(((0, 1), (0, 1))),
            layers.DepthwiseConv2D(3, strides=2),
        ],
    ],
    ids=lambda body: type(body[-1]).__name__,
)
def test_slow_changes_come_out_as_with_strides(body):
    model = network(*body, shape=(64, 64, 1))
    for layer in body:
        for weight in layer.weights:
            value = np.zeros(weight.shape)
            if value.ndim > 1:
                value[0, 0] = 1.5
            weight.assign(value)
    learned = learn_strides(model)
    got, expected = outputs(learned, waves(64)), outputs(model, waves(64))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-5 * expected.max())


# The pooling, valid convolutions and heads that each of them has.
ROUND_TRIPS = [
    ("MobileNet", 64, {"alpha": 0.25, "classes": 5}),
    ("MobileNetV3Small", 64, {"classes": 5}),
    ("Xception", 71, {"include_top": False, "pooling": "avg"}),
    *(
        pytest.param(
            *(name, size, {"include_top": False, "pooling": "avg"}),
            marks=pytest.mark.slow,
        )
        for name, size in [
            ("InceptionV3", 75),
            ("NASNetMobile", 64),
            ("InceptionResNetV2", 75),
        ]
    ),
]


@pytest.mark.tensorflow
@pytest.mark.parametrize("name, size, arguments", ROUND_TRIPS)
def test_the_way_there_and_back_is_the_same_network(name, size, arguments):
    build = getattr(keras.applications, name)
    model = build(input_shape=(size, size, 3), weights=None, **arguments)
    if "classes" in arguments:
        # Without the softmax, under which all classes are about as likely.
        model.layers[-1].activation = keras.activations.linear
    learned = learn_strides(model)
    assert len(learned_layers(learned)) == 5
    x = images(2, size, size, 3)
    expected = outputs(model, x)
    np.testing.assert_allclose(
        outputs(learned, x), expected, atol=1e-5 * np.abs(expected).max()
    )
    integer = to_integer_strides(learned)
    np.testing.assert_allclose(
        outputs(integer, x), expected, atol=1e-6 * np.abs(expected).max()
    )
    assert count_macs(integer) == count_macs(model)


KINDS = {
    "convolution": functools.partial(layers.Conv2D, 1),
    "maximum": layers.MaxPooling2D,
    "average": layers.AveragePooling2D,
    "spatial": lambda window, **kwargs: SpatialPooling(
        pool_size=window, pool_mode="max", **kwargs
    ),
}


@pytest.mark.parametrize("window", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_start_where_they_started(kind, padding, window):
    border = kind == "average" and padding == "same" and window > 2
    if border and keras.backend.backend() == "torch":
        pytest.skip("Keras averages borders in another way on torch.")
    for size, stride in itertools.product([9, 10, 11, 12], [2, 3]):
        layer = KINDS[kind](window, strides=stride, padding=padding, name="a")
        model = network(layer, shape=(size, size, 1))
        # Below zero, where a padding with zeros would be a maximum.
        x = images(1, size, size, 1) - 5
        expected = outputs(model, x)
        learned = learn_strides(model)
        # Every so many points are those of the model.
        windows = keras.Model(learned.input, learned.get_layer("a").output)
        points = outputs(windows, x)[:, ::stride, ::stride]
        np.testing.assert_allclose(points, expected, atol=1e-6)
        np.testing.assert_allclose(
            outputs(to_integer_strides(learned), x), expected, atol=1e-6
        )


@pytest.mark.parametrize("size", [17, 20, 21])
def test_branches_agree_in_size_however_they_pad(size):
    inputs = keras.Input((size, size, 2))
    x = layers.Conv2D(2, 3, strides=2, padding="valid")(inputs)
    ends = [
        layers.MaxPooling2D(3, strides=2, padding="valid")(x),
        layers.Conv2D(2, 3, strides=2, padding="valid")(x),
        layers.Conv2D(2, 3, strides=2, padding="valid")(
            layers.Conv2D(2, 3, padding="same")(x)
        ),
    ]
    x = layers.Concatenate()(ends)
    ends = [
        layers.MaxPooling2D(3, strides=2, padding="same")(x),
        layers.Conv2D(6, 1, strides=2, padding="valid")(x),
    ]
    x = layers.GlobalMaxPooling2D()(layers.Add()(ends))
    model = keras.Model(inputs, x)
    learned = learn_strides(model)
    assert len(learned_layers(learned)) == 3
    x = images(2, size, size, 2)
    np.testing.assert_allclose(
        outputs(to_integer_strides(learned), x), outputs(model, x), atol=1e-5
    )
    for strides in [(2, 2), (1.3, 2.4), (2.9, 1)]:
        set_strides(learned, strides)
        assert np.isfinite(outputs(learned, x)).all()


def test_valid_layers_leave_the_sizes_that_they_left():
    model = network(
        layers.Conv2D(1, 3, strides=2),
        layers.Conv2D(1, 3),
        layers.MaxPooling2D(3, strides=2),
        shape=(39, 47, 1),
    )
    x = images(1, 39, 47, 1)
    assert outputs(model, x).shape == (1, 8, 10, 1)
    assert outputs(learn_strides(model), x).shape == (1, 8, 10, 1)


@pytest.mark.parametrize(
    "layer",
    [
        layers.MaxPooling2D(2),
        layers.AveragePooling2D(3, strides=2, padding="same"),
        SpatialPooling(pool_size=(2, 3), strides=(2, 3)),
    ],
)
def test_pooling_keeps_constants(layer):
    model = network(layer, shape=(12, 24, 1))
    x = np.full((1, 12, 24, 1), 3.0, "float32")
    expected = outputs(model, x)
    np.testing.assert_allclose(
        outputs(learn_strides(model), x), expected, rtol=1e-5
    )


def test_padding_that_is_the_same_without_strides_needs_no_layer():
    body = conv(2, "a", kernel_size=5), conv(2, "b", kernel_size=2)
    # Of 16 points, five are read from 1 before on, and two from where they are.
    # Of 15 points in steps of 3, three are read from the first on.
    assert "a_padding" in {x.name for x in learn_strides(network(*body)).layers}
    assert "b_padding" not in {
        x.name for x in learn_strides(network(*body)).layers
    }
    odd = learn_strides(
        network(conv(1, "d"), conv(3, "c", kernel_size=1), shape=(15, 15, 1))
    )
    assert [layer.name for layer in odd.layers[1:]] == ["d", "c", "c_stride"]


def test_an_activation_comes_after_the_stride():
    model = network(conv(2, "a", activation="relu"))
    learned = learn_strides(model)
    assert [type(layer).__name__ for layer in learned.layers[1:]] == [
        "ZeroPadding2D",
        "Conv2D",
        "DiffStride",
        "Activation",
    ]
    assert outputs(learned, images(1, 16, 16, 1)).min() == 0
    x = images(2, 16, 16, 1)
    np.testing.assert_allclose(
        outputs(to_integer_strides(learned), x), outputs(model, x), atol=1e-6
    )


def test_new_layers_follow_the_dtype_policy_of_their_neighbour():
    model = network(
        conv(2, "a", activation="relu", kernel_size=5, dtype="mixed_bfloat16"),
        layers.MaxPooling2D(3, 2, padding="same", dtype="mixed_bfloat16"),
    )
    learned = learn_strides(model)
    assert [
        (type(layer).__name__, layer.dtype_policy.name)
        for layer in learned.layers[1:]
    ] == [
        ("ZeroPadding2D", "mixed_bfloat16"),
        ("Conv2D", "mixed_bfloat16"),
        ("DiffStride", "mixed_bfloat16"),
        ("Activation", "mixed_bfloat16"),
        ("PaddedPooling2D", "mixed_bfloat16"),
        ("DiffStride", "mixed_bfloat16"),
    ]
    assert learned.output.dtype == "bfloat16"
    assert outputs(learned, images(1, 16, 16, 1)).shape == (1, 4, 4, 4)


def test_new_names_are_not_those_of_other_layers():
    model = network(
        conv(2, "a", activation="relu"),
        layers.ReLU(name="a_activation"),
        layers.ReLU(name="a_stride"),
        layers.ReLU(name="a_stride_1"),
        layers.ReLU(name="a_padding"),
    )
    names = {layer.name for layer in learn_strides(model).layers}
    assert {"a_activation_1", "a_stride_2", "a_padding_1"} < names


def test_a_layer_that_is_called_twice():
    inputs = keras.Input((16, 16, 1))
    shared = conv(2, "a", activation="relu")
    ends = [
        layers.GlobalMaxPooling2D()(shared(x)) for x in (inputs, inputs * -1)
    ]
    model = keras.Model(inputs, layers.Concatenate()(ends))
    learned = learn_strides(model)
    assert list(strides_of(learned)) == ["a_stride"]
    x = images(2, 16, 16, 1)
    np.testing.assert_allclose(
        outputs(to_integer_strides(learned), x), outputs(model, x), atol=1e-6
    )


def test_inputs_by_keyword():
    inputs = keras.Input((16, 16, 1))
    inner = network(conv(2, "b"), shape=(None, None, 4))
    x = layers.GlobalMaxPooling2D()(inner(inputs=conv(2, "a")(inputs=inputs)))
    model = keras.Model(inputs, x)
    learned = learn_strides(model)
    assert list(strides_of(learned)) == ["a_stride", "b_stride"]
    x = images(2, 16, 16, 1)
    np.testing.assert_allclose(
        outputs(to_integer_strides(learned), x), outputs(model, x), atol=1e-6
    )


def test_the_pooling_layer_is_the_users_choice():
    model = network(conv(2, "a"), layers.GlobalAveragePooling2D())
    layer = learn_strides(
        model, functools.partial(DiffStride, smoothness_factor=2.0)
    ).get_layer("a_stride")
    assert (layer.smoothness_factor, layer.norm) == (2.0, "backward")
    fixed = learn_strides(model, FixedSpectralPooling)
    assert isinstance(fixed.get_layer("a_stride"), FixedSpectralPooling)
    default = learn_strides(model).get_layer("a_stride")
    assert (default.ramp, default.norm) == ("inside", "forward")


def test_channels_first():
    model = network(
        layers.MaxPooling2D(2, data_format="channels_first", name="a"),
        shape=(3, 16, 12),
    )
    learned = learn_strides(model)
    assert learned.get_layer("a_stride").data_format == "channels_first"
    assert outputs(learned, images(1, 3, 16, 12)).shape == (1, 3, 8, 6)


def test_residual_blocks_of_this_package():
    options = {"num_layers": 1, "input_shape": (32, 32, 3)}
    model = Resnet(filters=2, strides=(1, 1, 2), **options)
    learned = learn_strides(model)
    # One of the two blocks had a stride.
    assert len(learned_layers(learned)) == 1
    x = images(2, 32, 32, 3)
    np.testing.assert_allclose(
        outputs(to_integer_strides(learned), x), outputs(model, x), atol=1e-6
    )
    # A slot that holds another layer has its strides in that layer's config.
    model = Resnet(
        filters=2, strides=(1, 1, 2), pooling_cls=SpatialPooling, **options
    )
    (layer,) = learned_layers(learn_strides(model))
    assert tuple(ops.convert_to_numpy(layer.strides)) == (2, 2)


def test_a_converted_model_reloads(tmp_path):
    model = learn_strides(
        branches([conv(2, "a", activation="relu")], [conv(2, "c")])
    )
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images(2, 16, 16, 4)
    np.testing.assert_array_equal(outputs(reloaded, x), outputs(model, x))


@pytest.mark.parametrize(
    "head",
    [
        [layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten()],
        [layers.GlobalMaxPooling2D(keepdims=True), layers.Reshape((2, 2))],
        [
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Conv2D(3, 1),
            layers.Flatten(),
            layers.Dense(2),
        ],
        [lambda x: ops.mean(x, axis=(1, 2), keepdims=True), layers.Flatten()],
        [lambda x: ops.max(x, axis=[-2, -3]), layers.Dense(2)],
        [layers.Resizing(4, 4), layers.Flatten(), layers.Dense(2)],
        [layers.Reshape((-1, 4)), layers.GlobalMaxPooling1D()],
        [
            layers.Reshape((-1, 1, 4)),
            layers.Reshape((-1, 4)),
            layers.GlobalAveragePooling1D(keepdims=True),
            layers.Flatten(),
        ],
    ],
)
def test_heads_that_take_maps_of_any_size(head):
    inputs = keras.Input((16, 16, 1))
    x = conv(2, "a")(inputs)
    for layer in head:
        x = layer(x)
    model = keras.Model(inputs, x)
    learned = learn_strides(model)
    set_strides(learned, (1.3, 2.6))
    x = images(2, 16, 16, 1)
    assert outputs(learned, x).shape == outputs(model, x).shape


def test_attention_to_the_points_of_a_map():
    inputs = keras.Input((16, 16, 1))
    x = conv(2, "a")(inputs)
    small = layers.Reshape((-1, 4))(conv(2, "b")(x))
    x = layers.Reshape((-1, 4))(x)
    # A map asks another of another size, and is added to what it gets.
    attended = layers.MultiHeadAttention(2, 4)(query=x, value=small)
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, attended]))
    learned = learn_strides(keras.Model(inputs, x))
    assert list(strides_of(learned)) == ["a_stride", "b_stride"]
    set_strides(learned, (1.3, 2.6))
    assert outputs(learned, images(2, 16, 16, 1)).shape == (2, 4)


@pytest.mark.parametrize(
    "flatten",
    [
        [layers.Flatten()],
        [layers.Reshape((-1,))],
        [layers.Reshape((64, 4))],
        [layers.Reshape((4, -1))],
        [layers.Reshape((-1, 4)), layers.Flatten()],
        [lambda x: ops.reshape(x, (-1, 64, 4))],
        [lambda x: ops.mean(x, axis=1), layers.Flatten()],
    ],
)
def test_flattening_a_learned_size_is_an_error(flatten):
    inputs = keras.Input((16, 16, 1))
    x = conv(2, "a")(inputs)
    for layer in flatten:
        x = layer(x)
    with pytest.raises(ValueError, match="must not flatten .* global pooling"):
        learn_strides(keras.Model(inputs, x))


def test_vgg16_with_its_classifier_is_an_error():
    model = network(layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(3))
    with pytest.raises(ValueError, match="pooling='avg'.* layer 'flatten'"):
        learn_strides(model)


@pytest.mark.parametrize(
    "main, shortcut, count",
    [
        ([conv(2, "a"), conv(2, "b")], [conv(4, "c")], 3),
        ([conv(2, "a"), layers.UpSampling2D(2)], [], 1),
        (
            [conv((2, 1), "a"), conv((1, 2), "b")],
            [conv((1, 2), "c"), conv((2, 1), "d")],
            4,
        ),
        ([conv(2, "a")], [ResidualLayer(4, strides=2, project=True)], 2),
    ],
    ids=["steps", "up", "order", "block"],
)
def test_branches_that_cannot_share_are_resized(main, shortcut, count):
    model = branches(main, shortcut)
    learned = learn_strides(model)
    assert len(strides_of(learned)) == count
    x = images(2, 16, 16, 4)
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(learned, x), expected, atol=1e-5)
    set_strides(learned, (1.3, 2.6))
    assert np.isfinite(outputs(learned, x)).all()


def test_a_model_without_strides_is_an_error():
    model = network(conv(1, "a"))
    with pytest.raises(ValueError, match="`model` must have convolutions"):
        learn_strides(model)
    with pytest.raises(ValueError, match="`model` must have DiffStride"):
        to_integer_strides(model)


@pytest.mark.parametrize("convert", [learn_strides, to_integer_strides])
def test_something_else_than_a_model_is_an_error(convert):
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        convert(layers.Conv2D(1, 3, strides=2))
