"""Output sizes that are multiples of a number."""

import gradients
import keras
import numpy as np
import pytest
from keras import layers

from diffstride import (
    DiffStride,
    DiffStride1D,
)
from diffstride.training.refresh_sizes import RefreshSizes

OPTIONS = [{}, {"symmetric": True}, {"ramp": "inside"}]


def output(sizes, strides=(2.2, 2.9), smoothness_factor=2, **options):
    layer = DiffStride(strides, smoothness_factor, static_sizes=True, **options)
    return gradients.apply(layer, gradients.random((1, *sizes, 2)))


def test_sizes_are_the_next_multiples_within_the_input():
    for size, multiple in [(32, 4), (32, 12), (33, 4), (7, 8), (1, 2), (30, 2)]:
        for stride in (1.0, 1.3, 2.2, 3.9, 70.0):
            for option in OPTIONS:
                for layer_class in (DiffStride, DiffStride1D):
                    arguments = {"static_sizes": True, **option}
                    shape = (1, *(size,) * layer_class.rank, 1)
                    least = layer_class(stride, 2, **arguments)
                    least.build(shape)
                    layer = layer_class(
                        stride, 2, size_multiple=multiple, **arguments
                    )
                    layer.build(shape)
                    for found, expected in zip(
                        layer.compute_output_shape(shape)[1:-1],
                        least.compute_output_shape(shape)[1:-1],
                        strict=True,
                    ):
                        if found % multiple:
                            # An axis read as half a spectrum ends up even.
                            assert found in (size, size - size % 2)
                        assert expected <= found < expected + multiple


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_more_points_hold_the_same_frequencies(options):
    sizes = (32, 30)
    least = output(sizes, norm="forward", **options)
    found = output(sizes, norm="forward", size_multiple=26, **options)
    assert found.shape[1:3] == (26, 26)
    height, width = least.shape[1:3]
    spectrum = np.fft.rfft2(found, axes=(1, 2), norm="forward")
    expected = np.zeros_like(spectrum)
    rows = np.r_[: (height + 1) // 2, 26 - height // 2 : 26]
    expected[:, rows, : width // 2 + 1] = np.fft.rfft2(
        least, axes=(1, 2), norm="forward"
    )
    if not options:
        # A real transform back looks at the real part alone of the first and
        # the last frequency, and the window of the release is not symmetric.
        spectrum, expected = (
            z[:, :, 1 : width // 2] for z in (spectrum, expected)
        )
    if options == {"ramp": "inside"}:
        # With more points, what lies at the Nyquist frequency of fewer points
        # or beyond stays, too.
        rows = np.r_[: (height + 1) // 2, 26 - (height - 1) // 2 : 26]
        spectrum, expected = (
            z[:, rows, : (width + 1) // 2] for z in (spectrum, expected)
        )
    np.testing.assert_allclose(spectrum, expected, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_largest_multiple_only_filters(options):
    for sizes in [(16, 12), (17, 12)]:
        np.testing.assert_allclose(
            output(sizes, size_multiple=32, **options),
            output(sizes, cropping=False, **options),
            atol=1e-5,
        )


@pytest.mark.tensorflow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_dynamic_sizes_are_multiples_too(options):
    x = gradients.random((2, 17, 24, 3))
    static, dynamic = (
        DiffStride((1.9, 3.7), 2, static_sizes=s, size_multiple=8, **options)
        for s in (True, False)
    )
    assert dynamic(x).shape == static(x).shape
    np.testing.assert_allclose(dynamic(x), static(x), atol=1e-5)


def test_it_is_saved():
    layer = DiffStride(2, size_multiple=8)
    assert DiffStride.from_config(layer.get_config()).size_multiple == 8


def test_it_must_be_even():
    for value in (0, -2, 3, 2.0, True, "4"):
        with pytest.raises(
            ValueError, match=f"`size_multiple` must .*size_multiple={value}"
        ):
            DiffStride(2, size_multiple=value)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch runs without graphs"
)
@pytest.mark.parametrize("multiple, compilations", [(1, 3), (8, 1)])
def test_strides_move_without_compilations(multiple, compilations):
    inputs = keras.Input((16, 16, 1))
    x = DiffStride(
        4, 1, ramp="inside", static_sizes=True, size_multiple=multiple
    )(inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    pooling, remaining = model.layers[1], iter([2.7, 2.0, 2.7])
    refresh = RefreshSizes()
    move = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: pooling.strides.assign(
            [next(remaining)] * 2
        )
    )
    x = gradients.random((4, 16, 16, 1))
    model.fit(x, x[:, 0, 0], epochs=3, callbacks=[move, refresh], verbose=0)
    assert refresh.compilations == compilations
