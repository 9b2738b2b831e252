"""Sets of TFDS with a label map for each image."""

import numpy as np
import pytest

from diffstride.data import arrays
from diffstride.data.images import tfds_images
from diffstride.data.tfds_source import write_tfds

pytestmark = pytest.mark.once

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

# Values of the masks, as those of the Oxford-IIIT Pets.
PET, BACKGROUND, BORDER = 1, 2, 3


def pictures(size, shapes, seed):
    """Bright rectangles with a border of pixels that belong to neither."""
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for index in range(size):
        height, width = shapes[index % len(shapes)]
        mask = np.full((height, width), BACKGROUND, "uint8")
        top, left = rng.integers(2, 6, 2)
        mask[top - 1 : top + 9, left - 1 : left + 9] = BORDER
        mask[top : top + 8, left : left + 8] = PET
        images.append(np.repeat(60 * mask[..., np.newaxis], 3, axis=-1))
        masks.append(mask)
    return images, masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for name, shapes in (
        ("even", [(20, 24)]),
        ("uneven", [(20, 24), (30, 26), (22, 40)]),
    ):
        splits = {
            split: pictures(size, shapes, seed)
            for seed, (split, size) in enumerate([("train", 10), ("test", 5)])
        }
        write_tfds(folder, name, splits, num_classes=3, shard_size=4)
    return folder


@pytest.fixture
def load(folder):
    def load(name="even", **options):
        options = {
            "batch_size": 4,
            "data_dir": str(folder),
            "label_values": (PET, BACKGROUND, BORDER),
            "normalize": None,
            **options,
        }
        return tfds_images(name, **options)

    return load


def test_maps_in_memory_are_those_of_arrays(load):
    options = {"flip": False, "crop_padding": 0, "batch_size": 10}
    dataset = load(label_values=(PET, BACKGROUND), ignore_label=3, **options)
    assert dataset.label_shape == (20, 24)
    assert dataset.num_classes == 2
    assert dataset.class_names is None
    splits = [
        tuple(map(np.stack, pictures(size, [(20, 24)], seed)))
        for seed, size in enumerate([10, 5])
    ]
    splits = [(x, np.where(y == 3, 255, y - 1)) for x, y in splits]
    expected = arrays.from_arrays(
        splits, ignore_label=255, normalize=None, **options
    )
    assert sorted_maps(dataset.test()) == sorted_maps(expected.test())
    assert sorted_maps(dataset.train(0)) == sorted_maps(expected.train(0))


def sorted_maps(batches):
    return sorted(
        (np.round(x).tolist(), y.tolist())
        for images, maps in batches
        for x, y in zip(images, maps, strict=True)
    )


def test_a_stream_equals_the_set_in_memory(load):
    options = {"flip": False, "crop_padding": 0, "class_weights": [1, 2, 3]}
    in_memory, stream = load(**options), load(cache=False, **options)
    assert stream.label_shape == in_memory.label_shape
    assert stream.class_weights == in_memory.class_weights == (1, 2, 3)
    for one, other in zip(stream.test(), in_memory.test(), strict=True):
        for first, second in zip(one, other, strict=True):
            assert first.dtype == second.dtype
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("inception_crop", [False, True])
def test_maps_of_a_stream_move_as_their_images(load, inception_crop):
    """Values of pixels within one class say which class it is."""
    dataset = load(
        "uneven",
        image_size=(16, 20),
        inception_crop=inception_crop,
        crop_padding=3,
    )
    assert dataset.input_shape == (16, 20, 3)
    assert dataset.label_shape == (16, 20)
    padded = 0
    for images, maps in [*dataset.train(0), *dataset.train(1)]:
        values = images[..., 0] * 255
        # Where resizing mixed no neighbours, the value is that of the class.
        pure = np.abs(values / 60 - np.rint(values / 60)) < 0.01
        inside = pure & (maps >= 0) & (values > 0)
        assert inside.mean() > 0.3
        found = np.rint(values[inside] / 60) - 1
        assert np.mean(found == maps[inside]) > 0.98
        assert np.all(values[maps < 0] == 0)
        padded += np.sum(maps < 0)
    assert padded
    assert all(np.all(maps >= 0) for _, maps in dataset.test())


def test_weights_of_a_stream_are_those_of_the_set_in_memory(load):
    options = {"class_weights": "median_frequency"}
    weights = load(cache=False, **options).class_weights
    assert weights == load(**options).class_weights
    assert weights[0] > weights[1]


def test_processes_stream_the_maps_of_one(load):
    options = {"cache": False, "class_weights": "median_frequency"}
    one = load(**options)
    parts = [
        load(process_index=index, process_count=2, **options)
        for index in range(2)
    ]
    assert one.class_weights == parts[1].class_weights
    batches = zip(*(each.train(0) for each in (one, *parts)), strict=True)
    for (_, whole), (_, first), (_, second) in batches:
        np.testing.assert_array_equal(whole, np.concatenate([first, second]))


def test_the_pets(tmp_path):
    """The features that TFDS has for the Oxford-IIIT Pets."""
    builder = tfds.builder("oxford_iiit_pet")
    (image,), (mask,) = pictures(1, [(20, 24)], 0)
    example = {
        "image": image,
        "segmentation_mask": mask[..., np.newaxis],
        "label": 5,
        "species": 1,
        "file_name": "a.jpg",
        "head_bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name=builder.name,
        version=str(builder.version),
        features=builder.info.features,
        split_datasets={
            split: [(index, example) for index in range(3)]
            for split in ("train", "test")
        },
        data_dir=tmp_path,
    )
    options = dict(data_dir=str(tmp_path), batch_size=2, image_size=16)
    maps = tfds_images(
        "oxford_iiit_pet",
        label_key="segmentation_mask",
        label_values=(1, 2, 3),
        **options,
    )
    (_, y), *_ = maps.test()
    assert set(np.unique(y)) == {0, 1, 2}
    # The target of the set is the breed.
    breeds = tfds_images("oxford_iiit_pet", **options)
    assert breeds.num_classes == 37 and breeds.label_shape == ()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label_key": "mask"}, "`label_key` must be .*'segmentation_mask'"),
        ({"label_values": None}, "`label_values` must say which values"),
        ({"label_values": (1, 2)}, "the value 3 in image"),
        (
            {"label_values": (1, 2), "cache": False},
            "`segmentation_mask of train` must hold .*the value 3 in image",
        ),
        ({"mixup_alpha": 0.1}, "`mixup_alpha` must be 0.0 for label maps"),
        ({"class_weights": [1, 2]}, "each of the 3 classes"),
    ],
)
def test_errors(load, options, message):
    with pytest.raises(ValueError, match=message):
        load(**options)


def test_a_map_of_another_size_than_its_image(tmp_path):
    images, masks = pictures(6, [(20, 24)], 0)
    wrong = [
        mask[:-2] if index == 4 else mask for index, mask in enumerate(masks)
    ]
    write_tfds(
        tmp_path,
        "wrong",
        {"train": (images, wrong), "test": (images, masks)},
        3,
    )
    options = dict(data_dir=str(tmp_path), batch_size=2, label_values=(1, 2, 3))
    with pytest.raises(
        ValueError, match=r"label map has the size \[18, 24\], its image \[20"
    ):
        tfds_images("wrong", cache=False, **options)
    with pytest.raises(ValueError, match="'train' of 'wrong' with 1 unusable"):
        tfds_images("wrong", **options)
