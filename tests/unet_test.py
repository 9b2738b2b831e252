"""The U-Net: shapes, slots, and a way up to the size of the input."""

import functools

import gradients
import keras
import numpy as np
import pytest
from keras import ops

import diffstride
from diffstride import (
    DiffStride,
    DiffStride1D,
    DiffStride3D,
    FixedSpectralPooling,
    RefreshSizes,
    SpatialPooling,
    SpectralResize,
)
from diffstride import export as script
from diffstride.analysis.complexity import add_complexity_loss, model_complexity
from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import count_macs
from diffstride.models.unet import unet

INSIDE = functools.partial(DiffStride, ramp="inside", norm="forward")
INSIDE_1D = functools.partial(DiffStride1D, ramp="inside", norm="forward")
MAX_POOLING = functools.partial(SpatialPooling, pool_size=None, pool_mode="max")
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def tiny(**kwargs):
    arguments = {"filters": (2, 4, 4), "strides": (2, 2), "num_layers": 1}
    return unet(3, **{**arguments, **kwargs})


def with_odd_strides(model):
    """Strides that are no whole numbers, and statistics as after training."""
    generator = np.random.default_rng(0)
    for layer, strides in zip(learned_layers(model), (1.3, 2.6), strict=True):
        layer.strides.assign([strides] * layer.rank)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    return model


def labels(x):
    return (x[..., 0] > 0).astype("int32")


def compiled(model, **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, **kwargs)
    return model


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(
    "pooling_cls",
    [None, MAX_POOLING, FixedSpectralPooling, DiffStride, INSIDE],
    ids=["strided", "max", "spectral", "outside", "inside"],
)
def test_outputs_have_the_size_of_the_input(pooling_cls, order):
    model = tiny(
        pooling_cls=pooling_cls,
        pooling_order=order,
        output_activation="softmax",
    )
    assert model.output_shape == (None, None, None, 3)
    for size in [(13, 10), (16, 15)][: 2 if ON_TENSORFLOW else 1]:
        x = gradients.random((2, *size, 3))
        y = gradients.value(model, x)
        assert y.shape == (2, *size, 3)
        np.testing.assert_allclose(y.sum(-1), 1, atol=1e-5)


def test_layers():
    names = {
        order: [
            layer.name
            for layer in unet(
                3, (4, 8), (2,), INSIDE, pooling_order=order
            ).layers
        ]
        for order in ("before", "after")
    }
    levels = [
        [f"{level}_{i}_{part}" for i in (1, 2) for part in parts]
        for level, parts in [
            (
                level,
                ("convolution", "normalization", "activation"),
            )
            for level in ("encoder1", "encoder2", "decoder1")
        ]
    ]
    up = ["decoder1_projection", "decoder1_resize", "decoder1_concatenation"]
    pooling = ["encoder2_pooling"]
    expected = [
        "inputs",
        *levels[0],
        *pooling,
        *levels[1],
        *up,
        *levels[2],
        "predictions",
    ]
    assert names["before"] == expected
    place = expected.index("encoder2_pooling")
    expected[place : place + 2] = expected[place : place + 2][::-1]
    assert names["after"] == expected


def test_parameters_of_a_level():
    model = unet(5, (4, 8), (2,), input_shape=(16, 16, 1))
    convolutions = 9 * (1 * 4 + 4 * 4 + 4 * 8 + 8 * 8 + 8 * 4 + 4 * 4)
    normalizations = 4 * (4 + 4 + 8 + 8 + 4 + 4)
    heads = (8 + 1) * 4 + (4 + 1) * 5
    assert model.count_params() == convolutions + normalizations + heads
    learned = unet(5, (4, 8), (2,), INSIDE, input_shape=(16, 16, 1))
    assert learned.count_params() == model.count_params() + 2


