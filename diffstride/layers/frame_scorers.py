"""Where DiffRes' scores come from: a network, or the frames themselves."""

from collections.abc import Mapping

import keras
from keras import ops

from diffstride.layers.frame_reduction import fits
from diffstride.layers.res_conv import ResConv1D, build_all
from diffstride.ops import frame_scores
from diffstride.validation import is_number

SCORERS = ("learned", "dissimilarity")


def check_scorer(scorer):
    """The argument `scorer` of `DiffRes`, or what its config describes."""
    if isinstance(scorer, Mapping):
        scorer = keras.saving.deserialize_keras_object(dict(scorer))
    is_name = isinstance(scorer, str) and scorer in SCORERS
    if is_name or (callable(scorer) and not isinstance(scorer, type)):
        return scorer
    raise ValueError(
        f"`scorer` must be one of {SCORERS}, a layer or a function, no class. "
        f"Received: scorer={scorer!r}"
    )


def check_score_threshold(value):
    if value is None or (is_number(value) and 0 <= value < 1):
        return value
    raise ValueError(
        "`score_threshold` must be None or a number of 0 or more, below 1. "
        f"Received: score_threshold={value}"
    )


def scorer_config(scorer):
    if isinstance(scorer, str):
        return scorer
    return keras.saving.serialize_keras_object(scorer)


def scoring_network(scorer, input_shape, kernel_size, dtype):
    """The blocks of the learned scorer, built; none for another scorer.

    A layer that scores is built too.
    """
    if scorer == "learned":
        widths = [max(input_shape[2] // 2**block, 1) for block in range(1, 5)]
        network = [
            ResConv1D(width, kernel_size, dtype=dtype) for width in (*widths, 1)
        ]
        build_all(network, input_shape)
        return network
    if isinstance(scorer, keras.layers.Layer) and not scorer.built:
        scorer.build(input_shape)
    return []


def importance(scorer, network, clips, training):
    """Eq. 3: the importance of each frame, between zero and one."""
    x, mask = clips.spectrogram, clips.mask
    if x.shape[0] == 0:
        # TensorFlow has no convolution of no clips.
        return ops.zeros(ops.shape(x)[:2])
    if scorer == "dissimilarity":
        return frame_scores.dissimilarity(x, mask)
    if scorer == "learned":
        for block in network:
            x = block(x, training=training, mask=mask)
        return ops.sigmoid(ops.cast(x[..., 0], "float32"))
    scores = ops.cast(scorer(x), "float32")
    sizes = tuple(x.shape[:2])
    if not (fits(scores.shape, sizes) or fits(scores.shape, (*sizes, 1))):
        raise ValueError(
            "`scorer` must return one score for each frame, of shape "
            f"{sizes} or {(*sizes, 1)}. Received: scores of shape "
            f"{tuple(scores.shape)} from scorer={scorer!r}"
        )
    if len(scores.shape) == 3:
        scores = ops.squeeze(scores, axis=2)
    return ops.clip(scores, 0.0, 1.0)
