"""Which examples make an epoch, in which order, and which clips are mixed."""

import dataclasses

import numpy as np


def one_hot(labels, num_classes):
    """Float32 targets `(clips, classes)`, of classes or of sets of tags.

    Args:
        labels: Integer array `(clips,)` of classes, or boolean array `(clips,
            classes)`.
        num_classes: Number of classes.

    Example:

    >>> one_hot(np.array([2, 0]), 3).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if labels.ndim == 2:
        return labels.astype("float32")
    return np.eye(num_classes, dtype="float32")[labels]


def balanced_chances(labels):
    """The chance of each clip to be drawn so that classes are equally frequent.

    As in PSLA, the weight of a class is one over its number of clips, and the
    weight of a clip is the sum over its classes. Clips without a class are not
    drawn.

    Args:
        labels: As for `one_hot`.

    Returns:
        A float64 array `(clips,)` with a sum of one.

    Example:

    >>> balanced_chances(np.array([0, 0, 0, 1])).round(3).tolist()
    [0.167, 0.167, 0.167, 0.5]

    References:
        - Gong et al., [PSLA: improving audio tagging with pretraining,
          sampling, labeling, and aggregation](
          https://arxiv.org/abs/2102.01243), 2021, section III-B.
    """
    if labels.ndim == 2:
        clips, classes = labels.nonzero()
        if not len(clips):
            raise ValueError(
                "`labels` must name a class of at least one clip to balance "
                f"their chances. Received: {len(labels)} clips without any"
            )
        weights = np.bincount(
            clips, 1 / np.bincount(classes)[classes], minlength=len(labels)
        )
    else:
        weights = 1 / np.bincount(labels)[labels]
    return weights / weights.sum()


def draw_clips(generator, count, num_clips, chances=None):
    """Draws clips: all of them in rounds, or each one by chance.

    Args:
        generator: NumPy's random generator.
        count: How many to draw.
        num_clips: How many there are.
        chances: The chance of each, or None for whole rounds.

    Returns:
        An integer array `(count,)`.
    """
    if chances is not None:
        return generator.choice(num_clips, count, p=chances)
    rounds = -(-count // num_clips)
    clips = [generator.permutation(num_clips) for _ in range(rounds)]
    return np.concatenate(clips)[:count]


def shuffle(generator, count, buffer_size=None):
    """Shuffles the numbers from 0 to `count - 1`.

    Args:
        generator: NumPy's random generator.
        count: How many numbers.
        buffer_size: Size of the buffer from which the next example is drawn, as
            in `tf.data.Dataset.shuffle`. An example can move forward by at most
            this many places. Defaults to None: all orders are equally likely.

    Returns:
        An integer array `(count,)`.

    Example:

    >>> shuffle(np.random.default_rng(0), 6, buffer_size=1).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    if buffer_size is None or buffer_size >= count:
        return generator.permutation(count)
    buffer = list(range(buffer_size))
    places = generator.integers(buffer_size, size=count - buffer_size).tolist()
    order = []
    for new, place in enumerate(places, start=buffer_size):
        order.append(buffer[place])
        buffer[place] = new
    # The buffer cannot be filled any more, so its rest comes in a random order.
    return np.concatenate([order, generator.permutation(buffer)])


def check_shuffle_buffer(shuffle_buffer):
    """Checks the argument of that name of a loader."""
    if shuffle_buffer is not None and shuffle_buffer < 1:
        raise ValueError(
            "`shuffle_buffer` must be 1 or more. Received: "
            f"shuffle_buffer={shuffle_buffer}"
        )


def similar_lengths(generator, clips, lengths, batch_size, pool=50):
    """Reorders the clips of an epoch so that batches need little padding.

    Args:
        generator: NumPy's random generator.
        clips: Integer array of the clips in the order they were drawn.
        lengths: The length of every clip there is.
        batch_size: Number of clips in a batch.
        pool: Number of batches whose clips are sorted together.

    Returns:
        The clips in batches of similar length, the batches in random order.
    """
    batches = []
    for start in range(0, len(clips), pool * batch_size):
        part = clips[start : start + pool * batch_size]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches.append(part.reshape(-1, batch_size))
    return generator.permutation(np.concatenate(batches)).reshape(-1)


@dataclasses.dataclass(frozen=True)
class Mixup:
    """The clips that are mixed into those of an epoch (Zhang et al., 2017).

    Args:
        clips: The other clip of each example.
        positions: Where in that clip to begin (see `Clips.read`).
        shares: The share of the example's own clip; 1 where it is not mixed.

    References:
        - Zhang et al., [mixup: beyond empirical risk minimization](
          https://arxiv.org/abs/1710.09412), 2017.
    """

    clips: np.ndarray
    positions: np.ndarray
    shares: np.ndarray

    @classmethod
    def draw(cls, generator, count, num_clips, probability, alpha):
        """Draws for an epoch.

        Args:
            generator: NumPy's random generator.
            count: Number of examples.
            num_clips: Number of clips.
            probability: Chance that an example is mixed.
            alpha: Both parameters of the beta distribution of the shares.
        """
        mixed = generator.random(count) < probability
        shares = generator.beta(alpha, alpha, count)
        return cls(
            generator.integers(num_clips, size=count),
            generator.random(count),
            np.where(mixed, shares, 1).astype("float32"),
        )

    def apply(self, x, y, rows, read):
        """Mixes a batch, waveforms and targets alike.

        Args:
            x: Waveforms `(rows, samples)`.
            y: Targets `(rows, classes)`.
            rows: The numbers of the examples in the epoch.
            read: Function from clips and positions to waveforms and targets.

        Returns:
            The mixed waveforms and targets.
        """
        shares = self.shares[rows]
        (mixed,) = np.nonzero(shares < 1)
        others = rows[mixed]
        other_x, other_y = read(self.clips[others], self.positions[others])
        share = shares[mixed, np.newaxis]
        x[mixed] = share * x[mixed] + (1 - share) * other_x
        y[mixed] = share * y[mixed] + (1 - share) * other_y
        return x, y
