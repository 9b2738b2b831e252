"""Windows of clips to train on, whole clips to test on.

Models are trained on windows of one length. From each clip a window is drawn
that begins anywhere, with zeros after a clip that is shorter. Test batches hold
whole clips, and each batch clips of the same number of windows; what is left
over at the end of a clip, less than a window, is dropped. The model averages
over windows (see `diffstride.audio_cnn.SplitWindows`).
"""

import functools
import time

import numpy as np
from absl import logging

from diffstride.data.dataset import (
    Batches,
    Dataset,
    process_rows,
    random_generator,
    validate_batching,
)


def from_clips(
    train,
    test,
    name,
    window=16000,
    batch_size=256,
    seed=0,
    train_steps=None,
    process_index=0,
    process_count=1,
):
    """Batches of windows to train on, and of whole clips to test on.

    Args:
        train: The `Clips` to train on.
        test: The `Clips` to test on.
        name: Name of the data set.
        window: Samples in a window.
        batch_size: Number of windows in a batch, of all processes together.
        seed: Seed of the order and of the windows.
        train_steps: Batches in an epoch. Defaults to as many as take a window
            of each clip. An epoch of more runs through the clips several
            times.
        process_index: Number of this process.
        process_count: Number of processes.

    Returns:
        A `diffstride.data.dataset.Dataset`.
    """
    for split, clips in [("train", train), ("test", test)]:
        if not len(clips):
            raise ValueError(
                f"`{split}` must hold a clip or more. Received: none"
            )
    if window < 1:
        raise ValueError(
            f"A window must last a sample or more. Received: window={window}"
        )
    if train_steps is None:
        most = len(train)
        train_steps = most // max(1, batch_size)
    else:
        most = batch_size  # An epoch may run through the clips several times.
        if train_steps < 1:
            raise ValueError(
                "`train_steps` must be 1 or more. "
                f"Received: train_steps={train_steps}"
            )
    validate_batching(most, batch_size, seed, process_index, process_count)
    _warn_of_unseen(train, test)
    rows = process_rows(batch_size, process_index, process_count)

    @functools.lru_cache(maxsize=2)  # Of an epoch, and of the one before it.
    def draw(epoch):
        """The clips of an epoch in their order, and where windows begin."""
        generator = random_generator(seed, epoch)
        count = train_steps * batch_size
        rounds = -(-count // len(train))
        clips = np.concatenate(
            [generator.permutation(len(train)) for _ in range(rounds)]
        )
        return clips[:count], generator.random(count)

    def train_batches(epoch, start_step=0):
        def make_batch(step):
            clips, positions = draw(epoch)
            drawn = step * batch_size + rows
            clips = clips[drawn]
            x = train.read(clips, window, positions[drawn])
            return x, train.labels[clips]

        return Batches(make_batch, train_steps, start_step)

    groups = _groups_of_one_length(
        np.maximum(1, test.lengths // window), batch_size
    )

    def test_batches():
        def make_batch(step):
            clips, windows = groups[step]
            clips = clips[
                process_rows(len(clips), process_index, process_count)
            ]
            return test.read(clips, windows * window), test.labels[clips]

        return Batches(make_batch, len(groups))

    return Dataset(
        train=train_batches,
        test=test_batches,
        train_steps=train_steps,
        input_shape=(window,),
        num_classes=len(train.class_names),
        name=name,
    )


def _groups_of_one_length(counts, batch_size):
    """Clips of as many windows each, and up to a batch of windows in all."""
    groups = []
    for count in np.unique(counts):
        clips = np.flatnonzero(counts == count)
        size = max(1, batch_size // count)
        groups += [
            (clips[start : start + size], int(count))
            for start in range(0, len(clips), size)
        ]
    return vary_early(groups, length=lambda group: group[1])


def vary_early(batches, length):
    """Moves a batch of another length than the first to the second place.

    On TensorFlow, Keras holds sizes that the first two batches of a data set
    have in common for those of all batches.

    Args:
        batches: List of batches, or of what they are made from.
        length: Function from one of them to its length.

    Returns:
        The list.
    """
    for index, batch in enumerate(batches):
        if length(batch) != length(batches[0]):
            batches.insert(1, batches.pop(index))
            break
    return batches


def _warn_of_unseen(train, test):
    """Names classes that are tested without ever having been trained."""
    unseen = np.setdiff1d(test.labels, train.labels)
    if unseen.size:
        logging.warning(
            "%d test clips are of classes without a training clip: %s",
            np.isin(test.labels, unseen).sum(),
            ", ".join(test.class_names[label] for label in unseen),
        )


def throughput(dataset, steps=20):
    """Windows per second that one thread makes into batches.

    Args:
        dataset: A `Dataset`.
        steps: Number of batches to make.
    """
    make_batch = dataset.train(0).make_batch
    windows = len(make_batch(0)[0])  # The first batch takes the draw along.
    steps = min(steps, dataset.train_steps)
    start = time.perf_counter()
    for step in range(steps):
        make_batch(step)
    return steps * windows / (time.perf_counter() - start)
