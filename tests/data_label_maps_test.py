import numpy as np
import pytest

from diffstride.data import label_maps
from diffstride.data.arrays import from_arrays

IGNORED = label_maps.IGNORED


def make_data(num_train=12, num_test=5, shape=(6, 9), num_classes=3):
    """Images whose first channel is ten times the label map."""
    rng = np.random.default_rng(0)
    data = {}
    for split, size in (("train", num_train), ("test", num_test)):
        maps = rng.integers(0, num_classes, (size, *shape), "uint8")
        noise = rng.integers(0, 256, (size, *shape), "uint8")
        data[f"x_{split}"] = np.stack([10 * maps, noise], axis=-1)
        data[f"y_{split}"] = maps
    return data


def load(data=None, **options):
    options = {"batch_size": 4, "normalize": None, **options}
    return from_arrays(make_data() if data is None else data, **options)


def test_dataset_describes_itself():
    dataset = load()
    assert dataset.label_shape == (6, 9)
    assert dataset.input_shape == (6, 9, 2)
    assert dataset.num_classes == 3
    assert dataset.class_weights is None
    labels = make_data()["y_train"][:, 0, 0]
    assert load({**make_data(), **vectors(labels)}).label_shape == ()


def vectors(labels):
    return {"y_train": labels, "y_test": labels[:5]}


@pytest.mark.parametrize(
    "options",
    [
        {"flip": True, "crop_padding": 0},
        {"flip": False, "crop_padding": 4},
        {"flip": True, "crop_padding": 2},
    ],
)
def test_a_map_moves_as_its_image(options):
    """The label map stays equal to the channel that shows it."""
    original = make_data()["y_train"]
    batches = list(load(**options).train(epoch=1))
    moved = np.concatenate([maps for _, maps in batches])
    assert moved.dtype == np.int32
    assert not any(
        np.array_equal(one, other) for one in moved[:3] for other in original
    )
    for images, maps in batches:
        channel = np.rint(images[..., 0] * 255 / 10)
        inside = maps != IGNORED
        np.testing.assert_array_equal(maps[inside], channel[inside])
        # What is no pixel of the map was a zero of the padding in the image.
        assert np.all(images[~inside] == 0)
    assert np.any(moved == IGNORED) == (options["crop_padding"] > 0)


@pytest.mark.parametrize("inception_crop", [False, True])
def test_a_map_is_resized_as_its_image(inception_crop):
    """Halves of an image are halves of the map, whatever box is taken."""
    maps = np.zeros((4, 24, 32), "uint8")
    maps[:2, 12:], maps[2:, :, 16:] = 1, 1
    data = {
        "x_train": 255 * maps[..., np.newaxis],
        "y_train": maps,
        "x_test": 255 * maps[..., np.newaxis],
        "y_test": maps,
    }
    dataset = load(data, image_size=(12, 16), inception_crop=inception_crop)
    assert dataset.label_shape == (12, 16)
    for images, classes in [*dataset.train(0), *dataset.test()]:
        assert classes.shape == (4, 12, 16)
        # A pixel that is clearly in one half has its class.
        inside = (classes != IGNORED) & (abs(images[..., 0] - 0.5) > 0.3)
        assert inside.mean() > 0.7
        np.testing.assert_array_equal(
            classes[inside], images[..., 0][inside] > 0.5
        )


def test_each_pixel_takes_the_label_nearest_to_it():
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 9, (2, 11, 14))
    boxes = np.array([[2, 1, 7, 10]])
    for size in ((5, 20), (7, 10), (3, 3)):
        resized = label_maps.crop_and_resize_maps(maps, boxes, size)
        box = maps[:, 2:9, 1:11, np.newaxis].astype("float32")
        rows = ((np.arange(size[0]) + 0.5) * 7 / size[0]).astype(int)
        columns = ((np.arange(size[1]) + 0.5) * 10 / size[1]).astype(int)
        expected = box[:, rows][:, :, columns][..., 0]
        np.testing.assert_array_equal(resized, expected)


def test_test_maps_are_whole_and_in_order():
    data = make_data()
    maps = np.concatenate([maps for _, maps in load(data).test()])
    np.testing.assert_array_equal(maps, data["y_test"])


def test_maps_of_other_values():
    data = make_data()
    values = np.array([7, 1, 3], "uint8")
    other = {
        key: values[array] if key[0] == "y" else array
        for key, array in data.items()
    }
    expected = np.concatenate([y for _, y in load(data).test()])
    dataset = load(other, label_values=(7, 1, 3))
    assert dataset.num_classes == 3
    found = np.concatenate([y for _, y in dataset.test()])
    np.testing.assert_array_equal(found, expected)
    # The second class is left out.
    dataset = load(other, label_values=(7, 3), ignore_label=1)
    assert dataset.num_classes == 2
    found = np.concatenate([y for _, y in dataset.test()])
    np.testing.assert_array_equal(found, np.array([0, IGNORED, 1])[expected])


