import hashlib
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from diffstride.data.arrays import from_arrays

KEYS = ("x_train", "y_train", "x_test", "y_test")


def make_data(num_train=70, num_test=21, num_classes=7, shape=(8, 8, 3)):
    generator = np.random.default_rng(0)
    data = {}
    for split, size in (("train", num_train), ("test", num_test)):
        data[f"x_{split}"] = generator.integers(
            0, 256, (size, *shape), dtype="uint8"
        )
        data[f"y_{split}"] = np.arange(size) % num_classes
    return data


def make_numbered(num_train=70):
    """Images whose only pixel is their own number."""
    numbers = np.arange(num_train, dtype="uint8").reshape(-1, 1, 1, 1)
    return {
        "x_train": numbers,
        "y_train": np.arange(num_train),
        "x_test": numbers[:21],
        "y_test": np.arange(21),
    }


def plain(data, **options):
    options = {
        "batch_size": 16,
        "normalize": None,
        "crop_padding": 0,
        "flip": False,
        **options,
    }
    return from_arrays(data, **options)


def labels_of(batches):
    return np.concatenate([y for _, y in batches])


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for one, two in zip(batch, other, strict=True):
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)


def test_dataset_describes_itself():
    dataset = from_arrays(make_data(), batch_size=16, name="mine")
    assert dataset.train_steps == 4
    assert dataset.input_shape == (8, 8, 3)
    assert dataset.num_classes == 7
    assert dataset.name == "mine"
    assert dataset.input_dtype == "float32"
    assert len(dataset.train(0)) == 4 and len(dataset.train(0, 3)) == 1
    for x, y in (*dataset.train(0), *dataset.test()):
        assert x.dtype == "float32" and y.dtype == "int32"


def test_an_epoch_has_every_example_once():
    dataset = plain(make_numbered())
    left_out = []
    for epoch in range(3):
        batches = list(dataset.train(epoch))
        assert [len(x) for x, _ in batches] == [16] * 4
        labels = labels_of(batches)
        assert len(set(labels)) == 64
        left_out.append(set(range(70)) - set(labels))
        for x, y in batches:
            np.testing.assert_array_equal(np.rint(x * 255)[:, 0, 0, 0], y)
    assert left_out[0] != left_out[1] != left_out[2]


def test_the_test_split_is_whole_and_in_order():
    batches = list(plain(make_numbered()).test())
    assert [len(x) for x, _ in batches] == [16, 5]
    np.testing.assert_array_equal(labels_of(batches), np.arange(21))


def test_batches_follow_from_seed_epoch_and_step():
    options = dict(crop_padding=1, flip=True, mixup_alpha=0.3, batch_size=16)
    dataset = from_arrays(make_data(), seed=1, **options)
    again = from_arrays(make_data(), seed=1, **options)
    epoch = list(dataset.train(3))
    assert_same(epoch, again.train(3))
    assert_same(epoch[2:], again.train(3, 2))
    other_seed = from_arrays(make_data(), seed=2, **options)
    for others in (dataset.train(4), other_seed.train(3)):
        for (x, _), (other, _) in zip(epoch, others, strict=True):
            assert not np.array_equal(x, other)
    with pytest.raises(ValueError, match="`start_step`"):
        dataset.train(0, 5)


def test_pairs_of_neighbours_become_one_example():
    """As the 2022 release mixed: half as many examples, in order."""
    data = make_numbered()
    options = dict(batch_size=8, seed=4, shuffle_buffer=20)
    mixed = plain(data, mixup_alpha=0.2, mixup_pairs=True, **options)
    order = labels_of(plain(data, **{**options, "batch_size": 70}).train(1))
    assert mixed.train_steps == 70 // 2 // 8
    batches = list(mixed.train(1))
    assert [len(x) for x, _ in batches] == [8] * 4
    y = labels_of(batches)
    x = np.concatenate([x for x, _ in batches])
    pairs = order[: 2 * len(y)].reshape(-1, 2)
    rows = np.arange(len(y))
    weights = y[rows, pairs[:, 0]]
    np.testing.assert_allclose(y[rows, pairs[:, 1]], 1 - weights, atol=1e-6)
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-6)
    # The images are their own numbers, over 255.
    expected = weights * pairs[:, 0] + (1 - weights) * pairs[:, 1]
    np.testing.assert_allclose(255 * x[:, 0, 0, 0], expected, rtol=1e-4)
    # Interrupted, it goes on with the same batches.
    assert_same(batches[2:], mixed.train(1, 2))
    # Without mixup there are no pairs.
    assert plain(data, mixup_pairs=True, **options).train_steps == 70 // 8


