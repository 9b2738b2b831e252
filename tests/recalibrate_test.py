"""Batch normalisations whose statistics are measured anew."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy

from diffstride import recalibrate


def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(3, 3),
            keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-6),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def images(size=12):
    rng = np.random.default_rng(0)
    return rng.normal(2, 3, (size, 8, 8, 2)).astype("float32")


def test_one_batch_gives_its_own_statistics():
    model, x = network(), images()
    assert recalibrate(model, x) == 1
    hidden = convert_to_numpy(model.layers[0](x))
    mean, variance = (
        convert_to_numpy(model.layers[1].moving_mean),
        convert_to_numpy(model.layers[1].moving_variance),
    )
    np.testing.assert_allclose(mean, hidden.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(variance, hidden.var((0, 1, 2)), rtol=1e-3)
    trained = convert_to_numpy(model(x, training=True))
    recalibrate(model, x)
    np.testing.assert_allclose(
        convert_to_numpy(model(x)), trained, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("form", ["array", "list", "dataset"])
def test_several_batches_are_averaged(form):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return images()[4 * index : 4 * index + 4], np.zeros(4)

    data = {
        "array": images(),
        "list": [images()[i : i + 4] for i in (0, 4, 8)],
        "dataset": Batches(),
    }[form]
    model = network()
    assert recalibrate(model, data, batch_size=4) == 3
    hidden = convert_to_numpy(model.layers[0](images()))
    mean = convert_to_numpy(model.layers[1].moving_mean)
    np.testing.assert_allclose(mean, hidden.mean((0, 1, 2)), rtol=1e-4)
    assert model.layers[1].momentum == 0.9
    assert recalibrate(model, data, batch_size=4, batches=2) == 2


def test_what_is_not_statistics_stays():
    model = network()
    model.layers[1].trainable = False
    with pytest.raises(ValueError, match="which has none"):
        recalibrate(model, images())
    model.layers[1].trainable = True
    before = [np.array(w) for w in model.trainable_weights]
    recalibrate(model, images())
    for old, new in zip(before, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, np.array(new))
    with pytest.raises(ValueError, match="must have a batch"):
        recalibrate(model, images(0))


def test_random_numbers_go_on_from_where_they_were():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(),
        ]
    )
    (state,) = model.layers[0].variables
    before = convert_to_numpy(state).copy()
    recalibrate(model, np.ones((8, 4), "float32"))
    np.testing.assert_array_equal(convert_to_numpy(state), before)
