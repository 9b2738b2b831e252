"""Tests of layers that resize maps, against NumPy."""

import gradients
import keras
import numpy as np
import pytest
from keras import ops

from diffstride import (
    DiffStride,
    RefreshSizes,
    SpectralResize,
    SpectralResize1D,
    SpectralResize3D,
)
from diffstride.analysis.operations import count_macs
from diffstride.ops import spectral

NORMS = ["forward", "ortho", "backward"]
# Both parities on both sides, and whole and fractional ratios up and down.
PAIRS = [
    *[(4, 7), (4, 8), (5, 8), (5, 9), (6, 7), (1, 4), (2, 3)],
    *[(7, 4), (8, 4), (8, 5), (9, 5), (7, 6), (4, 1), (3, 2), (6, 6)],
]


def interpolation(size, out_size):
    """Values of the interpolant without frequencies above `out_size / 2`."""
    points = np.arange(out_size)[:, None] / out_size
    matrix = np.zeros((out_size, size), complex)
    for k in range(-(size // 2), size // 2 + 1):
        if 2 * abs(k) > out_size:
            continue
        # An even size has its Nyquist frequency once, as half of k and of -k.
        share = 0.5 if 2 * abs(k) == size else 1
        of_input = np.exp(-2j * np.pi * k * np.arange(size) / size) / size
        matrix += share * np.exp(2j * np.pi * k * points) * of_input
    return matrix.real


def waves(size, count):
    """Orthonormal waves on `size` points, the first `count` of them."""
    points = np.arange(size) / size
    rows = [np.ones(size)]
    for k in range(1, count // 2 + 1):
        rows.append(np.cos(2 * np.pi * k * points))
        rows.append(np.sin(2 * np.pi * k * points))
    rows = np.array(rows[:count])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def matrix(size, out_size, norm="forward"):
    if norm == "forward":
        return interpolation(size, out_size)
    if norm == "backward":
        return interpolation(out_size, size).T
    count = min(size, out_size)
    return waves(out_size, count).T @ waves(size, count)


def resized(x, out_sizes, norm="forward", first_axis=1):
    for axis, size in enumerate(out_sizes, first_axis):
        x = np.moveaxis(x, axis, -1) @ matrix(x.shape[axis], size, norm).T
        x = np.moveaxis(x, -1, axis)
    return x


def check_signals(norm):
    """All pairs of sizes, in one compilation."""
    layers = [SpectralResize1D(size=size, norm=norm) for _, size in PAIRS]
    signals = [gradients.random((2, size, 3)) for size, _ in PAIRS]

    def run(*signals):
        return [layer(x) for layer, x in zip(layers, signals, strict=True)]

    if keras.backend.backend() == "jax":
        import jax

        run = jax.jit(run)
    outputs = gradients.to_numpy(run(*signals))
    for layer, x, got in zip(layers, signals, outputs, strict=True):
        expected = resized(x, layer.size, norm)
        assert layer.compute_output_shape(x.shape) == expected.shape
        np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_signals(norm):
    check_signals(norm)


@pytest.mark.parametrize("norm", NORMS)
def test_long_axes_take_transforms(norm, monkeypatch):
    monkeypatch.setattr(spectral, "MATRIX_ENTRIES", 0)
    monkeypatch.setattr(spectral, "apply_matrix", None)
    check_signals(norm)


@pytest.mark.parametrize(("size", "out_size"), [(401, 500), (500, 401)])
def test_a_long_signal(size, out_size):
    layer = SpectralResize1D(size=out_size)
    x = gradients.random((1, size, 2))
    expected = resized(x, [out_size])
    np.testing.assert_allclose(gradients.apply(layer, x), expected, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("out_sizes", [(9, 10), (4, 3), (8, 5), (6, 12)])
def test_images(out_sizes, data_format, norm):
    layer = SpectralResize(size=out_sizes, norm=norm, data_format=data_format)
    is_last = data_format == "channels_last"
    x = gradients.random((2, 6, 7, 3) if is_last else (2, 3, 6, 7))
    expected = resized(x, out_sizes, norm, first_axis=1 if is_last else 2)
    assert layer.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(gradients.apply(layer, x), expected, atol=5e-6)


def test_volumes():
    x = gradients.random((1, 4, 5, 6, 2))
    layer = SpectralResize3D(factor=(0.5, 1, 1.6))
    expected = resized(x, (2, 5, 10))
    np.testing.assert_allclose(gradients.apply(layer, x), expected, atol=5e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("out_sizes", [(9, 8), (3, 4), (8, 5)])
def test_gradients(out_sizes, norm):
    layer = SpectralResize(size=out_sizes, norm=norm)
    x, direction = gradients.random((2, 1, 6, 7, 2), seed=1)
    upstream = gradients.random((1, *out_sizes, 2))
    _, [gradient] = gradients.value_and_gradients(layer, [x], upstream)
    # The layer is linear, so that differences of any step are exact.
    slope = (
        np.sum(gradients.value(layer, x + direction) * upstream)
        - np.sum(gradients.value(layer, x - direction) * upstream)
    ) / 2
    gradient = ops.convert_to_numpy(gradient)
    np.testing.assert_allclose((gradient * direction).sum(), slope, 1e-3, 1e-4)


def both_ways(small, large, norm="forward", back=None):
    up = SpectralResize(size=large, norm=norm)
    down = SpectralResize(size=small, norm=back or norm)
    return up, down


SMALL_AND_LARGE = [((6, 5), (9, 10)), ((6, 4), (12, 7)), ((1, 2), (2, 6))]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("small", "large"), SMALL_AND_LARGE)
def test_up_and_down_again_is_the_identity(small, large, norm):
    # Random maps have energy at the Nyquist frequency of even sizes, too.
    up, down = both_ways(small, large, norm)
    x = gradients.random((2, *small, 3))
    got = gradients.value(lambda x: down(up(x)), x)
    np.testing.assert_allclose(got, x, atol=5e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("small", "large"), SMALL_AND_LARGE)
def test_down_and_up_again_is_a_low_pass(small, large, norm):
    up, down = both_ways(small, large, norm)
    x = gradients.random((2, *large, 3))
    got = gradients.value(lambda x: up(down(x)), x)
    expected = x
    for axis, (size, count) in enumerate(zip(large, small, strict=True), 1):
        kept = waves(size, count).T @ waves(size, count)
        expected = np.moveaxis(np.moveaxis(expected, axis, -1) @ kept, -1, axis)
    np.testing.assert_allclose(got, expected, atol=5e-6)


@pytest.mark.parametrize(
    ("norm", "back"),
    [("ortho", "ortho"), ("forward", "backward"), ("backward", "forward")],
)
@pytest.mark.parametrize(("small", "large"), SMALL_AND_LARGE)
def test_the_adjoint(small, large, norm, back):
    up, down = both_ways(small, large, norm, back)
    x, y = gradients.random((2, *small, 3)), gradients.random((2, *large, 3))
    np.testing.assert_allclose(
        (gradients.value(up, x) * y).sum(),
        (x * gradients.value(down, y)).sum(),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("norm", "value"), [("forward", 3), ("ortho", 1.5), ("backward", 0.75)]
)
def test_a_constant(norm, value):
    x = np.full((1, 5, 6, 2), 3, "float32")
    y = gradients.value(SpectralResize(2, norm=norm), x)
    assert y.shape == (1, 10, 12, 2)
    np.testing.assert_allclose(y, value, atol=1e-5)
    down = SpectralResize(size=(3, 4), norm="forward")
    np.testing.assert_allclose(gradients.value(down, x), 3, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_same_size_is_the_identity(dtype):
    x = gradients.random((1, 5, 6, 2)).astype(dtype)
    layers = [
        (SpectralResize(1.0, dtype=dtype), x),
        (SpectralResize(size=(5, 6), dtype=dtype), x),
        (SpectralResize(dtype=dtype), [x, np.zeros((1, 5, 6, 1), "int32")]),
    ]
    for layer, inputs in layers:
        np.testing.assert_array_equal(ops.convert_to_numpy(layer(inputs)), x)


def test_points_of_the_input_stay_where_an_axis_doubles():
    x = gradients.random((1, 6, 5, 2))
    y = gradients.value(SpectralResize(factor=2), x)
    np.testing.assert_allclose(y[:, ::2, ::2], x, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [(5, 1.3, 7), (5, 1.5, 8), (5, 0.5, 3), (9, 0.01, 1), (10, 1.04, 10)],
)
def test_factors_round_to_the_nearest_size(size, factor, expected):
    layer = SpectralResize1D(factor)
    x = gradients.random((1, size, 2))
    assert layer.compute_output_shape((None, size, 2)) == (None, expected, 2)
    assert gradients.value(layer, x).shape == (1, expected, 2)


def test_shapes():
    layer = SpectralResize()
    assert layer.compute_output_shape([(2, 3, 4, 5), (None, 7, None, 6)]) == (
        *(2, 7, None, 5),
    )
    x = keras.Input((None, 4, 5))
    like = keras.Input((9, None, 1), dtype="int32")
    assert layer([x, like]).shape == (None, 9, None, 5)
    assert SpectralResize(1.5)(x).shape == (None, None, 6, 5)
    assert SpectralResize(size=8)(x).shape == (None, 8, 8, 5)
    first = SpectralResize(size=8, data_format="channels_first")
    assert first(x).shape == (None, None, 8, 8)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(dtype):
    x = gradients.random((2, 6, 7, 3))
    layer = SpectralResize(size=(9, 5), dtype=dtype)
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    y = ops.convert_to_numpy(ops.cast(y, "float32"))
    np.testing.assert_allclose(y, resized(x, (9, 5)), atol=0.05)


def test_integers_become_floats():
    # As the symbolic UpSampling2D says, which makes no float of them itself.
    x = np.arange(30).reshape(1, 5, 6, 1)
    symbolic = keras.Input((5, 6, 1), dtype="int32")
    for inputs in (x.astype("int32"), x.astype("uint8"), symbolic):
        y = SpectralResize(size=(7, 9))(inputs)
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
    y = gradients.value(SpectralResize(size=(7, 9)), x.astype("uint8"))
    np.testing.assert_allclose(y, resized(x, (7, 9)), atol=1e-4)


def decoder(input_shape=(None, None, 2), **arguments):
    inputs = keras.Input(input_shape)
    y = DiffStride(1.4, ramp="inside", **arguments)(inputs)
    y = keras.layers.Conv2D(3, 3, padding="same")(y)
    return keras.Model(inputs, SpectralResize(name="up")([y, inputs]))


@pytest.mark.tensorflow
@pytest.mark.parametrize("size", [(11, 8), (10, 15)])
def test_sizes_that_only_the_graph_knows(size):
    import tensorflow as tf

    signature = tf.TensorSpec((None, None, None, 3))
    x, like = gradients.random((1, 7, 10, 3)), np.zeros((1, *size, 3))
    like = like.astype("float32")

    @tf.function(input_signature=[signature, signature])
    def run(x, like):
        factor = SpectralResize(1.5)(x)
        return SpectralResize()([x, like]), factor

    resized_like, by_factor = run(x, like)
    np.testing.assert_allclose(resized_like, resized(x, size), atol=1e-5)
    np.testing.assert_allclose(by_factor, resized(x, (11, 15)), atol=1e-5)
    # A signal of unknown length takes transforms.
    signals = tf.TensorSpec((None, None, 3))
    function = tf.function(SpectralResize1D().call)
    function = function.get_concrete_function([signals, signals])
    np.testing.assert_allclose(
        function([x[0], like[0]]), resized(x[0], size[1:]), atol=1e-5
    )
    # The sizes of one side only.
    known = tf.TensorSpec((None, 7, 10, 3))
    for other, inputs in [
        ([known, signature], [x, like]),
        ([signature, tf.TensorSpec((1, *size, 3))], [x, like]),
    ]:
        function = tf.function(SpectralResize().call)
        function = function.get_concrete_function(other)
        np.testing.assert_allclose(
            function(inputs), resized(x, size), atol=1e-5
        )


@pytest.mark.tensorflow
def test_training_steps_with_learned_sizes():
    x = gradients.random((2, 13, 10, 2))
    model = decoder()
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((2, 13, 10, 3)), verbose=0)
    assert model.predict(x, verbose=0).shape == (2, 13, 10, 3)


@pytest.mark.parametrize("jit_compile", [True, "auto"])
def test_training_steps_with_static_sizes(jit_compile):
    x = gradients.random((2, 13, 10, 2))
    model = decoder((13, 10, 2), static_sizes=True)
    model.compile("sgd", "mse", jit_compile=jit_compile)
    y = np.zeros((2, 13, 10, 3))
    model.fit(x, y, callbacks=[RefreshSizes()], verbose=0)
    assert model.predict(x, verbose=0).shape == (2, 13, 10, 3)


@pytest.mark.tensorflow
def test_xla():
    import tensorflow as tf

    x = gradients.random((2, 6, 7, 3))
    like = np.zeros((1, 9, 4, 1), "float32")
    layer = SpectralResize()
    function = tf.function(lambda x: layer([x, like]), jit_compile=True)
    np.testing.assert_allclose(function(x), resized(x, (9, 4)), atol=1e-5)
    # Transforms, too.
    signal = gradients.random((1, 800, 1))
    layer = SpectralResize1D(factor=2)
    function = tf.function(layer, jit_compile=True)
    np.testing.assert_allclose(function(signal), layer(signal), atol=1e-4)


@pytest.mark.parametrize("file", ["model.keras", "model.h5"])
def test_a_model_of_two_maps_reloads(file, tmp_path):
    model = decoder((13, 10, 2))
    x = gradients.random((2, 13, 10, 2))
    model.save(tmp_path / file)
    loaded = keras.saving.load_model(tmp_path / file, compile=False)
    np.testing.assert_allclose(
        gradients.value(loaded, x), gradients.value(model, x), atol=1e-6
    )
    assert (
        loaded.get_layer("up").get_config()
        == model.get_layer("up").get_config()
    )


def test_config():
    config = SpectralResize((2, 1.5), norm="ortho").get_config()
    assert config["factor"] == [2, 1.5] and config["size"] is None
    config = SpectralResize1D(size=9).get_config()
    assert config["size"] == [9] and config["norm"] == "forward"
    assert SpectralResize1D.from_config(config).size == (9,)


def test_operations_are_counted():
    inputs = keras.Input((6, 7, 3))
    model = keras.Model(inputs, SpectralResize(size=(9, 14))(inputs))
    # Rows, then columns.
    assert count_macs(model) == 9 * 6 * 7 * 3 + 14 * 7 * 9 * 3


def test_invalid_arguments():
    with pytest.raises(ValueError, match="must not be given both.*factor=2"):
        SpectralResize(2, size=3)
    for factor in (0, -1, np.inf, (2, 2, 2), "2"):
        with pytest.raises(ValueError, match="`factor` must be a finite num"):
            SpectralResize(factor)
    for size in (0, (3, 0), 2.5, (3, 3, 3)):
        with pytest.raises(ValueError, match="`size` must be an integer of 1"):
            SpectralResize(size=size)
    with pytest.raises(ValueError, match="`norm` must be one of"):
        SpectralResize(2, norm="none")
    x = np.zeros((1, 4, 4, 1), "float32")
    with pytest.raises(ValueError, match="needs two inputs.*one input"):
        SpectralResize()(x)
    with pytest.raises(ValueError, match="needs two inputs.*3 inputs"):
        SpectralResize()([x, x, x])
    with pytest.raises(ValueError, match="takes one input.*2 inputs"):
        SpectralResize(2)([x, x])
    with pytest.raises(ValueError, match=r"4 axes.*\(1, 4, 4, 1\), \(1, 4, 4"):
        SpectralResize()([x, x[..., 0]])
    with pytest.raises(ValueError, match="must have 5 axes"):
        SpectralResize3D(2)(keras.Input((4, 4, 1)))
