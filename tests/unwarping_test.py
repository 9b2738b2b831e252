"""From output frames back to frames, and to times."""

import gradients
import numpy as np
import pytest
from keras import ops

from diffstride.ops import frame_scores, unwarping, warping

FRAMES, OUTPUTS = 30, 9


def warp_of(scores, counts=OUTPUTS, mask=None):
    scores = frame_scores.rescale_scores(scores, counts, mask=mask)
    return warping.warp(scores, counts)


def random_scores(batch=3):
    scores = np.random.default_rng(0).random((batch, FRAMES)) ** 4
    return scores.astype("float32")


def test_transposed_is_the_adjoint():
    scores = random_scores()
    x = gradients.random((3, FRAMES, 4))
    y = gradients.random((3, OUTPUTS, 4), seed=1)

    def function(scores, x, y):
        warp = warp_of(scores)
        there = warping.weighted_mean(x, warp, OUTPUTS)
        return ops.stack(
            [ops.sum(there * y), ops.sum(x * unwarping.transposed(y, warp))]
        )

    there, back = gradients.value(function, scores, x, y)
    np.testing.assert_allclose(there, back, rtol=1e-5)
    # And so is its gradient: that of the mean is the transposed product.
    _, (found,) = gradients.value_and_gradients(
        lambda x: warping.weighted_mean(x, warp_of(scores), OUTPUTS), [x], y
    )
    expected = gradients.value(
        lambda y: unwarping.transposed(y, warp_of(scores)), y
    )
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-6)


def test_predictions_keep_their_scale():
    y = gradients.random((3, OUTPUTS, 4))

    def function(scores, y):
        warp = warp_of(scores)
        return ops.concatenate(
            [
                unwarping.to_frames(y, warp),
                unwarping.transposed(y, warp),
                (warp.first + warp.second)[..., None],
            ],
            axis=-1,
        )

    values = gradients.value(function, random_scores(), y)
    found, product, scores = np.split(values, [4, 8], axis=-1)
    heard = scores[..., 0] > 1e-3
    expected = (product / np.maximum(scores, 1e-9))[heard]
    np.testing.assert_allclose(found[heard], expected, atol=1e-3)
    # Frames without a score lie inside of an output frame all the same.
    silent = np.zeros((1, FRAMES), "float32")
    silent[0, ::10] = 1
    found = gradients.value(
        lambda s: unwarping.to_frames(
            np.arange(3.0)[None, :, None], warp_of(s, 3)
        ),
        silent,
    )
    assert found.min() >= 0 and found.max() <= 2
    assert np.all(np.diff(found[0, :, 0]) >= -1e-5)


def reference_edges(scores, outputs):
    """Where the running sum of the scores crosses whole numbers."""
    ends = np.concatenate([[0], np.cumsum(scores.astype("float64"))])
    inner = np.interp(np.arange(1, outputs), ends, np.arange(len(ends)))
    return np.concatenate([[0], inner, [len(scores)]])


def test_edges():
    scores = random_scores()

    def function(scores):
        warp = warp_of(scores)
        return unwarping.edges(warp, OUTPUTS)

    found = gradients.value(function, scores)
    rescaled = gradients.value(
        lambda s: frame_scores.rescale_scores(s, OUTPUTS), scores
    )
    expected = [reference_edges(clip, OUTPUTS) for clip in rescaled]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_clips_of_several_lengths():
    """Each as it is alone; what a clip has not lasts no time."""
    lengths, counts = np.array([30, 13, 0]), np.array([9, 4, 0])
    scores = random_scores()
    mask = np.arange(FRAMES) < lengths[:, None]
    found = gradients.value(
        lambda s: unwarping.edges(warp_of(s, counts, mask), OUTPUTS, mask),
        scores,
    )
    for clip, (length, count) in enumerate(zip([30, 13], [9, 4], strict=True)):
        alone = gradients.value(
            lambda s, count=count: unwarping.edges(warp_of(s, count), count),
            scores[clip : clip + 1, :length],
        )
        np.testing.assert_allclose(
            found[clip, : count + 1], alone[0], atol=1e-4
        )
        np.testing.assert_array_equal(found[clip, count:], length)
    np.testing.assert_array_equal(found[2], 0)


@pytest.mark.parametrize("split", (True, False))
def test_a_warp_as_one_tensor(split):
    def function(scores):
        scores = frame_scores.rescale_scores(scores, OUTPUTS)
        warp = warping.warp(scores, OUTPUTS, split=split)
        back = warping.from_tensor(warping.as_tensor(warp))
        return ops.stack(
            [
                warping.warp_matrix(warp, OUTPUTS),
                warping.warp_matrix(back, OUTPUTS),
            ]
        )

    one, other = gradients.value(function, random_scores())
    np.testing.assert_array_equal(one, other)
