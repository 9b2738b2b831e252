"""Residual convolutions over time."""

import json

import numpy as np
from gradients import random, value

from diffstride.layers.res_conv import ResConv1D


def test_integers_may_have_other_types():
    layer = ResConv1D(np.float32(4), 3.0, name="x")
    config = ResConv1D(4, 3, name="x").get_config()
    assert json.dumps(layer.get_config()) == json.dumps(config)
    assert value(layer, random((2, 9, 5))).shape == (2, 9, 4)
