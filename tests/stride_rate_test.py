"""Strides that learn at a rate of their own."""

import keras
import numpy as np
import pytest

from diffstride import (
    DiffStride,
    RefreshSizes,
    set_stride_rate,
    set_weight_rates,
)

ON_TORCH = keras.backend.backend() == "torch"
needs_rates = pytest.mark.skipif(ON_TORCH, reason="one rate for all weights")


@pytest.mark.skipif(not ON_TORCH, reason="has a rate for each weight")
def test_torch_has_one_rate_for_all_weights():
    with pytest.raises(NotImplementedError, match="needs TensorFlow or JAX"):
        set_stride_rate(keras.optimizers.SGD(), 10)


def moved(optimizer):
    """How far strides and kernels move in one step."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 2)),
            keras.layers.Conv2D(2, 3),
            DiffStride(2, norm="forward", smoothness_factor=2),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    model.compile(optimizer, "mse")
    before = [np.array(weight) for weight in model.trainable_weights]
    x = np.random.default_rng(0).normal(size=(8, 16, 16, 2))
    model.fit(
        x, np.ones((8, 2)), epochs=1, callbacks=[RefreshSizes()], verbose=0
    )
    after = [np.array(weight) for weight in model.trainable_weights]
    return {
        weight.name: new - old
        for weight, old, new in zip(
            model.trainable_weights, before, after, strict=True
        )
    }


@needs_rates
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.01, momentum=0.9),
        lambda: keras.optimizers.Adam(0.001),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)),
    ],
)
def test_strides_alone_move_further(make):
    plain, faster = moved(make()), moved(set_stride_rate(make(), 5))
    assert np.abs(plain["strides"]).min() > 0
    np.testing.assert_allclose(
        faster["strides"], 5 * plain["strides"], rtol=1e-3
    )
    np.testing.assert_allclose(faster["kernel"], plain["kernel"], rtol=1e-5)


@needs_rates
def test_weights_of_any_name_have_a_rate():
    def optimizer():
        return keras.optimizers.SGD(0.01)

    factors = {"kernel": 3, "strides": 0}
    plain, own = (
        moved(optimizer()),
        moved(set_weight_rates(optimizer(), factors)),
    )
    np.testing.assert_allclose(
        own["kernel"], 3 * plain["kernel"], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(own["bias"], plain["bias"], rtol=1e-4, atol=1e-6)
    assert (own["strides"] == 0).all()


@needs_rates
def test_zero_holds_strides():
    optimizer = set_stride_rate(keras.optimizers.SGD(0.1), 0)
    assert (moved(optimizer)["strides"] == 0).all()


@needs_rates
@pytest.mark.parametrize("factor", [-1, float("nan"), "2", True])
def test_other_factors_are_refused(factor):
    with pytest.raises(ValueError, match="0 or more"):
        set_stride_rate(keras.optimizers.SGD(), factor)
