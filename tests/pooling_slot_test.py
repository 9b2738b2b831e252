"""The pooling slot: what `pooling_cls` may be, and how strides are read."""

import functools
import json

import gradients
import keras
import numpy as np
import pytest

from diffstride import (
    BlurPool,
    LocalImportancePooling,
    PolyphasePooling,
    SpaceToDepth,
)
from diffstride.layers.base_slot_pooling import BaseSlotPooling
from diffstride.layers.pooling import (
    DiffStride,
    DiffStride1D,
    DiffStride3D,
    FixedSpectralPooling,
    SpatialPooling,
)
from diffstride.models import (
    audio_cnn,
    densenet,
    efficientnet,
    pooling_slot,
    resnet,
    unet,
)
from diffstride.models.residual_layer import ResidualLayer


def test_none_is_a_strided_convolution():
    assert pooling_slot.convolution_strides((2.0, 3)) == (2, 3)
    assert pooling_slot.make_pooling(None, (2.0, 3)) is None


@pytest.mark.parametrize(
    "pooling_cls",
    [
        SpatialPooling,
        functools.partial(keras.layers.AveragePooling2D, 2),
        lambda strides, data_format, name: SpatialPooling(
            strides=strides, data_format=data_format, name=name
        ),
        {"class_name": "SpatialPooling"},
        {"class_name": "SpatialPooling", "config": {"strides": 7, "name": "x"}},
        {"class_name": "AveragePooling2D", "config": {"pool_size": 2}},
        keras.saving.serialize_keras_object(SpatialPooling(strides=5)),
        keras.saving.serialize_keras_object(keras.layers.AveragePooling2D(2)),
    ],
    ids=[
        "class",
        "partial",
        "function",
        "short-config",
        "config-with-strides",
        "config-of-keras",
        "serialized",
        "serialized-of-keras",
    ],
)
def test_forms_of_pooling_cls(pooling_cls):
    assert pooling_slot.convolution_strides((2, 3), pooling_cls) == (1, 1)
    pooling = pooling_slot.make_pooling(
        pooling_cls, (2, 3), "channels_first", "stage1"
    )
    assert pooling.name == "stage1"
    assert pooling.data_format == "channels_first"
    assert pooling(np.ones((1, 4, 12, 12), "float32")).shape == (1, 4, 6, 4)


@pytest.mark.parametrize(
    ("make", "strides"), [(DiffStride1D, 1.5), (DiffStride3D, (1, 2, 1.5))]
)
def test_slots_of_other_ranks(make, strides):
    rank = make.rank
    layer = pooling_slot.make_pooling(make, strides, rank=rank)
    assert isinstance(layer, make)
    expected = (1.5,) if rank == 1 else strides
    assert tuple(layer.strides) == expected
    ones = (1,) * rank
    assert pooling_slot.convolution_strides(strides, make, rank=rank) == ones
    assert pooling_slot.convolution_strides(3, rank=rank) == (3,) * rank


def test_config_keeps_what_the_slot_does_not_set():
    config = {
        "class_name": "DiffStride",
        "config": {"smoothness_factor": 2.0, "norm": "forward"},
    }
    layer = pooling_slot.make_pooling(config, 1.5)
    assert isinstance(layer, DiffStride)
    assert (layer.smoothness_factor, layer.norm) == (2.0, "forward")
    assert tuple(layer.strides) == (1.5, 1.5)
    assert "strides" not in config["config"]


def test_config_of_a_built_layer_makes_an_unbuilt_one():
    layer = pooling_slot.make_pooling(FixedSpectralPooling, 2, name="pooling")
    layer(np.ones((1, 8, 8, 3), "float32"))
    config = json.loads(json.dumps(pooling_slot.pooling_config(layer, 2)))
    copy = pooling_slot.make_pooling(config, (4, 2), name="pooling")
    assert not copy.weights
    assert copy(np.ones((1, 16, 16, 5), "float32")).shape == (1, 4, 8, 5)


