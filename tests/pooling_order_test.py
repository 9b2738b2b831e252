"""Pooling before or after the convolution: numbers, operations, saved models.

The networks under test are compared with networks that are put together here,
from layers of Keras, and get their weights.
"""

import functools

import gradients
import keras
import numpy as np
import pytest
from keras import ops

from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import count_macs
from diffstride.layers.pooling import (
    DiffStride,
    FixedSpectralPooling,
    SpatialPooling,
)
from diffstride.models.audio_cnn import audio_cnn
from diffstride.models.audio_tagger import audio_tagger
from diffstride.models.densenet import densenet
from diffstride.models.efficientnet import Stage, efficientnet
from diffstride.models.residual_layer import ResidualLayer
from diffstride.models.resnet import Resnet, resnet18
from diffstride.models.resnet_block import ResnetBlock
from diffstride.surgery.freeze import freeze
from diffstride.surgery.learn_strides import learn_strides
from diffstride.surgery.to_integer_strides import to_integer_strides

INSIDE = functools.partial(DiffStride, ramp="inside", smoothness_factor=2.0)
IMAGE = (16, 16, 3)

# A network of each family with two slots or more, for images of 16x16 pixels.
TINY = {
    "resnet": functools.partial(
        Resnet,
        filters=(4, 4, 6),
        strides=(1.2, 1.5, 2),
        num_layers=1,
        id_only=(0,),
        downsample_identity=True,
        num_output_classes=3,
        input_shape=IMAGE,
    ),
    "efficientnet": functools.partial(
        efficientnet,
        strides=(1.6, 1.9),
        stages=(Stage(64, 1, 3, 2), Stage(96, 2, 3, 2)),
        width_coefficient=0.25,
        stem_strides=1,
        num_output_classes=3,
        input_shape=IMAGE,
    ),
    "densenet": functools.partial(
        densenet,
        blocks=(1, 1, 1),
        growth=4,
        strides=(1.5, 2),
        num_output_classes=3,
        input_shape=IMAGE,
    ),
    "audio_cnn": functools.partial(
        audio_cnn,
        channels=(4, 6),
        strides=((2, 1.5), (1.5, 2)),
        num_output_classes=3,
        input_shape=IMAGE,
    ),
}


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def randomize(model):
    """Weights that are not the initial ones, which hide mistakes."""
    rng = np.random.default_rng(2)
    for weight in model.weights:
        if weight.name == "strides":
            continue
        value = rng.uniform(0.5, 1.5, weight.shape)
        if len(weight.shape) > 1:
            value = rng.normal(size=weight.shape)
            value /= np.sqrt(np.prod(weight.shape[:-1]))
        weight.assign(value)


def copy_weights(source, target):
    """Copies weights by their paths: calls of another order may sort them."""
    values = {weight.path: weight for weight in source.weights}
    assert sorted(values) == sorted(weight.path for weight in target.weights)
    for weight in target.weights:
        weight.assign(values[weight.path])


def assert_close(found, expected):
    found, expected = gradients.to_numpy([found, expected])
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


def like(source, x):
    """Calls a layer of Keras on `x` that has the weights of another."""
    layer = type(source).from_config(source.get_config())
    layer.build(x.shape)
    layer.set_weights(source.get_weights())
    return layer(x)


def layer_by_hand(layer, x, pool):
    """A residual layer whose first convolution has a slot."""
    before = layer.pooling_order == "before"
    main = shortcut = x
    if layer.pre_activation:
        main = ops.relu(like(layer.normalization1, main))
        if layer.activated_shortcut and layer.project:
            shortcut = main
    if before:
        main, shortcut = pool(main), pool(shortcut)
    main = like(layer.convolution1, main)
    if not before:
        main, shortcut = pool(main), pool(shortcut)
    if layer.project:
        shortcut = like(layer.shortcut, shortcut)
    if layer.pre_activation:
        main = ops.relu(like(layer.normalization2, main))
        return like(layer.convolution2, main) + shortcut
    main = ops.relu(like(layer.normalization1, main))
    main = like(layer.normalization2, like(layer.convolution2, main))
    if layer.project:
        shortcut = like(layer.shortcut_normalization, shortcut)
    return ops.relu(main + shortcut)


