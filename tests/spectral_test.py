"""Windows, sizes and operators, against NumPy's Fourier transforms."""

import gradients
import numpy as np
import pytest
import spectral_reference as reference
from keras import ops

from diffstride.ops import spectral

SIZES = [*range(1, 18), 31, 32, 33, 64, 65, 100]
STRIDES = [1.0, 1.25, 1.37, 2.0, 2.5, 3.83, 7.1, 16.0, 70.0]
SMOOTHNESS = [0, 0.5, 1, 2, 4, 10]
AXES = [(1, 1.0), (2, 1.5), (7, 4.0), (16, 1.37), (17, 2.0), (32, 3.83)]
GRID = [(size, stride) for size in SIZES for stride in STRIDES]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("ramp", ["outside", "inside"])
def test_window_is_the_mask_of_the_paper(ramp):
    positions = np.arange(-1, 40)
    for smoothness_factor in SMOOTHNESS:
        for size, stride in [(8, 1.0), (17, 2.2), (64, 2.0), (5, 9.0)]:
            axis = size, stride, smoothness_factor, ramp
            found = spectral.window(
                positions.astype("float32"), *spectral.cutoff(*axis)
            )
            expected = reference.mask(positions, *axis)
            np.testing.assert_allclose(numpy(found), expected, atol=1e-5)


def test_window_without_a_ramp_is_a_step():
    # One float above an integer: a steep ramp would give a half.
    end = np.nextafter(np.float32(4), np.float32(5))
    found, (slope,) = gradients.value_and_gradients(
        lambda end: spectral.window(np.arange(8, dtype="float32"), end, 0),
        [end],
        np.ones(8, "float32"),
    )
    np.testing.assert_array_equal(numpy(found), [1, 1, 1, 1, 1, 0, 0, 0])
    assert float(slope) == 0


def test_slope_of_the_window_where_the_ramp_begins_and_ends():
    # With a stride of 2 frequencies do lie there. The one where the ramp
    # begins counts as in the release; the one where it ends is cropped.
    for frequency, expected in [(2, 0), (3, 1 / 4), (5, 1 / 4), (7, 0), (8, 0)]:
        _, (slope,) = gradients.value_and_gradients(
            lambda end: spectral.window(np.arange(10, dtype="float32"), end, 4),
            [np.float32(7)],
            np.eye(10, dtype="float32")[frequency],
        )
        assert float(slope) == pytest.approx(expected)


def test_slope_of_the_cutoff_at_its_limits():
    # A pass band of exactly the 2 points that are left at least, and one
    # exactly as long as the ramp: the side of the stride that still moves.
    for ramp, size, stride, expected in [
        ("outside", 8, 4, [-8 / 32, 0]),
        ("outside", 8, 4.5, [0, 0]),
        ("inside", 16, 2, [-16 / 8, -16 / 8]),
        ("inside", 16, 1.9, [-16 / (2 * 1.9**2), 0]),
    ]:

        def end_and_length(stride, size=size, ramp=ramp):
            end, length = spectral.cutoff(size, stride, 4, ramp)
            return ops.stack([end, ops.cast(length, "float32")])

        for index, upstream in enumerate(np.eye(2, dtype="float32")):
            _, (slope,) = gradients.value_and_gradients(
                end_and_length, [np.float32(stride)], upstream
            )
            assert float(slope) == pytest.approx(expected[index])


def test_minimum_stride_keeps_the_ramp_inside_the_map():
    for size in SIZES:
        for smoothness_factor in SMOOTHNESS:
            found = spectral.minimum_stride(size, smoothness_factor)
            if size <= smoothness_factor:
                assert found == 1
            else:
                assert found == pytest.approx(
                    size / (size - smoothness_factor), rel=1e-7
                )
            assert (
                spectral.minimum_stride(size, smoothness_factor, "inside") == 1
            )


def test_minimum_stride_of_a_size_known_only_in_the_graph():
    for smoothness_factor in SMOOTHNESS:
        found = spectral.minimum_stride(
            ops.convert_to_tensor(SIZES, "int32"), smoothness_factor
        )
        expected = [
            spectral.minimum_stride(size, smoothness_factor) for size in SIZES
        ]
        np.testing.assert_allclose(numpy(found), expected, rtol=1e-6)


def expected_size(size, stride, smoothness_factor, ramp, rule):
    symmetric = rule == "symmetric"
    if rule == "width":
        # The last of two axes; the first does not matter.
        sizes, strides = (1, size), (1, stride)
    else:
        sizes, strides = (size, 1), (stride, 1)
    out_sizes = reference.diffstride(
        sizes, strides, smoothness_factor, symmetric=symmetric, ramp=ramp
    ).out_sizes
    return out_sizes[rule == "width"]


@pytest.mark.parametrize(
    "rule,ramp",
    [
        ("height", "outside"),
        ("width", "outside"),
        ("symmetric", "outside"),
        ("symmetric", "inside"),
    ],
)
def test_output_size_counts_the_frequencies_kept(rule, ramp):
    sizes, strides = zip(*GRID, strict=True)
    for smoothness_factor in SMOOTHNESS:
        options = smoothness_factor, ramp, rule
        expected = [expected_size(*axis, *options) for axis in GRID]
        found = [spectral.output_size(*axis, *options) for axis in GRID]
        np.testing.assert_array_equal(found, expected)
        assert all(isinstance(size, int) for size in found)
        in_graph = spectral.output_size(
            ops.convert_to_tensor(sizes, "int32"),
            ops.convert_to_tensor(strides, "float32"),
            *options,
        )
        np.testing.assert_array_equal(numpy(in_graph), expected)


