"""Label maps: a class for each pixel of an image, for segmentation.

The values in the data may be any integers. `number_classes` replaces them by
numbers of classes from 0 on, and by `IGNORED` where a pixel does not count.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from diffstride.validation import is_number

# The label of pixels that count neither in the loss nor in the metrics.
IGNORED = -1
# Values that lie further apart are taken for something else than classes.
_MOST_VALUES = 2**16
# Files of masks often have this value where a pixel has no class.
_LARGEST_BYTE = 255


def number_classes(
    maps: np.ndarray,
    name: str,
    label_values: Sequence[int] | None = None,
    ignore_label: int | None = None,
) -> np.ndarray:
    """Numbers of classes in place of the values in label maps.

    Args:
        maps: Integer array `(examples, height, width)`.
        name: What the maps are called in error messages.
        label_values: The values that stand for the classes 0, 1, 2 and so on.
            Defaults to these numbers themselves.
        ignore_label: The value of pixels that do not count.

    Returns:
        An array of the same shape, int16, with `IGNORED` for `ignore_label`.

    Example:

    >>> masks = np.array([[[1, 2], [3, 2]]])
    >>> number_classes(masks, "y_train", label_values=(1, 2), ignore_label=3)
    array([[[ 0,  1],
            [-1,  1]]], dtype=int16)
    """
    low, high = int(maps.min()), int(maps.max())
    if high - low >= _MOST_VALUES:
        raise ValueError(
            f"`{name}` must hold numbers of classes. Received: values from "
            f"{low} to {high}"
        )
    places = np.subtract(maps, low, dtype="int32")
    found = low + np.flatnonzero(np.bincount(places.ravel()))
    classes = np.full(high - low + 1, IGNORED, "int16")
    numbers = {value: number for number, value in enumerate(label_values or ())}
    for value in found.tolist():
        if value == ignore_label:
            continue
        number = value
        if label_values is not None:
            number = numbers.get(value, -1)
        if not 0 <= number < 2**15:
            image = np.argwhere(maps == value)[0, 0]
            expected = (
                "numbers of classes, from 0 on"
                if label_values is None
                else f"the values in `label_values`, {list(label_values)}"
            )
            raise ValueError(
                f"`{name}` must hold {expected}, or `ignore_label` where a "
                f"pixel does not count. Received: the value {value} in image "
                f"{image}, ignore_label={ignore_label}"
            )
        classes[value - low] = number
    return classes[places]


def count_map_classes(maps: np.ndarray) -> int:
    """The number of classes, one more than the largest in the maps.

    Args:
        maps: What `number_classes` returned for the training set.
    """
    largest = int(maps.max())
    if largest == IGNORED:
        raise ValueError(
            "`y_train` must have a class for some pixels, but all of them have "
            "the label `ignore_label`."
        )
    if largest == _LARGEST_BYTE and not np.any(maps == largest - 1):
        raise ValueError(
            "`ignore_label` must be the value of pixels that do not count: "
            f"give `ignore_label={largest}` if it is this one, else "
            f"`num_classes={largest + 1}`. Received: ignore_label=None, and "
            f"maps with the value {largest} but without {largest - 1}"
        )
    return largest + 1


def check_labels(labels: np.ndarray, num_classes: int, key: str) -> None:
    """Refuses labels that are no numbers of classes.

    Args:
        labels: Labels of images, or label maps.
        num_classes: Number of classes.
        key: What they are called in the data.
    """
    least = IGNORED if labels.ndim > 1 else 0
    wrong = (labels < least) | (labels >= num_classes)
    if not np.any(wrong):
        return
    place = tuple(np.argwhere(wrong)[0])
    hint = (
        " Give a value whose pixels do not count as `ignore_label`."
        if labels.ndim > 1
        else ""
    )
    raise ValueError(
        f"The labels in `{key}` must lie between 0 and {num_classes - 1}, one "
        f"less than the number of classes.{hint} Received: {key} from "
        f"{labels.min()} to {labels.max()}, the first that is wrong is "
        f"{labels[place]} in image {place[0]}"
    )


def check_options(
    label_smoothing: float, mixup_alpha: float, stratified: bool = False
) -> None:
    """Refuses options of loaders that label maps cannot have."""
    for name, value in (
        ("label_smoothing", label_smoothing),
        ("mixup_alpha", mixup_alpha),
        ("stratified", stratified),
    ):
        if value:
            raise ValueError(
                f"`{name}` must be {type(value)()} for label maps, because it "
                "needs one class for each image. Received: "
                f"{name}={value}"
            )


def check_no_options(
    label_values: Sequence[int] | None, ignore_label: int | None, key: str
) -> None:
    """Refuses options of label maps for labels that are no maps.

    Args:
        label_values: The argument of that name of a loader.
        ignore_label: The argument of that name of a loader.
        key: What the labels are called in the data.
    """
    if label_values is not None or ignore_label is not None:
        raise ValueError(
            "`label_values` and `ignore_label` must be None, because there is "
            f"one label for each image in {key!r}, and no map. Received: "
            f"label_values={label_values}, ignore_label={ignore_label}"
        )


def class_weights_of(
    class_weights: str | Sequence[float] | None,
    labels: Callable[[], Iterable[np.ndarray]],
    num_classes: int,
) -> tuple[float, ...] | None:
    """The weight of each class in the loss.

    Args:
        class_weights: The argument of that name of a loader.
        labels: Function that returns the labels of the training images, or
            their label maps, in parts.
        num_classes: Number of classes.
    """
    if class_weights is None:
        return None
    if isinstance(class_weights, str) and class_weights == "median_frequency":
        counts = [count_labels(part, num_classes) for part in labels()]
        return median_frequency_weights(np.concatenate(counts))
    if (
        isinstance(class_weights, str)
        or np.ndim(class_weights) != 1
        or len(class_weights) != num_classes
        or not all(map(is_number, class_weights))
        or not np.isfinite(class_weights).all()
        or min(class_weights) < 0
        or not any(class_weights)
    ):
        raise ValueError(
            "`class_weights` must be None, 'median_frequency', or a number of "
            f"0 or more for each of the {num_classes} classes. Received: "
            f"class_weights={class_weights}"
        )
    return tuple(map(float, class_weights))


def count_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each class occurs in each label map, or in all labels.

    Args:
        labels: Labels of images, or label maps.
        num_classes: Number of classes.

    Returns:
        An array `(maps, num_classes)`, with one row for labels of images.
    """
    rows = labels.reshape(len(labels) if labels.ndim > 1 else 1, -1)
    return np.stack(
        [
            np.bincount(row[row != IGNORED], minlength=num_classes)
            for row in rows
        ]
    )


