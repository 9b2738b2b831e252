"""The class `Dataset`, which all data loaders return."""

import dataclasses
import numbers
import threading
import typing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from absl import logging

from diffstride.types import Shape


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test pipeline, and what a model must know about them.

    `train` and `test` return finite iterables of `(x, y)` batches that Keras's
    `fit` and `evaluate` accept; `fit` needs `shuffle=False`, or it would change
    the order of the batches. All that is random in them depends only on the
    seed of the loader, the epoch and the step. The same three give the same
    batches bit for bit, in another process too, so that an interrupted run can
    go on where it stopped.

    Args:
        train: Function of `(epoch, start_step=0)`: the batches of one epoch,
            from batch `start_step` on. Every batch is full.
        test: Function without arguments: the whole test split in its own
            order, with a last batch that may be smaller.
        train_steps: Number of batches in an epoch.
        input_shape: Shape of one example, channels last, e.g. `(32, 32, 3)`.
        num_classes: Number of classes, or a dict from the name of a head to
            its number of classes.
        name: Name of the data set.
        input_dtype: Dtype of the examples.
        class_names: Names of the classes in their order, or a dict from the
            name of a head to them; None if they have no names.
        is_multi_label: Whether an example may be of several classes at once.
        sample_rate: Samples per second of sounds; None for other examples.
        test_split: Name of the split to test on.
        validation: Function without arguments, like `test`, for the examples
            that decide which epoch is the best one and when to stop. None if
            the examples of `test` decide.
        label_shape: Shape of the label of one example: `()` for a class, and
            `(height, width)` for a label map, a class for each pixel. Pixels of
            the class -1 do not count.
        class_weights: Weight of each class in the loss. None if all classes
            have the same.
        image_batches: The `diffstride.data.image_batches.ImageBatches` that
            make the batches, if all images lie in memory; else None.
    """

    train: Callable[..., Iterable]
    test: Callable[[], Iterable]
    train_steps: int
    input_shape: tuple
    num_classes: int | dict[str, int]
    name: str
    input_dtype: str = "float32"
    class_names: tuple | dict[str, tuple] | None = None
    is_multi_label: bool = False
    sample_rate: int | None = None
    test_split: str = "test"
    validation: Callable[[], Iterable] | None = None
    label_shape: tuple = ()
    class_weights: tuple | None = None
    image_batches: typing.Any = None

    @property
    def has_images_of_a_class(self) -> bool:
        """Whether each example is an image with a single task and label."""
        return (
            len(self.input_shape) == 3
            and not self.label_shape
            and self.sample_rate is None
            and not isinstance(self.num_classes, dict)
        )


class Batches(keras.utils.PyDataset):
    """A run of batches, each computed from its number alone.

    Threads compute the next batches before they are needed. The threads of
    Keras are not used, because with them `fit` under JAX takes the first batch
    last.

    Args:
        make_batch: Function from the number of a batch to the batch.
        stop: Number after that of the last batch.
        start: Number of the first batch.
        workers: Number of threads.
        ahead: Number of batches to compute ahead. Defaults to one more than
            there are threads.
        shapes: The shape of the examples of each batch, if it is known before
            the batches are made.

    Example:

    >>> batches = Batches(lambda step: (step, step**2), stop=5, start=2)
    >>> list(batches)
    [(2, 4), (3, 9), (4, 16)]
    """

    def __init__(
        self,
        make_batch: Callable[[int], typing.Any],
        stop: int,
        start: int = 0,
        workers: int = 1,
        ahead: int | None = None,
        shapes: Sequence[Shape] | None = None,
    ):
        super().__init__()
        if not 0 <= start <= stop:
            raise ValueError(
                f"`start_step` must lie between 0 and the {stop} batches "
                f"there are. Received: start_step={start}"
            )
        self.make_batch = make_batch
        self.start = start
        self.stop = stop
        self.ahead = workers + 1 if ahead is None else ahead
        self.shapes = shapes
        self._threads = ThreadPoolExecutor(workers, "batches")
        self._lock = threading.Lock()
        self._made = {}

    def __len__(self):
        return self.stop - self.start

    def __getitem__(self, index):
        # Python iterates up to this error where Keras does not say how to.
        if not 0 <= index < len(self):
            raise IndexError(
                f"`index` must lie between 0 and {len(self) - 1}. Received: "
                f"index={index}"
            )
        step = self.start + index
        with self._lock:
            made = {
                each: self._made.get(each)
                or self._threads.submit(self.make_batch, each)
                for each in range(step, min(step + self.ahead + 1, self.stop))
            }
            batch = made.pop(step)
            self._made = made
        return batch.result()


def batch_shapes(batches: Iterable) -> Sequence[Shape]:
    """The shape of the examples of each batch.

    Batches are made for it only if they do not have the attribute `shapes`.
    """
    shapes = getattr(batches, "shapes", None)
    if shapes is not None:
        return shapes
    return [np.shape(keras.tree.flatten(batch)[0]) for batch in batches]


def random_generator(
    seed: int, epoch: int, step: int | None = None
) -> np.random.Generator:
    """NumPy's generator for a step of an epoch, or for the epoch as a whole."""
    # Add 1, because NumPy takes the seeds (1, 2) and (1, 2, 0) for the same.
    return np.random.default_rng([seed, epoch, 0 if step is None else step + 1])


def process_rows(
    batch_size: int, process_index: int = 0, process_count: int = 1
) -> np.ndarray:
    """The rows of a global batch that one of several processes makes."""
    return np.array_split(np.arange(batch_size), process_count)[process_index]


def validate_batching(
    num_train: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> None:
    """Checks the arguments that every loader shares.

    Args:
        num_train: Number of training examples.
        batch_size: Number of examples in a batch, of all processes together.
        seed: Seed of all that is random.
        process_index: Number of this process.
        process_count: Number of processes.
    """
    for name, value in (("batch_size", batch_size), ("seed", seed)):
        if not isinstance(value, numbers.Integral):
            raise TypeError(
                f"`{name}` must be an integer. Received: {name}={value!r}"
            )
    if batch_size < 1 or batch_size > num_train:
        raise ValueError(
            f"`batch_size` must lie between 1 and the {num_train} training "
            f"examples there are. Received: batch_size={batch_size}"
        )
    if seed < 0:
        raise ValueError(f"`seed` must not be negative. Received: seed={seed}")
    if not 0 <= process_index < process_count:
        raise ValueError(
            "`process_index` must lie between 0 and `process_count` - 1. "
            f"Received: process_index={process_index}, "
            f"process_count={process_count}"
        )
    if batch_size % process_count:
        raise ValueError(
            "`batch_size` is that of all processes together and must be a "
            f"multiple of `process_count`. Received: batch_size={batch_size}, "
            f"process_count={process_count}"
        )
    if num_train % batch_size:
        logging.info(
            "Each epoch leaves out %d of the %d training examples, other ones "
            "each time.",
            num_train % batch_size,
            num_train,
        )
