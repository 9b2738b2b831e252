"""The layers against NumPy's Fourier transforms, and as Keras layers."""

import gradients
import keras
import numpy as np
import pytest
import spectral_reference as reference
from keras import ops

from diffstride import (
    DiffStride,
    DiffStride1D,
    DiffStride3D,
    FixedSpectralPooling,
    FixedSpectralPooling1D,
    FixedSpectralPooling3D,
    SpatialPooling,
)
from diffstride.ops import spectral

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
DIFFSTRIDE = {1: DiffStride1D, 2: DiffStride, 3: DiffStride3D}
FIXED = {
    1: FixedSpectralPooling1D,
    2: FixedSpectralPooling,
    3: FixedSpectralPooling3D,
}
SIZES = [
    *[(1, 1), (2, 1), (1, 2), (3, 5), (5, 8), (8, 3), (7, 7), (8, 16)],
    *[(16, 2), (17, 31), (32, 17), (31, 64), (65, 32), (64, 65)],
]
# From none at all to more than the map, on and off the kinks of the window.
STRIDES = [(1.0, 1.0), (1.37, 2.21), (3.83, 1.09), (2.0, 2.0), (4.0, 70.0)]


def to_first(x):
    return np.moveaxis(x, -1, 1)


def to_last(x):
    return np.moveaxis(ops.convert_to_numpy(x), 1, -1)


def assert_close(found, expected, tolerance):
    """Within `tolerance` of the largest number expected; never NaN."""
    found = ops.convert_to_numpy(found)
    assert found.shape == expected.shape
    scale = np.abs(expected).max() + 1e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def check(run, sizes, strides, smoothness_factor, data_format=None, **options):
    """Holds output and gradients of a layer against those of the reference.

    Args:
        run: from input, strides and upstream gradient to output and gradients.
    """
    ramp = options.get("ramp", "outside")
    strides_in_effect = [
        reference.stride_in_effect(size, stride, smoothness_factor, ramp)
        for size, stride in zip(sizes, strides, strict=True)
    ]
    options["smoothness_factor"] = smoothness_factor
    operator = reference.diffstride(sizes, strides_in_effect, **options)
    x = gradients.random((1, *sizes, 2), seed=sum(sizes))
    expected = operator(x)
    # Along the output the gradient to a stride does not vanish by chance.
    upstream = expected / (expected.std() + 1e-6) + gradients.random(
        expected.shape, seed=1
    )
    upstream = upstream.astype("float32")
    if data_format == "channels_first":
        y, (to_x, to_strides) = run(to_first(x), strides, to_first(upstream))
        y, to_x = to_last(y), to_last(to_x)
    else:
        y, (to_x, to_strides) = run(x, strides, upstream)
    assert_close(y, expected, 1e-5)
    assert_close(to_x, operator.adjoint(upstream), 1e-4)
    slopes = reference.one_sided_slopes(x, sizes, strides_in_effect, **options)
    to_strides = ops.convert_to_numpy(to_strides)
    for found, sides, size, stride in zip(
        to_strides, slopes, sizes, strides_in_effect, strict=True
    ):
        if abs(size / stride - 2) < 1e-5:
            continue  # Where the pass band stops shrinking: no slope to hold.
        # Between the two sides where a frequency lies on a kink of the window.
        low, high = sorted(np.sum(upstream * side) for side in sides)
        tolerance = 1e-4 * abs(low) + 1e-5 * max(
            np.linalg.norm(upstream) * np.linalg.norm(side) for side in sides
        )
        assert low - tolerance <= found <= high + tolerance


def static_run(layer):
    """The layer at the sizes of its strides, one compilation for each."""

    def run(x, strides, upstream):
        layer.build(x.shape)
        return gradients.value_and_gradients(
            gradients.layer_function(layer),
            [x, ops.convert_to_numpy(layer.strides)],
            upstream,
        )

    return run


def dynamic_run(layer, sizes=None):
    """The layer in one graph that knows no size, or only those of the input."""
    import tensorflow as tf

    rank = layer.input_spec.ndim
    sizes = sizes or (None,) * (rank - 2)
    first = layer.data_format == "channels_first"
    layer.build([None, 2, *sizes] if first else [None, *sizes, 2])
    shape = [None, None, *sizes] if first else [None, *sizes, None]

    @tf.function(
        input_signature=[
            tf.TensorSpec(shape),
            tf.TensorSpec([rank - 2]),
            tf.TensorSpec([None] * rank),
        ]
    )
    def graph(x, strides, upstream):
        return gradients.value_and_gradients(
            gradients.layer_function(layer), [x, strides], upstream
        )

    return graph