@pytest.mark.parametrize(
    "options",
    [{}, {"activated_shortcut": True}, {"pre_activation": False}],
    ids=["release", "activated", "post-activation"],
)
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("pooling_cls", [FixedSpectralPooling, INSIDE])
@pytest.mark.parametrize("order", ["after", "before"])
def test_residual_layer_by_hand(order, pooling_cls, project, options):
    layer = ResidualLayer(
        5,
        strides=(1.5, 2.5),
        pooling_cls=pooling_cls,
        project=project,
        downsample_identity=True,
        pooling_order=order,
        **options,
    )
    x = images(2, 11, 12, 5)
    layer.build(x.shape)
    randomize(layer)
    found = layer(x)
    assert_close(found, layer_by_hand(layer, x, pooling_cls((1.5, 2.5))))
    for size, computed in zip(
        found.shape, layer.compute_output_shape(x.shape), strict=True
    ):
        assert computed in (size, None)


@pytest.mark.parametrize(
    "options, maps",
    [
        ({"project": True, "activated_shortcut": True}, 1),
        ({"project": True, "pre_activation": False}, 1),
        ({"pre_activation": False, "downsample_identity": True}, 1),
        # The main path reads what is rectified, the shortcut the raw input.
        ({"project": True}, 2),
        ({"activated_shortcut": True, "downsample_identity": True}, 2),
    ],
)
def test_a_map_that_serves_both_paths_is_pooled_once(options, maps):
    layer = ResidualLayer(
        4,
        strides=2,
        pooling_cls=FixedSpectralPooling,
        pooling_order="before",
        **options,
    )
    calls = []
    call = layer.pooling.call
    layer.pooling.call = lambda x: calls.append(x.shape) or call(x)
    layer.build((1, 8, 8, 4))
    assert layer.call(images(1, 8, 8, 4)).shape == (1, 4, 4, 4)
    assert calls == [(1, 8, 8, 4)] * maps


@pytest.mark.parametrize("pooling_cls", [FixedSpectralPooling, INSIDE])
@pytest.mark.parametrize("order", ["after", "before"])
def test_resnet_by_hand(order, pooling_cls):
    model = TINY["resnet"](pooling_cls=pooling_cls, pooling_order=order)
    randomize(model)
    x = images(2, *IMAGE)
    stem = model.get_layer("stem_convolution")
    if order == "before":
        expected = like(stem, pooling_cls(1.2)(x))
    else:
        expected = pooling_cls(1.2)(like(stem, x))
    for name, strides in [("block1", 1.5), ("block2", 2)]:
        (layer,) = model.get_layer(name).layers
        expected = layer_by_hand(layer, expected, pooling_cls(strides))
    expected = ops.relu(like(model.get_layer("head_normalization"), expected))
    expected = ops.mean(expected, axis=(1, 2))
    assert_close(model(x), like(model.get_layer("predictions"), expected))


@pytest.mark.parametrize(
    "family, fronts",
    [
        # What comes in front of each slot: the first convolutions of blocks.
        ("efficientnet", ["block1a_expand_conv", "block2a_expand_conv"]),
        ("audio_cnn", ["block1_time_convolution", "block2_time_convolution"]),
    ],
)
@pytest.mark.parametrize("pooling_cls", [FixedSpectralPooling, INSIDE])
def test_before_is_a_pooling_layer_in_front_of_a_block(
    pooling_cls, family, fronts
):
    model = TINY[family](pooling_cls=pooling_cls, pooling_order="before")
    randomize(model)
    strides = [1.6, 1.9] if family == "efficientnet" else [(2, 1.5), (1.5, 2)]
    plain = TINY[family](strides=(1, 1), input_shape=(None, None, 3))
    weights = {weight.path: weight for weight in model.weights}
    for weight in plain.weights:
        weight.assign(weights[weight.path])
    # The network without strides, cut in front of its blocks.
    cuts = [plain.get_layer(name).input for name in fronts]
    x = images(2, *IMAGE)
    ends = zip(
        [plain.input, *cuts],
        [*cuts, plain.output],
        [None, *strides],
        strict=True,
    )
    expected = x
    for start, end, stride in ends:
        if stride is not None:
            expected = gradients.apply(pooling_cls(stride), expected)
        if start is not end:
            part = keras.Model(start, end)
            expected = gradients.value(part, expected)
    assert_close(gradients.value(model, x), expected)


