"""Tests of copies of models."""

import keras
import numpy as np
import pytest
from surgery_models import conv, images, network, outputs

from diffstride import DiffStride, freeze, learn_strides, to_integer_strides

layers = keras.layers


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(learn_strides, marks=pytest.mark.slow),
        freeze,
        to_integer_strides,
    ],
)
def test_a_copy_can_be_trained_without_harm_to_the_model(copy, tmp_path):
    """Under JAX, training deletes the arrays that a model had before."""
    model = network(
        layers.Normalization(),
        conv(2, "a"),
        layers.BatchNormalization(),
        DiffStride(1.5, norm="forward"),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    )
    x, y = images(4, 16, 16, 1), images(4, 2)
    model.layers[0].adapt(x)
    expected = outputs(model, x)
    copied = copy(model)
    copied.compile("adam", "mse")
    copied.fit(x, y, verbose=0)
    np.testing.assert_array_equal(outputs(model, x), expected)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    model.save(tmp_path / "model.keras")
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)
    # The other way round as well.
    assert np.isfinite(copied.predict(x, verbose=0)).all()
