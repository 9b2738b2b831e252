import functools

import keras
import numpy as np
import pytest
from keras import ops

from diffstride import (
    DiffStride,
    FixedSpectralPooling,
    SpatialPooling,
    Whitening,
)
from diffstride.analysis.operations import count_macs
from diffstride.models.fast_cnn import IdentityFirst, fast_cnn
from diffstride.training.adaptation import adapt
from diffstride.validation import ConfigError

MAX = functools.partial(
    SpatialPooling, pool_size=None, pool_mode="max", padding="valid"
)
SMALL = {"filters": (8, 12, 12), "input_shape": (32, 32, 3)}


def test_size_of_the_original():
    model = fast_cnn(pooling_cls=MAX)
    # 1.97 million parameters, and 3.6e14 operations, two for each
    # multiply-accumulate, for 9.9 epochs of 50,000 images, where a gradient
    # costs twice a prediction.
    assert model.count_params() == 1_973_944
    operations = count_macs(model) * 2 * 3 * 50_000 * 9.9
    assert operations == pytest.approx(3.6e14, rel=0.05)


def test_starts_as_the_identity():
    kernel = np.array(IdentityFirst()((3, 3, 4, 10)))
    layer = keras.layers.Conv2D(10, 3, padding="same", use_bias=False)
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 4)).astype("float32")
    layer.build(x.shape)
    layer.kernel.assign(kernel)
    np.testing.assert_allclose(layer(x)[..., :4], x, rtol=1e-5, atol=1e-6)
    assert 0 < np.abs(kernel[..., 4:]).max() <= 1 / 6
    assert np.array(IdentityFirst()((3, 3, 4, 2))).shape == (3, 3, 4, 2)


@pytest.mark.parametrize("order", ["after", "before"])
@pytest.mark.parametrize(
    "pooling", [None, MAX, FixedSpectralPooling, DiffStride]
)
def test_every_weight_learns(pooling, order):
    model = fast_cnn(pooling_cls=pooling, pooling_order=order, **SMALL)
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [np.array(w) for w in model.trainable_weights]
    model.train_on_batch(x.astype("float32"), np.eye(4, 10))
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.any(np.array(weight) != old), weight.path


def test_channels_first_has_the_same_weights():
    shapes = [
        [
            (weight.path, tuple(weight.shape))
            for weight in fast_cnn(
                pooling_cls=MAX, filters=(8, 8, 8), data_format=data_format
            ).weights
        ]
        for data_format in ("channels_last", "channels_first")
    ]
    assert shapes[0] == shapes[1]


class _Data:
    def train(self, epoch):
        generator = np.random.default_rng(epoch)
        for _ in range(3):
            yield generator.normal(size=(8, 32, 32, 3)), np.zeros(8)


def test_the_trainer_computes_the_whitening():
    model = fast_cnn(**SMALL)
    before = np.array(model.get_layer("whitening").kernel)
    adapt(model, _Data())
    kernel = np.array(model.get_layer("whitening").kernel)
    assert not np.allclose(kernel, before)
    images = np.concatenate([x for x, _ in _Data().train(0)])
    outputs = ops.convert_to_numpy(model.get_layer("whitening")(images))
    np.testing.assert_allclose(
        (outputs**2).mean((0, 1, 2)), np.ones(24), rtol=5e-3
    )
    sequential = keras.Sequential([keras.Input((32, 32, 3)), Whitening()])
    adapt(sequential, _Data())
    np.testing.assert_array_equal(sequential.layers[0].kernel, kernel)
    inputs = keras.Input((32, 32, 3))
    inner = keras.Model(inputs, model(keras.layers.ReLU()(inputs)))
    with pytest.raises(ConfigError, match="must be the first layer"):
        adapt(inner, _Data())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="one entry for each block"):
        fast_cnn(filters=(8, 8), strides=(2, 2, 2))
