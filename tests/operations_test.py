"""Operation counts, against hand counts."""

import keras
import pytest

from diffstride import (
    LEAF,
    DiffStride,
    DiffStride1D,
    FixedSpectralPooling,
    FixedSpectralPooling1D,
)
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


@pytest.mark.parametrize("num_groups", [None, 1])
def test_macs_of_a_front_end(num_groups):
    """Filters at the samples of three frames, and a Gaussian in each frame."""
    layer = LEAF(
        sample_rate=1000, num_filters=4, fmax=500, num_groups=num_groups
    )
    taps, outputs, used = 25, 25, 45
    if num_groups:
        # Every second sample, because no Gaussian is shorter than 2.8 samples.
        taps, outputs, used = 21, 12, 12 + 2 * 5
    macs = used * 8 * taps + 3 * 4 * outputs
    assert count_macs(model_of(layer, shape=(49,))) == macs


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


def test_layer_costs_at_other_strides():
    pool = DiffStride(2, smoothness_factor=1, shared_stride=True)
    filter_only = DiffStride(2, cropping=False)
    model = model_of(pool, layers.Conv2D(4, 1), filter_only)
    before = layer_costs(model)
    costs = layer_costs(model, strides={pool: [3.0], filter_only: [4.0, 4.0]})
    # No weight was changed, and no layer is left changed.
    assert layer_costs(model) == before != costs
    pool.strides.assign([3.0])
    assert layer_costs(model) == costs


def test_other_strides_reach_a_class_derived_from_the_layer():
    class Mixed(DiffStride):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.mix = layers.Conv2D(5, 1)

        def build(self, input_shape):
            super().build(input_shape)
            self.mix.build(input_shape)

        def call(self, inputs):
            return self.mix(super().call(inputs))

    mixed = Mixed(2, ramp="inside")
    model = model_of(mixed)
    (macs, _) = (
        cost.macs for cost in layer_costs(model, None, {mixed: (4, 8)})
    )
    assert macs == 4 * 2 * 2 * 5


def test_layer_costs_need_a_size():
    model = model_of(layers.Conv2D(4, 1), shape=(None, None, 2))
    with pytest.raises(ValueError, match="`input_shape` must be given"):
        layer_costs(model)
    assert count_macs(model, (3, 4, 2)) == 3 * 4 * 4 * 2


def test_several_inputs():
    def model(height, structure):
        images = keras.Input((height, 4, 1), name="images")
        vector = keras.Input((3,), name="vector")
        outputs = [layers.Conv2D(2, 1)(images), layers.Dense(5)(vector)]
        return keras.Model(structure(images=images, vector=vector), outputs)

    def as_list(**inputs):
        return list(inputs.values())

    for structure in (as_list, dict):
        assert count_macs(model(4, structure)) == 4 * 4 * 2 + 3 * 5
        of_any_size = model(None, structure)
        shapes = structure(images=(8, 4, 1), vector=(3,))
        assert count_macs(of_any_size, shapes) == 8 * 4 * 2 + 3 * 5
        with pytest.raises(ValueError, match="`input_shape` must be given"):
            count_macs(of_any_size)
        with pytest.raises(ValueError, match="`input_shape` must have one"):
            count_macs(of_any_size, (8, 4, 1))


def test_integer_inputs():
    model = model_of(layers.Embedding(10, 4), layers.Dense(3), shape=(6,))
    assert count_macs(model) == 6 * 4 * 3


def test_calls_by_keyword():
    inputs = keras.Input((16, 16, 2))
    inner = model_of(layers.Conv2D(3, 1))
    x = layers.Conv2D(2, 1)(inputs=inputs)
    model = keras.Model(inputs, inner(inputs=x))
    assert count_macs(model) == 16 * 16 * (2 * 2 + 2 * 3)


def test_a_subclassed_model():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x, y):
            return self.dense(inputs=x) + y

    class Pair(Model):
        def call(self, pair):
            return super().call(*pair)

    model = Pair()
    assert count_macs(model, [(2,), (3,)]) == 2 * 3


@pytest.mark.parametrize(
    "layer, shape, macs",
    [
        (layers.RandomGaussianBlur(), (8, 8, 3), 0),
        # An activation that is a layer lies inside of the convolution.
        (layers.Conv2D(3, 1, activation=layers.ReLU()), (4, 4, 2), 4 * 4 * 6),
        (layers.EinsumDense("abc,cd->abd", (None, 7)), (5, 3), 5 * 3 * 7),
        (layers.EinsumDense("...x,xy->...y", 7), (5, 3), 5 * 3 * 7),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 7)), (5, 3), 5 * 42),
        # Each of 6 steps: four gates, from 3 inputs and 5 units.
        (layers.LSTM(5), (6, 3), 6 * 4 * 5 * (3 + 5)),
        (layers.LSTM(5, return_sequences=True), (6, 3), 6 * 4 * 5 * (3 + 5)),
        (layers.GRU(5), (6, 3), 6 * 3 * 5 * (3 + 5)),
        (layers.SimpleRNN(5), (6, 3), 6 * 5 * (3 + 5)),
        (layers.Bidirectional(layers.GRU(5)), (6, 3), 2 * 6 * 3 * 5 * (3 + 5)),
        (
            layers.RNN([layers.SimpleRNNCell(5), layers.SimpleRNNCell(2)]),
            (6, 3),
            6 * (5 * (3 + 5) + 2 * (5 + 2)),
        ),
        (
            layers.ConvLSTM2D(2, 3, padding="same"),
            (6, 4, 5, 3),
            6 * 4 * 5 * 9 * (3 + 2) * 4 * 2,
        ),
        (layers.TimeDistributed(layers.Dense(4)), (6, 3), 6 * 3 * 4),
        (
            layers.TimeDistributed(model_of(layers.Conv2D(4, 1))),
            (6, 16, 16, 2),
            6 * 16 * 16 * 2 * 4,
        ),
    ],
)
def test_macs_of_other_layers(layer, shape, macs):
    assert count_macs(model_of(layer, shape=shape)) == macs


def test_macs_of_attention():
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    for layer in (layers.Attention(), layers.AdditiveAttention()):
        model = keras.Model([query, value], layer([query, value]))
        assert count_macs(model) == 5 * 7 * 8 * 2


def test_macs_of_attention_with_heads():
    query, value = keras.Input((5, 8)), keras.Input((7, 8))
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=3)
    model = keras.Model([query, value], layer(query=query, value=value))
    # Projections of queries, keys, values and outputs, then the products.
    projections = 2 * 8 * 3 * (5 + 7 + 7 + 5)
    assert count_macs(model) == projections + 2 * 5 * 7 * (3 + 3)
    layer = layers.GroupQueryAttention(
        head_dim=3, num_query_heads=4, num_key_value_heads=2
    )
    model = keras.Model([query, value], layer(query, value))
    projections = 8 * 3 * (4 * 5 + 2 * 7 + 2 * 7 + 4 * 5)
    assert count_macs(model) == projections + 4 * 5 * 7 * (3 + 3)


def test_macs_of_attention_along_an_axis():
    images = keras.Input((4, 5, 6))
    layer = layers.MultiHeadAttention(1, key_dim=6, attention_axes=2)
    model = keras.Model(images, layer(images, images))
    projections = 4 * 4 * 5 * 6 * 6
    assert count_macs(model) == projections + 4 * 5 * 5 * (6 + 6)


def test_a_long_axis_takes_fourier_transforms():
    size, channels = 16384, 3
    model = model_of(FixedSpectralPooling1D(2), shape=(size, channels))
    transforms = size * 14 + size // 2 * 13
    assert count_macs(model) == channels * transforms
