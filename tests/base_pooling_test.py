"""The spectral layers as Keras layers, and how their strides move."""

import gradients
import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.backend.common.variables import AutocastScope
from keras.src.testing import TestCase

from diffstride import (
    DiffStride,
    DiffStride1D,
    DiffStride3D,
    FixedSpectralPooling,
    FixedSpectralPooling1D,
    FixedSpectralPooling3D,
    SpatialPooling,
)
from diffstride.training.refresh_sizes import RefreshSizes

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
ON_JAX = keras.backend.backend() == "jax"
ON_TORCH = keras.backend.backend() == "torch"


def strides_of(layer):
    return ops.convert_to_numpy(layer.strides)


@pytest.mark.parametrize(
    "layer_class,arguments,input_shape,output_shape",
    [
        pytest.param(
            *(DiffStride, {"strides": (2, 4)}),
            *((2, 16, 32, 3), (2, 16, 16, 3)),
            marks=pytest.mark.tensorflow,
        ),
        (
            DiffStride,
            {
                "strides": (1.5, 2),
                "smoothness_factor": 1,
                "lower_limit_stride": 1.25,
                "upper_limit_stride": 3,
                "data_format": "channels_first",
                "symmetric": True,
                "norm": "forward",
                "ramp": "inside",
                "static_sizes": True,
            },
            (2, 3, 9, 16),
            (2, 3, 6, 8),
        ),
        (DiffStride1D, {"strides": 3}, (2, 24, 3), (2, 16, 3)),
        pytest.param(
            *(DiffStride3D, {"strides": 2, "cropping": False}),
            *((1, 8, 4, 6, 2), (1, 8, 4, 6, 2)),
            marks=pytest.mark.tensorflow,
        ),
        (FixedSpectralPooling, {"strides": (2, 3)}, (2, 8, 9, 3), (2, 4, 3, 3)),
        (FixedSpectralPooling1D, {"strides": 1.5}, (2, 12, 3), (2, 8, 3)),
        pytest.param(
            *(FixedSpectralPooling3D, {"strides": (1, 2, 2), "norm": "ortho"}),
            *((1, 4, 4, 6, 2), (1, 4, 2, 3, 2)),
            marks=pytest.mark.tensorflow,
        ),
        (
            SpatialPooling,
            {"strides": 2, "pool_mode": "max", "pool_size": (3, 2)},
            (2, 8, 6, 3),
            (2, 4, 3, 3),
        ),
    ],
)
def test_layer_is_what_keras_expects(
    layer_class, arguments, input_shape, output_shape
):
    layer = layer_class(**arguments)
    if not getattr(layer, "is_static", True) and arguments.get(
        "cropping", True
    ):
        # Its sizes are unknown before it runs.
        layer.build(input_shape)
        y = gradients.apply(layer, np.zeros(input_shape))
        assert y.shape == output_shape
        output_shape = layer.compute_output_shape(input_shape)
    TestCase().run_layer_test(
        layer_class,
        init_kwargs=arguments,
        input_shape=input_shape,
        expected_output_shape=output_shape,
        expected_num_trainable_weights=int("Diff" in layer_class.__name__),
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=0,
        supports_masking=False,
    )


def test_output_shape_is_honest():
    for layer in [
        DiffStride((2, 3), static_sizes=True),
        DiffStride((2, 3), trainable=False),
        DiffStride((2, 3), cropping=False),
        FixedSpectralPooling((2, 3)),
        SpatialPooling((2, 3), (2, 3)),
        SpatialPooling(3, 2, padding="valid"),
    ]:
        # Torch pools no map that is smaller than the window.
        is_pooling = isinstance(layer, SpatialPooling)
        smallest = (4, 3) if is_pooling and ON_TORCH else (1, 2)
        for sizes in [smallest, (64, 65)]:
            shape = layer.compute_output_shape((None, *sizes, 3))
            y = gradients.apply(layer, np.zeros((1, *sizes, 3)))
            assert shape == (None, *y.shape[1:])
        height = shape[1]
        shape = layer.compute_output_shape((5, 64, None, 3))
        assert shape == (5, height, None, 3)
        assert layer(keras.Input((64, None, 3))).shape == (
            None,
            height,
            None,
            3,
        )


