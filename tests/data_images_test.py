import shutil

import keras
import numpy as np
import pytest

from diffstride.data import arrays, augment, image_arrays
from diffstride.data import images as images_lib
from diffstride.data.dataset import random_generator
from diffstride.data.images import tfds_images
from diffstride.data.records import Records
from diffstride.data.tfds_source import TFDSSource, write_tfds

pytestmark = pytest.mark.once

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

NUM_TRAIN, NUM_TEST = 26, 10


@pytest.fixture(scope="module")
def data():
    """Images of one size; each has a class of its own."""
    generator = np.random.default_rng(0)
    return {
        split: (
            generator.integers(0, 256, (size, 12, 9, 3), dtype="uint8"),
            np.arange(size),
        )
        for split, size in (("train", NUM_TRAIN), ("test", NUM_TEST))
    }


@pytest.fixture(scope="module")
def photos():
    """Smooth images of several sizes, whose JPEG is close to them."""
    generator = np.random.default_rng(1)

    def photo(height, width):
        waves = generator.uniform(-0.2, 0.2, (3, 2))
        rows, columns = np.mgrid[:height, :width]
        phase = np.multiply.outer(rows, waves[:, 0])
        phase += np.multiply.outer(columns, waves[:, 1])
        return (127.5 + 100 * np.sin(phase)).astype("uint8")

    sizes = generator.integers(20, 50, (NUM_TRAIN, 2))
    return [photo(*size) for size in sizes], np.arange(NUM_TRAIN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data, photos):
    folder = tmp_path_factory.mktemp("tfds")
    write_tfds(folder, "icons", data, NUM_TRAIN, shard_size=6)
    splits = {"train": photos, "validation": photos, "test": photos}
    write_tfds(
        folder, "photos", splits, NUM_TRAIN, encoding="jpeg", shard_size=6
    )
    return folder


@pytest.fixture
def load(folder):
    def load(name="icons", **options):
        options = {"batch_size": 8, "data_dir": str(folder), **options}
        if name == "photos":
            options = {"image_size": 16, "crop_padding": 0, **options}
        return tfds_images(name, **options)

    return load


def as_arrays(batches):
    return [[np.asarray(part) for part in batch] for batch in batches]


def assert_same(batches, others, **tolerance):
    for batch, other in zip(as_arrays(batches), as_arrays(others), strict=True):
        for one, two in zip(batch, other, strict=True):
            assert one.dtype == two.dtype
            np.testing.assert_allclose(one, two, **{"rtol": 0, **tolerance})


def labels_of(batches):
    return np.concatenate([labels for _, labels in as_arrays(batches)])


def test_a_set_in_memory_is_one_of_arrays(load, data):
    options = dict(crop_padding=2, mixup_alpha=0.2, seed=3, batch_size=8)
    dataset = load(**options)
    assert dataset.train_steps == NUM_TRAIN // 8
    assert dataset.input_shape == (12, 9, 3)
    assert dataset.num_classes == NUM_TRAIN
    assert dataset.name == "icons"
    source = TFDSSource("icons", dataset_folder(load))
    read = {}
    for split in ("train", "test"):
        records = Records(source, split)
        read[split] = records.decode(np.arange(len(records)), (12, 9, 3))
        images, labels = read[split]
        order = np.argsort(labels)
        np.testing.assert_array_equal(images[order], data[split][0])
    expected = arrays.from_arrays((read["train"], read["test"]), **options)
    assert_same(dataset.train(1), expected.train(1))
    assert_same(dataset.test(), expected.test())


def dataset_folder(load):
    return load.__closure__[0].cell_contents