def test_output_size_inside_is_size_over_stride():
    for size, stride in GRID:
        expected = 2 * int(np.ceil(size / (2 * stride))) - size % 2
        found = spectral.output_size(size, stride, 4, "inside")
        assert found == min(expected, size)


def test_output_size_never_grows_with_the_stride():
    strides = np.linspace(1, 20, 300)
    for rule in ("height", "width", "symmetric"):
        for ramp in ("outside", "inside"):
            for size in (1, 2, 9, 16, 33, 64):
                found = [
                    spectral.output_size(size, stride, 2, ramp, rule)
                    for stride in strides
                ]
                assert (np.diff(found) <= 0).all()
                assert 1 <= found[-1] <= found[0] <= size


def test_fixed_output_size():
    for size, stride in GRID:
        expected = int(size // stride)
        expected = min(max(expected - expected % 2, 2), size)
        assert spectral.fixed_output_size(size, stride) == expected
    in_graph = spectral.fixed_output_size(
        ops.convert_to_tensor(SIZES, "int32"), 2.5
    )
    np.testing.assert_array_equal(
        numpy(in_graph),
        [spectral.fixed_output_size(size, 2.5) for size in SIZES],
    )


def test_gain():
    for norm, expected in [
        ("backward", 1 / 8),
        ("ortho", 1 / np.sqrt(160)),
        ("forward", 1 / 20),
    ]:
        assert float(spectral.gain(20, 8, norm)) == pytest.approx(expected)


def window_case(size, stride, norm, rule):
    """A filter by the window of a stride, and the matrix it stands for."""
    symmetric = rule == "symmetric"
    expected = reference.diffstride(
        (size,), (stride,), 2, symmetric=symmetric, norm=norm
    )
    out_size = spectral.output_size(size, stride, 2, rule=rule)

    def axis_filter():
        weights = spectral.window_weights(size, out_size, stride, 2, rule=rule)
        return spectral.axis_filter(weights, size, out_size, norm, rule)

    return size, axis_filter, expected.matrices[0]


def crop_case(size, stride, norm="backward"):
    """A filter that crops only, and the matrix it stands for."""
    expected = reference.fixed((size,), (stride,), norm)
    (out_size,) = expected.out_sizes

    def axis_filter():
        weights = spectral.crop_weights(out_size)
        return spectral.axis_filter(weights, size, out_size, norm, "width")

    return size, axis_filter, expected.matrices[0]


def matrix_and_transform(axis_filter, x, axis):
    """Both ways to apply a filter, one on top of the other."""

    def both(x):
        built = axis_filter()
        matrix = spectral.real_matrix(built)
        return ops.stack(
            [
                spectral.apply_matrix(x, matrix, axis),
                spectral.apply_transform(x, built, axis),
            ]
        )

    return gradients.value(both, ops.convert_to_tensor(x))


def test_matrix_and_transform_are_the_operator_of_the_axis():
    cases = [
        window_case(*axis, norm, rule)
        for axis in AXES
        for norm, rule in [("backward", "width"), ("ortho", "symmetric")]
    ]
    cases += [crop_case(*axis) for axis in AXES]
    for size, axis_filter, expected in cases:
        impulses = np.eye(size, dtype="float32")
        for found in matrix_and_transform(axis_filter, impulses, 0):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_matrix_and_transform_act_on_any_axis():
    x = gradients.random((3, 4, 5, 6))
    for axis, size in enumerate(x.shape):
        _, axis_filter, matrix = window_case(size, 1.5, "ortho", "symmetric")
        expected = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
        for found in matrix_and_transform(axis_filter, x, axis):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_transform_keeps_the_dtype():
    _, axis_filter, matrix = crop_case(16, 2, "forward")
    x = gradients.random((16, 3)).astype("float16")
    found = gradients.value(
        lambda x: spectral.apply_transform(x, axis_filter(), 0), x
    )
    assert found.dtype == "float16"
    np.testing.assert_allclose(found, matrix @ x.astype(float), atol=2e-3)


def test_a_long_signal_takes_the_transform(monkeypatch):
    def no_matrix(axis_filter):
        raise AssertionError("A matrix of a long signal was built")

    monkeypatch.setattr(spectral, "real_matrix", no_matrix)
    size, out_size = 6000, 2000
    axis_filter = spectral.axis_filter(
        spectral.crop_weights(out_size), size, out_size, "forward", "width"
    )
    x = gradients.random((1, size, 2))
    found = spectral.resample(ops.convert_to_tensor(x), [axis_filter], (1,))
    spectrum = np.fft.rfft(x, axis=1, norm="forward")[:, : out_size // 2 + 1]
    expected = np.fft.irfft(spectrum, n=out_size, axis=1, norm="forward")
    np.testing.assert_allclose(numpy(found), expected, atol=1e-5)