@pytest.mark.tensorflow
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    "options",
    [{}, {"symmetric": True}, {"ramp": "inside"}],
    ids=["default", "symmetric", "inside"],
)
def test_graph_of_unknown_sizes_matches_reference(options, data_format):
    first = data_format == "channels_first"
    for smoothness_factor, norm in [
        [(0, "forward"), (1, "ortho"), (4, "backward")],
        [(0.5, "backward"), (2, "forward"), (10, "ortho")],
    ][first]:
        layer = DiffStride(
            smoothness_factor=smoothness_factor,
            norm=norm,
            data_format=data_format,
            **options,
        )
        run = dynamic_run(layer)
        for number, sizes in enumerate(SIZES):
            for strides in STRIDES[number % 2 :: 2]:
                check(
                    run,
                    sizes,
                    strides,
                    smoothness_factor,
                    data_format,
                    norm=norm,
                    **options,
                )


@pytest.mark.tensorflow
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("sizes", [(1, 6), (8, 7), (32, 31), (33, 16), (64, 9)])
def test_graph_that_knows_its_input_matches_reference(sizes, data_format):
    run = dynamic_run(DiffStride(data_format=data_format), sizes)
    for strides in STRIDES:
        check(run, sizes, strides, 4, data_format)


@pytest.mark.tensorflow
@pytest.mark.parametrize("symmetric", [False, True])
def test_graph_of_unknown_sizes_in_1d_and_3d(symmetric):
    run = dynamic_run(DiffStride1D(smoothness_factor=2, symmetric=symmetric))
    for size in (1, 2, 3, 8, 17, 64, 65):
        for stride in (1.0, 1.37, 2.21, 70.0):
            check(run, (size,), (stride,), 2, symmetric=symmetric)
    run = dynamic_run(DiffStride3D(smoothness_factor=1, symmetric=symmetric))
    for sizes in [(1, 2, 3), (8, 5, 7), (7, 16, 8)]:
        check(run, sizes, (1.37, 2.21, 1.6), 1, symmetric=symmetric)


# Each is one compilation on JAX.
@pytest.mark.parametrize(
    "sizes,strides,options",
    [
        ((1, 8), (1.0, 3.1), {}),
        ((2, 3), (1.37, 1.0), {"smoothness_factor": 1}),
        ((7, 5), (2.2, 1.6), {"smoothness_factor": 0}),
        ((16, 17), (2.0, 2.0), {"smoothness_factor": 0.5, "norm": "ortho"}),
        ((17, 16), (3.83, 90.0), {"norm": "forward"}),
        ((64, 65), (2.21, 3.83), {"data_format": "channels_first"}),
        ((12, 10), (1.37, 2.21), {"data_format": "channels_first"}),
        ((4, 1000), (1.37, 2.21), {"norm": "forward"}),
        ((1000, 4), (1.37, 2.21), {"norm": "forward"}),
        # Products of two int32 below this size overflow, and a table of all
        # its frequencies does not fit in memory.
        ((70_000, 3), (1.37, 1.0), {"norm": "forward"}),
        ((16, 12), (1.37, 2.21), {"cropping": False}),
        ((7, 9), (1.37, 2.21), {"cropping": False, "smoothness_factor": 2}),
        ((20, 16), (2.0, 2.0), {"cropping": False, "smoothness_factor": 0}),
        ((9, 8), (2.2, 1.37), {"symmetric": True}),
        ((8, 9), (2.2, 1.37), {"symmetric": True, "cropping": False}),
        ((16, 7), (2.2, 1.37), {"ramp": "inside", "smoothness_factor": 10}),
        ((5, 32), (1.0, 3.83), {"ramp": "inside", "smoothness_factor": 0}),
        ((17,), (2.21,), {}),
        ((32,), (2.21,), {"ramp": "inside", "data_format": "channels_first"}),
        ((4, 7, 8), (1.0, 1.37, 2.21), {"smoothness_factor": 1}),
        ((4, 6, 5), (1.37, 1.0, 2.21), {"symmetric": True, "norm": "ortho"}),
        ((17, 12), (1.37, 2.21), {"ramp": "inside", "aliasing": 0.4}),
        ((16, 9), (2.0, 1.37), {"symmetric": True, "aliasing": 0.7}),
        ((33,), (2.21,), {"ramp": "inside", "aliasing": 0.1, "norm": "ortho"}),
    ],
)
def test_static_sizes_match_reference(sizes, strides, options):
    layer = DIFFSTRIDE[len(sizes)](
        strides=strides if len(sizes) > 1 else strides[0],
        static_sizes=True,
        **options,
    )
    options = {"smoothness_factor": layer.smoothness_factor, **options}
    check(static_run(layer), sizes, strides, **options)


