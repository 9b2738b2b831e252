import keras
import numpy as np
import pytest
from keras import ops

from diffstride.layers.whitening import Whitening


def _images(count=200, size=9, channels=3):
    """Images whose neighbouring pixels and channels are much alike."""
    noise = np.random.default_rng(0).normal(size=(count, size, size, channels))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)
    return (smooth + 0.7 * smooth[..., ::-1]).astype("float32")


def test_outputs_are_white():
    images = _images()
    layer = Whitening(epsilon=0)
    layer.adapt(images)
    outputs = ops.convert_to_numpy(layer(images)).reshape(-1, 24)
    second = outputs.T @ outputs / len(outputs)
    np.testing.assert_allclose(second[:12, :12], np.eye(12), atol=5e-3)
    np.testing.assert_array_equal(outputs[:, 12:], -outputs[:, :12])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_filters_against_loops(size):
    images = np.random.default_rng(1).normal(size=(40, 6, 5, 2))
    images[..., 1] *= 3
    layer = Whitening(size, epsilon=0.01)
    layer.adapt(images)
    patches = [
        image[row : row + size, column : column + size].ravel()
        for image in images
        for row in range(7 - size)
        for column in range(6 - size)
    ]
    covariance = np.mean([np.outer(patch, patch) for patch in patches], 0)
    kernel = ops.convert_to_numpy(layer.kernel)
    half = kernel.shape[-1] // 2
    filters = kernel[..., :half].reshape(half, half)
    # W W^T is the inverse of the covariance, whatever the signs of filters.
    np.testing.assert_allclose(
        filters @ filters.T,
        np.linalg.inv(covariance + 0.01 * np.eye(half)),
        rtol=2e-3,
        atol=2e-4,
    )


def test_channels_first_is_the_same():
    images = _images()
    layers = [Whitening(), Whitening(data_format="channels_first")]
    inputs = [images, images.transpose(0, 3, 1, 2)]
    for layer, values in zip(layers, inputs, strict=True):
        layer.adapt(values)
        assert layer(values).shape == layer.compute_output_shape(values.shape)
    np.testing.assert_allclose(*(layer.kernel for layer in layers), rtol=1e-5)


def test_bias_stops_after_its_steps():
    layer = Whitening(bias_steps=2)
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layer, keras.layers.GlobalAveragePooling2D()]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    biases = []
    for _ in range(4):
        model.train_on_batch(np.ones((2, 4, 4, 1)), np.full((2, 8), 3))
        biases.append(np.array(layer.bias))
    assert np.all(biases[0] != 0)
    assert np.all(biases[1] != biases[0])
    np.testing.assert_array_equal(biases[2], biases[1])
    np.testing.assert_array_equal(biases[3], biases[1])


def test_errors():
    with pytest.raises(ValueError, match="array of images"):
        Whitening().adapt(np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match="at least as large"):
        Whitening().adapt(np.zeros((3, 1, 1, 3)))
    with pytest.raises(ValueError, match="`bias_steps`"):
        Whitening(bias_steps=0)
    with pytest.raises(ValueError, match="`epsilon`"):
        Whitening(epsilon=-1)
