"""Predictions that are averaged over an image and its mirror image."""

import keras
from keras import ops

from diffstride.data.dataset import Dataset
from diffstride.validation import ConfigError


class MirrorAverage(keras.Model):
    """Averages what a network predicts for images and for their mirror images.

    Mirroring at test time costs twice the operations, and is worth some tenths
    of a percent. It says nothing about the network, so that comparisons do
    without it.

    Args:
        network: a model of images, with the channels last.

    Example:

    >>> network = keras.Sequential(
    ...     [keras.Input((1, 2, 1)), keras.layers.Flatten()]
    ... )
    >>> images = np.array([1.0, 3.0]).reshape((1, 1, 2, 1))
    >>> keras.ops.convert_to_numpy(MirrorAverage(network)(images)).tolist()
    [[2.0, 2.0]]
    """

    def __init__(self, network: keras.Model):
        # The network casts its inputs itself.
        super().__init__(name="mirror_average", dtype="float32")
        self.network = network

    def call(self, inputs):
        mirrored = ops.flip(inputs, axis=-2)
        outputs = self.network(ops.concatenate([inputs, mirrored]))
        return sum(ops.split(outputs, 2)) / 2


def check_test_flips(data: Dataset) -> None:
    """Refuses data whose examples are not images with a class."""
    if not data.has_images_of_a_class:
        raise ConfigError(
            "`test_flips` must be False for data that are not images with a "
            f"class each. Received: test_flips=True, data={data.name!r}"
        )
