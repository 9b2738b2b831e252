"""How often the class that a model predicts stays when an image moves."""

from collections.abc import Callable, Iterable

import keras
import numpy as np
from keras import ops

from diffstride.data.dataset import Dataset, random_generator
from diffstride.training.refresh_sizes import RefreshSizes
from diffstride.validation import ConfigError, check_positive_integer

NAME = "shift_consistency"


class ShiftConsistency:
    """The share of images whose class stays when they move.

    Each image is moved along its diagonal by two different numbers of pixels,
    from 0 to `max_shift`. The image counts as consistent if the most probable
    class is the same for both, be it right or wrong. The two numbers are drawn
    for each image, alike in each evaluation and for each model.

    What leaves an image at one border comes back at the opposite one. So no
    pixel is lost, and a model that is invariant to shifts by construction has a
    consistency of exactly 1. Zhang crops his images out of larger ones instead,
    and draws height and width apart; the images of a data set of one size have
    no pixels beyond their borders to draw from.

    Args:
        max_shift: integer of 1 or more. The largest shift in pixels: 8 is usual
            for images of 32 pixels, 32 for images of 224.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8, 8, 3)),
    ...         keras.layers.Conv2D(4, 1, activation="relu"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...     ]
    ... )
    >>> images = np.random.default_rng(0).normal(size=(16, 8, 8, 3))
    >>> ShiftConsistency(max_shift=2)(model, lambda: [(images, np.zeros(16))])
    1.0

    Reference:
        Zhang, [Making convolutional networks shift-invariant again](
        https://arxiv.org/abs/1904.11486), ICML 2019, section 4.
    """

    def __init__(self, max_shift: int):
        self.max_shift = check_positive_integer(max_shift, "max_shift")
        self._refresh = RefreshSizes()
        self._pairs = None

    def __call__(
        self, model: keras.Model, make_batches: Callable[[], Iterable]
    ) -> float:
        """Measures a model.

        Args:
            model: a classifier of images, with the channels last.
            make_batches: function that makes batches `(images, labels)`, or
                `(images, labels, weights)`.

        Returns:
            A number from 0 to 1.
        """
        if self._pairs is None or self._pairs.network is not model:
            self._pairs = _Pairs(model)
            self._pairs.compile(
                loss=_same,  # Keras wants one.
                weighted_metrics=[
                    keras.metrics.MeanMetricWrapper(_same, name=NAME)
                ],
                jit_compile=getattr(model, "jit_compile", "auto"),
            )
        found = self._pairs.evaluate(
            _MovedImages(make_batches, self.max_shift),
            callbacks=[self._refresh],
            verbose=0,
            return_dict=True,
        )
        return float(found[NAME])


class _Pairs(keras.Model):
    """Tells for each pair of images whether a network sees the same class."""

    def __init__(self, network):
        # The network casts its inputs itself.
        super().__init__(name="pairs", dtype="float32")
        self.network = network

    def call(self, inputs):
        outputs = self.network(ops.concatenate(inputs), training=False)
        first, second = ops.split(ops.argmax(outputs, axis=-1), 2)
        return ops.cast(ops.equal(first, second), "float32")


def _same(y_true, y_pred):
    return y_pred


class _MovedImages(keras.utils.PyDataset):
    """Pairs of images, both moved, in batches that Keras asks for in order."""

    def __init__(self, make_batches, max_shift):
        super().__init__()
        self._make_batches = make_batches
        self._max_shift = max_shift
        self._length = _count(make_batches())

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if index == 0:
            self._batches = iter(self._make_batches())
        images, _, *weights = next(self._batches)
        images = ops.convert_to_numpy(images)
        first, second = draw_shifts(index, len(images), self._max_shift)
        pair = move(images, first), move(images, second)
        return pair, np.zeros(len(images)), *weights


def draw_shifts(
    index: int, size: int, max_shift: int
) -> tuple[np.ndarray, np.ndarray]:
    """Two different shifts for each image of a batch.

    Args:
        index: number of the batch.
        size: number of its images.
        max_shift: the largest shift.
    """
    random = random_generator(0, 0, index)
    first = random.integers(0, max_shift + 1, size)
    # Another one of the same range.
    step = random.integers(1, max_shift + 1, size)
    return first, (first + step) % (max_shift + 1)


def _count(batches):
    try:
        return len(batches)
    except TypeError:  # It is not known before they are made.
        return sum(1 for _ in batches)


def move(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Moves images down and to the right, each by its number of pixels.

    Args:
        images: array `(batch, height, width, channels)`.
        shifts: array of an integer for each image.

    Returns:
        An array in the shape of `images`. What leaves at a border comes back
        at the opposite one.
    """
    rows, columns = (
        (np.arange(size) - shifts[:, None]) % size for size in images.shape[1:3]
    )
    batch = np.arange(len(images))[:, None, None]
    return images[batch, rows[:, :, None], columns[:, None, :]]


class RecordShiftConsistency(keras.callbacks.Callback):
    """Adds the shift consistency to the history, once trained or more often.

    Args:
        measure: a `ShiftConsistency`.
        every: integer or None. After how many epochs; after the last one in any
            case.
        run: the `diffstride.training.run.Run`.
        recorder: the `Recorder` of the run, which comes before this callback.
    """

    def __init__(self, measure, every, run, recorder):
        super().__init__()
        self._measure = measure
        self._every = every
        self._run = run
        self._recorder = recorder

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        is_due = self._every is not None and done % self._every == 0
        if is_due or done == self._run.num_epochs:
            logs[f"val_{NAME}"] = self._record()

    def on_train_end(self, logs=None):
        # Another callback may have ended the training before its last epoch.
        history = self._run.progress.history
        if history and f"val_{NAME}" not in history[-1]:
            self._record()

    def _record(self):
        value = self._measure(self.model, self._run.validation)
        self._run.progress.history[-1][f"val_{NAME}"] = value
        self._recorder.write()
        return value


def check_shifts(data: Dataset, max_shift: int) -> None:
    """Refuses data that have no images to move, or images too small for it."""
    shape = data.input_shape
    if not data.has_images_of_a_class:
        raise ConfigError(
            "`shift_consistency` must be None for data that are not images of "
            f"a class each. Received: shift_consistency={max_shift} for "
            f"{data.name!r} with input_shape={shape}"
        )
    sizes = [size for size in shape[:2] if size is not None]
    if max_shift >= min(sizes, default=max_shift + 1):
        raise ConfigError(
            "`shift_consistency` must be less than the size of an image. "
            f"Received: shift_consistency={max_shift} for "
            f"input_shape={shape}"
        )