class Silent(keras.layers.Layer):
    """A pooling layer whose config leaves out the strides."""

    def __init__(self, strides, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.strides = strides


def test_config_has_the_strides_of_a_layer_that_does_not_tell_them():
    layer = pooling_slot.make_pooling(Silent, (1.5, 2))
    config = pooling_slot.pooling_config(layer, (1.5, 2))
    assert config["config"]["strides"] == (1.5, 2)


def test_default_data_format_is_that_of_keras():
    keras.config.set_image_data_format("channels_first")
    assert (
        pooling_slot.make_pooling(SpatialPooling, 2).data_format
        == "channels_first"
    )


@pytest.mark.parametrize(
    "pooling_cls", ["DiffStride", 2, SpatialPooling(), lambda **kwargs: 2]
)
def test_pooling_cls_must_make_a_layer(pooling_cls):
    with pytest.raises(TypeError, match="`pooling_cls` must .*Received: pool"):
        pooling_slot.make_pooling(pooling_cls, 2)


def test_unknown_class_name():
    with pytest.raises((TypeError, ValueError), match="Nonesuch"):
        pooling_slot.make_pooling({"class_name": "Nonesuch"}, 2)


@pytest.mark.parametrize(
    "strides",
    [0, 0.5, float("nan"), float("inf"), (2,), (1, 2, 3), (2, 0.9), "22", None],
)
def test_strides_must_be_one_or_two_numbers(strides):
    with pytest.raises(ValueError, match="`strides` must be a fin.* stage3"):
        pooling_slot.make_pooling(SpatialPooling, strides, name="stage3")


@pytest.mark.parametrize("strides", [2.5, (2, 1.5)])
def test_a_convolution_needs_integers(strides):
    with pytest.raises(ValueError, match="`strides` must be int.* for stage3"):
        pooling_slot.convolution_strides(strides, stage="stage3")


@pytest.mark.parametrize(
    "strides", [np.array([2, 3]), [2.0, 3], (np.int64(2), np.float32(3))]
)
def test_strides_of_other_types(strides):
    assert pooling_slot.strides_of_axes(strides) == (2, 3)
    # What Keras's own layers take, and JSON.
    assert [type(s) for s in pooling_slot.strides_of_axes(strides)] == [
        int,
        int,
    ]
    assert tuple(DiffStride(strides).strides) == (2, 3)
    assert SpatialPooling(strides=strides).strides == (2, 3)


@pytest.mark.parametrize(
    "strides, expected",
    [
        ("1, 1, 2", [1, 1, 2]),
        ("[1, 1.5, (2, 3)]", [1, 1.5, (2, 3)]),
        ((1, None), [1, None]),
    ],
)
def test_strides_of_stages(strides, expected):
    assert pooling_slot.stage_strides(strides) == expected


def test_a_layer_of_the_slot_takes_the_dtype_policy_of_its_owner():
    for pooling_cls in (DiffStride, {"class_name": "DiffStride"}):
        layer = pooling_slot.make_pooling(
            pooling_cls, 2, dtype_policy="mixed_bfloat16"
        )
        assert layer.dtype_policy.name == "mixed_bfloat16"
    assert pooling_slot.make_pooling(DiffStride, 2).compute_dtype == "float32"


# Models of four slots.
MODELS = [
    functools.partial(
        resnet.resnet18,
        "1, 2, 2, 2",
        filters=4,
        num_layers=1,
        id_only=(),
        input_shape=(32, 32, 3),
    ),
    functools.partial(
        efficientnet.efficientnet,
        strides=(1, 2, 2, 2),
        stages=efficientnet.STAGES[:4],
        width_coefficient=0.25,
        depth_coefficient=0.3,
    ),
    functools.partial(
        densenet.densenet, blocks=(1,) * 5, growth=4, strides=(2, 2, 2, 1)
    ),
    functools.partial(
        audio_cnn.audio_cnn,
        channels=(4,) * 4,
        strides=((2, 2),) * 4,
        input_shape=(32, 32, 3),
    ),
    functools.partial(
        unet.unet, 3, filters=(4,) * 5, strides=(2,) * 4, num_layers=1
    ),
]
MODEL_NAMES = ["resnet", "efficientnet", "densenet", "audio_cnn", "unet"]


@pytest.mark.parametrize("build", MODELS, ids=MODEL_NAMES)
def test_each_stage_may_have_a_slot_of_its_own(build):
    poolings = [DiffStride, FixedSpectralPooling, None, SpatialPooling]
    model = build(pooling_cls=poolings)
    found = [
        type(layer)
        for layer in model._flatten_layers()
        if isinstance(layer, (DiffStride, FixedSpectralPooling, SpatialPooling))
    ]
    assert found == [DiffStride, FixedSpectralPooling, SpatialPooling]
    outputs = gradients.value(model, np.ones((1, 32, 32, 3), "float32"))
    assert np.isfinite(outputs).all()
    with pytest.raises(ValueError, match="`pooling_cls` must be .* 4 stages"):
        build(pooling_cls=poolings[:3])


@pytest.mark.tensorflow
@pytest.mark.parametrize("build", MODELS, ids=MODEL_NAMES)
def test_models_take_layers_with_weights_and_with_choices(build):
    """Also where a residual block pools maps of different channels."""
    poolings = [
        functools.partial(PolyphasePooling, choice="learned"),
        LocalImportancePooling,
        SpaceToDepth,
        functools.partial(BlurPool, max_pool_size=None),
    ]
    orders = ["after", "before", "after", "before"]
    model = build(pooling_cls=poolings, pooling_order=orders)
    outputs = gradients.value(model, np.ones((2, 32, 32, 3), "float32"))
    assert np.isfinite(outputs).all()
    found = {
        type(layer)
        for layer in model._flatten_layers()
        if isinstance(layer, BaseSlotPooling)
    }
    assert len(found) == 4
    config = json.loads(json.dumps(model.get_config()))
    loaded = type(model).from_config(config)
    assert [w.shape for w in loaded.weights] == [w.shape for w in model.weights]


def test_a_shortcut_has_a_second_layer_where_it_needs_one():
    for pooling_cls, changes, is_needed in [
        (SpaceToDepth, {}, True),
        (SpaceToDepth, {"pooling_order": "before"}, True),
        (
            SpaceToDepth,
            {"pooling_order": "before", "activated_shortcut": True},
            False,
        ),
        (
            SpaceToDepth,
            {"pooling_order": "before", "pre_activation": False},
            False,
        ),
        (BlurPool, {}, False),
        (None, {}, False),
    ]:
        layer = ResidualLayer(
            4, strides=2, pooling_cls=pooling_cls, project=True, **changes
        )
        layer.build((None, 8, 8, 3))
        assert (layer.shortcut_pooling is not None) == is_needed
