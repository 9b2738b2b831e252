"""Decodes boxes of images with TensorFlow, and finds images that are broken."""

import functools
import os

import numpy as np

from diffstride.data.tfds_source import leave_gpus_alone

# Markers of JPEG which no length follows.
_JPEG_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
# Markers of the segment that holds the size, for each way of coding.
_JPEG_SIZE = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class BadImages(ValueError):
    """Some images of a batch cannot be decoded.

    Args:
        problems: Dict from the place of an image in the batch to its problem.
    """

    def __init__(self, problems):
        super().__init__(str(problems))
        self.problems = problems


def reason(error):
    """The one line of an error message that says what was wrong.

    The lines around it are about the graph of TensorFlow.
    """
    text = str(error).strip().split("\n\n")[-1].split("\n")[0]
    return text.rpartition("ParallelMapV2: ")[2]


def sizes(encoded):
    """Heights and widths of encoded images, an int32 array `(images, 2)`.

    Args:
        encoded: List of bytes.
    """
    found, problems = [], {}
    for place, image in enumerate(encoded):
        try:
            found.append(_size(image))
        except Exception as error:
            problems[place] = reason(error)
    if problems:
        raise BadImages(problems)
    return np.array(found, "int32")


def check_sizes(maps, images):
    """Refuses encoded label maps of another size than their images.

    Args:
        maps: List of bytes.
        images: List of bytes.
    """
    pairs = zip(sizes(maps).tolist(), sizes(images).tolist(), strict=True)
    problems = {
        place: f"the label map has the size {size}, its image {of_image}"
        for place, (size, of_image) in enumerate(pairs)
        if size != of_image
    }
    if problems:
        raise BadImages(problems)


def _size(encoded):
    if encoded[:8] == b"\x89PNG\r\n\x1a\n":
        width, height = np.frombuffer(encoded[16:24], ">u4")
        return height, width
    if encoded[:2] == b"\xff\xd8":
        return _jpeg_size(encoded)
    import tensorflow as tf

    with tf.device("CPU:0"):
        return tf.io.decode_image(encoded, expand_animations=False).shape[:2]


def _jpeg_size(encoded):
    """Finds the size in the header, in a tenth of the time of TensorFlow."""
    place = 2
    while place + 9 <= len(encoded):
        if encoded[place] != 0xFF:
            break
        marker = encoded[place + 1]
        if marker == 0xFF:  # Any number of these may precede a marker.
            place += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            place += 2
        elif marker in _JPEG_SIZE:
            height, width = np.frombuffer(encoded[place + 5 : place + 9], ">u2")
            return height, width
        else:
            length = int.from_bytes(encoded[place + 2 : place + 4], "big")
            place += 2 + length
    raise ValueError("the JPEG file has no size")


@functools.lru_cache(maxsize=8)
def decoder(height, width, channels, resized=True, nearest=False):
    """A function that decodes a box of each image and resizes it.

    It takes a list of bytes and an integer array `(images, 4)` of top, left,
    height and width, and returns a `uint8` array `(images, height, width,
    channels)`.

    Args:
        height: Height of the result.
        width: Its width.
        channels: Its number of channels.
        resized: Whether to resize. If not, boxes must have this size already.
        nearest: Whether each pixel takes the value of the one nearest to it, as
            labels need it, in place of a mean of several ones.
    """
    import tensorflow as tf

    leave_gpus_alone()

    def decode_box(encoded, box):
        def decode_all():
            image = tf.io.decode_image(
                encoded, channels, expand_animations=False
            )
            top, left, box_height, box_width = tf.unstack(box)
            return image[top : top + box_height, left : left + box_width]

        image = tf.cond(
            tf.io.is_jpeg(encoded),
            lambda: tf.image.decode_and_crop_jpeg(encoded, box, channels),
            decode_all,
        )
        image.set_shape((None, None, channels))
        if not resized:
            return tf.ensure_shape(image, (height, width, channels))
        if nearest:
            return tf.image.resize(image, (height, width), "nearest")
        image = tf.image.resize(image, (height, width), antialias=True)
        return tf.cast(tf.round(image), tf.uint8)

    @tf.function(
        input_signature=(
            tf.TensorSpec((None,), tf.string),
            tf.TensorSpec((None, 4), tf.int32),
        )
    )
    def decode_boxes(encoded, boxes):
        return tf.map_fn(
            lambda pair: decode_box(*pair),
            (encoded, boxes),
            fn_output_signature=tf.TensorSpec(
                (height, width, channels), tf.uint8
            ),
            parallel_iterations=os.cpu_count(),
        )

    def decode(encoded, boxes):
        with tf.device("CPU:0"):
            try:
                return decode_boxes(list(encoded), boxes).numpy()
            except tf.errors.OpError:
                problems = {}
                for place, box in enumerate(boxes):
                    try:
                        decode_boxes([encoded[place]], [box])
                    except tf.errors.OpError as error:
                        problems[place] = reason(error)
                if not problems:
                    raise
                raise BadImages(problems) from None

    return decode