@pytest.mark.tensorflow
def test_aliasing_in_a_graph_of_unknown_sizes_matches_reference():
    options = {"ramp": "inside", "aliasing": 0.4}
    layer = DiffStride(smoothness_factor=1, **options)
    run = dynamic_run(layer)
    for sizes in [(8, 7), (33, 16), (5, 64)]:
        for strides in STRIDES[:-1]:
            check(run, sizes, strides, 1, **options)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_full_aliasing_is_subsampling(data_format):
    x = gradients.random((2, 12, 15, 3))
    for norm, gain in [("forward", 1), ("backward", 6), ("ortho", 6**0.5)]:
        layer = DiffStride(
            (2, 3),
            aliasing=1,
            ramp="inside",
            norm=norm,
            data_format=data_format,
        )
        if data_format == "channels_last":
            found = ops.convert_to_numpy(layer(x))
        else:
            found = to_last(layer(to_first(x)))
        np.testing.assert_allclose(found, gain * x[:, ::2, ::3], atol=1e-5)


def test_aliasing_scales_the_gradient_of_the_strides():
    x, upstream = gradients.random((1, 16, 2)), gradients.random((1, 8, 2))
    slopes = []
    for aliasing in (0.0, 0.25, 1.0):
        layer = DiffStride1D(
            1.9, 2, ramp="inside", aliasing=aliasing, static_sizes=True
        )
        _, (_, slope) = static_run(layer)(x, (1.9,), upstream)
        slopes.append(float(slope[0]))
    assert abs(slopes[0]) > 1e-3
    np.testing.assert_allclose(slopes[1:], [0.75 * slopes[0], 0], rtol=1e-4)


def test_wrong_aliasing_is_an_error():
    for value in (-0.1, 1.1, float("nan"), "1", None):
        with pytest.raises(ValueError, match="`aliasing` must be a number"):
            DiffStride(ramp="inside", aliasing=value)
    with pytest.raises(ValueError, match="`aliasing` needs a symmetric window"):
        DiffStride(aliasing=0.5)


@pytest.mark.parametrize("smoothness_factor", [None, 1, 2])
def test_strides_inside_learn_at_every_size_and_stride(smoothness_factor):
    # JAX compiles each of them.
    jax = keras.backend.backend() == "jax"
    for size in (2, 5, 16) if jax else (2, 3, 4, 5, 7, 8, 13, 16):
        x = gradients.random((1, size, 4), seed=size)
        for stride in np.linspace(1, size / 2, 7):
            layer = DiffStride1D(
                stride,
                smoothness_factor,
                ramp="inside",
                norm="forward",
                static_sizes=True,
            )
            points = layer.compute_output_shape(x.shape)[1]
            assert abs(points - size / stride) <= 0.5
            upstream = gradients.random((1, points, 4))
            _, (_, slope) = static_run(layer)(x, (stride,), upstream)
            assert abs(float(slope[0])) > 1e-7


@pytest.mark.parametrize("sizes", [(31,), (32,), (5, 6, 7)])
def test_transforms_give_what_matrices_give(sizes, monkeypatch):
    monkeypatch.setattr(spectral, "MATRIX_ENTRIES", 0)
    monkeypatch.setattr(spectral, "cosine_matrix", None)
    strides = (1.37, 2.21, 1.6)[: len(sizes)]
    layer = DIFFSTRIDE[len(sizes)](
        strides if len(sizes) > 1 else strides[0], 1, static_sizes=True
    )
    check(static_run(layer), sizes, strides, 1)