def test_output_shape_is_unknown_where_it_follows_the_strides():
    layer = DiffStride(2)
    known = ON_JAX
    assert layer.is_static is layer.supports_jit is known
    shape = layer.compute_output_shape((None, 32, 64, 3))
    assert shape == (None, *((24, 40) if known else (None, None)), 3)
    shape = DiffStride(2, data_format="channels_first").compute_output_shape(
        (4, 3, 32, 64)
    )
    assert shape == (4, 3, *((24, 40) if known else (None, None)))


def test_unknown_sizes_in_a_model():
    inputs = keras.Input((None, None, 2))
    x = DiffStride((1.5, 2), 1)(inputs)
    outputs = FixedSpectralPooling(2)(x)
    model = keras.Model(inputs, outputs)
    assert model.output_shape == (None, None, None, 2)
    for batch, sizes in [(1, (9, 12)), (3, (16, 7))]:
        x = gradients.random((batch, *sizes, 2))
        expected = gradients.apply(DiffStride((1.5, 2), 1), x)
        expected = gradients.apply(FixedSpectralPooling(2), expected)
        found = gradients.value(model, x)
        np.testing.assert_allclose(found, expected, atol=1e-5)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.pooling = DiffStride((1.5, 2), 2)
        self.head = layers.Dense(1)

    def call(self, inputs):
        x = self.pooling(inputs)
        return self.head(ops.mean(x, axis=(1, 2)))


def sequential_model(shape=(12, 16, 2), **arguments):
    return keras.Sequential(
        [
            keras.Input(shape),
            DiffStride((1.5, 2), 2, **arguments),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1),
        ]
    )


def functional_model(shape=(12, 16, 2)):
    inputs = keras.Input(shape)
    x = DiffStride((1.5, 2), 2)(inputs)
    outputs = layers.Dense(1)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    "make_model", [sequential_model, functional_model, Subclassed]
)
def test_every_kind_of_model_trains_it(make_model):
    model = make_model()
    x, y = gradients.random((4, 12, 16, 2)), np.ones((4, 1), "float32")
    model.compile("sgd", "mse")
    history = model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]


def test_summary_names_layer_shape_and_weight():
    lines = []
    sequential_model(name="pooling").summary(print_fn=lines.append)
    (line,) = [
        line for line in "".join(lines).split("\n") if "pooling (" in line
    ]
    assert "DiffStride" in line
    sizes = "12, 12" if ON_JAX else "None, None"
    assert f"(None, {sizes}, 2)" in line
    assert line.strip(" │").endswith("2")


def moved_model(**arguments):
    """A model whose strides, and the sizes of its maps, are not the first."""
    model = sequential_model(**arguments)
    model.layers[0].strides.assign([2.25, 3.5])
    return model


@pytest.mark.parametrize(
    "arguments", [{}, {"static_sizes": True}, {"trainable": False}], ids=str
)
def test_saved_models_give_the_same(arguments, tmp_path):
    x = gradients.random((2, 12, 16, 2))
    model = moved_model(**arguments)
    y = gradients.value(model, x)
    assert not np.array_equal(
        y, sequential_model(**arguments).predict(x, verbose=0)
    )

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(gradients.value(loaded, x), y)
    np.testing.assert_array_equal(strides_of(loaded.layers[0]), [2.25, 3.5])

    model.save_weights(tmp_path / "model.weights.h5")
    loaded = sequential_model(**arguments)
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(gradients.value(loaded, x), y)


@pytest.mark.compiles
def test_a_training_goes_on_with_the_sizes_that_it_had(tmp_path):
    # In the middle of an epoch sizes lag behind the strides.
    x, y = gradients.random((4, 12, 16, 2)), np.zeros((4, 1), "float32")
    shapes = []

    class SaveAndStop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.save(tmp_path / "model.keras")
                raise KeyboardInterrupt

    class Probe(layers.Layer):
        def call(self, inputs):
            shapes.append(tuple(inputs.shape[1:3]))
            return inputs

    inputs = keras.Input((12, 16, 2))
    x1 = Probe()(DiffStride((1.5, 2), 2, static_sizes=True)(inputs))
    outputs = layers.Dense(1)(layers.GlobalMaxPooling2D()(x1))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.6), "mse")
    with pytest.raises(KeyboardInterrupt):
        callbacks = [SaveAndStop(), RefreshSizes()]
        model.fit(x, y, 1, verbose=0, callbacks=callbacks)
    loaded = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"Probe": Probe}
    )
    # The outputs are those of the weights,
    expected = gradients.value(model, x)
    np.testing.assert_array_equal(gradients.value(loaded, x), expected)
    now = shapes[-1]
    # and training goes on with the sizes of the interrupted epoch.
    for callbacks, expected in [([RefreshSizes()], (12, 12)), ([], now)]:
        again = keras.saving.load_model(
            tmp_path / "model.keras", custom_objects={"Probe": Probe}
        )
        again.compile("sgd", "mse")
        shapes.clear()
        again.fit(x, y, verbose=0, callbacks=callbacks)
        assert shapes[-1] == expected
    assert now != (12, 12)


