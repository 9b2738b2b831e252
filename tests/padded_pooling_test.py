"""Tests of pooling with padding that does not count."""

import keras
import numpy as np
import pytest
from keras import ops

from diffstride.layers.padded_pooling import (
    PaddedPooling1D,
    PaddedPooling2D,
    PaddedPooling3D,
)


def reference(x, window, strides, padding, reduce):
    """Pooling of a map of one channel, by loops over NaNs as padding."""
    x = np.pad(x, padding, constant_values=np.nan)
    height, width = (
        (size - w) // s + 1
        for size, w, s in zip(x.shape, window, strides, strict=True)
    )
    return np.array(
        [
            [
                reduce(
                    x[
                        i * strides[0] : i * strides[0] + window[0],
                        j * strides[1] : j * strides[1] + window[1],
                    ]
                )
                for j in range(width)
            ]
            for i in range(height)
        ]
    )


@pytest.mark.parametrize("pool_mode", ["max", "average"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_padding_does_not_count(pool_mode, data_format, strides):
    window, padding = (3, 2), ((0, 2), (1, 0))
    layer = PaddedPooling2D(window, strides, padding, pool_mode, data_format)
    x = np.random.default_rng(0).normal(size=(9, 8)).astype("float32") - 5
    reduce = np.nanmax if pool_mode == "max" else np.nanmean
    expected = reference(x, window, strides, padding, reduce)
    x = x[None, :, :, None] if data_format == "channels_last" else x[None, None]
    got = ops.convert_to_numpy(layer(x))
    assert got.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(got.squeeze(), expected, atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="Keras repeats the border on torch, and mirrors it elsewhere",
)
def test_padding_beyond_a_window_mirrors_the_border():
    layer = PaddedPooling2D(1, padding=((0, 2), (0, 0)), pool_mode="max")
    x = np.array([-1.0, -2.0, -3.0], "float32").reshape(1, 3, 1, 1)
    got = ops.convert_to_numpy(layer(x)).ravel()
    np.testing.assert_array_equal(got, [-1, -2, -3, -3, -2])


def test_a_model_with_open_sizes_in_half_precision_reloads(tmp_path):
    layer = PaddedPooling2D(
        3, 2, ((1, 1), (0, 2)), dtype="mixed_float16", name="pool"
    )
    model = keras.Sequential([keras.Input((None, None, 2)), layer])
    assert model.output_shape == (None, None, None, 2)
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 2))
    y = ops.convert_to_numpy(model(x))
    assert y.dtype == "float16" and y.shape == (2, 5, 4, 2)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(reloaded(x)), y)


@pytest.mark.parametrize("pool_mode", ["max", "average"])
def test_xla_trains_through_the_padding(pool_mode):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(2, 3, padding="same"),
            PaddedPooling2D(3, 2, ((0, 1), (2, 2)), pool_mode),
        ]
    )
    model.compile("sgd", "mse", jit_compile=True)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 1))
    before = ops.convert_to_numpy(model.layers[0].kernel)
    model.train_on_batch(x, np.ones((2, 3, 4, 2)))
    after = ops.convert_to_numpy(model.layers[0].kernel)
    assert np.isfinite(after).all() and (after != before).all()


@pytest.mark.parametrize("pool_mode", ["max", "average"])
def test_signals_and_volumes_are_pooled_as_maps(pool_mode):
    x = np.random.default_rng(0).normal(size=(2, 7, 2)).astype("float32")
    pair, none = (1, 3), (0, 0)
    expected = PaddedPooling2D((2, 1), (2, 1), (pair, none), pool_mode)(
        x[:, :, None]
    )
    expected = ops.convert_to_numpy(expected)[:, :, 0]
    got = PaddedPooling1D(2, 2, [pair], pool_mode)(x)
    np.testing.assert_allclose(ops.convert_to_numpy(got), expected, atol=1e-6)
    layer = PaddedPooling3D((1, 2, 1), (1, 2, 1), (none, pair, none), pool_mode)
    got = ops.convert_to_numpy(layer(x[:, None, :, None]))
    np.testing.assert_allclose(got[:, 0, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize("padding", [((0, 1),), ((0, -1), (0, 0))])
def test_a_padding_of_another_form_is_an_error(padding):
    with pytest.raises(ValueError, match="`padding` must be .*`..top, bottom"):
        PaddedPooling2D(2, padding=padding)
