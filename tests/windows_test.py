"""Windows and sizes, against masks written from the papers."""

import gradients
import numpy as np
import pytest
import spectral_reference as reference
from keras import ops

from diffstride.ops import windows

SIZES = [*range(1, 18), 31, 32, 33, 64, 65, 100]
STRIDES = [1.0, 1.25, 1.37, 2.0, 2.5, 3.83, 7.1, 16.0, 70.0]
SMOOTHNESS = [0, 0.5, 1, 2, 4, 10]
GRID = [(size, stride) for size in SIZES for stride in STRIDES]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("ramp", ["outside", "inside"])
def test_window_is_the_mask_of_the_paper(ramp):
    positions = np.arange(-1, 40)
    for smoothness_factor in SMOOTHNESS:
        for size, stride in [(8, 1.0), (17, 2.2), (64, 2.0), (5, 9.0)]:
            axis = size, stride, smoothness_factor, ramp
            found = windows.window(
                positions.astype("float32"), *windows.cutoff(*axis)
            )
            expected = reference.mask(positions, *axis)
            np.testing.assert_allclose(numpy(found), expected, atol=1e-5)


def test_window_without_a_ramp_is_a_step():
    # One float above an integer: a steep ramp would give a half.
    end = np.nextafter(np.float32(4), np.float32(5))
    found, (slope,) = gradients.value_and_gradients(
        lambda end: windows.window(np.arange(8, dtype="float32"), end, 0),
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
            lambda end: windows.window(np.arange(10, dtype="float32"), end, 4),
            [np.float32(7)],
            np.eye(10, dtype="float32")[frequency],
        )
        assert float(slope) == pytest.approx(expected)
    # Without cropping it counts, as in the release.
    for frequency, expected in [(6, 1 / 4), (7, 1 / 4), (8, 0)]:
        _, (slope,) = gradients.value_and_gradients(
            lambda end: windows.window(
                np.arange(10, dtype="float32"), end, 4, cropping=False
            ),
            [np.float32(7)],
            np.eye(10, dtype="float32")[frequency],
        )
        assert float(slope) == pytest.approx(expected)


def test_odd_weights_reach_the_end_of_the_ramp_without_cropping():
    # A cut-off of 2.5, and a ramp of 2.5 up to 5: the positions of frequencies
    # 5 and -6. A ramp of whole length has a frequency at its beginning, too.
    for size, stride, smoothness_factor in [(20, 4, 2.5), (16, 4, 2)]:
        end = size / (2 * stride) + smoothness_factor

        def odd(stride, size=size, smoothness_factor=smoothness_factor):
            return windows.window_weights(
                size, size, stride, smoothness_factor, cropping=False
            ).odd

        bins = windows.window_weights(
            size, size, stride, smoothness_factor, cropping=False
        ).odd_bins
        last = list(numpy(bins)).index(end + 1)
        _, (slope,) = gradients.value_and_gradients(
            odd,
            [np.float32(stride)],
            np.eye(len(bins), dtype="float32")[last],
        )
        # The weight of -k counts as negative, and a larger stride lowers it.
        expected = size / (2 * stride**2) / smoothness_factor
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
            end, length = windows.cutoff(size, stride, 4, ramp)
            return ops.stack([end, ops.cast(length, "float32")])

        for index, upstream in enumerate(np.eye(2, dtype="float32")):
            _, (slope,) = gradients.value_and_gradients(
                end_and_length, [np.float32(stride)], upstream
            )
            assert float(slope) == pytest.approx(expected[index])


def test_minimum_stride_keeps_the_ramp_inside_the_map():
    for size in SIZES:
        for smoothness_factor in SMOOTHNESS:
            found = windows.minimum_stride(size, smoothness_factor)
            if size <= smoothness_factor:
                assert found == 1
            else:
                assert found == pytest.approx(
                    size / (size - smoothness_factor), rel=1e-7
                )
            assert (
                windows.minimum_stride(size, smoothness_factor, "inside") == 1
            )