def test_a_stream_equals_the_set_in_memory(load):
    options = dict(crop_padding=0, flip=False, normalize=((0.5,) * 3,) * 2)
    cached = load(**options)
    stream = load(**options, cache=False)
    assert stream.train_steps == cached.train_steps
    assert stream.input_shape == cached.input_shape
    assert stream.num_classes == cached.num_classes
    assert stream.class_names == cached.class_names
    assert len(stream.class_names) == stream.num_classes
    assert_same(stream.test(), cached.test())
    by_label = {
        label: image
        for images, labels in as_arrays(cached.train(0))
        for image, label in zip(images, labels, strict=True)
    }
    for images, labels in as_arrays(stream.train(0)):
        for image, label in zip(images, labels, strict=True):
            if label in by_label:
                np.testing.assert_array_equal(image, by_label[label])


def test_an_epoch_of_a_stream_has_every_example_once(load):
    stream = load(cache=False, shuffle_buffer=5)
    orders = [labels_of(stream.train(epoch)) for epoch in range(3)]
    for order in orders:
        assert len(set(order)) == len(order) == 24
    assert orders[0].tolist() != orders[1].tolist() != orders[2].tolist()
    assert sorted(labels_of(stream.test())) == list(range(NUM_TEST))
    assert [len(x) for x, _ in stream.test()] == [8, 2]


@pytest.mark.parametrize("pairs", [False, True])
def test_batches_of_a_stream_follow_from_seed_epoch_and_step(load, pairs):
    options = dict(
        cache=False,
        shuffle_buffer=5,
        mixup_alpha=0.2,
        mixup_pairs=pairs,
        inception_crop=True,
        batch_size=4 if pairs else 8,
    )
    stream = load("photos", seed=1, **options)
    tf.random.set_seed(1)
    epoch = as_arrays(stream.train(2))
    tf.random.set_seed(2)
    again = load("photos", seed=1, **options)
    assert_same(again.train(2), epoch, atol=0)
    assert_same(again.train(2, 2), epoch[2:], atol=0)
    for others in (stream.train(3), load("photos", seed=2, **options).train(2)):
        for (x, _), (other, _) in zip(epoch, others, strict=True):
            assert np.abs(x - np.asarray(other)).max() > 0.1
    with pytest.raises(ValueError, match="`start_step` .*start_step=4"):
        stream.train(0, 4)


@pytest.mark.parametrize("pairs", [False, True])
def test_processes_stream_the_batches_of_one(load, pairs):
    options = dict(
        cache=False, inception_crop=True, mixup_alpha=0.4, mixup_pairs=pairs
    )
    whole = load("photos", **options)
    parts = [
        load("photos", process_index=index, process_count=2, **options)
        for index in range(2)
    ]
    for run in (lambda dataset: dataset.train(1), lambda data: data.test()):
        joined = [
            [np.concatenate(each) for each in zip(*pair, strict=True)]
            for pair in zip(
                *[as_arrays(run(part)) for part in parts], strict=True
            )
        ]
        assert_same(run(whole), joined, atol=0)
    assert len(next(iter(parts[0].train(0)))[0]) == 4
    for dataset in (whole, *parts):
        shapes = [x.shape for x, _ in as_arrays(dataset.test())]
        assert dataset.test().shapes == shapes