def test_weights_fit_static_and_dynamic_layers_alike(tmp_path):
    x = gradients.random((2, 12, 16, 2))
    model = moved_model()
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = sequential_model(static_sizes=True)
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(
        gradients.value(loaded, x), gradients.value(model, x), atol=1e-6
    )
    loaded.save_weights(tmp_path / "static.weights.h5")
    model = sequential_model()
    model.load_weights(tmp_path / "static.weights.h5")
    np.testing.assert_array_equal(strides_of(model.layers[0]), [2.25, 3.5])


def test_loading_into_a_model_in_use(tmp_path):
    x, y = gradients.random((2, 12, 16, 2)), np.zeros((2, 1))
    model = moved_model(static_sizes=True)
    expected = model.predict(x, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    used = sequential_model(static_sizes=True)
    used.compile(keras.optimizers.SGD(0.0), "mse")
    used.fit(x, y, verbose=0)
    used.evaluate(x, y, verbose=0)
    used.predict(x, verbose=0)
    used.load_weights(tmp_path / "model.weights.h5")
    refresh = RefreshSizes()
    found = used.predict(x, verbose=0, callbacks=[refresh])
    np.testing.assert_array_equal(found, expected)
    for loss in [
        used.evaluate(x, y, verbose=0, callbacks=[refresh]),
        *used.fit(x, y, verbose=0, callbacks=[refresh]).history["loss"],
    ]:
        np.testing.assert_allclose(loss, np.mean(expected**2), rtol=1e-5)


def test_clone_model():
    x = gradients.random((2, 12, 16, 2))
    model = moved_model(symmetric=True, norm="forward", upper_limit_stride=5)
    clone = keras.models.clone_model(model)
    assert clone.layers[0].get_config() == model.layers[0].get_config()
    assert clone.layers[0].strides is not model.layers[0].strides
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        gradients.value(clone, x), gradients.value(model, x)
    )


@pytest.mark.parametrize(
    "policy,symmetric", [("mixed_float16", True), ("mixed_bfloat16", False)]
)
def test_mixed_precision(policy, symmetric):
    # Strides and operators are float32. What is left is the rounding of the
    # data: two units in the last place of the largest number, and eight in the
    # gradient to a stride, which is a sum over all of them.
    compute_dtype = policy.removeprefix("mixed_")
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[compute_dtype]
    x = gradients.random((2, 17, 24, 8))
    results = []
    for dtype in ["float32", policy]:
        layer = DiffStride(
            (1.5, 2.25), symmetric=symmetric, norm="forward", dtype=dtype
        )
        y = layer(x) if ON_TENSORFLOW else gradients.apply(layer, x)
        with AutocastScope("float16"):
            dtype = keras.backend.standardize_dtype(layer.strides.value.dtype)
            assert dtype == "float32"
        upstream = gradients.random(y.shape, seed=1).astype(y.dtype.name)
        function = gradients.layer_function(layer)
        _, found = gradients.value_and_gradients(
            function, [x, strides_of(layer)], upstream
        )
        results.append([y, *found])
    assert keras.backend.standardize_dtype(y.dtype) == compute_dtype
    for exact, rounded, units in zip(*results, [2, 2, 8], strict=True):
        exact, rounded = (
            ops.convert_to_numpy(ops.cast(value, "float32"))
            for value in (exact, rounded)
        )
        error = np.abs(rounded - exact).max() / np.abs(exact).max()
        assert error < units * unit


