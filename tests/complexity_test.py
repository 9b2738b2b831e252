"""Eq. 6, operation counts and cut-off frequencies, against hand counts."""

import keras
import numpy as np
import pytest

from diffstride import (
    DiffStride,
    DiffStride1D,
    FixedSpectralPooling,
)
from diffstride.analysis.complexity import (
    add_complexity_loss,
    complexity,
    count_macs,
    cutoff_frequency,
    layer_costs,
    learned_layers,
    strides_of,
)

layers = keras.layers


def model_of(*hidden, shape=(16, 16, 2)):
    return keras.Sequential([keras.Input(shape), *hidden])


def test_complexity_is_equation_6():
    strides = [(1.5, 2.0), (3.0, 1.0), (2.0, 2.5)]
    expected = sum(
        np.prod([1 / (h * w) for h, w in strides[: depth + 1]])
        for depth in range(3)
    )
    assert complexity(strides) == pytest.approx(expected, rel=1e-12)


def test_complexity_loss_value_and_gradient():
    first, second = DiffStride((2, 3)), DiffStride(2, shared_stride=True)
    model = model_of(first, second)
    add_complexity_loss(model, 0.5)

    def loss(a, b, c):
        return 0.5 * (1 / (a * b) + 1 / (a * b * c * c))

    assert float(sum(model.losses)) == pytest.approx(loss(2, 3, 2), rel=1e-6)
    # One step of gradient descent on nothing but the complexity.
    model.compile(keras.optimizers.SGD(0.01), lambda y, p: 0.0 * p)
    model.fit(np.zeros((1, 16, 16, 2)), np.zeros(1), verbose=0)
    step, point = 1e-5, np.array([2.0, 3.0, 2.0])
    gradient = [
        (loss(*(point + d)) - loss(*(point - d))) / (2 * step)
        for d in step * np.eye(3)
    ]
    moved = [
        *keras.ops.convert_to_numpy(first.strides),
        *keras.ops.convert_to_numpy(second.strides),
    ]
    np.testing.assert_allclose(
        moved, point - 0.01 * np.array(gradient), rtol=1e-5
    )


def test_a_shared_layer_counts_once():
    shared = DiffStride(2)
    inputs = keras.Input((16, 16, 2))
    branch = layers.Conv2D(2, 1)(inputs)
    model = keras.Model(inputs, layers.add([shared(inputs), shared(branch)]))
    assert learned_layers(model) == [shared]
    add_complexity_loss(model, 1.0)
    assert float(model.losses[0]) == pytest.approx(0.25)


def test_complexity_loss_outlives_frozen_layers():
    first, second = DiffStride((2, 3)), DiffStride(2)
    model = model_of(first, second)
    add_complexity_loss(model, 1.0)
    first.trainable = False
    assert float(sum(model.losses)) == pytest.approx(1 / 6 + 1 / 24)


def test_strides_of_names_one_per_axis():
    layer = DiffStride(2, shared_stride=True)
    layer.build((None, 16, 16, 1))
    assert [float(stride) for stride in strides_of(layer)] == [2.0, 2.0]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "0.1", True])
def test_complexity_loss_rejects_weight(weight):
    with pytest.raises(ValueError, match="`weight` must be.*Received: weight="):
        add_complexity_loss(model_of(DiffStride(2)), weight)


def test_complexity_loss_needs_trained_strides():
    frozen = DiffStride(2, trainable=False)
    for model in [model_of(layers.Conv2D(2, 1)), model_of(frozen)]:
        with pytest.raises(ValueError, match="`model` must be built.*Received"):
            add_complexity_loss(model, 0.1)


@pytest.mark.parametrize(
    "layer, macs",
    [
        # Output points times filters times window times channels.
        (layers.Conv2D(3, 3, padding="same"), 16 * 16 * 3 * 9 * 2),
        (layers.Conv2D(4, (3, 1), strides=2), 7 * 8 * 4 * 3 * 2),
        (layers.Conv2D(4, 3, groups=2, padding="same"), 16 * 16 * 4 * 9),
        (layers.DepthwiseConv2D(3, padding="same"), 16 * 16 * 2 * 9),
        (layers.SeparableConv2D(5, 3), 14 * 14 * 2 * (9 + 5)),
        (layers.Conv2DTranspose(3, 2, strides=2), 16 * 16 * 4 * 2 * 3),
        (layers.Dense(7), 16 * 16 * 2 * 7),
        (layers.ReLU(), 0),
        # 8 rows, then 8 columns; the Nyquist bin has an imaginary part, whose
        # two coefficients go through the columns and to 8 rows.
        (
            FixedSpectralPooling(2),
            (8 * 16 * 16 + 8 * 8 * 16 + 2 * 16 * 16 + 2 * 8 * 16 + 8 * 2 * 8)
            * 2,
        ),
        # R = 2: 12 x 12 points, one real product for each axis.
        (
            DiffStride(2, smoothness_factor=2, symmetric=True),
            (12 * 16 * 16 + 12 * 12 * 16) * 2,
        ),
    ],
)
def test_macs(layer, macs):
    assert count_macs(model_of(layer)) == macs


def test_macs_of_a_signal():
    layer = DiffStride1D(2, smoothness_factor=2)
    assert count_macs(model_of(layer, shape=(16, 3))) == 12 * 16 * 3


def test_layer_costs_follow_the_strides():
    pool = DiffStride(2, smoothness_factor=1)
    model = model_of(pool, layers.Conv2D(4, 1))
    before = layer_costs(model)
    assert [cost.output_shape for cost in before] == [(10, 10, 2), (10, 10, 4)]
    pool.strides.assign([4.0, 1.1])
    pool.refresh_sizes()
    after = layer_costs(model)
    assert after[-1].output_shape == (6, 16, 4)
    assert after[-1].macs == 6 * 16 * 4 * 2
    # The model is left as it was found.
    assert "call" not in vars(pool)


def test_layer_costs_need_a_size():
    model = model_of(layers.Conv2D(4, 1), shape=(None, None, 2))
    with pytest.raises(ValueError, match="`input_shape` must be given"):
        layer_costs(model)
    assert count_macs(model, (3, 4, 2)) == 3 * 4 * 4 * 2
    two_inputs = keras.Model(
        pair := [keras.Input((4, 4, 1)), keras.Input((4, 4, 1))],
        layers.add(pair),
    )
    with pytest.raises(ValueError, match="`input_shape` must be given"):
        layer_costs(two_inputs)


def test_cutoff_frequencies_of_table_2():
    # 10 ms hops: a stride of two keeps 25 Hz; 64 mels: 0.25 cycles per mel.
    assert cutoff_frequency(2.0, sampling_rate=100) == 25.0
    assert cutoff_frequency(2.0) == 0.25
    # Music (instrument): a stride of 2.12 on 64 mels keeps 15 of 64.
    assert cutoff_frequency(2.12, size=64) == 15 / 64