def test_fixed_spectral_pooling_matches_reference():
    cases = [((1, 1), (1, 1)), ((2, 3), (1, 2)), ((5, 8), (90, 1.37))]
    cases += [((17, 16), (2.5, 1.0)), ((64, 65), (3.83, 2.0)), ((3, 3), (1, 1))]
    cases += [((33,), (2.2,)), ((1,), (3,)), ((5, 6, 9), (1.6, 1, 2))]
    # The width is odd: at strides of 1.5, 1.1 and 2, and as it came.
    cases += [((32, 32), (1.5, 1.1)), ((7, 7), (2, 2)), ((33, 33), (2, 1))]
    cases += [((6, 9, 32), (1.6, 1, 1.5))]
    for number, (sizes, strides) in enumerate(cases):
        data_format = ["channels_last", "channels_first"][number % 2]
        norm = ["backward", "ortho", "forward"][number % 3]
        operator = reference.fixed(sizes, strides, norm)
        x = gradients.random((1, *sizes, 2))
        upstream = gradients.random((1, *operator.out_sizes, 2), seed=1)
        layer = FIXED[len(sizes)](
            strides if len(sizes) > 1 else strides[0],
            data_format=data_format,
            norm=norm,
        )
        if data_format == "channels_first":
            y, (to_x,) = gradients.value_and_gradients(
                layer, [to_first(x)], to_first(upstream)
            )
            y, to_x = to_last(y), to_last(to_x)
        else:
            y, (to_x,) = gradients.value_and_gradients(layer, [x], upstream)
        assert_close(y, operator(x), 1e-5)
        assert_close(to_x, operator.adjoint(upstream), 1e-4)


def test_spatial_pooling_pools_in_space():
    x = gradients.random((2, 6, 8, 3))
    blocks = x.reshape(2, 3, 2, 2, 4, 3)
    for mode, expected in [
        ("average", blocks.mean((2, 4))),
        ("max", blocks.max((2, 4))),
    ]:
        found = SpatialPooling(None, (2, 4), pool_mode=mode)(x)
        assert_close(found, expected, 1e-6)
        layer = SpatialPooling(
            (2, 4), (2, 4), pool_mode=mode, data_format="channels_first"
        )
        assert_close(to_last(layer(to_first(x))), expected, 1e-6)
    valid = SpatialPooling(3, 2, padding="valid")(x)
    assert valid.shape == (2, 2, 3, 3)
    assert_close(valid[:, 0, 0], x[:, :3, :3].mean((1, 2)), 1e-6)


def test_spatial_pooling_subsamples_by_default():
    x = gradients.random((2, 7, 8, 3))
    assert_close(SpatialPooling()(x), x[:, ::2, ::2], 0)
    assert_close(SpatialPooling(strides=(3, 2))(x), x[:, ::3, ::2], 0)
    assert SpatialPooling(2).pool_size == (2, 2)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_published_sizes(data_format):
    for layer_class, expected in [
        (SpatialPooling, (32, 16)),
        (FixedSpectralPooling, (32, 16)),
        (DiffStride, (40, 24)),
    ]:
        layer = layer_class(strides=(2, 4), data_format=data_format)
        if data_format == "channels_last":
            y = gradients.apply(layer, np.ones((1, 64, 64, 3)))
            assert y.shape == (1, *expected, 3)
        else:
            y = gradients.apply(layer, np.ones((1, 3, 64, 64)))
            assert y.shape == (1, 3, *expected)


def layers_to_compare():
    return [
        DiffStride((1.37, 2.21), 2),
        DiffStride((1.37, 2.21), 2, ramp="inside"),
        FixedSpectralPooling((1.37, 2.21)),
    ]


def test_linear_with_the_gradient_as_adjoint():
    a, b = gradients.random((2, 1, 9, 12, 2))
    for layer in layers_to_compare():
        x = np.concatenate([a, b, 2 * a - 3 * b])
        y = gradients.apply(layer, x)
        assert_close(2 * y[0] - 3 * y[1], y[2], 1e-5)
        upstream = gradients.random(y.shape, seed=1)
        _, (to_x,) = gradients.value_and_gradients(layer, [x], upstream)
        np.testing.assert_allclose(
            np.sum(y * upstream), float(ops.sum(to_x * x)), rtol=1e-4
        )


def test_channels_and_examples_are_independent():
    x = gradients.random((3, 9, 12, 4))
    for layer in layers_to_compare():
        y = gradients.apply(layer, x)
        assert_close(
            gradients.apply(layer, x[1:2, ..., 2:3]), y[1:2, ..., 2:3], 1e-5
        )


def test_gain_of_a_constant():
    for layer in [
        DiffStride((1.37, 2.21), 2),
        DiffStride((1.37, 2.21), 10, ramp="inside", norm="ortho"),
        DiffStride((1.37, 2.21), norm="forward"),
        FixedSpectralPooling((1.37, 90)),
    ]:
        y = gradients.apply(layer, np.full((1, 9, 12, 1), 3.0))
        ratio = 9 * 12 / y.size
        gain = {"backward": ratio, "ortho": ratio**0.5, "forward": 1}
        np.testing.assert_allclose(y, 3 * gain[layer.norm], rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"symmetric": True}, {"ramp": "inside"}], ids=str
)
def test_a_symmetric_window_commutes_with_transposition(options):
    x = gradients.random((1, 9, 12, 2))
    y = gradients.apply(DiffStride((1.37, 2.21), 2, **options), x)
    flipped = DiffStride((2.21, 1.37), 2, **options)
    flipped = gradients.apply(flipped, np.swapaxes(x, 1, 2))
    assert_close(np.swapaxes(flipped, 1, 2), y, 1e-5)


