"""Models that an earlier version saved still load, and give their outputs."""

import pathlib

import keras
import numpy as np
import pytest

import diffstride  # noqa: F401

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["images_0_1", "sounds_0_1"])
def test_models_of_version_0_1(name):
    model = keras.models.load_model(FIXTURES / f"{name}.keras")
    recorded = np.load(FIXTURES / f"{name}.npz")
    np.testing.assert_allclose(
        model(recorded["x"]), recorded["y"], rtol=1e-4, atol=1e-4
    )
