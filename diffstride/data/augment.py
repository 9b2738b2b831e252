"""Random changes to a batch of images, with the same code for every data set.

All of it is NumPy on whole batches. Keras's preprocessing layers do not fit,
for three reasons: `RandomCrop` crops all images of a batch at the same place;
`MixUp` and `RandomFlip` keep a random state of their own, but here every random
number must follow from seed, epoch and step; and a layer runs on the device
that trains. A CIFAR batch stays `uint8`, a quarter of the size of float32,
until the normalization at the end. One core makes tens of thousands of images a
second, many times what a training step takes.

`Augmentation.draw` draws all random numbers for a global batch. The other
functions are deterministic. So several processes can each make their own rows
of the batch that one process would have made.
"""

import dataclasses

import numpy as np

from diffstride.data.boxes import (
    ATTEMPTS,
    central_boxes,
    crop_and_resize,
    random_boxes,
)
from diffstride.data.label_maps import IGNORED, crop_and_resize_maps
from diffstride.validation import check_choice

# Means and standard deviations of the training images, on a scale of 0 to 1.
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

# If training images are cropped at random, this share of the shorter side of a
# test image is kept: 224 of 256 pixels.
_CENTRAL_FRACTION = 0.875


def random_crop(images, offsets, padding, value=0, reflect=False):
    """Pads all sides and crops each image at its own offset.

    Args:
        images: Array `(batch, height, width, channels)`.
        offsets: Integer array `(batch, 2)`: row and column, between 0 and
            twice the padding, where the crop starts in the padded image.
        padding: Number of pixels on each side.
        value: The value of these pixels.
        reflect: Whether they mirror the image at its border instead.
    """
    batch, height, width, channels = images.shape
    shape = (batch, height + 2 * padding, width + 2 * padding, channels)
    if reflect:
        margins = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
        padded = np.pad(images, margins, mode="reflect")
    else:
        padded = np.full(shape, value, images.dtype)
        inside = slice(padding, padding + height)
        padded[:, inside, padding : padding + width] = images
    # Join pixels and channels in one axis, because NumPy copies long rows
    # faster than triples.
    windows = np.lib.stride_tricks.sliding_window_view(
        padded.reshape(batch, shape[1], -1), (height, width * channels), (1, 2)
    )
    crops = windows[np.arange(batch), offsets[:, 0], offsets[:, 1] * channels]
    return crops.reshape(images.shape)


def flip_left_right(images, flips):
    """Mirrors the images for which `flips` is true."""
    images = np.ascontiguousarray(images)
    # View each pixel as one item, so that NumPy copies it in one step.
    pixel = np.dtype((np.void, images.itemsize * images.shape[-1]))
    pixels = images.view(pixel)[..., 0]
    flipped = pixels.copy()
    flipped[flips] = pixels[flips, :, ::-1]
    return flipped.view(images.dtype).reshape(images.shape)


def normalize(images, mean, std):
    """`(images - mean) / std` for each channel, as float32."""
    batch, height, width, _ = images.shape
    # Repeat the factors for all pixels, because NumPy's inner loop is fast on
    # long rows only.
    scale = np.tile(1 / np.asarray(std, "float32"), height * width)
    shift = np.tile(np.asarray(mean, "float32"), height * width) * scale
    normalized = np.multiply(
        images.reshape(batch, len(scale)),
        scale,
        dtype="float32",
        casting="unsafe",
    )
    normalized -= shift
    return normalized.reshape(images.shape)


def smooth_labels(labels, num_classes, smoothing=0.0):
    """One-hot targets; the share `smoothing` is spread over all classes."""
    targets = np.full(
        (len(labels), num_classes), smoothing / num_classes, "float32"
    )
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets


def mixup(values, partners, weights):
    """`weights * values + (1 - weights) * partners`, a weight for each example.

    Reference:
        - [Zhang et al., 2018](https://arxiv.org/abs/1710.09412).
    """
    weights = weights.astype("float32")
    mixed = partners - values
    mixed *= (1 - weights).reshape(-1, *[1] * (values.ndim - 1))
    mixed += values
    return mixed