def test_pairs_of_a_stream_become_one_example(load):
    options = dict(cache=False, shuffle_buffer=5, flip=False, crop_padding=0)
    single = load(batch_size=2 * NUM_TRAIN // 4, **options)
    mixed = load(mixup_alpha=0.2, mixup_pairs=True, **options)
    assert mixed.train_steps == NUM_TRAIN // 2 // 8
    [(images, labels)] = as_arrays(single.train(0))[:1]
    [(x, y)] = as_arrays(mixed.train(0))[:1]
    for row in range(5):
        first, second = labels[2 * row], labels[2 * row + 1]
        weight = y[row, first]
        np.testing.assert_allclose(y[row, second], 1 - weight, atol=1e-6)
        expected = weight * images[2 * row]
        expected += (1 - weight) * images[2 * row + 1]
        np.testing.assert_allclose(x[row], expected, atol=1e-5)


def test_boxes_of_a_stream_are_those_of_the_augmentation(load, photos):
    """One implementation: what TensorFlow decodes, NumPy cuts out alike."""
    dataset = load(
        "photos", inception_crop=True, flip=False, normalize=None, batch_size=26
    )
    x, y = as_arrays(dataset.train(0))[0]
    augmentation = augment.Augmentation(
        26, (0,) * 3, (1,) * 3, 16, inception_crop=True
    )
    draws = augmentation.draw(random_generator(0, 0, 0), 26)
    pictures = [photos[0][label] for label in y]
    heights, widths, _ = np.transpose([image.shape for image in pictures])
    boxes = augmentation.boxes(heights, widths, draws)
    for result, image, box in zip(x, pictures, boxes, strict=True):
        expected = augment.crop_and_resize(
            image[np.newaxis].astype("float32"), box[np.newaxis], (16, 16)
        )[0]
        assert np.abs(255 * result - expected).mean() < 4


def test_test_images_of_a_stream_are_central(load, photos):
    dataset = load("photos", inception_crop=True, normalize=None)
    for images, labels in as_arrays(dataset.test()):
        for image, label in zip(images, labels, strict=True):
            photo = photos[0][label].astype("float32")
            side = round(0.875 * min(photo.shape[:2]))
            top, left = ((size - side) // 2 for size in photo.shape[:2])
            expected = keras.ops.image.resize(
                photo[top : top + side, left : left + side],
                (16, 16),
                antialias=True,
                data_format="channels_last",
            )
            error = np.abs(255 * image - np.asarray(expected)).mean()
            assert error < 4


def test_fit_on_a_stream(load):
    dataset = load("photos", label_smoothing=0.1)
    model = keras.Sequential(
        [
            keras.Input(dataset.input_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(dataset.num_classes),
        ]
    )
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    history = model.fit(
        dataset.train(0, 1),
        validation_data=dataset.test(),
        shuffle=False,
        verbose=0,
    )
    assert np.isfinite(history.history["val_loss"])


@pytest.mark.parametrize(
    "name, shape, num_classes, statistics",
    [
        ("cifar10", (32, 32, 3), 10, augment.CIFAR10_STATISTICS),
        ("cifar100", (32, 32, 3), 100, augment.CIFAR100_STATISTICS),
        ("imagenette/160px-v2", (24, 24, 3), 10, augment.IMAGENET_STATISTICS),
        ("imagenet2012", (24, 24, 3), 1000, augment.IMAGENET_STATISTICS),
    ],
)
def test_known_sets(tmp_path, name, shape, num_classes, statistics):
    builder = tfds.builder(name)
    example = {
        key: "a.jpg" if key == "file_name" else 3
        for key in builder.info.features
    }
    example["image"] = np.arange(3 * 32 * 32, dtype="uint8").reshape(32, 32, 3)
    splits = ("train", "validation" if "imagenet" in name else "test")
    tfds.dataset_builders.store_as_tfds_dataset(
        name=builder.name,
        version=str(builder.version),
        config=builder.builder_config and builder.builder_config.name,
        features=builder.info.features,
        split_datasets={
            split: [
                (i, {**example, "id": f"{i}"} if "id" in example else example)
                for i in range(5)
            ]
            for split in splits
        },
        data_dir=tmp_path,
    )
    sizes = {"image_size": 24} if name.startswith("imagenet") else {}
    options = dict(
        batch_size=2,
        crop_padding=0,
        flip=False,
        data_dir=str(tmp_path),
        **sizes,
    )
    dataset = tfds_images(name, **options)
    raw = tfds_images(name, normalize=None, **options)
    assert dataset.train_steps == 2
    assert dataset.input_shape == shape
    assert dataset.num_classes == num_classes
    (x, y), *rest = as_arrays(dataset.test())
    (pixels, _), *_ = as_arrays(raw.test())
    assert x.shape == (2, *shape) and y.shape == (2,) and len(rest) == 2
    mean, std = np.array(statistics)
    np.testing.assert_allclose(x, (pixels - mean) / std, atol=1e-5)


def test_normalization_of_unknown_sets(load):
    x, _ = as_arrays(load(flip=False, crop_padding=0, batch_size=26).train(0))[
        0
    ]
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-5)
    options = dict(cache=False, batch_size=26)
    x, _ = as_arrays(load(**options).test())[0]
    pixels, _ = as_arrays(load(normalize=None, **options).test())[0]
    mean, std = np.array(augment.IMAGENET_STATISTICS)
    np.testing.assert_allclose(x, (pixels - mean) / std, atol=1e-5)


def test_default_split_and_slices(load, monkeypatch):
    monkeypatch.setitem(images_lib._TEST_SPLITS, "photos", "validation")
    asked = []
    original = TFDSSource.num_examples

    def num_examples(self, split, argument):
        asked.append(split)
        return original(self, split, argument)

    monkeypatch.setattr(TFDSSource, "num_examples", num_examples)
    assert load("photos", train_split="train[:17]").train_steps == 2
    assert asked == ["train[:17]", "validation"]


def test_first_examples_of_a_set_in_memory(load):
    dataset = load(num_train_examples=16, stratified=True)
    assert dataset.train_steps == 2


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("icons", {"train_split": "training"}, "`train_split` .*'training'"),
        ("icons", {"test_split": "valid"}, r"\['train', 'test'\].*'valid'"),
        ("icons", {"train_split": "train[:0]"}, "not empty.*train.:0"),
        ("icons", {"cache": 1.5}, "`cache` must .*cache=1.5"),
        ("photos", {"cache": True}, "`cache` must be False .*'photos'"),
        ("photos", {"image_size": None}, "`image_size` must be given"),
        ("photos", {"num_train_examples": 9}, r"train_split='train\[:9\]'"),
        ("photos", {"batch_size": 27}, "`batch_size` .*batch_size=27"),
        ("photos", {"normalize": ((0,), (1,))}, "`normalize`"),
        ("icon", {}, "`name` must be a data set .*name='icon'"),
    ],
)
def test_errors(load, name, options, message):
    with pytest.raises(ValueError, match=message):
        load(name, **options)


