"""DiffRes with scores that are not learned, or by a layer of one's own."""

import gradients
import keras
import numpy as np
import pytest
from keras import ops

from diffstride.layers.diffres import AvgPool, DiffRes
from diffstride.ops import frame_scores


@keras.saving.register_keras_serializable("frame_scorers_test")
def loudness(x):
    return ops.sigmoid(ops.mean(x, axis=2))


def scores_of(layer, x):
    return gradients.value(lambda x: layer.analyze(x)["scores"], x)


def test_a_scorer_without_parameters():
    x = gradients.random((2, 40, 8))
    # A stretch in which nothing happens.
    x[:, 10:30] = x[:, 10:11]
    layer = DiffRes(0.5, log_scale=False, scorer="dissimilarity")
    scores = scores_of(layer, x)
    assert not layer.trainable_weights
    assert scores[:, 11:29].mean() < 0.3 < 0.6 < scores[:, :10].mean()
    # Where all frames are alike, it is average pooling.
    same = np.repeat(x[:, :1], 40, axis=1)
    np.testing.assert_allclose(
        gradients.value(layer, same)[..., 0],
        gradients.value(AvgPool(0.5, log_scale=False), same)[..., 0],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "scorer", (loudness, keras.layers.Dense(1, "sigmoid", name="scorer"))
)
def test_a_scorer_of_ones_own(scorer, tmp_path):
    x = gradients.random((2, 40, 8))
    layer = DiffRes(0.5, scorer=scorer)
    model = keras.Sequential([keras.Input((40, 8)), layer])
    expected = np.reshape(ops.convert_to_numpy(scorer(x)), (2, 40))
    expected = ops.convert_to_numpy(frame_scores.rescale_scores(expected, 20))
    np.testing.assert_allclose(scores_of(layer, x), expected, atol=1e-5)
    is_layer = isinstance(scorer, keras.layers.Layer)
    assert len(layer.trainable_weights) == (2 if is_layer else 0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        gradients.value(loaded, x), gradients.value(model, x), atol=1e-6
    )


@pytest.mark.parametrize(
    "scorer", (lambda x: x, lambda x: x[:, 1:, 0], lambda x: x[..., :1, None])
)
def test_scores_of_a_wrong_shape(scorer):
    layer = DiffRes(0.5, scorer=scorer)
    with pytest.raises(ValueError, match=r"`scorer` must return .* \(2, 40\)"):
        layer(gradients.random((2, 40, 8)))