@dataclasses.dataclass(frozen=True)
class Draws:
    """The random numbers of a global batch.

    `boxes`, `offsets` and `flips` have a row for each image. `owns`, `partners`
    and `weights` have a row for each example. Mixup makes the example from the
    two images whose numbers are in `owns` and `partners`.
    """

    boxes: np.ndarray
    offsets: np.ndarray
    flips: np.ndarray
    owns: np.ndarray
    partners: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Turns images and labels into a batch.

    A training image is padded and cropped, flipped, normalized, resized, and
    mixed with another image of the batch, in this order. A test image is only
    normalized and resized.

    Args:
        num_classes: Number of classes.
        mean: Mean of each channel, in the units of the images.
        std: Standard deviation of each channel.
        image_size: Height and width of the result, or one number for both.
        inception_crop: Whether to resize a random box of 8 to 100 % of the area
            of a training image, and the central 87.5 % of a test image. If not,
            the largest central box with the aspect of `image_size` is resized.
        crop_padding: Number of pixels to pad with on each side before cropping
            to the same size at random. Defaults to 4, or to 0 with
            `inception_crop`.
        crop_fill: What is padded: `"zeros"`, or `"reflect"` for the image
            mirrored at its border. Label maps have no labels there.
        flip: Whether to mirror images at random, half of them on average.
        alternate_flips: Whether to mirror each image in every second epoch
            instead, half of them in the first.
        label_smoothing: Share of the target that is spread evenly over all
            classes.
        mixup_alpha: Parameter of the beta distribution from which the weights
            of mixup are drawn, for each example; 0 for no mixup. The partners
            are the images of the same batch in another order, so the number of
            examples stays the same.
        mixup_pairs: Whether mixup makes one example of two neighbours instead,
            as the 2022 release did. An epoch then has half as many examples.

    Example:

    >>> augmentation = Augmentation(
    ...     num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3, image_size=32,
    ...     mixup_alpha=0.2,
    ... )
    >>> draws = augmentation.draw(np.random.default_rng(0), 8)
    >>> images, labels = np.ones((8, 32, 32, 3)), np.arange(8)
    >>> x, y = augmentation(images, labels, draws)
    >>> x.shape, y.shape
    ((8, 32, 32, 3), (8, 10))
    """

    num_classes: int
    mean: tuple
    std: tuple
    image_size: int | tuple
    inception_crop: bool = False
    crop_padding: int | None = None
    flip: bool = True
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    mixup_pairs: bool = False
    crop_fill: str = "zeros"
    alternate_flips: bool = False

    def __post_init__(self):
        check_choice(self.crop_fill, "crop_fill", ("zeros", "reflect"))
        size = np.broadcast_to(self.image_size, 2)
        if np.any(size < 1):
            raise ValueError(
                "`image_size` must be 1 or more. Received: "
                f"image_size={self.image_size}"
            )
        object.__setattr__(self, "image_size", tuple(map(int, size)))
        if self.crop_padding is None:
            padding = 0 if self.inception_crop else 4
            object.__setattr__(self, "crop_padding", padding)
        if self.crop_padding < 0:
            raise ValueError(
                "`crop_padding` must not be negative. Received: "
                f"crop_padding={self.crop_padding}"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be at least 0 and less than 1. "
                f"Received: label_smoothing={self.label_smoothing}"
            )
        if self.mixup_alpha < 0:
            raise ValueError(
                "`mixup_alpha` must not be negative. Received: "
                f"mixup_alpha={self.mixup_alpha}"
            )

    @property
    def one_hot(self):
        """Whether targets are one-hot and not numbers of classes."""
        return bool(self.label_smoothing or self.mixup_alpha)

    @property
    def images_per_example(self):
        """How many images make one example: two if pairs are mixed."""
        return 2 if self.mixup_pairs and self.mixup_alpha else 1

    def draw(self, generator, size):
        """Draws all random numbers for a global batch of `size` examples.

        The options do not change which numbers are drawn, so that switching one
        option on leaves the effect of the others as it was. The exception is
        `mixup_pairs`, which needs numbers for twice as many images.
        """
        places = 2 * self.crop_padding + 1
        alpha = self.mixup_alpha or 1.0
        images = size * self.images_per_example
        owns = np.arange(0, images, self.images_per_example)
        boxes = generator.random((images, ATTEMPTS, 4))
        offsets = (places * generator.random((images, 2))).astype("int32")
        flips = generator.random(images) < 0.5
        partners = generator.permutation(size)
        if self.images_per_example == 2:
            partners = owns + 1
        weights = generator.beta(alpha, alpha, size)
        return Draws(boxes, offsets, flips, owns, partners, weights)

    def alternate(self, draws, first, epoch):
        """The draws with flips that change from epoch to epoch, if asked for.

        Args:
            draws: What `draw` returned for a global batch.
            first: Which images of this batch are mirrored in the first epoch.
            epoch: Number of the epoch.
        """
        if not self.alternate_flips:
            return draws
        return dataclasses.replace(draws, flips=first ^ bool(epoch % 2))

    def needed(self, draws, rows):
        """Numbers of the images that the `rows` of the global batch need."""
        if not self.mixup_alpha:
            return rows
        return np.union1d(draws.owns[rows], draws.partners[rows])

    def boxes(self, heights, widths, draws=None, needed=...):
        """The boxes to resize: random with `draws`, central without them."""
        if self.inception_crop and draws is not None:
            return random_boxes(draws.boxes[needed], heights, widths)
        height, width = self.image_size
        fraction = _CENTRAL_FRACTION if self.inception_crop else 1.0
        return central_boxes(heights, widths, width / height, fraction)

    def __call__(self, images, labels, draws, needed=..., rows=...):
        """Makes a training batch.

        Args:
            images: Array `(batch, height, width, channels)`, those images of
                the global batch whose numbers are in `needed`.
            labels: Their classes, or label maps `(batch, height, width)`.
            draws: What `draw` returned for the global batch.
            needed: Numbers of the images that are given. Defaults to all.
            rows: Rows of the global batch to make. Defaults to all.
        """
        images = self.change(images, draws, needed)
        if labels.ndim > 1:
            labels = self.change_maps(labels, draws, needed)
        return self.mix(images, labels, draws, needed, rows)

    def change(self, images, draws=None, needed=...):
        """Changes each image on its own; without `draws`, as a test image."""
        images = self._move(images, draws, needed, value=0)
        images = normalize(images, self.mean, self.std)
        boxes = self._resized_boxes(images, draws, needed)
        if boxes is None:
            return images
        return crop_and_resize(images, boxes, self.image_size)

    def change_maps(self, maps, draws=None, needed=...):
        """Does to label maps what `change` does to their images.

        Pixels that come from beyond the border of a map are ignored ones.
        """
        maps = self._move(maps[..., np.newaxis], draws, needed, IGNORED)[..., 0]
        boxes = self._resized_boxes(maps, draws, needed)
        if boxes is not None:
            maps = crop_and_resize_maps(maps, boxes, self.image_size)
        return maps.astype("int32")

    def _move(self, images, draws, needed, value):
        """Crops and flips; `value` is that of pixels beyond the border."""
        if self.crop_padding and draws is not None:
            offsets = draws.offsets[needed]
            images = random_crop(
                images,
                offsets,
                self.crop_padding,
                value,
                # There are no labels beyond the border of a label map.
                reflect=self.crop_fill == "reflect" and value != IGNORED,
            )
        if self.flip and draws is not None:
            images = flip_left_right(images, draws.flips[needed])
        return images

    def _resized_boxes(self, images, draws, needed):
        """The boxes to resize, or None if images stay as large as they are."""
        size = images.shape[1:3]
        if not self.inception_crop and self.image_size == size:
            return None
        return self.boxes(*np.array([size]).T, draws, needed)

    def mix(self, images, labels, draws, needed=..., rows=...):
        """Mixes images that `change` returned; arguments as for `__call__`."""
        if not self.one_hot:
            return images, labels
        targets = smooth_labels(labels, self.num_classes, self.label_smoothing)
        if not self.mixup_alpha:
            return images, targets
        everything = np.arange(len(draws.flips))
        own = np.searchsorted(everything[needed], draws.owns[rows])
        others = np.searchsorted(everything[needed], draws.partners[rows])
        weights = draws.weights[rows]
        return (
            mixup(images[own], images[others], weights),
            mixup(targets[own], targets[others], weights),
        )

    def evaluate(self, images, labels):
        """Makes a test batch."""
        return self.change(images), self.targets(labels)

    def targets(self, labels):
        """The targets of test images, one-hot if those of training are."""
        if labels.ndim > 1:
            return self.change_maps(labels)
        if not self.one_hot:
            return labels
        return smooth_labels(labels, self.num_classes)