def test_strides_read_as_those_in_effect():
    for arguments, shape, expected in [
        ({"strides": 1}, (1, 16, 32, 1), [16 / 12, 32 / 28]),
        ({"strides": (1.5, 1)}, (1, 16, 32, 1), [1.5, 32 / 28]),
        ({"strides": 1}, (1, 4, 3, 1), [1, 1]),
        ({"strides": 1}, (1, 6, None, 1), [3, 1]),
        # A window cannot be narrower than the first frequency.
        ({"strides": 1}, (1, 5, None, 1), [2.5, 1]),
        ({"strides": (100, 12)}, (1, 16, 32, 1), [8, 12]),
        ({"strides": 100}, (1, 1, 3, 1), [1, 1.5]),
        ({"strides": 100, "ramp": "inside"}, (1, 16, 9, 1), [8, 4.5]),
        ({"strides": 100, "shared_stride": True}, (1, 32, 16, 1), [8]),
        ({"strides": 1, "ramp": "inside"}, (1, 16, 32, 1), [1, 1]),
        ({"strides": 1, "smoothness_factor": 0}, (1, 16, 32, 1), [1, 1]),
        (
            {"strides": (1, 6), "lower_limit_stride": 2.0}
            | {"upper_limit_stride": 3.0},
            (1, 16, 32, 1),
            [2, 3],
        ),
        ({"strides": 1, "shared_stride": True}, (1, 16, 32, 1), [16 / 12]),
        ({"strides": 1, "shared_stride": True}, (1, 32, 16, 1), [16 / 12]),
    ]:
        layer = DiffStride(**arguments)
        assert layer.strides == tuple(np.broadcast_to(arguments["strides"], 2))
        layer.build(shape)
        np.testing.assert_allclose(strides_of(layer), expected, rtol=2e-6)
        if arguments["strides"] == 1:
            # The optimizer does not take them below either.
            below = np.full(len(expected), 0.5, "float32")
            kept = ops.convert_to_numpy(layer.strides.constraint(below))
            np.testing.assert_allclose(kept, expected, rtol=1e-6)
        if np.max(arguments["strides"]) == 100:
            above = np.full(len(expected), 1000, "float32")
            layer.strides.assign(above)
            found = strides_of(layer)
            expected = [e if e != 12 else 16 for e in expected]
            np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_a_stride_at_its_limit_keeps_its_gradient():
    # No size is known to `build`, so the limit is enforced in `call` alone.
    layer = DiffStride(1)
    layer.build((None, None, None, 1))
    np.testing.assert_array_equal(strides_of(layer), [1, 1])
    limited = DiffStride(1)
    limited.build((None, 16, 32, 1))
    x = gradients.random((1, 16, 32, 1))
    upstream = gradients.random((1, 16, 32, 1), seed=1)
    y, (_, found) = gradients.value_and_gradients(
        gradients.layer_function(layer), [x, strides_of(layer)], upstream
    )
    same, (_, expected) = gradients.value_and_gradients(
        gradients.layer_function(limited), [x, strides_of(limited)], upstream
    )
    found, expected = map(ops.convert_to_numpy, (found, expected))
    np.testing.assert_allclose(y, same, atol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (np.abs(found) > 0.1).all()


@pytest.mark.parametrize(
    "ramp, size",
    [
        *[("outside", size) for size in (4, 5, 16)],
        *[("inside", size) for size in (3, 4, 9, 16)],
    ],
)
def test_a_stride_at_its_upper_limit_keeps_its_gradient(ramp, size):
    # Beyond half the size nothing is left to crop.
    for known in (True, False):
        layer = DiffStride(40, 2, ramp=ramp, norm="forward")
        layer.build((1, *((size, size) if known else (None, None)), 1))
        limit = [size / 2] * 2
        if known:
            np.testing.assert_allclose(strides_of(layer), limit, rtol=2e-6)
        x = gradients.random((1, size, size, 1))
        y = gradients.apply(layer, x)
        smaller = DiffStride(size / 2 - 0.001, 2, ramp=ramp, norm="forward")
        slightly_larger = gradients.apply(smaller, x).shape
        assert max(y.shape) <= max(slightly_larger)
        _, (_, found) = gradients.value_and_gradients(
            gradients.layer_function(layer),
            [x, strides_of(layer)],
            gradients.random(y.shape, seed=1),
        )
        assert (np.abs(ops.convert_to_numpy(found)) > 1e-3).all()


def test_a_stride_of_two_on_a_map_of_four_points_learns():
    layer = DiffStride(2, ramp="inside", norm="forward")
    x = gradients.random((1, 4, 4, 1))
    y = gradients.apply(layer, x)
    assert y.shape == (1, 2, 2, 1)
    _, (_, found) = gradients.value_and_gradients(
        gradients.layer_function(layer),
        [x, strides_of(layer)],
        gradients.random(y.shape, seed=1),
    )
    found = ops.convert_to_numpy(found)
    # The slope towards smaller strides, with the size held still.
    change = 1e-3
    smaller = DiffStride(
        2 - change, ramp="inside", norm="forward", cropping=False
    )
    larger = DiffStride(2, ramp="inside", norm="forward", cropping=False)
    assert np.abs(
        gradients.apply(smaller, x) - gradients.apply(larger, x)
    ).max()
    assert (np.abs(found) > 1e-2).all()


def test_shared_stride():
    x = gradients.random((1, 17, 24, 2))
    upstream = gradients.random((1, 17, 24, 2), seed=1)
    shared = DiffStride(2, cropping=False, shared_stride=True)
    layer = DiffStride(2, cropping=False)
    shared.build(x.shape)
    layer.build(x.shape)
    assert shared.strides.shape == (1,)
    y, (_, (found,)) = gradients.value_and_gradients(
        gradients.layer_function(shared), [x, strides_of(shared)], upstream
    )
    same, (_, both) = gradients.value_and_gradients(
        gradients.layer_function(layer), [x, strides_of(layer)], upstream
    )
    np.testing.assert_array_equal(y, same)
    np.testing.assert_allclose(float(found), float(ops.sum(both)), rtol=1e-4)


def test_strides_stay_within_limits_and_finite_in_training():
    # Odd and tiny maps, and steps much too long.
    for shape, arguments, lowest, highest in [
        ((3, 5, 1), {"smoothness_factor": 1}, (1.5, 1.25), (np.inf, np.inf)),
        (
            (1, 7, 1),
            {"lower_limit_stride": 1.5, "upper_limit_stride": 2.0},
            (1.5, 2.0),
            (2.0, 2.0),
        ),
    ]:
        model = keras.Sequential(
            [keras.Input(shape), DiffStride((1.6, 2), **arguments)]
        )
        model.compile(keras.optimizers.SGD(50.0), lambda y, z: ops.mean(z**2))
        x = np.concatenate(
            [gradients.random((2, *shape)), np.zeros((2, *shape))]
        )
        y = np.zeros(4)
        history = model.fit(x, y, batch_size=2, epochs=3, verbose=0)
        assert np.isfinite(history.history["loss"]).all()
        strides = strides_of(model.layers[0])
        assert (strides >= np.float32(lowest)).all()
        assert (strides <= highest).all()
        assert np.isfinite(model.predict(x, verbose=0)).all()


def test_untrained_strides():
    layer = DiffStride(2, trainable=False)
    assert layer.is_static  # Its sizes are constants on every backend.
    model = keras.Sequential([keras.Input((12, 12, 1)), layer])
    model.compile("sgd", "mse")
    assert model.trainable_weights == []
    assert model.non_trainable_weights == [layer.strides]


def high_frequency_task():
    """Two classes, of which one has a wave of high horizontal frequency.

    High vertical frequencies are noise.
    """
    random = np.random.default_rng(0)
    labels = np.arange(64) % 2
    points = 2 * np.pi * 6 / 16 * np.arange(16)
    phases = random.uniform(0, 2 * np.pi, (64, 1))
    waves = np.cos(points + phases)
    x = 0.3 * random.normal(size=(64, 16, 16))
    x += (labels[:, None] * waves)[:, None, :]
    x += (random.uniform(0, 1, (64, 1)) * waves)[:, :, None]
    x = x[..., None]
    return x.astype("float32"), labels[:, None].astype("float32")


def test_strides_follow_the_frequencies_that_matter():
    x, y = high_frequency_task()
    layer = DiffStride(2, smoothness_factor=2, norm="forward")
    inputs = keras.Input((16, 16, 1))
    energy = ops.square(layer(inputs))
    # A kernel below zero would teach to lose the wave first.
    outputs = layers.Dense(1, kernel_initializer="ones")(
        ops.mean(energy, axis=(1, 2))
    )
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(0.1),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )
    model.fit(x, y, 64, epochs=15, verbose=0, callbacks=[RefreshSizes(15)])
    vertical, horizontal = strides_of(layer)
    assert horizontal < 1.7
    assert vertical >= 2
    height, width = gradients.apply(layer, x).shape[1:3]
    assert height < width