@pytest.mark.parametrize(
    ("input_shape", "pooling_cls", "strides"),
    [
        ((37, 2), None, (2, 4)),
        ((37, 2), INSIDE_1D, (1.3, 2.6)),
        ((7, 6, 9, 1), DiffStride3D, ((1, 1.5, 2), 2)),
    ],
    ids=["strided signal", "signal", "volume"],
)
def test_signals_and_volumes(input_shape, pooling_cls, strides):
    model = tiny(
        strides=strides, pooling_cls=pooling_cls, input_shape=input_shape
    )
    x = gradients.random((2, *input_shape))
    assert model.output_shape == (None, *input_shape[:-1], 3)
    assert gradients.value(model, x).shape == (2, *input_shape[:-1], 3)


def test_channels_first():
    arguments = {"pooling_cls": INSIDE, "num_layers": 2}
    first = tiny(data_format="channels_first", **arguments)
    assert first.input_shape == (None, 3, None, None)
    assert first.output_shape == (None, 3, None, None)
    if ON_TENSORFLOW:
        return  # Its convolutions need a GPU.
    last = tiny(**arguments)
    last.set_weights(first.get_weights())
    x = gradients.random((1, 9, 12, 3))
    y = gradients.value(first, x.transpose(0, 3, 1, 2))
    expected = gradients.value(last, x)
    np.testing.assert_allclose(y.transpose(0, 2, 3, 1), expected, atol=1e-5)


def test_projections_may_come_before_the_resize():
    convolution = keras.layers.Conv2D(3, 1, bias_initializer="ones")
    convolution.build((None, 5, 6, 2))
    resize = SpectralResize(size=(9, 7))
    x = gradients.random((1, 5, 6, 2))
    np.testing.assert_allclose(
        gradients.value(lambda x: resize(convolution(x)), x),
        gradients.value(lambda x: convolution(resize(x)), x),
        atol=1e-5,
    )


def test_predictions_in_full_precision_and_decay():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = tiny(pooling_cls=INSIDE, weight_decay=0.1)
    assert model.output.dtype == "float32"
    assert keras.backend.standardize_dtype(
        model.get_layer("decoder1_resize").compute_dtype
    ) == ("bfloat16")
    kernels = [w for w in model.weights if w.name == "kernel"]
    expected = sum(
        0.1 * np.square(ops.convert_to_numpy(w)).sum() for w in kernels
    )
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("static", "jit_compile"),
    [(None, "auto"), pytest.param(True, True, marks=pytest.mark.slow)],
    ids=["default", "static"],
)
def test_it_learns_its_strides(static, jit_compile, tmp_path):
    model = with_odd_strides(
        tiny(
            pooling_cls=functools.partial(INSIDE, static_sizes=static),
            # Static sizes need no known ones: the batch has them.
            input_shape=(None, None, 3),
        )
    )
    x = gradients.random((4, 13, 10, 3))
    before = [ops.convert_to_numpy(w).copy() for w in model.weights]
    compiled(model, jit_compile=jit_compile)
    model.fit(x, labels(x), callbacks=[RefreshSizes()], verbose=0)
    for variable, old in zip(model.weights, before, strict=True):
        assert not np.array_equal(old, variable.numpy()), variable.path
    if static:
        return
    expected = model.predict(x, verbose=0)
    assert expected.shape == (4, 13, 10, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), expected, atol=1e-6
    )
    if ON_TENSORFLOW:
        # Images of another size, in the same function.
        x = gradients.random((1, 22, 17, 3))
        assert model.predict(x, verbose=0).shape == (1, 22, 17, 3)


def test_it_finds_the_bright_pixels():
    x = np.tile(gradients.random((8, 12, 10, 1)), (60, 1, 1, 1))
    model = unet(
        2,
        (4, 4),
        (1.7,),
        INSIDE,
        input_shape=(12, 10, 1),
        num_layers=1,
        momentum=0.5,
    )
    compiled(model)
    model.fit(x, labels(x), 8, callbacks=[RefreshSizes()], verbose=0)
    found = gradients.value(model, x[:8]).argmax(-1)
    assert (found == labels(x[:8])).mean() > 0.95