def test_minimum_stride_of_a_size_known_only_in_the_graph():
    for smoothness_factor in SMOOTHNESS:
        found = windows.minimum_stride(
            ops.convert_to_tensor(SIZES, "int32"), smoothness_factor
        )
        expected = [
            windows.minimum_stride(size, smoothness_factor) for size in SIZES
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
        found = [windows.output_size(*axis, *options) for axis in GRID]
        np.testing.assert_array_equal(found, expected)
        assert all(isinstance(size, int) for size in found)
        in_graph = windows.output_size(
            ops.convert_to_tensor(sizes, "int32"),
            ops.convert_to_tensor(strides, "float32"),
            *options,
        )
        np.testing.assert_array_equal(numpy(in_graph), expected)


def test_output_size_inside_is_size_over_stride():
    for size, stride in GRID:
        expected = max(int(np.floor(size / stride + 0.5)), 1)
        found = windows.output_size(size, stride, 4, "inside")
        assert found == min(expected, size)


@pytest.mark.parametrize("in_size, out_size", [(8, 3), (8, 4), (9, 5), (1, 1)])
def test_aliasing_blends_a_window_with_everything(in_size, out_size):
    axis = in_size, out_size, in_size / out_size, 1, "inside", "symmetric"
    bins = in_size // 2 + 1
    window_alone = np.zeros(bins)
    even = numpy(windows.window_weights(*axis).even)
    window_alone[: len(even)] = even[:bins]
    everything = np.full(bins, 2.0)
    everything[0] = 1
    if in_size % 2 == 0:
        everything[-1] = 1
    for aliasing in (0.0, 0.3, 1.0):
        found = windows.window_weights(*axis, aliasing=aliasing)
        np.testing.assert_allclose(
            numpy(found.even),
            aliasing * everything + (1 - aliasing) * window_alone,
            atol=1e-6,
        )


def test_output_size_never_grows_with_the_stride():
    strides = np.linspace(1, 20, 300)
    for rule in ("height", "width", "symmetric"):
        for ramp in ("outside", "inside"):
            for size in (1, 2, 9, 16, 33, 64):
                found = [
                    windows.output_size(size, stride, 2, ramp, rule)
                    for stride in strides
                ]
                assert (np.diff(found) <= 0).all()
                assert 1 <= found[-1] <= found[0] <= size


def test_fixed_output_size():
    # Of the release: the height is made even, the width is not.
    for sizes, strides, expected in [
        ((32, 32), (1.5, 1.5), (20, 21)),
        ((32, 32), (1.1, 1.1), (28, 29)),
        ((7, 7), (2, 2), (2, 3)),
        ((224, 224), (2.2, 2.2), (100, 101)),
        ((33, 33), (1, 1), (32, 33)),
        ((5, 5), (90, 90), (2, 2)),
        ((1, 1), (1, 1), (1, 1)),
    ]:
        found = tuple(
            windows.fixed_output_size(*axis)
            for axis in zip(sizes, strides, ("height", "width"), strict=True)
        )
        assert found == expected
    for size, stride in GRID:
        expected = min(max(int(size // stride), 2), size)
        assert windows.fixed_output_size(size, stride, "width") == expected
        expected = min(max(expected - expected % 2, 2), size)
        for rule in ("height", "symmetric"):
            assert windows.fixed_output_size(size, stride, rule) == expected


@pytest.mark.parametrize("rule", ["height", "width", "symmetric"])
def test_fixed_output_size_of_a_size_known_only_in_the_graph(rule):
    in_graph = windows.fixed_output_size(
        ops.convert_to_tensor(SIZES, "int32"), 2.5, rule
    )
    np.testing.assert_array_equal(
        numpy(in_graph),
        [windows.fixed_output_size(size, 2.5, rule) for size in SIZES],
    )
