import keras
import numpy as np
import pytest

from diffstride.data import augment
from diffstride.data.augment import Augmentation


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def images(generator):
    return generator.integers(0, 256, (6, 9, 12, 3), "uint8")


def augmentation(**options):
    options = {
        "num_classes": 5,
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
        "image_size": (9, 12),
        "crop_padding": 0,
        "flip": False,
        **options,
    }
    return Augmentation(**options)


def inception_box(uniforms, height, width):
    """The search of one box, attempt by attempt."""
    for area, ratio, top, left in uniforms:
        area = (0.08 + 0.92 * area) * height * width
        ratio = (3 / 4) * (16 / 9) ** ratio
        box_width = round((area * ratio) ** 0.5)
        box_height = round((area / ratio) ** 0.5)
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(top * (height - box_height + 1))
            left = int(left * (width - box_width + 1))
            return [top, left, box_height, box_width]
    return None


def test_random_boxes_are_those_of_the_search(generator):
    uniforms = generator.random((500, 10, 4))
    heights = generator.integers(4, 60, 500)
    widths = generator.integers(4, 60, 500)
    boxes = augment.random_boxes(uniforms, heights, widths)
    found = list(map(inception_box, uniforms, heights, widths))
    searched = [box is not None for box in found]
    assert 0.5 < np.mean(searched) < 1
    for box, expected in zip(boxes, found, strict=True):
        if expected is not None:
            np.testing.assert_array_equal(box, expected)
    assert np.all(boxes >= [0, 0, 1, 1])
    assert np.all(boxes[:, 0] + boxes[:, 2] <= heights)
    assert np.all(boxes[:, 1] + boxes[:, 3] <= widths)


def test_random_boxes_cover_areas_aspects_and_places(generator):
    boxes = augment.random_boxes(generator.random((4000, 10, 4)), 200, 200)
    shares = boxes[:, 2] * boxes[:, 3] / 200**2
    aspects = boxes[:, 3] / boxes[:, 2]
    assert 0.07 < shares.min() < 0.1 and 0.9 < shares.max() <= 1
    assert 0.74 < aspects.min() < 0.77 and 1.3 < aspects.max() < 1.35
    assert abs(np.log(aspects).mean()) < 0.02
    small = boxes[shares < 0.3]
    centers = small[:, :2] + small[:, 2:] / 2
    np.testing.assert_allclose(centers.mean(0), 100, atol=6)


def test_images_too_thin_for_any_attempt_get_a_central_box():
    uniforms = np.full((2, 10, 4), 0.9)
    boxes = augment.random_boxes(
        uniforms, np.array([6, 300]), np.array([300, 6])
    )
    np.testing.assert_array_equal(boxes, [[0, 146, 6, 8], [146, 0, 8, 6]])


def test_central_boxes():
    boxes = augment.central_boxes(
        np.array([256, 256, 100]), np.array([256, 512, 50]), 1.0, 0.875
    )
    np.testing.assert_array_equal(
        boxes, [[16, 16, 224, 224], [16, 144, 224, 224], [28, 3, 44, 44]]
    )
    wide = augment.central_boxes(100, 100, 2.0)
    np.testing.assert_array_equal(wide, [25, 0, 50, 100])
    assert augment.central_boxes(1, 1, 1.0, 0.2).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("size", [(5, 7), (20, 17)])
def test_crop_and_resize_equals_keras_on_each_box(images, size):
    images = images[:3].astype("float32")
    boxes = np.array([[0, 0, 9, 12], [3, 4, 1, 1], [2, 1, 7, 10]])
    resized = augment.crop_and_resize(images, boxes, size)
    assert resized.shape == (3, *size, 3) and resized.dtype == "float32"
    for result, image, (top, left, height, width) in zip(
        resized, images, boxes, strict=True
    ):
        expected = keras.ops.image.resize(
            image[top : top + height, left : left + width],
            size,
            antialias=True,
            data_format="channels_last",
        )
        np.testing.assert_allclose(result, expected, atol=2e-3)


def test_one_box_serves_all_images(images):
    images = images.astype("float32")
    box = np.array([[1, 2, 6, 8]])
    np.testing.assert_array_equal(
        augment.crop_and_resize(images, box, (7, 7)),
        augment.crop_and_resize(images, np.repeat(box, 6, 0), (7, 7)),
    )


@pytest.mark.parametrize("padding", [1, 4])
def test_random_crop(generator, images, padding):
    offsets = generator.integers(0, 2 * padding + 1, (6, 2))
    crops = augment.random_crop(images, offsets, padding)
    assert crops.dtype == images.dtype
    for crop, image, (top, left) in zip(crops, images, offsets, strict=True):
        padded = np.pad(image, [(padding,) * 2, (padding,) * 2, (0, 0)])
        expected = padded[top : top + 9, left : left + 12]
        np.testing.assert_array_equal(crop, expected)


def test_a_crop_beyond_the_border_may_see_the_image_mirrored(images):
    offsets = np.array([[0, 0], [4, 4], [0, 4], [4, 0], [2, 2], [1, 3]])
    crops = augment.random_crop(images, offsets, 2, reflect=True)
    for crop, image, (row, column) in zip(crops, images, offsets, strict=True):
        rows = [abs(row - 2 + i) for i in range(9)]
        columns = [abs(column - 2 + i) for i in range(12)]
        rows = [min(i, 16 - i) for i in rows]
        columns = [min(i, 22 - i) for i in columns]
        np.testing.assert_array_equal(crop, image[rows][:, columns])


