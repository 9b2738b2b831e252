"""Checks of images and labels that lie in memory."""

import numpy as np
from absl import logging

# With more classes without an image, the labels are taken for something else
# than numbers of classes, such as years.
_MOST_EMPTY_CLASSES = 1000


def check_split(images, labels, split):
    """Checks a split; returns images of rank 4, and labels.

    Labels are a vector, or label maps `(examples, height, width)`.
    """
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
    if labels.ndim == 4 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.ndim == 3 and labels.shape != images.shape[:3]:
        raise ValueError(
            f"The label maps in `y_{split}` must be as many and as large as "
            f"the images in `x_{split}`. Received: "
            f"x_{split}.shape={images.shape}, y_{split}.shape={labels.shape}"
        )
    if labels.ndim != 3 and labels.shape != images.shape[:1]:
        raise ValueError(
            f"`y_{split}` must be one number for each image, not a one-hot "
            "vector, or a map of one number for each pixel. Received: "
            f"x_{split}.shape={images.shape}, y_{split}.shape={labels.shape}"
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
    return images, labels if labels.ndim == 3 else labels.astype("int32")


def check_likeness(x_train, x_test, y_train, y_test, split):
    """Warns of, or refuses, images that do not fit to the training images.

    They must have the same shape and kind of dtype. A warning says if the scale
    differs much, or if the images are the training images themselves.

    Args:
        x_train: Training images.
        x_test: Those of another split.
        y_train: Labels of the training images.
        y_test: Labels of the others.
        split: Name of the other split.
    """
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"Training and {split} images must have the same shape. Received: "
            f"x_train.shape={x_train.shape}, x_{split}.shape={x_test.shape}"
        )
    if y_train.ndim != y_test.ndim:
        raise ValueError(
            f"`y_train` and `y_{split}` must both be label maps, or both one "
            f"number for each image. Received: y_train.shape={y_train.shape}, "
            f"y_{split}.shape={y_test.shape}"
        )
    if (x_train.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise TypeError(
            f"`x_train` and `x_{split}` must both be `uint8` or both floats, "
            "because both are normalized by the statistics of `x_train`. "
            f"Received: x_train.dtype={x_train.dtype}, "
            f"x_{split}.dtype={x_test.dtype}"
        )
    largest = [max(-float(x.min()), float(x.max())) for x in (x_train, x_test)]
    if max(largest) > 20 * min(largest):
        logging.warning(
            "The %s images seem to be of another scale than the training "
            "images: the largest absolute value of `x_train` is %g, that of "
            "`x_%s` %g.",
            split,
            largest[0],
            split,
            largest[1],
        )
    if np.array_equal(x_train, x_test) and np.array_equal(y_train, y_test):
        logging.warning(
            "`x_%s` equals `x_train`: its figures say nothing about new "
            "images.",
            split,
        )


def count_classes(labels):
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


def warn_of_empty_classes(labels, num_classes, name):
    empty = np.setdiff1d(np.arange(num_classes), labels)
    if len(empty):
        logging.warning(
            "%s: %d of the %d classes have no training image: %s",
            name,
            len(empty),
            num_classes,
            ", ".join(map(str, empty[:20])) + ", ..." * (len(empty) > 20),
        )


def check_crop_padding(padding, size):
    """Refuses a padding with which a crop could miss its image altogether."""
    if padding >= min(size):
        raise ValueError(
            "`crop_padding` must be less than the size of the images, which is "
            f"{tuple(size)}. Received: crop_padding={padding}"
        )
