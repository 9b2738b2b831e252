"""Boxes in images: random ones, central ones, and how they are resized."""

import numpy as np

# How many random boxes are drawn, of which the first that fits is taken.
ATTEMPTS = 10


def random_boxes(
    uniforms, heights, widths, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)
):
    """Random boxes as for Inception: each has a random area, aspect and place.

    Args:
        uniforms: Array `(batch, attempts, 4)` of numbers between 0 and 1. The
            first attempt that fits into its image is taken. If none fits, it is
            the largest central box with an aspect within the limits.
        heights: Heights of the images, one number or one for each image.
        widths: Their widths.
        area: Smallest and largest share of the area of the image.
        aspect: Smallest and largest ratio of width to height; its logarithm is
            uniform.

    Returns:
        Integer array `(batch, 4)` of top, left, height and width.

    Reference:
        - [Szegedy et al., 2015](https://arxiv.org/abs/1409.4842), section 6.
    """
    heights, widths = np.broadcast_arrays(heights, widths)
    limits = np.log(aspect)
    areas = area[0] + (area[1] - area[0]) * uniforms[..., 0]
    areas = areas * (heights * widths)[..., np.newaxis]
    ratios = np.exp(limits[0] + (limits[1] - limits[0]) * uniforms[..., 1])
    box_heights = np.rint(np.sqrt(areas / ratios))
    box_widths = np.rint(np.sqrt(areas * ratios))
    fits = (box_heights >= 1) & (box_heights <= heights[..., np.newaxis])
    fits &= (box_widths >= 1) & (box_widths <= widths[..., np.newaxis])
    first = np.argmax(fits, axis=1)
    rows = np.arange(len(first))
    box_heights, box_widths = box_heights[rows, first], box_widths[rows, first]
    spare_height, spare_width = heights - box_heights, widths - box_widths
    boxes = np.stack(
        [
            np.floor(uniforms[rows, first, 2] * (spare_height + 1)),
            np.floor(uniforms[rows, first, 3] * (spare_width + 1)),
            box_heights,
            box_widths,
        ],
        axis=1,
    ).astype("int32")
    ratio = np.clip(widths / heights, *aspect)
    fallback = central_boxes(heights, widths, ratio)
    return np.where(fits.any(axis=1)[:, np.newaxis], boxes, fallback)


def central_boxes(heights, widths, ratio, fraction=1.0):
    """The largest central boxes of a ratio of width to height.

    Args:
        heights: Heights of the images.
        widths: Their widths.
        ratio: Width over height of the boxes.
        fraction: Scales both sides of the largest box.

    Returns:
        Integer array `(batch, 4)` of top, left, height and width.
    """
    heights, widths, ratio = np.broadcast_arrays(heights, widths, ratio)
    box_heights = np.rint(fraction * np.minimum(heights, widths / ratio))
    box_widths = np.rint(fraction * np.minimum(widths, heights * ratio))
    box_heights, box_widths = (
        np.maximum(box_heights, 1),
        np.maximum(box_widths, 1),
    )
    tops = (heights - box_heights) // 2
    lefts = (widths - box_widths) // 2
    boxes = np.stack([tops, lefts, box_heights, box_widths], axis=-1)
    return boxes.astype("int32")


def crop_and_resize(images, boxes, size):
    """Resizes a box of each image, bilinearly and without aliasing.

    The result is that of `keras.ops.image.resize(..., antialias=True)` on each
    box.

    Args:
        images: Float array `(batch, height, width, channels)`.
        boxes: Array `(batch, 4)` of top, left, height and width; `(1, 4)` for
            the same box in all images.
        size: Height and width of the result.
    """
    batch, height, width, channels = images.shape
    tops, lefts, box_heights, box_widths = boxes.T[..., np.newaxis]
    rows = _resampling(tops, box_heights, height, size[0])
    columns = _resampling(lefts, box_widths, width, size[1])
    # The axis to resize comes first, so that each product is a large one.
    images = images.swapaxes(1, 2).reshape(batch, width, height * channels)
    images = (columns @ images).reshape(batch, size[1], height, channels)
    images = images.swapaxes(1, 2).reshape(batch, height, size[1] * channels)
    return (rows @ images).reshape(batch, *size, channels)


def _resampling(starts, lengths, size, resized):
    """The matrices `(batch, resized, size)` of linear interpolation."""
    scales = (lengths / resized).astype("float32")
    centers = (np.arange(resized) + 0.5).astype("float32") * scales + starts
    pixels = np.arange(size, dtype="float32")
    # Each output pixel is an average of input pixels, weighted by a triangle as
    # wide as the distance between output pixels: this prevents aliasing. Pixels
    # outside of the box get no weight. The other weights are scaled so that
    # their sum is one.
    weights = np.abs(centers[..., np.newaxis] - (pixels + 0.5))
    weights /= -np.maximum(scales, 1)[..., np.newaxis]
    weights += 1
    np.maximum(weights, 0, out=weights)
    weights *= ((pixels >= starts) & (pixels < starts + lengths))[:, np.newaxis]
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights.astype("float32")
