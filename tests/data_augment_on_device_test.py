"""Batches made by operations of the backend are those that NumPy makes."""

import numpy as np
import pytest
from keras import ops

from diffstride.data.arrays import from_arrays
from diffstride.data.augment_on_device import (
    DeviceAugmentation,
    check_augmentation,
    draw_epoch,
    take_points,
)
from diffstride.validation import ConfigError


def dataset(**kwargs):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 6, 8, 3)).astype("uint8")
    labels = np.arange(20) % 4
    return from_arrays(
        ((images, labels), (images[:7], labels[:7])), batch_size=8, **kwargs
    )


@pytest.mark.parametrize(
    "options",
    [
        {"crop_padding": 3},
        {
            "crop_padding": 2,
            "crop_fill": "reflect",
            "alternate_flips": True,
            "label_smoothing": 0.2,
        },
        {"crop_padding": 0, "flip": False, "normalize": None},
        {"crop_padding": 0, "shuffle_buffer": 3},
    ],
    ids=["zeros", "reflect", "unchanged", "flips"],
)
def test_batches_are_those_of_numpy(options):
    data = dataset(**options)
    batches = data.image_batches
    check_augmentation(batches)
    augmentation = DeviceAugmentation(batches.augmentation)
    images, labels = batches.splits["train"]
    for epoch in (0, 1):
        draws = draw_epoch(batches, epoch)
        for step, expected in enumerate(data.train(epoch)):
            chosen, offsets, flips = (each[step] for each in draws)
            made = augmentation.train(images, labels, chosen, offsets, flips)
            same(made, expected)
    images, labels = batches.splits["test"]
    same(augmentation.evaluate(images[:7], labels[:7]), data.test()[0])


def same(made, expected):
    for one, other in zip(made, expected, strict=True):
        one = ops.convert_to_numpy(one)
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_points_beyond_a_border():
    image = np.arange(1, 5, dtype="uint8").reshape(1, 1, 4, 1)
    columns = np.arange(-3, 7)[None]

    def taken(fill):
        points = take_points(
            image, np.array([0]), np.array([[0]]), columns, fill
        )
        return ops.convert_to_numpy(points).ravel().tolist()

    assert taken("zeros") == [0, 0, 0, 1, 2, 3, 4, 0, 0, 0]
    assert taken("reflect") == [4, 3, 2, 1, 2, 3, 4, 3, 2, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"mixup_alpha": 0.2},
        {"inception_crop": True},
        {"image_size": 4},
        {"process_count": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_not_known_is_refused(options):
    [name] = options
    with pytest.raises(ConfigError, match=f"`{name}` must be .* Received"):
        check_augmentation(dataset(**options).image_batches)


def test_label_maps_are_refused():
    images = np.zeros((8, 8, 8, 3), "uint8")
    maps = np.arange(8 * 64).reshape(8, 8, 8) % 2
    data = from_arrays(((images, maps), (images, maps)), batch_size=4)
    with pytest.raises(ConfigError, match="not a label map"):
        check_augmentation(data.image_batches)
