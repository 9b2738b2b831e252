"""Windows of clips to train on, whole clips to test on.

Models are trained on windows of one length. A window begins at a random place
of its clip; a clip that is shorter is followed by zeros. Test batches hold
whole clips. All clips of a test batch have the same number of windows, and the
rest of a clip, which is shorter than a window, is dropped. The model averages
over windows (see `diffstride.models.audio_cnn.SplitWindows`).

A model that takes clips of any length is trained on whole clips, too. A batch
then holds clips of similar length, with zeros up to the length of the longest.
"""

import functools
import time

import numpy as np
from absl import logging

from diffstride.data import sampling
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
    mixup=0.0,
    mixup_alpha=10.0,
    balance=False,
    length_step=8000,
    sample_rate=None,
    process_index=0,
    process_count=1,
):
    """Batches of windows to train on, and of whole clips to test on.

    Args:
        train: The `Clips` to train on.
        test: The `Clips` to test on.
        name: Name of the data set.
        window: Samples in a window, or None for whole clips.
        batch_size: Number of windows in a batch, of all processes together.
        seed: Seed of the order and of the windows.
        train_steps: Batches in an epoch. By default an epoch has one window of
            each clip. With more batches, it goes through the clips several
            times.
        mixup: Chance that a waveform and its label are mixed with those of
            another clip. Labels are one-hot then.
        mixup_alpha: Both parameters of the beta distribution of the shares.
        balance: Whether clips are drawn by chance, those of rare classes more
            often. If not, each clip is drawn once an epoch.
        length_step: Batches of whole clips are padded to a multiple of this
            number of samples, so that there are fewer different lengths.
        sample_rate: Samples per second, which the data set passes on.
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
    is_multi_label = train.labels.ndim == 2
    if len(train.class_names) < 2 and not is_multi_label:
        raise ValueError(
            f"{name} must have two classes or more. "
            f"Found: {list(train.class_names)}"
        )
    for argument, value, holds, rule in [
        ("mixup", mixup, 0 <= mixup <= 1, "lie between 0 and 1"),
        ("mixup_alpha", mixup_alpha, mixup_alpha > 0, "be positive"),
        ("length_step", length_step, length_step > 0, "be positive"),
    ]:
        if not holds:
            raise ValueError(
                f"`{argument}` must {rule}. Received: {argument}={value}"
            )
    if window is not None and window < 1:
        raise ValueError(
            f"A window must last a sample or more. Received: window={window}"
        )
    if train_steps is None:
        most = len(train)
        train_steps = most // max(1, batch_size)
    else:
        most = batch_size  # An epoch may go through the clips several times.
        if train_steps < 1:
            raise ValueError(
                "`train_steps` must be 1 or more. "
                f"Received: train_steps={train_steps}"
            )
    validate_batching(most, batch_size, seed, process_index, process_count)
    logging.info(
        "%s: %d clips of %d classes to train on, %d to test on",
        name,
        len(train),
        len(train.class_names),
        len(test),
    )
    _warn_of_unseen(train, test)
    rows = process_rows(batch_size, process_index, process_count)
    num_classes = len(train.class_names)
    chances = sampling.balanced_chances(train.labels) if balance else None

    @functools.lru_cache(maxsize=2)  # Keep this epoch and the one before it.
    def draw(epoch):
        """The clips of an epoch, the places of their windows, and the mixup."""
        generator = random_generator(seed, epoch)
        count = train_steps * batch_size
        clips = sampling.draw_clips(generator, count, len(train), chances)
        positions = generator.random(count)
        mixed = mixup and sampling.Mixup.draw(
            generator, count, len(train), mixup, mixup_alpha
        )
        if window is None:
            clips = sampling.similar_lengths(
                generator, clips, train.lengths, batch_size
            )
        return clips, positions, mixed

    def targets(clips):
        if mixup or is_multi_label:
            return sampling.one_hot(train.labels[clips], num_classes)
        return train.labels[clips]

    def train_batches(epoch, start_step=0):
        def make_batch(step):
            clips, positions, mixed = draw(epoch)
            length = window
            if window is None:
                batch = clips[step * batch_size : (step + 1) * batch_size]
                length = _batch_length(train.lengths[batch], step, length_step)

            def read(clips, positions):
                x = train.read(clips, length, positions)
                return x, targets(clips)

            drawn = step * batch_size + rows
            x, y = read(clips[drawn], positions[drawn])
            return mixed.apply(x, y, drawn, read) if mixed else (x, y)

        return Batches(make_batch, train_steps, start_step)

    if window is None:
        order = np.argsort(test.lengths, kind="stable")
        groups = [
            (clips, _batch_length(test.lengths[clips], step, length_step))
            for step, clips in enumerate(
                order[start : start + batch_size]
                for start in range(0, len(test), batch_size)
            )
        ]
    else:
        groups = [
            (clips, windows * window)
            for clips, windows in _groups_of_one_length(
                np.maximum(1, test.lengths // window), batch_size
            )
        ]

    shares = [
        (clips[process_rows(len(clips), process_index, process_count)], length)
        for clips, length in groups
    ]

    def test_batches():
        def make_batch(step):
            clips, length = shares[step]
            y = test.labels[clips]
            return test.read(clips, length), (
                y.astype("float32") if y.ndim == 2 else y
            )

        shapes = [(len(clips), length) for clips, length in shares]
        return Batches(make_batch, len(shares), shapes=shapes)

    return Dataset(
        train=train_batches,
        test=test_batches,
        train_steps=train_steps,
        input_shape=(window,),
        num_classes=num_classes,
        name=name,
        class_names=tuple(train.class_names),
        is_multi_label=is_multi_label,
        sample_rate=sample_rate,
    )


def _batch_length(lengths, step, length_step):
    """A length for a batch of whole clips that the batch before does not have.

    On TensorFlow, Keras assumes that a size which the first two batches have in
    common is the size of all batches. Therefore even batches have an even
    number of steps, and odd batches an odd number.
    """
    steps = -(-int(max(lengths)) // length_step)
    return (steps + (steps + step) % 2) * length_step


def _groups_of_one_length(counts, batch_size):
    """Groups of clips of equally many windows, each group at most a batch."""
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

    On TensorFlow, Keras assumes that a size which the first two batches have in
    common is the size of all batches.

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
    """Warns of classes that are tested, but have no training clip."""

    def tags(labels):
        """Clips and classes that belong together."""
        if labels.ndim == 2:
            return labels.nonzero()
        return np.arange(len(labels)), labels

    clips, classes = tags(test.labels)
    is_unseen = ~np.isin(classes, tags(train.labels)[1])
    if is_unseen.any():
        logging.warning(
            "%d test clips are of classes without a training clip: %s",
            len(np.unique(clips[is_unseen])),
            ", ".join(
                test.class_names[label]
                for label in np.unique(classes[is_unseen])
            ),
        )


def throughput(dataset, steps=20):
    """Windows per second that one thread makes into batches.

    Args:
        dataset: A `Dataset`.
        steps: Number of batches to make.
    """
    make_batch = dataset.train(0).make_batch
    # Make the first batch before the clock starts, because it draws the epoch.
    windows = len(make_batch(0)[0])
    steps = min(steps, dataset.train_steps)
    start = time.perf_counter()
    for step in range(steps):
        make_batch(step)
    return steps * windows / (time.perf_counter() - start)
