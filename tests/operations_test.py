"""Operation counts, against hand counts."""

import keras
import pytest

from diffstride import DiffStride, DiffStride1D, FixedSpectralPooling
from diffstride.analysis.operations import count_macs, layer_costs

layers = keras.layers


def model_of(*hidden, shape=(16, 16, 2)):
    return keras.Sequential([keras.Input(shape), *hidden])


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