def test_the_ignored_label_is_no_class():
    data = make_data()
    for value in (3, 255, -5):
        maps = data["y_train"].astype("int16")
        maps[:, 0] = value
        dataset = load({**data, "y_train": maps}, ignore_label=value)
        assert dataset.num_classes == 3
        dataset = load(
            {**data, "y_train": maps},
            ignore_label=value,
            flip=False,
            crop_padding=0,
        )
        assert all(np.all(y[:, 0] == IGNORED) for _, y in dataset.train(0))


def test_held_out_maps_are_the_last_ones():
    data = make_data()
    dataset = load(data, validation_split=0.25)
    ((_, maps),) = dataset.validation()
    np.testing.assert_array_equal(maps, data["y_train"][-3:])
    assert dataset.train_steps == 2


def test_median_frequency_weights_against_numpy():
    rng = np.random.default_rng(0)
    maps = rng.integers(-1, 4, (5, 6, 7))
    maps[maps == 3] = 0
    maps[0][maps[0] == 2] = 1
    frequencies = []
    for number in range(3):
        images = [one for one in maps if np.any(one == number)]
        pixels = sum(np.sum(one == number) for one in images)
        frequencies.append(pixels / sum(np.sum(one >= 0) for one in images))
    expected = [*(np.median(frequencies) / frequencies), 1.0]
    np.testing.assert_allclose(
        label_maps.median_frequency_weights(label_maps.count_labels(maps, 4)),
        expected,
    )


def test_class_weights_are_those_of_the_training_set():
    data = make_data()
    weights = load(data, class_weights="median_frequency").class_weights
    counts = label_maps.count_labels(data["y_train"], 3)
    expected = label_maps.median_frequency_weights(counts)
    assert weights == expected
    assert load(data, class_weights=[1, 0, 2.5]).class_weights == (1, 0, 2.5)


@pytest.mark.parametrize(
    "change, options, message",
    [
        (
            {"y_test": np.zeros((5, 3, 9), "uint8")},
            {},
            r"label maps in `y_test` must be as many and as large as the "
            r"images.*\(5, 6, 9, 2\), y_test.shape=\(5, 3, 9\)",
        ),
        (
            {"y_test": np.zeros(5, "uint8")},
            {},
            "`y_train` and `y_test` must both be label maps",
        ),
        ({}, {"num_classes": 2}, "`y_train` must lie between 0 and 1.*is 2 in"),
        (
            {"y_test": np.full((5, 6, 9), 9, "uint8")},
            {},
            "`y_test` must lie between 0 and 2.*as `ignore_label`.*is 9 in ima",
        ),
        (
            {"y_train": np.full((12, 6, 9), -1)},
            {},
            "`y_train` must hold numbers of classes.*the value -1 in image 0",
        ),
        ({}, {"ignore_label": 7, "label_values": (0, 1)}, "the value 2 in im"),
        (
            {
                "y_train": 127 * make_data()["y_train"]
                + (make_data()["y_train"] == 2)
            },
            {},
            "give `ignore_label=255`",
        ),
        (
            {"y_train": make_data()["y_train"] * 0},
            {"ignore_label": 0},
            "must have a class for some pixels",
        ),
        (
            {"y_train": make_data()["y_train"].astype(int) * 100_000},
            {},
            "values from 0 to 200000",
        ),
        ({}, {"mixup_alpha": 0.2}, "`mixup_alpha` must be 0.0 for label maps"),
        ({}, {"label_smoothing": 0.1}, "`label_smoothing` must be 0.0 for"),
        ({}, {"stratified": True}, "`stratified` must be False for label maps"),
        ({}, {"class_weights": "equal"}, "`class_weights` must be .*=equal"),
        ({}, {"class_weights": [1, 2]}, "each of the 3 classes"),
        ({}, {"class_weights": [1, -1, 1]}, "0 or more"),
        ({}, {"class_weights": 2.0}, "`class_weights` must be"),
        (
            vectors(np.arange(12) % 3),
            {"ignore_label": 2},
            "`label_values` and `ignore_label` must be None.* in 'y_train'",
        ),
    ],
)
def test_errors(change, options, message):
    with pytest.raises(ValueError, match=message):
        load({**make_data(), **change}, **options)


def test_maps_that_are_no_integers():
    data = make_data()
    data["y_train"] = data["y_train"] / 2
    with pytest.raises(TypeError, match="`y_train` must be integers"):
        load(data)


def test_processes_make_the_maps_of_one():
    one = [y for _, y in load(process_count=1).train(0)]
    two = [
        [y for _, y in load(process_index=index, process_count=2).train(0)]
        for index in range(2)
    ]
    for whole, *parts in zip(one, *two, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))
