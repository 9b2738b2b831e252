"""DiffRes' warp against the literal algorithm of the paper, and its properties.

The references are written in NumPy and plain Python, in 64 bits or in whole
numbers, from the text of the paper alone.
"""

import collections

import gradients
import keras
import numpy as np
import pytest
from keras import ops

from diffstride.ops import frame_scores, warping

# Whole units that make up a score of one in the sequential reference.
ONE = 2**24


def values(function, *arguments):
    """A tuple of tensors as arrays; one compilation on JAX."""
    if keras.backend.backend() == "jax":
        import jax

        function = jax.jit(function)
    return gradients.to_numpy(function(*arguments))


def raw_scores(kind, frames, seed=0):
    """Scores as a network may give them, (frames,)."""
    rng = np.random.default_rng(seed)
    scores = {
        "random": rng.random(frames),
        "spiky": rng.random(frames) ** 30,
        "one loud frame": np.eye(1, frames, frames // 3)[0],
        "constant": np.full(frames, 0.37),
        "silent": np.zeros(frames),
        "runs of zero": np.repeat(rng.random(frames // 5 + 1) > 0.5, 5)[:frames]
        * rng.random(frames),
    }
    return scores[kind].astype("float32")


KINDS = (
    "random",
    "spiky",
    "one loud frame",
    "constant",
    "silent",
    "runs of zero",
)


def rescaled(scores, output_frames, fill_up=True):
    """Section 2.2.1, and what is missing handed out by what each lacks."""
    scores = np.asarray(scores, "float64") + 1e-7
    scores = scores / scores.sum() * output_frames
    scores = scores / max(scores.max(), 1)
    if fill_up and scores.sum() < output_frames:
        missing = output_frames - scores.sum()
        scores = scores + missing * (1 - scores) / (1 - scores).sum()
    return scores


def in_units(scores, output_frames):
    """Scores as whole units that sum to `output_frames * ONE`."""
    units = np.round(np.asarray(scores, "float64") * ONE).astype("int64")
    missing = output_frames * ONE - units.sum()
    adjustable = np.flatnonzero((units > 0) & (units < ONE - 100))
    if missing:
        share = np.linspace(0, missing, adjustable.size + 1).round()
        units[adjustable] += np.diff(share).astype("int64")
    assert units.sum() == output_frames * ONE
    assert units.min() >= 0 and units.max() <= ONE
    return [int(unit) for unit in units]


def equation_5(scores, one):
    """Each frame goes where its cumulative sum ends, with its whole score."""
    matrix = collections.defaultdict(int)
    total = 0
    for j, score in enumerate(scores):
        total += score
        if score:
            matrix[-(-total // one) - 1, j] = score
    return matrix


def algorithm_1(matrix, output_frames, frames, one):
    """The listing of appendix A.4, line by line, with indices from zero."""
    i = j = s = 0
    while i < output_frames - 1 and j < frames:
        if matrix[i, j] > 0:
            s += matrix[i, j]
            j += 1
        else:
            matrix[i, j] = one - s
            matrix[i + 1, j] -= matrix[i, j]
            i += 1
            s = 0
    return matrix


def entries(warp, clip):
    """The entries of the warp of one clip, as the references hold them."""
    matrix = collections.defaultdict(float)
    rows, first, second = (part[clip].tolist() for part in warp)
    for j, row in enumerate(rows):
        matrix[row, j] += first[j]
        matrix[row + 1, j] += second[j]
    return matrix


def largest_difference(found, reference):
    return max(
        abs(found.get(index, 0.0) - reference.get(index, 0) / ONE)
        for index in set(found) | set(reference)
    )


SIZES = (
    (1, 1),
    (7, 7),
    (20, 19),
    (301, 97),
    (10_000, 2_500),
    (10_000, 9_000),
    (10_000, 9_999),
)


@pytest.mark.parametrize("frames,output_frames", SIZES)
def test_warp_is_algorithm_1(frames, output_frames):
    units = [
        in_units(
            rescaled(raw_scores(kind, frames), output_frames), output_frames
        )
        for kind in KINDS
    ]
    scores = (np.array(units, "float64") / ONE).astype("float32")
    unsplit, split = (
        values(
            lambda s, split=split: warping.warp(s, output_frames, split=split),
            scores,
        )
        for split in (False, True)
    )
    for clip, kind in enumerate(KINDS):
        reference = equation_5(units[clip], ONE)
        found = entries(unsplit, clip)
        assert largest_difference(found, reference) < 1e-6, kind
        reference = algorithm_1(reference, output_frames, frames, ONE)
        found = entries(split, clip)
        assert largest_difference(found, reference) < 1e-6, kind


@pytest.mark.parametrize("frames,output_frames", SIZES)
def test_rows_sum_to_one_and_columns_to_scores(frames, output_frames):
    def run(raw):
        scores = frame_scores.rescale_scores(raw, output_frames)
        return scores, *warping.warp(scores, output_frames)

    raw = np.stack([raw_scores(kind, frames) for kind in KINDS])
    scores, rows, first, second = values(run, raw)
    np.testing.assert_allclose(first + second, scores, atol=1e-6)
    assert min(first.min(), second.min()) >= 0
    assert np.all(np.diff(rows) >= 0)
    for clip in range(len(KINDS)):
        sums = np.zeros(output_frames + 2, "float64")
        np.add.at(sums, rows[clip], first[clip].astype("float64"))
        np.add.at(sums, rows[clip] + 1, second[clip].astype("float64"))
        np.testing.assert_allclose(sums[:output_frames], 1, atol=1e-6)
        np.testing.assert_allclose(sums[output_frames:], 0, atol=1e-6)


@pytest.mark.parametrize("fill_up", (True, False))
def test_rescaled_scores(fill_up):
    raw = np.stack([raw_scores(kind, 200) for kind in KINDS])
    found = gradients.value(
        lambda raw: frame_scores.rescale_scores(raw, 60, fill_up), raw
    )
    expected = [rescaled(clip, 60, fill_up) for clip in raw]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert found.max() <= 1
    if fill_up:
        np.testing.assert_allclose(found.sum(axis=1), 60, rtol=1e-6)
    else:
        assert np.all(found.sum(axis=1) <= 60 * (1 + 1e-6))
    for clip, scores in zip(raw, found, strict=True):
        assert np.all(np.diff(scores[np.argsort(clip, kind="stable")]) >= 0)


def test_fewer_frames_than_output_frames():
    raw = ops.convert_to_tensor(raw_scores("random", 5)[None])
    scores = frame_scores.rescale_scores(raw, 8)
    np.testing.assert_array_equal(ops.convert_to_numpy(scores), np.ones((1, 5)))
    matrix = warping.warp_matrix(warping.warp(scores, 8), 8)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(matrix)[0], np.eye(8, 5, dtype="float32")
    )


def test_scores_that_are_not_filled_up_leave_the_last_rows_empty():
    scores = ops.convert_to_tensor(np.full((1, 12), 0.25, "float32"))
    warp = warping.warp(scores, 5, filled=False)
    rows = ops.convert_to_numpy(warping.warp_matrix(warp, 5))[0].sum(axis=1)
    np.testing.assert_allclose(rows, [1, 1, 1, 0, 0], atol=1e-7)
    features = ops.convert_to_tensor(np.full((1, 12, 2), 3.0, "float32"))
    highest = warping.weighted_max(features, warp, 5)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(highest)[0, :, 0], [0.75, 0.75, 0.75, 0, 0]
    )


def aggregate(raw, x):
    scores = frame_scores.rescale_scores(raw, 13)
    warp = warping.warp(scores, 13)
    return (
        scores,
        warping.warp_matrix(warp, 13),
        warping.weighted_mean(x, warp, 13),
        warping.weighted_mean(x[:1], warp, 13),
        warping.weighted_max(x, warp, 13),
    )


def test_aggregations_are_those_of_the_matrix():
    raw = np.stack([raw_scores("random", 40, clip) for clip in range(3)])
    x = gradients.random((3, 40, 6))
    scores, matrix, mean, shared, highest = values(aggregate, raw, x)
    np.testing.assert_allclose(mean, matrix @ x, atol=1e-5)
    # One input for all clips, as the positional encoding.
    np.testing.assert_allclose(shared, matrix @ x[0], atol=1e-5)
    # Eq. 6 as it is written: zeros of the matrix and all.
    expected = (matrix[..., None] * x[:, None]).max(axis=2)
    np.testing.assert_allclose(highest, expected, atol=1e-6)


@pytest.mark.parametrize("frames,output_frames", ((1000, 250), (97, 90)))
@pytest.mark.parametrize("kind", KINDS)
def test_maximum_is_equation_6(kind, frames, output_frames):
    """From the scores to the maxima, against 64 bits and a dense matrix."""
    raw = raw_scores(kind, frames)
    x = np.random.default_rng(1).lognormal(-4, 2, (frames, 5))

    def function(raw, x):
        scores = frame_scores.rescale_scores(raw, output_frames)
        warp = warping.warp(scores, output_frames)
        return warping.weighted_max(x, warp, output_frames)

    found = gradients.value(function, raw[None], x[None].astype("float32"))
    _, expected = reference_aggregate(raw, x, output_frames)
    difference = np.linalg.norm(found[0] - expected)
    # 8e-6 on a GPU, which adds up in another order.
    assert difference < 1e-5 * np.linalg.norm(expected)


def test_batch_members_are_independent():
    raw = np.stack([raw_scores("random", 40, clip) for clip in range(3)])
    x = gradients.random((3, 40, 6))
    before = values(aggregate, raw, x)
    raw[1] = raw_scores("one loud frame", 40)
    x[1] = 1e30
    after = values(aggregate, raw, x)
    for one, other in zip(before, after, strict=True):
        # A GPU adds up in an order that changes.
        np.testing.assert_allclose(
            one[[0, 2]], other[[0, 2]], rtol=1e-6, atol=1e-6
        )


def reference_aggregate(raw, x, output_frames):
    """Mean and maximum through the matrix, one clip, in 64 bits."""
    scores = rescaled(raw, output_frames)
    ends = np.cumsum(scores)
    starts = ends - scores
    i = np.arange(output_frames)[:, None]
    overlap = np.minimum(ends, i + 1) - np.maximum(starts, i)
    matrix = np.maximum(overlap, 0)
    highest = (matrix[..., None] * x).max(axis=1)
    return np.stack([matrix @ x, highest])


@pytest.mark.parametrize("kind", ("random", "spiky", "runs of zero"))
def test_gradients_by_central_differences(kind):
    frames, output_frames = 24, 7
    raw = raw_scores(kind, frames).astype("float64")
    x = np.random.default_rng(1).uniform(0.5, 2, size=(frames, 3))
    upstream = np.random.default_rng(2).normal(size=(2, output_frames, 3))

    def function(raw, x):
        scores = frame_scores.rescale_scores(raw, output_frames)
        warp = warping.warp(scores, output_frames)
        mean = warping.weighted_mean(x, warp, output_frames)
        highest = warping.weighted_max(x, warp, output_frames)
        return ops.stack([mean[0], highest[0]])

    value, found = gradients.value_and_gradients(
        function,
        [raw[None].astype("float32"), x[None].astype("float32")],
        upstream.astype("float32"),
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(value),
        reference_aggregate(raw, x, output_frames),
        atol=1e-5,
    )

    def central(index, step=1e-6):
        arguments = [raw, x]

        def moved(sign):
            copies = [argument.copy() for argument in arguments]
            copies[index[0]][index[1:]] += sign * step
            return reference_aggregate(*copies, output_frames)

        return np.sum(upstream * (moved(1) - moved(-1))) / (2 * step)

    for argument, gradient in enumerate(gradients.to_numpy(found)):
        expected = np.array(
            [central((argument, *i)) for i in np.ndindex(gradient[0].shape)]
        )
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            gradient[0].ravel() / scale, expected / scale, atol=2e-4
        )


def test_frames_that_share_a_maximum_share_its_gradient():
    scores = ops.convert_to_tensor(np.full((1, 8), 0.25, "float32"))
    x = np.ones((1, 8, 1), "float32")
    x[0, 5] = 3

    def function(x):
        return warping.weighted_max(x, warping.warp(scores, 2), 2)

    _, (found,) = gradients.value_and_gradients(
        function, [x], np.ones((1, 2, 1), "float32")
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(found)[0, :, 0],
        [1 / 16, 1 / 16, 1 / 16, 1 / 16, 0, 1 / 4, 0, 0],
    )


@pytest.mark.parametrize("frames,output_frames", ((1, 1), (9, 9), (9, 2)))
def test_values_and_gradients_are_finite(frames, output_frames):
    def function(raw, x):
        scores = frame_scores.rescale_scores(raw, output_frames)
        warp = warping.warp(scores, output_frames)
        return warping.weighted_mean(
            x, warp, output_frames
        ) + warping.weighted_max(x, warp, output_frames)

    raw = np.stack([raw_scores(kind, frames) for kind in KINDS])
    value, found = gradients.value_and_gradients(
        function,
        [raw, np.zeros((len(KINDS), frames, 2), "float32")],
        np.ones((len(KINDS), output_frames, 2), "float32"),
    )
    for tensor in (value, *found):
        assert np.isfinite(ops.convert_to_numpy(tensor)).all()


def test_statistics_of_scores():
    rng = np.random.default_rng(0)
    scores = rng.random((3, 50)).astype("float32")
    x = rng.random((3, 50, 8)).astype("float32")
    x[:, ::3] *= 1e-5
    x[1] = 0
    x[2] = 1
    energy = ops.convert_to_numpy(
        frame_scores.frame_energy(ops.convert_to_tensor(x))
    )
    np.testing.assert_allclose(energy, np.sqrt((x**2).mean(axis=-1)), rtol=1e-6)

    empty = energy < 1e-4
    guide = gradients.value(
        lambda s, e: frame_scores.guide_loss(s, e, 0.25, 0.5), scores, empty
    )
    active = gradients.value(
        lambda s, e: frame_scores.activeness(s, e, 0.25), scores, ~empty
    )
    excess = np.maximum(scores / 0.25 - 0.5, 0)
    np.testing.assert_allclose(
        guide, [excess[0, empty[0]].mean(), excess[1].mean(), 0], rtol=1e-5
    )
    np.testing.assert_allclose(
        active,
        [scores[0, ~empty[0]].std() / 0.25, 0, scores[2].std() / 0.25],
        rtol=1e-5,
    )


def test_sinusoidal_encoding():
    found = warping.sinusoidal_encoding(50, 7)
    for position in (0, 1, 49):
        for channel in range(7):
            angle = position / 10_000 ** (channel // 2 * 2 / 7)
            wave = (np.sin, np.cos)[channel % 2]
            expected = wave(angle)
            np.testing.assert_allclose(
                found[position, channel], expected, atol=1e-6
            )


def test_reduced_frames():
    assert frame_scores.reduced_frames(1000, 0.9) == 100
    assert frame_scores.reduced_frames(10, 0.9) == 1
    assert frame_scores.reduced_frames(1, 0.9) == 1
    assert frame_scores.reduced_frames(98, 0.75) == 24
    assert frame_scores.reduced_frames(100, 0) == 100
    assert frame_scores.reduced_frames(None, 0.5) is None


@pytest.mark.tensorflow
@pytest.mark.parametrize("reduction_rate", (0, 0.25, 0.3, 0.5, 0.7, 0.9))
def test_unknown_number_of_frames(reduction_rate):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def run(x):
        frames = tf.shape(x)[0]
        return (
            frame_scores.reduced_frames(frames, reduction_rate),
            warping.sinusoidal_encoding(frames, 5),
        )

    for frames in (*range(1, 60), 10_000):
        kept, encoding = run(np.zeros(frames, "float32"))
        assert int(kept) == frame_scores.reduced_frames(frames, reduction_rate)
    np.testing.assert_allclose(
        encoding, warping.sinusoidal_encoding(10_000, 5), atol=1e-6
    )


def test_running_sums_are_exact():
    scores = raw_scores("random", 10_000)
    whole, fraction = gradients.value(
        lambda s: ops.stack(warping.cumulative_scores(s)), scores[None]
    )
    assert np.all((0 <= fraction) & (fraction < 1))
    sums = whole[0].astype("float64") + fraction[0]
    np.testing.assert_allclose(
        sums, np.cumsum(scores.astype("float64")), atol=1e-5
    )
    # What the plain sum is off by.
    plain = np.cumsum(scores)
    assert np.abs(plain - np.cumsum(scores.astype("float64"))).max() > 1e-4