def test_a_set_that_cannot_be_downloaded(tmp_path, monkeypatch, caplog):
    def download_and_prepare(self):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(
        tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare
    )
    message = (
        f"'cifar10' is not in {tmp_path}/cifar10.*ConnectionError: no route to "
        "host.*tfds build cifar10 --data_dir"
    )
    with caplog.at_level("WARNING", logger="absl"):
        with pytest.raises(FileNotFoundError, match=message):
            tfds_images("cifar10", data_dir=str(tmp_path))
    assert "Downloading" in caplog.text and str(tmp_path) in caplog.text


def test_a_set_without_one_label_for_each_image():
    with (
        tfds.testing.mock_data(),
        pytest.raises(ValueError, match="images with one label.*'coco'"),
    ):
        tfds_images("coco")


def test_each_label_of_a_set_is_kept_on_disk_by_itself(
    tmp_path, data, monkeypatch
):
    write_tfds(tmp_path, "icons", data, NUM_TRAIN)
    source = TFDSSource("icons", tmp_path)

    class Records:
        num_bad = 0

    def read():
        splits = {"train": "train"}
        return image_arrays.read_splits(source, splits, 0, tmp_path / "cache")

    def decoded(records):
        return images, labels

    monkeypatch.setattr(image_arrays, "Records", lambda *_: Records())
    monkeypatch.setattr(image_arrays, "_decode", decoded)
    images, labels = np.zeros((2, 4, 4, 3), "uint8"), np.array([0, 1])
    assert read()["y_train"].tolist() == [0, 1]
    labels = labels + 2
    assert read()["y_train"].tolist() == [0, 1]
    source.keys = "image", "superclass"
    assert read()["y_train"].tolist() == [2, 3]