def test_the_shortcut_of_efficientnet_reads_the_pooled_input():
    build = functools.partial(
        TINY["efficientnet"],
        stages=(Stage(8, 1, 3, 2),),
        strides=(1,),
        pooling_order="before",
    )
    model = build(pooling_cls=functools.partial(INSIDE, static_sizes=True))
    add, pooling = map(model.get_layer, ("block1a_add", "block1a_pooling"))
    assert add.input[1] is pooling.output
    assert len(pooling._inbound_nodes) == 1
    pooling.strides.assign([2.0, 2.0])
    pooling.refresh_sizes()
    assert model(images(1, *IMAGE)).shape == (1, 3)


@pytest.mark.parametrize(
    "pooling_cls", [None, SpatialPooling, FixedSpectralPooling, DiffStride]
)
def test_transitions_of_densenet_commute(pooling_cls):
    strides = (2, 2) if pooling_cls in (None, SpatialPooling) else (1.5, 2)
    after, before = (
        densenet(
            (1, 1, 1),
            growth=4,
            strides=strides,
            pooling_cls=pooling_cls,
            num_output_classes=3,
            input_shape=IMAGE,
            pooling_order=order,
        )
        for order in ("after", "before")
    )
    randomize(after)
    copy_weights(after, before)
    x = images(2, *IMAGE)
    assert_close(before(x), after(x))
    assert before.get_layer("pool2_conv").output.shape[1:] == (
        before.get_layer("pool2_pooling").output.shape[1:3] + (4 + 2,)
    )


@pytest.mark.parametrize("family", TINY)
def test_names_and_shapes_of_weights_are_those_of_after(family):
    def weights(order):
        keras.utils.clear_session(free_memory=False)
        with keras.StatelessScope(initialize_variables=False):
            model = TINY[family](pooling_cls=DiffStride, pooling_order=order)
        return {weight.path: weight.shape for weight in model.weights}

    assert weights("before") == weights("after")


@pytest.mark.parametrize(
    "family, strides",
    [
        ("resnet", (1, 2, 2)),
        ("efficientnet", (2, 2)),
        ("audio_cnn", ((2, 1), (1, 2))),
    ],
)
def test_strided_convolutions_have_no_order(family, strides):
    after, before = (
        TINY[family](strides=strides, pooling_order=order)
        for order in ("after", "before")
    )
    randomize(after)
    copy_weights(after, before)
    x = images(2, *IMAGE)
    assert_close(before(x), after(x))
    assert count_macs(before) == count_macs(after)


@pytest.mark.parametrize(
    "family",
    [
        # resnet_test has a test of the same name.
        pytest.param(name, marks=pytest.mark.slow) if name == "resnet" else name
        for name in TINY
    ],
)
def test_every_weight_learns_in_fit(family):
    model = TINY[family](pooling_cls=DiffStride, pooling_order="before")
    model.compile("sgd", "mse")
    before = [ops.convert_to_numpy(w) for w in model.trainable_weights]
    model.fit(images(4, *IMAGE), images(4, 3), batch_size=2, verbose=0)
    assert len(learned_layers(model)) == {"resnet": 3}.get(family, 2)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.any(ops.convert_to_numpy(weight) != old), weight.path


@pytest.mark.parametrize("family", TINY)
def test_save_and_reload(family, tmp_path):
    model = TINY[family](pooling_cls=DiffStride, pooling_order="before")
    randomize(model)
    for weight in model.weights:
        if weight.name == "strides":
            weight.assign([1.7, 2.6])
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images(2, *IMAGE)
    np.testing.assert_array_equal(
        gradients.value(reloaded, x), gradients.value(model, x)
    )
    assert reloaded.to_json() == model.to_json()


@pytest.mark.parametrize("owner", [ResidualLayer, ResnetBlock])
def test_configs_without_an_order_pool_after(owner):
    layer = owner(4, strides=2, pooling_cls=DiffStride, pooling_order="before")
    config = layer.get_config()
    assert config["pooling_order"] == "before"
    assert owner.from_config(config).get_config() == config
    del config["pooling_order"]
    assert owner.from_config(config).get_config()["pooling_order"] == "after"


@pytest.mark.parametrize("pooling_cls", [FixedSpectralPooling, DiffStride])
def test_channels_first(pooling_cls):
    build = functools.partial(
        TINY["resnet"], pooling_cls=pooling_cls, pooling_order="before"
    )
    last, first = build(), build(channels_first=True)
    randomize(last)
    first.set_weights(last.get_weights())
    x = images(2, *IMAGE)
    assert_close(first(x), last(x))


