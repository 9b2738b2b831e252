"""Layers that a builder makes of its arguments."""

import keras
import pytest

from diffstride import LEAF, PCEN, AvgPool, LogMelSpectrogram
from diffstride.layers.frame_pooling import all_frames
from diffstride.models.layer_argument import (
    make_frame_reduction,
    make_frontend,
)


def test_a_front_end_is_one_layer_or_several():
    (layer,) = make_frontend(LEAF)
    assert isinstance(layer, LEAF) and layer.name == "frontend"
    mel = LogMelSpectrogram(log_offset=None, name="mel")
    for several in ([mel, PCEN], (mel, PCEN)):
        layers = make_frontend(several)
        assert layers[0] is mel
        assert isinstance(layers[1], PCEN) and layers[1].name == "frontend_2"
    with pytest.raises(ValueError, match="`frontend` must have one layer"):
        make_frontend([])
    with pytest.raises(TypeError, match="`frontend_2` must be a Keras layer"):
        make_frontend([mel, 3])


def test_frames_are_merged_on_the_scale_of_the_front_end():
    for log_scale in (True, False):
        layer = make_frame_reduction(AvgPool, log_scale, reduction_rate=0.5)
        assert layer.log_scale is log_scale
        assert layer.reduction_rate == 0.5
        assert layer.name == "frame_reduction"
        # A layer without a scale is not told.
        layer = make_frame_reduction(all_frames, log_scale, reduction_rate=0.5)
        assert isinstance(layer, keras.layers.Identity)
    made = AvgPool(0.5, log_scale=False)
    assert make_frame_reduction(made, log_scale=False) is made
    with pytest.raises(
        ValueError, match="must have `log_scale=False`.*Received"
    ):
        make_frame_reduction(AvgPool(0.5), log_scale=False)