def test_decoded_images_are_kept_on_disk(tmp_path, data, monkeypatch):
    write_tfds(tmp_path, "icons", data, NUM_TRAIN)

    def load():
        return tfds_images(
            "icons", data_dir=str(tmp_path), batch_size=8, cache_dir=cache
        )

    cache = tmp_path / "cache"
    first = as_arrays(load().train(0))
    with monkeypatch.context() as without:
        without.setattr(image_arrays, "_decode", None)
        assert_same(load().train(0), first, atol=0)
    # Prepared again with other labels and the same number of bytes.
    shutil.rmtree(tmp_path / "icons")
    images, labels = data["train"]
    write_tfds(
        tmp_path, "icons", {**data, "train": (images, labels[::-1])}, NUM_TRAIN
    )
    assert not np.array_equal(labels_of(load().train(0)), labels_of(first))
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    load()
    # A folder that cannot be written is no reason to end.
    cache = tmp_path / "icons" / "1.0.0" / "features.json"
    load()


def test_a_set_with_bad_images_is_not_kept(tmp_path, data, caplog):
    write_tfds(tmp_path, "icons", data, NUM_TRAIN)
    (path,) = (tmp_path / "icons" / "1.0.0").glob("*train*")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 9] ^= 255
    path.write_bytes(content)
    for _ in range(2):
        caplog.clear()
        tfds_images(
            "icons",
            data_dir=str(tmp_path),
            batch_size=8,
            max_bad_share=0.1,
            cache_dir=tmp_path / "cache",
        )
        assert f"{path}, record 0" in caplog.text
    assert len(list((tmp_path / "cache").iterdir())) == 1  # The test images.


def test_a_corrupt_record_of_a_set_in_memory(tmp_path, data):
    write_tfds(tmp_path, "icons", data, NUM_TRAIN, shard_size=6)
    path = next((tmp_path / "icons" / "1.0.0").glob("*train*"))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT", len(content) // 2) + 9] ^= 255
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"'train' of 'icons'.*{tmp_path}.*corrupted"
    ):
        tfds_images("icons", data_dir=str(tmp_path), batch_size=8)


def test_a_split_without_labels(tmp_path, data):
    splits = {
        "train": data["train"],
        "test": (data["test"][0], [-1] * NUM_TEST),
    }
    write_tfds(tmp_path, "icons", splits, NUM_TRAIN)
    options = dict(data_dir=str(tmp_path), batch_size=8)
    with pytest.raises(ValueError, match="`y_test` .* from -1 to -1"):
        tfds_images("icons", **options)
    stream = tfds_images("icons", cache=False, **options)
    with pytest.raises(Exception, match="'test' of 'icons' has no labels"):
        list(stream.test())


def test_nothing_is_said_about_a_set_that_is_there(load, caplog, capfd):
    with caplog.at_level("INFO"):
        list(load().test())
    assert not caplog.text
    assert not capfd.readouterr().out


@pytest.mark.parametrize("cache", [True, False])
def test_validation_images_are_held_out(load, cache):
    options = {"cache": cache, "batch_size": 4, "crop_padding": 0}
    whole = set(labels_of(load(**options, train_split="train").test()))
    for splits in [
        {"validation_split": 0.2},
        {"train_split": "train[:21]", "validation_split": "train[21:]"},
    ]:
        dataset = load(**options, **splits)
        held_out = set(labels_of(dataset.validation()))
        trained = [set(labels_of(dataset.train(epoch))) for epoch in range(9)]
        assert dataset.train_steps == 5 and len(held_out) == 5
        assert len(set.union(*trained)) == 21
        assert not held_out & set.union(*trained)
        assert set(labels_of(dataset.test())) == whole
    with pytest.raises(ValueError, match="`validation_split`.*between 0 and 1"):
        load(**options, validation_split=2)
    if not cache:
        with pytest.raises(ValueError, match="name of a split for a slice"):
            load(**options, train_split="train[:20]", validation_split=0.1)