def test_an_epoch_of_the_2022_release_has_195_steps():
    data = {
        "x_train": np.zeros((50_000, 1, 1, 1), "uint8"),
        "y_train": np.arange(50_000) % 2,
        "x_test": np.zeros((1, 1, 1, 1), "uint8"),
        "y_test": np.zeros(1, "int64"),
    }
    dataset = plain(
        data,
        batch_size=128,
        shuffle_buffer=1000,
        mixup_alpha=0.2,
        mixup_pairs=True,
    )
    assert dataset.train_steps == 195
    y = labels_of(dataset.train(0))
    assert y.shape == (195 * 128, 2)
    # Two neighbours of different classes, about every second pair, show the
    # weights: a beta distribution of mean 1/2 and variance 1 / (4 (2α + 1)).
    weights = y[np.abs(y[:, 0] - 0.5) < 0.5, 0]
    assert 0.45 < len(weights) / len(y) < 0.55
    assert abs(weights.mean() - 0.5) < 0.02
    assert abs(weights.var() - 1 / (4 * 1.4)) < 0.01


PROCESS = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
import hashlib
import data_arrays_test
print(data_arrays_test.digest())
"""


def digest():
    dataset = from_arrays(
        make_data(), batch_size=16, seed=5, mixup_alpha=0.2, image_size=6
    )
    digest = hashlib.sha256()
    for array in (*dataset.train(1, 1)[0], *dataset.test()[1]):
        digest.update(array.tobytes())
    return digest.hexdigest()


def test_a_process_without_tensorflow_makes_the_same_batches():
    output = subprocess.run(
        [sys.executable, "-c", PROCESS],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert output.stdout.strip() == digest(), output.stderr


@pytest.mark.parametrize(
    "options",
    [{}, {"mixup_alpha": 0.4}, {"mixup_alpha": 0.4, "mixup_pairs": True}],
)
@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_make_the_batches_of_one(process_count, options):
    options = {"batch_size": 16, "label_smoothing": 0.1, **options}
    whole = from_arrays(make_data(), **options)
    parts = [
        from_arrays(
            make_data(),
            process_index=index,
            process_count=process_count,
            **options,
        )
        for index in range(process_count)
    ]
    for run in (lambda dataset: dataset.train(2), lambda data: data.test()):
        batches = zip(*map(run, parts), strict=True)
        joined = [
            [np.concatenate(arrays) for arrays in zip(*each, strict=True)]
            for each in batches
        ]
        assert_same(run(whole), joined)
    assert len(parts[0].train(0)[0][0]) == 16 // process_count


@pytest.mark.parametrize("form", ["path", "string", "dict", "pairs", "lists"])
def test_forms_of_the_data(form, tmp_path):
    data = make_data()
    expected = from_arrays(data, batch_size=16)
    np.savez(tmp_path / "data.npz", **data)
    pairs = (
        (data["x_train"], data["y_train"][:, np.newaxis]),
        (data["x_test"], data["y_test"][:, np.newaxis]),
    )
    given = {
        "path": tmp_path / "data.npz",
        "string": str(tmp_path / "data.npz"),
        "dict": {**data, "more": 1},
        "pairs": pairs,
        "lists": [list(pair) for pair in pairs],
    }[form]
    dataset = from_arrays(given, batch_size=16)
    assert_same(expected.train(0), dataset.train(0))
    assert_same(expected.test(), dataset.test())


def test_images_without_channels_get_one():
    data = make_data(shape=(8, 6))
    dataset = plain(data)
    assert dataset.input_shape == (8, 6, 1)
    x, _ = dataset.test()[0]
    np.testing.assert_allclose(x[..., 0], data["x_test"][:16] / 255, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_normalization_of_the_training_images(dtype):
    data = make_data(num_train=1500)
    data["x_train"][..., 1] = data["x_train"][..., 1] // 4 + 9
    data["x_train"][..., 2] = 7
    for key in ("x_train", "x_test"):
        data[key] = data[key].astype(dtype)
    dataset = plain(data, normalize="auto", batch_size=1500)
    x = dataset.train(0)[0][0].astype("float64")
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 1, 2)), [1, 1, 0], atol=1e-5)


def test_given_normalization():
    data = make_data()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    x, _ = plain(data, normalize=(mean, std)).test()[0]
    expected = (data["x_test"][:16] / 255 - mean) / std
    np.testing.assert_allclose(x, expected, atol=1e-6)
    floats = {**data, **{key: data[key] / 255 for key in ("x_train", "x_test")}}
    x, _ = plain(floats, normalize=(mean, std)).test()[0]
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_augmentation_reaches_the_batches():
    data = make_data()
    plainly = {tuple(x.ravel()) for x in data["x_train"]}
    for options, kept in (
        ({}, 1.0),
        ({"flip": True}, 0.5),
        ({"crop_padding": 2}, 1 / 25),
        ({"inception_crop": True}, 0.0),
    ):
        epochs = [
            x for e in range(4) for x, _ in plain(data, **options).train(e)
        ]
        images = np.rint(255 * np.concatenate(epochs)).astype("uint8")
        share = np.mean([tuple(x.ravel()) in plainly for x in images])
        assert abs(share - kept) < 0.1, options


def test_alternating_flips_show_each_image_both_ways():
    numbers = np.arange(64, dtype="uint8").reshape(-1, 1, 1, 1)
    # The number of an image on the left, nothing on the right.
    data = make_numbered(64) | {
        "x_train": np.concatenate([numbers, 0 * numbers], axis=2)
    }
    data["x_test"] = data["x_train"][:21]
    dataset = plain(data, flip=True, alternate_flips=True)
    flipped = np.zeros((4, 64), bool)
    for epoch in range(4):
        for x, y in dataset.train(epoch):
            flipped[epoch, y] = x[:, 0, 1, 0] > 0
    # Image 0 cannot be told from its mirror image.
    assert 16 < flipped[0].sum() < 48
    np.testing.assert_array_equal(flipped[1, 1:], ~flipped[0, 1:])
    np.testing.assert_array_equal(flipped[2:], flipped[:2])


def test_resizing():
    dataset = plain(make_data(), image_size=(4, 12))
    assert dataset.input_shape == (4, 12, 3)
    for batches in (dataset.train(0), dataset.test()):
        x, _ = batches[0]
        assert x.shape == (16, 4, 12, 3)


def test_smoothing_makes_training_and_test_targets_one_hot():
    dataset = plain(make_data(), label_smoothing=0.07)
    _, y = dataset.train(0)[0]
    np.testing.assert_allclose(np.unique(y), [0.01, 0.94], rtol=1e-5)
    _, y = dataset.test()[0]
    np.testing.assert_array_equal(y, np.eye(7)[np.arange(16) % 7])


def test_the_first_training_examples():
    dataset = plain(make_numbered(), num_train_examples=32)
    assert dataset.train_steps == 2 and dataset.num_classes == 70
    assert set(labels_of(dataset.train(0))) == set(range(32))


def test_stratified_training_examples():
    data = make_numbered()
    # Classes of 40, 20 and 10, one after the other.
    data["y_train"] = np.repeat([0, 1, 2], [40, 20, 10])
    data["y_test"] = data["y_test"] % 3
    dataset = plain(data, num_train_examples=14, stratified=True, batch_size=14)
    x, y = dataset.train(0)[0]
    np.testing.assert_array_equal(np.bincount(y), [8, 4, 2])
    numbers = np.rint(x * 255)[:, 0, 0, 0]
    assert set(numbers) == {*range(8), *range(40, 44), 60, 61}


def test_validation_images_are_held_out():
    data = make_data()
    plain = from_arrays(data, batch_size=16)
    assert plain.validation is None
    options = {"batch_size": 8, "crop_padding": 0, "flip": False}
    size = data["x_train"][0].size
    dataset = from_arrays(data, validation_split=0.2, normalize=None, **options)
    trained, held_out = (
        np.rint(255 * np.concatenate([x for x, _ in batches])).reshape(-1, size)
        for batches in (dataset.train(0), dataset.validation())
    )
    everything = data["x_train"].reshape(-1, size)
    assert len(held_out) == round(0.2 * len(everything))
    assert dataset.train_steps == (len(everything) - len(held_out)) // 8
    for images in (trained, held_out):
        assert all(np.any(np.all(everything == x, axis=1)) for x in images)
    assert not any(np.any(np.all(trained == x, axis=1)) for x in held_out)
    # The same images whatever the seed, of each class as many.
    other = from_arrays(
        data, validation_split=0.2, normalize=None, seed=5, **options
    )
    np.testing.assert_array_equal(
        np.concatenate([x for x, _ in other.validation()]),
        np.concatenate([x for x, _ in dataset.validation()]),
    )
    labels = np.concatenate([y for _, y in dataset.validation()])
    counts = np.bincount(labels) / np.bincount(data["y_train"])
    np.testing.assert_allclose(counts, 0.2, atol=0.1)


def test_validation_images_of_a_split_of_their_own(tmp_path):
    data = make_data()
    data["x_val"], data["y_val"] = data["x_test"][:9] // 2, data["y_test"][:9]
    np.savez(tmp_path / "images.npz", **data)
    for form in (data, tmp_path / "images.npz"):
        dataset = from_arrays(
            form, batch_size=16, validation_split="val", normalize=None
        )
        ((x, y),) = dataset.validation()
        np.testing.assert_array_equal(np.rint(x * 255), data["x_val"])
        np.testing.assert_array_equal(y, data["y_val"])
    with pytest.raises(ValueError, match="x_dev', 'y_dev.*missing"):
        from_arrays(data, batch_size=16, validation_split="dev")


def test_fit_and_evaluate():
    dataset = from_arrays(make_data(), batch_size=16)
    model = keras.Sequential(
        [
            keras.Input(dataset.input_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(dataset.num_classes),
        ]
    )
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        dataset.train(0),
        validation_data=dataset.test(),
        shuffle=False,
        verbose=0,
    )
    assert np.isfinite(history.history["val_loss"])
    x, y = map(np.concatenate, zip(*dataset.test(), strict=True))
    _, expected = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(history.history["val_accuracy"][0], expected)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file.*absent.npz"):
        from_arrays(tmp_path / "absent.npz")


@pytest.mark.parametrize("content", [b"", b"not a zip file", None])
def test_damaged_file(tmp_path, content):
    path = tmp_path / "data.npz"
    np.savez(path, **make_data())
    if content is None:
        content = bytearray(path.read_bytes())
        content[2000] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="intact `.npz` file.*data.npz"):
        from_arrays(path)


def test_file_without_the_keys(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=np.zeros(1), images=np.zeros(1))
    with pytest.raises(
        ValueError, match="data.npz must have.*'y_train', 'x_te"
    ):
        from_arrays(path)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x_train": np.zeros((70, 8))}, ValueError, "`x_train` .*70, 8"),
        ({"x_test": np.zeros((0, 8, 8, 3))}, ValueError, "at least one of"),
        ({"x_test": np.zeros((21, 8, 9, 3))}, ValueError, "the same shape"),
        ({"x_train": np.full((70, 8, 8, 3), "a")}, TypeError, "`x_train`.*<U1"),
        ({"y_train": np.zeros(69, int)}, ValueError, "`y_train`.*69"),
        ({"y_test": np.eye(21, dtype=int)}, ValueError, "not a one-hot"),
        ({"y_test": np.zeros(21)}, TypeError, "`y_test` must be integers"),
        ({"y_test": np.full(21, 7)}, ValueError, "`y_test`.* from 7 to 7"),
        ({"y_train": np.arange(-1, 69)}, ValueError, "from -1 to 68"),
        (
            {"x_test": np.zeros((21, 8, 8, 3), "float32")},
            TypeError,
            "both be `uint8` .*x_train.dtype=uint8, x_test.dtype=float32",
        ),
        (
            {"x_train": np.zeros((70, 3, 8, 8))},
            ValueError,
            "channels of `x_train` must come last.*70, 3, 8, 8",
        ),
        (
            {"x_test": np.zeros((21, 8, 8, 3), complex)},
            TypeError,
            "`x_test` must be real numbers.*complex128",
        ),
        (
            {"y_train": np.arange(70) * 50_000},
            ValueError,
            "`y_train` must be numbers of classes.*70 different.*3450000",
        ),
    ],
)
def test_wrong_arrays(change, error, message):
    with pytest.raises(error, match=message):
        from_arrays({**make_data(), **change}, batch_size=16)


def test_suspicious_arrays_are_named(caplog):
    data = make_data()
    from_arrays(data, batch_size=16)
    assert not caplog.messages
    same = {**data, "x_test": data["x_train"], "y_test": data["y_train"]}
    from_arrays(same, batch_size=16)
    assert "`x_test` equals `x_train`" in caplog.text
    floats = {
        **data,
        "x_train": data["x_train"] / 255,
        "x_test": data["x_test"] * 1.0,
    }
    from_arrays(floats, batch_size=16)
    assert "another scale than the training images" in caplog.text
    gaps = {**data, "y_train": 2 * data["y_train"]}
    from_arrays(gaps, batch_size=16, name="mine")
    assert (
        "mine: 6 of the 13 classes have no training image: 1, 3, 5, 7, 9, 11"
        in caplog.text
    )
    # As many classes as are asked for.
    dataset = from_arrays(data, batch_size=16, num_classes=5000)
    assert dataset.num_classes == 5000


def test_images_that_are_not_finite():
    data = make_data()
    data["x_train"] = data["x_train"].astype("float32")
    data["x_train"][11, 2] = np.nan
    data["x_train"][30, 2] = np.inf
    with pytest.raises(ValueError, match="48 values.*first in image 11"):
        from_arrays(data, batch_size=16)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 5}, "`y_train` must lie between 0 and 4"),
        ({"num_train_examples": 71}, "`num_train_examples` .*=71"),
        ({"num_train_examples": 0}, "`num_train_examples` .*=0"),
        ({"num_train_examples": 8}, "`batch_size` .* 8 training"),
        ({"normalize": "mine"}, "`normalize` .*=mine"),
        ({"normalize": (0.5, 0.5)}, "deviations of 3 channels"),
        ({"normalize": ((0, 0, 0), (1, 0, 1))}, "positive"),
        ({"image_size": 0}, "`image_size`"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer` must be 1 or more"),
        ({"crop_padding": 100}, "`crop_padding` must be less than .*=100"),
        ({"validation_split": 1.0}, "`validation_split` must be None, a share"),
        ({"validation_split": True}, "`validation_split` must be .*=True"),
        (
            {"batch_size": 36, "mixup_pairs": True, "mixup_alpha": 0.2},
            "`batch_size` .* 35 training",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(make_data(), **{"batch_size": 16, **options})


@pytest.mark.parametrize("data", [5, (1, 2), {"x_train": 1}])
def test_data_of_another_kind(data):
    with pytest.raises(ValueError, match="`data` must"):
        from_arrays(data)
