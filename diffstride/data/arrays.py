"""Images that lie in memory: arrays, or an `.npz` file of them.

Nothing here needs TensorFlow or TFDS.
"""

import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from diffstride.data import sampling
from diffstride.data.array_checks import (
    check_crop_padding,
    check_likeness,
    check_split,
    count_classes,
    warn_of_empty_classes,
)
from diffstride.data.augment import Augmentation
from diffstride.data.dataset import Dataset, validate_batching
from diffstride.data.image_batches import ImageBatches
from diffstride.data.label_maps import (
    check_labels,
    check_no_options,
    check_options,
    class_weights_of,
    count_map_classes,
    number_classes,
)
from diffstride.types import FilePath
from diffstride.validation import is_number


def from_arrays(
    data: FilePath | Mapping[str, np.ndarray] | Sequence,
    batch_size: int = 256,
    seed: int = 0,
    name: str = "arrays",
    num_classes: int | None = None,
    validation_split: float | str | None = None,
    num_train_examples: int | None = None,
    stratified: bool = False,
    normalize: str | Sequence[Sequence[float]] | None = "auto",
    image_size: int | Sequence[int] | None = None,
    inception_crop: bool = False,
    crop_padding: int | None = None,
    crop_fill: str = "zeros",
    flip: bool = True,
    alternate_flips: bool = False,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    mixup_pairs: bool = False,
    shuffle_buffer: int | None = None,
    workers: int = 1,
    label_values: Sequence[int] | None = None,
    ignore_label: int | None = None,
    class_weights: str | Sequence[float] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Dataset:
    """A data set of images that lie in memory, with classes or label maps.

    The training images come in a new order in every epoch. A last batch that
    would be incomplete is left out, so each epoch leaves out other images.

    Args:
        data: Path of an `.npz` file, or a dict, of `x_train`, `y_train`,
            `x_test` and `y_test`; or what `keras.datasets` returns:
            `((x_train, y_train), (x_test, y_test))`. Images have the shape
            `(examples, height, width, channels)` or, with one channel,
            `(examples, height, width)`; labels are integers from 0, one for
            each image or, for segmentation, maps `(examples, height, width)`.
        batch_size: Number of images in a batch, of all processes together.
        seed: Seed of the order and of the augmentation.
        name: Name of the data set.
        num_classes: Number of classes. Defaults to the largest label plus one.
        validation_split: The images that decide which epoch is the best one and
            when to stop. A share like 0.1 takes the last images of each class
            of the training set, which are then not trained on. A name takes
            that split: `"val"` means `x_val` and `y_val` in `data`. Defaults to
            None, which means the test images.
        num_train_examples: Number of images to train on, the first ones of the
            training set. Defaults to all of them.
        stratified: Whether to take the first images of each class instead, so
            that each class keeps its share of the training set.
        normalize: Mean and standard deviation of each channel. For `uint8`
            images they are on a scale of 0 to 1, for others in the units of the
            images. `"auto"` computes them from the training images; None turns
            the normalization off.
        image_size: Height and width to resize to, or one number for both.
            Defaults to the size of the images.
        inception_crop: Whether to train on random boxes of 8 to 100 % of the
            area, and to test on the central 87.5 %.
        crop_padding: Number of pixels to pad the images with on each side
            before cropping to the same size at random. Defaults to 4, or to 0
            with `inception_crop`.
        crop_fill: What the images are padded with: `"zeros"`, or `"reflect"`
            for the image mirrored at its border.
        flip: Whether to mirror images at random, half of them on average.
        alternate_flips: Whether to mirror each image in every second epoch
            instead, half of them in the first: two epochs then show each image
            both ways.
        label_smoothing: Share of the target that is spread evenly over all
            classes.
        mixup_alpha: Parameter of the beta distribution of the weights with
            which images of a batch are mixed; 0 for no mixup. With mixup or
            label smoothing targets are one-hot, otherwise they are numbers of
            classes.
        mixup_pairs: Whether mixup makes one example of two images that follow
            one another, as the 2022 release did. An epoch then has half as many
            steps. If not, each image is mixed with another one of its batch.
        shuffle_buffer: Size of the buffer from which the next image is drawn,
            as in `tf.data.Dataset.shuffle`. Defaults to all of them.
        workers: Number of threads that each make a batch. One is enough for
            small images. Resizing large ones (`inception_crop`) needs more.
        label_values: The values in label maps that stand for the classes 0, 1,
            2 and so on. Defaults to these numbers themselves.
        ignore_label: The value in label maps of pixels that count neither in
            the loss nor in the metrics. So it is with pixels that a random crop
            takes from beyond the border.
        class_weights: Weight of each class in the loss, or
            `"median_frequency"`: weights that make rare classes of the training
            set count more (see
            `diffstride.data.label_maps.median_frequency_weights`).
        process_index: Number of this process.
        process_count: Number of processes that each make their own rows of
            every batch.

    Returns:
        A `diffstride.data.dataset.Dataset`.

    Example:

    >>> images = np.zeros((100, 8, 8, 3), "uint8")
    >>> labels = np.arange(100) % 10
    >>> dataset = from_arrays(
    ...     ((images, labels), (images, labels)), batch_size=32
    ... )
    >>> dataset.train_steps, dataset.num_classes, dataset.input_shape
    (3, 10, (8, 8, 3))
    >>> [len(x) for x, y in dataset.train(epoch=0)]
    [32, 32, 32]
    >>> [len(x) for x, y in dataset.test()]
    [32, 32, 32, 4]
    """
    named = isinstance(validation_split, str)
    splits = ("train", "test", *([validation_split] if named else []))
    by_split = {
        split: check_split(*pair, split)
        for split, pair in _load(data, splits).items()
    }
    x_train, y_train = by_split["train"]
    for split in splits[1:]:
        images, labels = by_split[split]
        check_likeness(x_train, images, y_train, labels, split)
    has_maps = y_train.ndim > 1
    if has_maps:
        check_options(label_smoothing, mixup_alpha, stratified)
        for split, (images, maps) in by_split.items():
            maps = number_classes(
                maps, f"y_{split}", label_values, ignore_label
            )
            by_split[split] = images, maps
    else:
        check_no_options(label_values, ignore_label, "y_train")
    x_train, y_train = by_split["train"]
    if num_classes is None:
        count = count_map_classes if has_maps else count_classes
        num_classes = len(label_values) if label_values else count(y_train)
    for split, (_, labels) in by_split.items():
        check_labels(labels, num_classes, f"y_{split}")
    warn_of_empty_classes(y_train, num_classes, name)
    if validation_split is not None and not named:
        size = training_size(len(x_train), validation_split)
        first = _subset(y_train, size, stratified=not has_maps)
        validation_split = "validation"
        by_split[validation_split] = tuple(
            np.delete(array, first, axis=0) for array in (x_train, y_train)
        )
        x_train, y_train = x_train[first], y_train[first]
    if num_train_examples is not None:
        chosen = _subset(y_train, num_train_examples, stratified)
        x_train, y_train = x_train[chosen], y_train[chosen]
    unit = 255.0 if x_train.dtype == np.uint8 else 1.0
    mean, std = channel_statistics(normalize, x_train.shape[-1], unit, x_train)
    augmentation = Augmentation(
        num_classes=num_classes,
        mean=mean,
        std=std,
        image_size=x_train.shape[1:3] if image_size is None else image_size,
        inception_crop=inception_crop,
        crop_padding=crop_padding,
        crop_fill=crop_fill,
        flip=flip,
        alternate_flips=alternate_flips,
        label_smoothing=label_smoothing,
        mixup_alpha=mixup_alpha,
        mixup_pairs=mixup_pairs,
    )
    check_crop_padding(augmentation.crop_padding, x_train.shape[1:3])
    sampling.check_shuffle_buffer(shuffle_buffer)
    num_train = len(x_train) // augmentation.images_per_example
    validate_batching(num_train, batch_size, seed, process_index, process_count)
    batches = ImageBatches(
        {**by_split, "train": (x_train, y_train)},
        augmentation,
        batch_size,
        seed,
        shuffle_buffer,
        workers,
        process_index,
        process_count,
    )
    return Dataset(
        train=batches.train,
        test=lambda: batches.evaluation("test"),
        train_steps=batches.train_steps,
        input_shape=(*augmentation.image_size, x_train.shape[-1]),
        num_classes=num_classes,
        name=name,
        validation=validation_split
        and (lambda: batches.evaluation(validation_split)),
        label_shape=augmentation.image_size if has_maps else (),
        class_weights=class_weights_of(
            class_weights, lambda: [y_train], num_classes
        ),
        image_batches=batches,
    )


def training_size(size: int, share: float) -> int:
    """How many examples are left to train on when a share is held out.

    Args:
        size: Number of examples.
        share: Share of them to hold out, between 0 and 1.
    """
    if not is_number(share) or not 0 < share < 1:
        raise ValueError(
            "`validation_split` must be None, a share between 0 and 1, or the "
            f"name of a split. Received: validation_split={share!r}"
        )
    return size - max(1, round(size * share))


def _load(data, splits):
    """Returns a dict of images and labels by split, from any form of `data`."""
    if isinstance(data, str | pathlib.Path):
        return _load_file(pathlib.Path(data).expanduser(), splits)
    if not isinstance(data, dict):
        try:
            (x_train, y_train), (x_test, y_test) = data
        except (TypeError, ValueError):
            raise ValueError(
                "`data` must be a path, a dict, or "
                "`((x_train, y_train), (x_test, y_test))`. Received: "
                f"data of type {type(data).__name__}"
            ) from None
        arrays = x_train, y_train, x_test, y_test
        data = dict(zip(_keys(("train", "test")), arrays, strict=True))
    return _select(data, "`data`", splits)


def _keys(splits):
    return [f"{array}_{split}" for split in splits for array in "xy"]


def _load_file(path, splits):
    if not path.is_file():
        raise FileNotFoundError(
            "`data` must be the path of an `.npz` file with "
            f"{_keys(splits)}. There is "
            f"no such file. Received: data={str(path)!r}"
        )
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (zipfile.BadZipFile, EOFError, TypeError, ValueError) as error:
        raise ValueError(
            "`data` must be an intact `.npz` file, as `np.savez` writes it. "
            f"Received: data={str(path)!r} ({error})"
        ) from error
    return _select(arrays, f"The file {path}", splits)


def _select(arrays, description, splits):
    missing = [key for key in _keys(splits) if key not in arrays]
    if missing:
        raise ValueError(
            f"{description} must have the keys {_keys(splits)}; {missing} are "
            f"missing. Received: keys={sorted(arrays)}"
        )
    return {
        split: [np.asarray(arrays[key]) for key in _keys([split])]
        for split in splits
    }


def _subset(labels, size, stratified):
    """Indices of the first examples, overall or of each class."""
    if not 1 <= size <= len(labels):
        raise ValueError(
            f"`num_train_examples` must lie between 1 and the {len(labels)} "
            f"examples there are. Received: num_train_examples={size}"
        )
    if not stratified:
        return np.arange(size)
    # The position of each example within its class, as a share of the class.
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    ranks = np.empty(len(labels))
    ranks[order] = np.concatenate(
        [(np.arange(count) + 0.5) / count for count in counts if count]
    )
    return np.sort(np.argsort(ranks, kind="stable")[:size])


def channel_statistics(
    normalize: str | Sequence[Sequence[float]] | None,
    channels: int,
    unit: float = 1.0,
    images: np.ndarray | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels, in units of the images.

    Args:
        normalize: The argument of that name of a loader.
        channels: Number of channels.
        unit: The value in the images that `normalize` calls 1: 255 for `uint8`.
        images: Images to compute the statistics from.
    """
    if normalize is None:
        return (0.0,) * channels, (unit,) * channels
    if isinstance(normalize, str) and normalize == "auto":
        # Compute it in parts, because the squares of all `uint8` images would
        # take several times the memory of the images.
        parts = np.array_split(images, max(1, len(images) // 1024))
        mean = _average(part.mean((1, 2), "float64") for part in parts)
        squares = (
            np.square(part - mean.astype("float32")).mean((1, 2), "float64")
            for part in parts
        )
        std = np.sqrt(_average(squares))
        return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
    try:
        mean, std = np.asarray(normalize, "float64") * unit
    except (TypeError, ValueError):
        mean = std = np.empty(0)
    if mean.shape != (channels,) or not np.all(std > 0):
        raise ValueError(
            "`normalize` must be 'auto', None, or the means and the positive "
            f"standard deviations of {channels} channels. Received: "
            f"normalize={normalize}"
        )
    return tuple(mean.tolist()), tuple(std.tolist())


def _average(parts):
    return np.concatenate(list(parts)).mean(0)
