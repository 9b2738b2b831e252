"""The random changes of `augment.py`, on the device that trains.

They run inside of a compiled function, on images that lie on the device. The
random numbers are those of `ImageBatches`, drawn on the host for a whole epoch.
So a batch is the one that NumPy would make, up to the rounding of float32.
"""

import dataclasses

import numpy as np
from keras import ops

from diffstride.data.augment import Augmentation
from diffstride.data.image_batches import ImageBatches
from diffstride.validation import ConfigError


def check_augmentation(batches: ImageBatches) -> None:
    """Refuses what the functions here do not know.

    Args:
        batches: The images and their augmentation.

    Raises:
        ConfigError: It names the argument of the loader.
    """
    augmentation = batches.augmentation
    images, labels = batches.splits["train"]
    known = {
        "inception_crop": (augmentation.inception_crop, False),
        "mixup_alpha": (augmentation.mixup_alpha, 0),
        "image_size": (augmentation.image_size, images.shape[1:3]),
        "process_count": (batches.process_count, 1),
    }
    for name, (value, must_be) in known.items():
        if value != must_be:
            raise ConfigError(
                f"`{name}` must be {must_be} for images that stay on the "
                f"device. Received: {name}={value}"
            )
    if labels.ndim > 1:
        raise ConfigError(
            "Data that stay on the device must have a class for each image, "
            f"not a label map. Received: labels of shape {labels.shape}"
        )


def draw_epoch(
    batches: ImageBatches, epoch: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The random numbers of all steps of an epoch.

    Args:
        batches: The images and their augmentation.
        epoch: Number of the epoch.

    Returns:
        The numbers of the images `(steps, batch)`, their offsets `(steps,
        batch, 2)`, and whether they are mirrored `(steps, batch)`.
    """
    order = batches.order(epoch)
    steps = [
        batches.draw(order, epoch, step) for step in range(batches.train_steps)
    ]
    return (
        np.stack([chosen for chosen, _ in steps]).astype("int32"),
        np.stack([draws.offsets for _, draws in steps]),
        np.stack([draws.flips for _, draws in steps]),
    )


@dataclasses.dataclass(frozen=True)
class DeviceAugmentation:
    """What `Augmentation` does, as operations of the backend.

    Arguments are arrays of JAX, or of NumPy.

    Args:
        augmentation: An `Augmentation` that `check_augmentation` accepts.
    """

    augmentation: Augmentation

    def train(self, images, labels, chosen, offsets, flips):
        """Makes a training batch.

        Args:
            images: Array of all training images.
            labels: Their classes.
            chosen: The numbers of those of the batch.
            offsets: For each of them, where the crop starts.
            flips: Whether each is mirrored.
        """
        padding = self.augmentation.crop_padding
        rows, columns = (
            offsets[:, axis, None] - padding + ops.arange(size)
            for axis, size in enumerate(images.shape[1:3])
        )
        if self.augmentation.flip:
            columns = ops.where(flips[:, None], columns[:, ::-1], columns)
        x = take_points(
            images, chosen, rows, columns, self.augmentation.crop_fill
        )
        smoothing = self.augmentation.label_smoothing
        return self.normalize(x), self._targets(labels[chosen], smoothing)

    def evaluate(self, images, labels):
        """Makes a test batch."""
        return self.normalize(images), self._targets(labels, 0.0)

    def normalize(self, images):
        """`(images - mean) / std` for each channel, as float32."""
        scale = 1 / np.asarray(self.augmentation.std, "float32")
        shift = np.asarray(self.augmentation.mean, "float32") * scale
        return ops.cast(images, "float32") * scale - shift

    def _targets(self, labels, smoothing):
        if not self.augmentation.one_hot:
            return labels
        classes = self.augmentation.num_classes
        targets = ops.one_hot(labels, classes, dtype="float32")
        return targets * (1 - smoothing) + smoothing / classes


def take_points(images, chosen, rows, columns, fill="zeros"):
    """Takes rows and columns of images, which may lie beyond their borders.

    Args:
        images: Array `(images, height, width, channels)`.
        chosen: Integers `(batch,)`: the images to take from.
        rows: Integers `(batch, height)`.
        columns: Integers `(batch, width)`.
        fill: What lies beyond a border: `"zeros"`, or `"reflect"` for the image
            mirrored there.

    Returns:
        An array `(batch, height, width, channels)`.
    """
    height, width = (size - 1 for size in images.shape[1:3])

    def inside(numbers, last):
        if fill == "reflect":
            return last - ops.abs(last - ops.abs(numbers))
        return ops.clip(numbers, 0, last)

    points = images[
        chosen[:, None, None],
        inside(rows, height)[:, :, None],
        inside(columns, width)[:, None, :],
    ]
    if fill == "reflect":
        return points
    are_inside = [
        (numbers >= 0) & (numbers <= last)
        for numbers, last in ((rows, height), (columns, width))
    ]
    mask = are_inside[0][:, :, None, None] & are_inside[1][:, None, :, None]
    return points * ops.cast(mask, points.dtype)
