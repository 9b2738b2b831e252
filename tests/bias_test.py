import keras
import numpy as np
import pytest

from diffstride.layers.bias import Bias


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_learns_at_its_rate(momentum):
    moved = []
    for rate in (1.0, 64.0):
        model = keras.Sequential([keras.Input((5, 3)), Bias(rate)])
        model.compile(keras.optimizers.SGD(1e-4, momentum), "mse")
        x = np.arange(30.0).reshape(2, 5, 3)
        model.train_on_batch(x, x + 1)
        moved.append(np.array(model(x)) - x)
    assert np.all(moved[0] > 0)
    # The differences of float32 numbers up to 30.
    np.testing.assert_allclose(moved[1], 64 * moved[0], rtol=0.1)


def test_channels_first():
    layer = Bias(rate=4, data_format="channels_first")
    x = np.zeros((2, 3, 4, 5))
    layer.build(x.shape)
    layer.bias.assign([1.0, 2.0, 3.0])
    assert np.array(layer(x))[0, :, 0, 0].tolist() == [2.0, 4.0, 6.0]


def test_bad_rate():
    with pytest.raises(ValueError, match="`rate`"):
        Bias(rate=0)
