"""What a data loader returns, whatever the data."""

import dataclasses
from collections.abc import Callable, Iterable


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test pipeline, and what a model must know about them.

    `train` and `test` return finite iterables of `(x, y)` batches that Keras's
    `fit` and `evaluate` accept. What is random in them depends on the seed of
    the loader, the epoch and the step alone: the same three give the same
    batches bit for bit, in another process too, so an interrupted run goes on
    where it stopped.

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
    """

    train: Callable[..., Iterable]
    test: Callable[[], Iterable]
    train_steps: int
    input_shape: tuple
    num_classes: int | dict[str, int]
    name: str
    input_dtype: str = "float32"
