"""A data set and a model that train in milliseconds."""

import keras
import numpy as np

from diffstride.data.dataset import Batches, Dataset
from diffstride.layers.pooling import DiffStride

BATCH_SIZE = 8
TEST_EPOCH = 10**6


def dataset(
    seed=0, train_steps=6, num_classes=3, one_hot=False, nan_at=None, scale=1.0
):
    """Noise around the class number; `nan_at` is an (epoch, step) of NaNs."""

    def batch(epoch, step):
        rng = np.random.default_rng([seed, epoch, step])
        y = rng.integers(0, num_classes, BATCH_SIZE)
        x = rng.normal(size=(BATCH_SIZE, 16, 16, 1)).astype("float32")
        x = (x + y[:, None, None, None]) * scale
        if (epoch, step) == nan_at:
            x = x * np.nan
        train_with_one_hot = one_hot and epoch != TEST_EPOCH
        return x, np.eye(num_classes)[y] if train_with_one_hot else y

    return Dataset(
        train=lambda epoch, start_step=0: Batches(
            lambda step: batch(epoch, step), train_steps, start_step
        ),
        test=lambda: Batches(lambda step: batch(TEST_EPOCH, step), 2),
        train_steps=train_steps,
        input_shape=(16, 16, 1),
        num_classes=num_classes,
        name="tiny",
        class_names=tuple(f"plus {label}" for label in range(num_classes)),
    )


def model(num_output_classes, input_shape, strides=2.0, rate=0.2, **kwargs):
    """Batch normalisation, dropout and strides: every kind of state."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(4, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            DiffStride(strides, name="pooling", **kwargs),
            keras.layers.Dropout(rate),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(num_output_classes, name="predictions"),
        ]
    )


class Owner(keras.layers.Layer):
    """Makes a layer of its own, which its config does not tell."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pooling = DiffStride(2)

    def build(self, input_shape):
        self.pooling.build(input_shape)

    def call(self, inputs):
        return self.pooling(inputs)