@pytest.mark.parametrize(
    "options", [{"symmetric": True}, {"ramp": "inside"}, {}], ids=str
)
def test_without_cropping_the_spectrum_is_padded_with_zeros(options):
    x = gradients.random((1, 12, 16, 2))
    y = gradients.apply(DiffStride((2.2, 1.9), 2, **options), x)
    height, width = y.shape[1:3]
    assert height < 12 and width < 16
    padded = np.zeros((1, 12, 9, 2), complex)
    rows = np.r_[: (height + 1) // 2, 12 - height // 2 : 12]
    padded[:, rows, : width // 2 + 1] = np.fft.rfft2(y, axes=(1, 2))
    found = gradients.apply(
        DiffStride((2.2, 1.9), 2, cropping=False, **options), x
    )
    assert found.shape == x.shape
    found = np.fft.rfft2(found, axes=(1, 2))
    if not options:
        # A real transform back looks at the real part alone of the first and
        # the last frequency, and the window of the release is not symmetric.
        found, padded = (z[:, :, 1 : width // 2] for z in (found, padded))
    if options == {"ramp": "inside"}:
        # Without cropping, what lies at the Nyquist frequency of the cropped
        # map or beyond stays, too.
        rows = np.r_[: (height + 1) // 2, 12 - (height - 1) // 2 : 12]
        found, padded = (
            z[:, rows, : (width + 1) // 2] for z in (found, padded)
        )
    np.testing.assert_allclose(found, padded, atol=1e-4)


@pytest.mark.tensorflow
def test_static_and_dynamic_sizes_give_the_same():
    x = gradients.random((2, 17, 24, 3))
    for options in [{}, {"symmetric": True}, {"ramp": "inside"}]:
        dynamic = DiffStride((1.9, 2.7), **options)
        static = DiffStride((1.9, 2.7), static_sizes=True, **options)
        np.testing.assert_allclose(dynamic(x), static(x), atol=1e-5)
        dynamic.strides.assign([2.3, 1.4])
        static.strides.assign([2.3, 1.4])
        np.testing.assert_allclose(dynamic(x), static(x), atol=1e-5)


def test_gradient_at_initial_strides_of_two():
    # Frequencies lie right where the ramp begins. They count, as in the release
    # and on every backend: the slope is the one towards larger strides.
    layer = DiffStride(2, static_sizes=True)
    x = gradients.random((1, 16, 16, 1))
    upstream = gradients.random((1, 16, 16, 1), seed=1)
    layer.build(x.shape)
    _, (_, found) = gradients.value_and_gradients(
        gradients.layer_function(layer), [x, np.float32([2, 2])], upstream
    )
    expected = [
        [np.sum(upstream * side) for side in sides]
        for sides in reference.one_sided_slopes(x, (16, 16), (2.0, 2.0))
    ]
    below, above = np.transpose(expected)
    assert (abs(above - below) > 0.01).all()
    np.testing.assert_allclose(ops.convert_to_numpy(found), above, rtol=1e-4)


def test_gradient_without_cropping_at_the_end_of_the_ramp():
    # Frequencies lie right where the ramp ends, and none where it begins. They
    # count, as in the release: the slope is the one towards smaller strides.
    options = dict(smoothness_factor=2.5, cropping=False)
    layer = DiffStride(4, static_sizes=True, **options)
    x = gradients.random((1, 36, 36, 1))
    upstream = gradients.random((1, 36, 36, 1), seed=1)
    layer.build(x.shape)
    _, (_, found) = gradients.value_and_gradients(
        gradients.layer_function(layer), [x, np.float32([4, 4])], upstream
    )
    expected = [
        [np.sum(upstream * side) for side in sides]
        for sides in reference.one_sided_slopes(
            x, (36, 36), (4.0, 4.0), **options
        )
    ]
    below, above = np.transpose(expected)
    assert (abs(above - below) > 0.01).all()
    np.testing.assert_allclose(ops.convert_to_numpy(found), below, rtol=1e-4)