def median_frequency_weights(counts: np.ndarray) -> tuple[float, ...]:
    """Weights that make rare classes count as much as frequent ones.

    The frequency of a class is its share of the pixels of those images in which
    it occurs. Its weight is the median of all frequencies over its own.

    Args:
        counts: What `count_labels` returned.

    Returns:
        A weight for each class. A class that does not occur has weight 1.

    Example:

    >>> counts = count_labels(np.array([0, 0, 0, 1, 1, 2]), 3)
    >>> median_frequency_weights(counts)
    (0.6666666666666666, 1.0, 2.0)

    Reference:
        - [Eigen & Fergus, 2015](https://arxiv.org/abs/1411.4734), section 6.3.
    """
    where_it_occurs = counts.sum(axis=1) @ (counts > 0)
    frequencies = counts.sum(axis=0) / np.maximum(where_it_occurs, 1)
    occurs = frequencies > 0
    weights = np.ones(counts.shape[1])
    weights[occurs] = np.median(frequencies[occurs]) / frequencies[occurs]
    return tuple(weights.tolist())


def crop_and_resize_maps(
    maps: np.ndarray, boxes: np.ndarray, size: Sequence[int]
) -> np.ndarray:
    """Resizes a box of each map: each pixel takes the label nearest to it.

    Args:
        maps: Array `(batch, height, width)`.
        boxes: Array `(batch, 4)` of top, left, height and width; `(1, 4)` for
            the same box in all maps.
        size: Height and width of the result.
    """
    tops, lefts, heights, widths = boxes.T[..., np.newaxis]
    rows = tops + _nearest(heights, size[0])
    columns = lefts + _nearest(widths, size[1])
    examples = np.arange(len(maps))[:, np.newaxis, np.newaxis]
    return maps[examples, rows[:, :, np.newaxis], columns[:, np.newaxis]]


def _nearest(lengths, resized):
    """The pixels of a length in which the centers of others lie."""
    return (2 * np.arange(resized) + 1) * lengths // (2 * resized)
