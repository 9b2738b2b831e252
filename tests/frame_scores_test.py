"""Scores of frames: without padding, and where nothing is learned."""

import gradients
import numpy as np
import pytest
from keras import ops

from diffstride.ops import frame_scores


@pytest.mark.parametrize("fill_up", (True, False))
def test_scores_without_padding(fill_up):
    raw = np.random.default_rng(0).random((3, 40)).astype("float32") ** 4
    lengths, counts = np.array([40, 17, 0]), np.array([10, 5, 0])
    mask = np.arange(40) < lengths[:, None]
    found = gradients.value(
        lambda raw: frame_scores.rescale_scores(raw, counts, fill_up, mask),
        np.where(mask, raw, np.nan).astype("float32"),
    )
    for clip, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        assert not found[clip, length:].any()
        if length:
            alone = gradients.value(
                lambda raw, n=count: frame_scores.rescale_scores(
                    raw, n, fill_up
                ),
                raw[clip : clip + 1, :length],
            )
            np.testing.assert_allclose(
                found[clip, :length], alone[0], atol=1e-6
            )


@pytest.mark.parametrize("reduction_rate", (0, 0.25, 0.3, 0.5, 0.7, 0.9))
def test_frames_of_each_clip_round_as_python_does(reduction_rate):
    """Also on JAX, which has no numbers of 64 bits."""
    counts = np.arange(300, dtype="int32")
    found = gradients.value(
        lambda counts: frame_scores.reduced_frames(counts, reduction_rate, 300),
        counts,
    )
    np.testing.assert_array_equal(
        found,
        [frame_scores.reduced_frames(int(n), reduction_rate) for n in counts],
    )


def reference_dissimilarity(clip):
    scores = []
    for j in range(len(clip)):
        changes = [
            np.sum((clip[j] - clip[i]) ** 2)
            / (2 * np.sum(clip[j] ** 2) + 2 * np.sum(clip[i] ** 2))
            for i in (j - 1, j + 1)
            if 0 <= i < len(clip)
        ]
        scores.append(np.mean(changes) if changes else 0)
    return scores


def test_dissimilarity_of_neighbours():
    x = gradients.random((4, 12, 5))
    lengths = np.array([12, 7, 1, 0])
    mask = np.arange(12) < lengths[:, None]
    found = gradients.value(
        lambda x: frame_scores.dissimilarity(x, mask),
        x,
    )
    for clip, length in enumerate(lengths):
        expected = reference_dissimilarity(x[clip, :length].astype("float64"))
        np.testing.assert_allclose(found[clip, :length], expected, atol=1e-6)
        assert not found[clip, length:].any()
    # The scale of the features does not matter; zeros are equal to zeros.
    np.testing.assert_allclose(
        gradients.value(frame_scores.dissimilarity, 1e3 * x),
        gradients.value(frame_scores.dissimilarity, x),
        atol=1e-6,
    )
    same = gradients.value(frame_scores.dissimilarity, 0 * x)
    np.testing.assert_array_equal(same, 0)
    _, (slope,) = gradients.value_and_gradients(
        frame_scores.dissimilarity, [0 * x], np.ones((4, 12), "float32")
    )
    assert np.isfinite(ops.convert_to_numpy(slope)).all()


def test_dissimilarity_is_the_cosine_between_frames_of_one_norm():
    x = gradients.random((1, 2, 6))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    found = gradients.value(frame_scores.dissimilarity, x)
    cosine = np.sum(x[0, 0] * x[0, 1])
    np.testing.assert_allclose(found, (1 - cosine) / 2, rtol=1e-5)


def test_statistics_leave_padding_out():
    scores = np.random.default_rng(0).random((2, 30)).astype("float32")
    mask = np.arange(30) < np.array([[30], [18]])
    rate = np.array([0.25, 0.3], "float32")
    guide = gradients.value(
        lambda s: frame_scores.guide_loss(s, mask, rate, 0.5), scores
    )
    active = gradients.value(
        lambda s: frame_scores.activeness(s, mask, rate), scores
    )
    excess = np.maximum(scores[1, :18] / 0.3 - 0.5, 0).mean()
    np.testing.assert_allclose(guide[1], excess, rtol=1e-5)
    np.testing.assert_allclose(active[1], scores[1, :18].std() / 0.3, rtol=1e-5)