@pytest.mark.tensorflow
@pytest.mark.parametrize("family", ["efficientnet", "densenet"])
def test_channels_first_of_functional_models(family):
    build = functools.partial(
        TINY[family], pooling_cls=DiffStride, pooling_order="before"
    )
    last = build()
    first = build(input_shape=(3, 16, 16), data_format="channels_first")
    randomize(last)
    copy_weights(last, first)
    x = images(2, *IMAGE)
    assert_close(first(x.transpose(0, 3, 1, 2)), last(x))


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = TINY["resnet"](pooling_cls=DiffStride, pooling_order="before")
    output = ops.convert_to_numpy(model(images(2, *IMAGE)))
    assert output.dtype == "float32" and np.all(np.isfinite(output))


def test_freeze():
    model = TINY["resnet"](pooling_cls=DiffStride, pooling_order="before")
    randomize(model)
    x = images(2, *IMAGE)
    assert_close(freeze(model)(x), model(x))


@pytest.mark.parametrize("family", TINY)
def test_strides_are_rounded(family):
    model = TINY[family](pooling_cls=DiffStride, pooling_order="before")
    rounded = to_integer_strides(model)
    assert not learned_layers(rounded)
    assert rounded(images(2, *IMAGE)).shape == (2, 3)
    assert count_macs(rounded) < count_macs(model)


@pytest.mark.parametrize("order", ["after", "before"])
def test_a_converted_network_has_the_order_that_was_asked_for(order):
    strided = TINY["resnet"](strides=(1, 2, 2), pooling_order="before")
    converted = learn_strides(strided, pooling_order=order)
    for name in ("block1", "block2"):
        (layer,) = converted.get_layer(name).layers
        assert isinstance(layer.pooling, DiffStride)
        assert layer.pooling_order == order


def test_the_order_of_a_slot_by_itself():
    orders = ["after", "before", "after"]
    model = TINY["resnet"](pooling_cls=DiffStride, pooling_order=orders)
    names = [layer.name for layer in model.layers]
    assert names[:2] == ["stem_convolution", "stem_pooling"]
    blocks = [model.get_layer(name).layers[0] for name in ("block1", "block2")]
    assert [layer.pooling_order for layer in blocks] == orders[1:]
    with pytest.raises(
        ValueError, match="`pooling_order` must be one value.*3"
    ):
        TINY["resnet"](pooling_order=orders[1:])
    # Without a slot in the stem there is one order less.
    model = TINY["resnet"](
        strides=(1, 2, 2), stem_slot=False, pooling_order=orders[1:]
    )
    blocks = [model.get_layer(name).layers[0] for name in ("block1", "block2")]
    assert [layer.pooling_order for layer in blocks] == orders[1:]


def test_audio_tagger_hands_the_order_to_its_trunk():
    with keras.StatelessScope(initialize_variables=False):
        model = audio_tagger(
            "b0",
            5,
            input_shape=(40, 32),
            pooling_cls=FixedSpectralPooling,
            width_coefficient=0.1,
            depth_coefficient=0.1,
            pooling_order="before",
        )
    trunk = model.get_layer("efficientnetb0")
    pooled = trunk.get_layer("block2a_pooling").output
    assert trunk.get_layer("block2a_expand_conv").input is pooled


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("order", ["first", None, True, ["before", "After"]])
def test_other_orders_are_errors(family, order):
    if family == "resnet" and isinstance(order, list):
        order = ["after", *order]
    with pytest.raises(
        ValueError, match="`pooling_order` must be one of .*Rec"
    ):
        TINY[family](pooling_cls=DiffStride, pooling_order=order)


def test_operations_of_a_residual_layer():
    """16x16 points in 4 channels become 8x8 points in 6."""
    macs = {}
    for order in ("after", "before"):
        layer = ResidualLayer(
            6,
            strides=2,
            pooling_cls=SpatialPooling,  # It counts as nothing.
            project=True,
            pooling_order=order,
        )
        model = keras.Sequential([keras.Input((16, 16, 4)), layer])
        macs[order] = count_macs(model)
    small = 64 * (4 * 6 + 9 * 6 * 6)
    assert macs["after"] == small + 256 * 9 * 4 * 6
    assert macs["before"] == small + 64 * 9 * 4 * 6


def test_pooling_first_costs_as_much_as_strides():
    macs = {
        order: count_macs(
            resnet18(
                (1, 1, 2, 2, 2),
                pooling_cls=pooling_cls,
                input_shape=(32, 32, 3),
                pooling_order=order,
            )
        )
        for pooling_cls, order in [(INSIDE, "before"), (None, "after")]
    }
    assert 1 < macs["before"] / macs["after"] < 1.05