def test_frozen():
    model = with_odd_strides(tiny(pooling_cls=INSIDE))
    frozen = diffstride.freeze(model, (13, 10, 3))
    assert frozen.output_shape == (None, 13, 10, 3)
    x = gradients.random((2, 13, 10, 3))
    np.testing.assert_allclose(
        gradients.value(frozen, x), gradients.value(model, x), atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.skipif(
    script.is_beyond_keras(script.FORMATS["litert"]),
    reason="This Keras does not write LiteRT.",
)
@pytest.mark.parametrize(
    ("input_shape", "pooling_cls", "formats"),
    [
        ((13, 10, 3), INSIDE, ("saved_model", "litert", "onnx")),
        ((37, 2), INSIDE_1D, ("litert",)),
    ],
    ids=["image", "signal"],
)
def test_exported(input_shape, pooling_cls, formats, tmp_path):
    for module in ("ai_edge_litert", "onnx", "onnxruntime", "tf2onnx"):
        pytest.importorskip(module)
    open_shape = (*[None] * (len(input_shape) - 1), input_shape[-1])
    model = with_odd_strides(
        tiny(pooling_cls=pooling_cls, input_shape=open_shape)
    )
    report = script.export(model, tmp_path, formats, input_shape)
    assert set(report["formats"]) == set(formats)
    assert report["freezing"] < 1e-4
    for name, row in report["formats"].items():
        assert row.get("difference", np.inf) < 1e-4, (name, row)


def test_operations_are_counted():
    model = unet(
        5, (2, 3), (2,), num_layers=1, input_shape=(8, 8, 1), name="small"
    )
    encoder = 64 * 9 * 1 * 2 + 16 * 9 * 2 * 3
    projection = 16 * 3 * 2
    resize = 8 * 4 * 4 * 2 + 8 * 8 * 4 * 2
    decoder = 64 * 9 * (2 + 2) * 2 + 64 * 2 * 5
    assert count_macs(model) == encoder + projection + resize + decoder
    printed = []
    diffstride.summary(model, print_fn=printed.append)
    assert any(line.startswith("decoder1_resize") for line in printed)


def test_eq_6_ends_where_the_way_up_begins():
    model = with_odd_strides(tiny(pooling_cls=INSIDE, input_shape=(24, 20, 3)))
    expected = 1 / 1.3**2 + 1 / (1.3 * 2.6) ** 2
    assert float(model_complexity(model)) == pytest.approx(expected, rel=1e-5)
    add_complexity_loss(model, 0.5)
    assert float(sum(model.losses)) == pytest.approx(expected / 2, rel=1e-5)

    # A layer behind the decoder has the resolution of the skip in front of it.
    last = INSIDE(2.0, name="last")
    longer = keras.Model(model.input, last(model.output))
    assert float(model_complexity(longer)) == pytest.approx(
        expected + 1 / 4, rel=1e-5
    )


def test_errors():
    for arguments, error, message in [
        ({"strides": (2,)}, ValueError, "`filters` must have one entry"),
        ({"strides": (1.5, 2)}, ValueError, "`strides` must be integers.*enc"),
        ({"input_shape": (3,)}, ValueError, "`input_shape` must have one, two"),
        ({"num_layers": 0}, ValueError, "`num_layers` must be a positive int"),
        ({"pooling_cls": [None]}, ValueError, "`pooling_cls` must be one valu"),
        ({"pooling_order": "last"}, ValueError, "`pooling_order` must be one"),
        ({"pooling": None}, TypeError, "unexpected keyword argument"),
        (
            {"strides": ((2, 2), 2), "input_shape": (32, 1)},
            ValueError,
            r"`strides` must be a finite number of 1 or more. Received: .*\(2,",
        ),
    ]:
        with pytest.raises(error, match=message):
            tiny(**arguments)
