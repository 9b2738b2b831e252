"""Images that lie in memory: arrays, or an `.npz` file of them.

Nothing here needs TensorFlow or TFDS.
"""

import pathlib
import zipfile

import numpy as np
from absl import logging

from diffstride.data import sampling
from diffstride.data.augment import Augmentation, check_crop_padding
from diffstride.data.dataset import (
    Batches,
    Dataset,
    process_rows,
    random_generator,
    validate_batching,
)

_KEYS = ("x_train", "y_train", "x_test", "y_test")
# More classes without an image come from labels that are no class numbers.
_MOST_EMPTY_CLASSES = 1000


def from_arrays(
    data,
    batch_size=256,
    seed=0,
    name="arrays",
    num_classes=None,
    num_train_examples=None,
    stratified=False,
    normalize="auto",
    image_size=None,
    inception_crop=False,
    crop_padding=None,
    flip=True,
    label_smoothing=0.0,
    mixup_alpha=0.0,
    mixup_pairs=False,
    shuffle_buffer=None,
    process_index=0,
    process_count=1,
):
    """A data set of images that lie in memory.

    Every epoch runs through the training images in an order of its own; the
    images of an incomplete last batch are left out, other ones in each epoch.

    Args:
        data: Path of an `.npz` file, or a dict, of `x_train`, `y_train`,
            `x_test` and `y_test`; or what `keras.datasets` returns:
            `((x_train, y_train), (x_test, y_test))`. Images have the shape
            `(examples, height, width, channels)` or, with one channel,
            `(examples, height, width)`; labels are integers from 0.
        batch_size: Number of images in a batch, of all processes together.
        seed: Seed of the order and of the augmentation.
        name: Name of the data set.
        num_classes: Number of classes. Defaults to the largest label plus one.
        num_train_examples: Trains on the first so many images. Defaults to all
            of them.
        stratified: Whether these are the first ones of each class, as many of
            each as its share of the training set.
        normalize: Mean and standard deviation of each channel, on a scale of 0
            to 1 for `uint8` images, else in their own units; `"auto"` to
            compute them from the training images; None for no normalization.
        image_size: Height and width to resize to, or one number for both.
            Defaults to the size of the images.
        inception_crop: Whether to train on random boxes of 8 to 100 % of the
            area, and to test on the central 87.5 %.
        crop_padding: Number of zero pixels to pad the images with on each side
            before cropping to the same size at random. Defaults to 4, or to 0
            with `inception_crop`.
        flip: Whether to mirror every second image, at random.
        label_smoothing: Share of the label that all classes divide.
        mixup_alpha: Parameter of the beta distribution of the weights with
            which images of a batch are mixed; 0 for no mixup. With mixup or
            label smoothing targets are one-hot, else numbers of classes.
        mixup_pairs: Whether mixup makes one example of two images that follow
            one another, as the 2022 release did: an epoch then has half as
            many steps. Else each image is mixed with another of its batch.
        shuffle_buffer: Number of images among which the next one is drawn, as
            `tf.data.Dataset.shuffle` does it. Defaults to all of them.
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
    x_train, y_train, x_test, y_test = _load(data)
    x_train, y_train = _validate(x_train, y_train, "train")
    x_test, y_test = _validate(x_test, y_test, "test")
    _compare(x_train, x_test, y_train, y_test)
    if num_classes is None:
        num_classes = _count_classes(y_train)
    for key, labels in (("y_train", y_train), ("y_test", y_test)):
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f"The labels in `{key}` must lie between 0 and "
                f"{num_classes - 1}, one less than the number of classes. "
                f"Received: {key} from {labels.min()} to {labels.max()}"
            )
    _warn_of_empty_classes(y_train, num_classes, name)
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
        flip=flip,
        label_smoothing=label_smoothing,
        mixup_alpha=mixup_alpha,
        mixup_pairs=mixup_pairs,
    )
    check_crop_padding(augmentation.crop_padding, x_train.shape[1:3])
    sampling.check_shuffle_buffer(shuffle_buffer)
    num_train = len(x_train) // augmentation.images_per_example
    validate_batching(num_train, batch_size, seed, process_index, process_count)
    train_steps = num_train // batch_size
    batch_images = batch_size * augmentation.images_per_example
    rows = process_rows(batch_size, process_index, process_count)

    def train(epoch, start_step=0):
        order = sampling.shuffle(
            random_generator(seed, epoch), len(x_train), shuffle_buffer
        )

        def make_batch(step):
            draws = augmentation.draw(
                random_generator(seed, epoch, step), batch_size
            )
            needed = augmentation.needed(draws, rows)
            examples = order[step * batch_images + needed]
            return augmentation(
                x_train[examples], y_train[examples], draws, needed, rows
            )

        return Batches(make_batch, train_steps, start_step)

    def test():
        def make_batch(step):
            start = step * batch_size
            size = min(batch_size, len(x_test) - start)
            examples = start + process_rows(size, process_index, process_count)
            return augmentation.evaluate(x_test[examples], y_test[examples])

        return Batches(make_batch, -(-len(x_test) // batch_size))

    return Dataset(
        train=train,
        test=test,
        train_steps=train_steps,
        input_shape=(*augmentation.image_size, x_train.shape[-1]),
        num_classes=num_classes,
        name=name,
    )


def _load(data):
    """The four arrays of a path, a dict or a tuple of pairs."""
    if isinstance(data, str | pathlib.Path):
        return _load_file(pathlib.Path(data).expanduser())
    if not isinstance(data, dict):
        try:
            (x_train, y_train), (x_test, y_test) = data
        except (TypeError, ValueError):
            raise ValueError(
                "`data` must be a path, a dict, or "
                "`((x_train, y_train), (x_test, y_test))`. Received: "
                f"data of type {type(data).__name__}"
            ) from None
        data = dict(zip(_KEYS, (x_train, y_train, x_test, y_test), strict=True))
    return _select(data, "`data`")


def _load_file(path):
    if not path.is_file():
        raise FileNotFoundError(
            f"`data` must be the path of an `.npz` file with {_KEYS}. There is "
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
    return _select(arrays, f"The file {path}")


def _select(arrays, description):
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise ValueError(
            f"{description} must have the keys {list(_KEYS)}; {missing} are "
            f"missing. Received: keys={sorted(arrays)}"
        )
    return [np.asarray(arrays[key]) for key in _KEYS]


def _validate(images, labels, split):
    """Checks a split; returns images of rank 4 and a vector of labels."""
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"`x_{split}` must have the shape `(examples, height, width, "
            "channels)`, with at least one of each. Received: "
            f"x_{split}.shape={images.shape}"
        )
    if images.shape[1] <= 4 < min(images.shape[2:]):
        raise ValueError(
            f"The channels of `x_{split}` must come last. If they come first, "
            f"pass `np.moveaxis(x_{split}, 1, -1)`. Received: "
            f"x_{split}.shape={images.shape}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"`y_{split}` must be one number for each image, not a one-hot "
            f"vector. Received: x_{split}.shape={images.shape}, "
            f"y_{split}.shape={labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            f"`y_{split}` must be integers. Received: "
            f"y_{split}.dtype={labels.dtype}"
        )
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.number) or np.iscomplexobj(
            images
        ):
            raise TypeError(
                f"`x_{split}` must be real numbers. Of complex ones, pass the "
                "absolute value, or the real and imaginary parts as two "
                f"channels. Received: x_{split}.dtype={images.dtype}"
            )
        images = images.astype("float32", copy=False)
        if not np.isfinite(images).all():
            raise ValueError(
                f"`x_{split}` must be finite. Received: "
                f"{np.sum(~np.isfinite(images))} values that are NaN or "
                f"infinite, the first in image "
                f"{np.argwhere(~np.isfinite(images))[0, 0]}"
            )
    return images, labels.astype("int32")


def _compare(x_train, x_test, y_train, y_test):
    """Finds test images that are not like the training images, or are them."""
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            "Training and test images must have the same shape. Received: "
            f"x_train.shape={x_train.shape}, x_test.shape={x_test.shape}"
        )
    if (x_train.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise TypeError(
            "`x_train` and `x_test` must both be `uint8` or both be floats, "
            "because both are normalized by the statistics of `x_train`. "
            f"Received: x_train.dtype={x_train.dtype}, "
            f"x_test.dtype={x_test.dtype}"
        )
    largest = [max(-float(x.min()), float(x.max())) for x in (x_train, x_test)]
    if max(largest) > 20 * min(largest):
        logging.warning(
            "The test images seem to be of another scale than the training "
            "images: the largest absolute value of `x_train` is %g, that of "
            "`x_test` %g.",
            *largest,
        )
    if np.array_equal(x_train, x_test) and np.array_equal(y_train, y_test):
        logging.warning(
            "`x_test` equals `x_train`: test figures say nothing about new "
            "images."
        )


def _count_classes(labels):
    count, seen = int(labels.max()) + 1, len(np.unique(labels))
    if count - seen > _MOST_EMPTY_CLASSES:
        raise ValueError(
            "`y_train` must be numbers of classes, from 0 on without large "
            "gaps, because the model gets an output for each number. Number "
            "the classes anew, with `np.unique(y, return_inverse=True)`, or "
            f"give `num_classes`. Received: {seen} different labels, the "
            f"largest is {labels.max()}"
        )
    return count


def _warn_of_empty_classes(labels, num_classes, name):
    empty = np.setdiff1d(np.arange(num_classes), labels)
    if len(empty):
        logging.warning(
            "%s: %d of the %d classes have no training image: %s",
            name,
            len(empty),
            num_classes,
            ", ".join(map(str, empty[:20])) + ", ..." * (len(empty) > 20),
        )


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


def channel_statistics(normalize, channels, unit=1.0, images=None):
    """Mean and standard deviation of the channels, in units of the images.

    Args:
        normalize: The argument of that name of a loader.
        channels: Number of channels.
        unit: What a 1 in `normalize` is in the images: 255 for `uint8`.
        images: Images to compute the statistics from.
    """
    if normalize is None:
        return (0.0,) * channels, (unit,) * channels
    if isinstance(normalize, str) and normalize == "auto":
        # In parts, because squares take four times the memory of the images.
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