def test_labels_beyond_the_border_are_ignored(generator):
    maps = generator.integers(0, 5, (6, 9, 12))
    changed = augmentation(crop_padding=2, crop_fill="reflect")
    draws = changed.draw(generator, 6)
    expected = augmentation(crop_padding=2).change_maps(maps, draws)
    np.testing.assert_array_equal(changed.change_maps(maps, draws), expected)


def test_wrong_fill():
    with pytest.raises(ValueError, match="`crop_fill`"):
        augmentation(crop_fill="mirror")


def test_flip_left_right(images):
    before = images.copy()
    flips = np.array([True, False, False, True, True, False])
    flipped = augment.flip_left_right(images, flips)
    for result, image, flip in zip(flipped, images, flips, strict=True):
        expected = np.flip(image, axis=1) if flip else image
        np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_normalize(images, dtype):
    mean, std = (100.0, 120.0, 140.0), (50.0, 60.0, 70.0)
    normalized = augment.normalize(images.astype(dtype), mean, std)
    assert normalized.dtype == "float32"
    expected = (images.astype("float64") - mean) / std
    np.testing.assert_allclose(normalized, expected, atol=1e-6)


def test_smooth_labels():
    targets = augment.smooth_labels(np.array([2, 0]), 4, 0.1)
    assert targets.dtype == "float32"
    np.testing.assert_allclose(
        targets, [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]
    )
    labels = np.array([3, 1, 1])
    np.testing.assert_array_equal(
        augment.smooth_labels(labels, 5), keras.utils.to_categorical(labels, 5)
    )


def test_mixup_mixes_images_and_targets_alike(generator, images):
    labels = np.arange(6) % 5
    mixing = augmentation(mixup_alpha=1.0, label_smoothing=0.1)
    draws = mixing.draw(generator, 6)
    x, y = mixing(images, labels, draws)
    plain, targets = augmentation(label_smoothing=0.1)(images, labels, draws)
    assert x.shape == plain.shape and y.shape == (6, 5)
    assert sorted(draws.partners) == list(range(6))
    for row in range(6):
        partner, weight = draws.partners[row], draws.weights[row]
        expected = weight * plain[row] + (1 - weight) * plain[partner]
        np.testing.assert_allclose(x[row], expected, rtol=1e-5, atol=1e-3)
        expected = weight * targets[row] + (1 - weight) * targets[partner]
        np.testing.assert_allclose(y[row], expected, rtol=1e-5)
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-6)


def test_order_is_crop_flip_normalize_resize(generator, images):
    everything = augmentation(
        crop_padding=2,
        flip=True,
        mean=(10.0, 20.0, 30.0),
        std=(2.0, 4.0, 8.0),
        image_size=(5, 6),
    )
    draws = everything.draw(generator, 6)
    x, y = everything(images, np.arange(6) % 5, draws)
    expected = augment.random_crop(images, draws.offsets, 2)
    expected = augment.flip_left_right(expected, draws.flips)
    expected = augment.normalize(expected, everything.mean, everything.std)
    expected = augment.crop_and_resize(
        expected, np.array([[0, 0, 9, 11]]), (5, 6)
    )
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(y, np.arange(6) % 5)


def test_test_images_are_neither_cropped_nor_smoothed(images):
    everything = augmentation(
        crop_padding=2, flip=True, label_smoothing=0.1, mixup_alpha=0.2
    )
    x, y = everything.evaluate(images, np.arange(6) % 5)
    np.testing.assert_allclose(x, images)
    np.testing.assert_array_equal(y, np.eye(5)[np.arange(6) % 5])


def test_inception_crop_tests_on_the_central_part():
    images = np.zeros((1, 16, 16, 3), "uint8")
    images[:, 1:15, 1:15] = 1
    x, _ = augmentation(inception_crop=True, image_size=14).evaluate(
        images, np.zeros(1, int)
    )
    np.testing.assert_allclose(x, 1)


def test_an_option_changes_nothing_about_the_draws_of_others():
    plain = augmentation().draw(np.random.default_rng(3), 64)
    other = augmentation(
        crop_padding=3, flip=True, mixup_alpha=0.3, inception_crop=True
    ).draw(np.random.default_rng(3), 64)
    for name in ("boxes", "flips", "partners"):
        np.testing.assert_array_equal(
            getattr(plain, name), getattr(other, name)
        )
    assert not plain.offsets.any()
    assert set(other.offsets.flat) == set(range(7))
    assert 20 < plain.flips.sum() < 44


def test_mixup_alpha_shapes_the_weights():
    sharp, even = (
        augmentation(mixup_alpha=alpha)
        .draw(np.random.default_rng(3), 2000)
        .weights
        for alpha in (0.1, 10.0)
    )
    # The variance of a symmetric beta distribution.
    assert abs(sharp.var() - 1 / (4 * 1.2)) < 0.02
    assert abs(even.var() - 1 / (4 * 21.0)) < 0.002


def test_crop_padding_defaults_to_4_unless_boxes_are_cropped():
    assert augmentation(crop_padding=None).crop_padding == 4
    assert (
        augmentation(crop_padding=None, inception_crop=True).crop_padding == 0
    )


@pytest.mark.parametrize(
    "name, value",
    [
        ("image_size", 0),
        ("crop_padding", -1),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("mixup_alpha", -0.2),
    ],
)
def test_errors(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .*{name}={value}"):
        augmentation(**{name: value})
