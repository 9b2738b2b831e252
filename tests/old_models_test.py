"""Models that an earlier version saved still load, and give their outputs."""

import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest

import diffstride  # noqa: F401
from diffstride.analysis.learned_layers import learned_layers

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


# Outputs that have rightly changed since: the maximum of DiffRes, the second
# channel of the sounds, is that of the paper's Eq. 6 now.
UNCHANGED = {"images_0_1": slice(None), "sounds_0_1": [0, 2]}
# The size that `ramp="inside"` leaves at a stride of 1.5 has rightly changed.
# So the images were recorded with all strides set to 2, by the code
# before that change.
OUTPUTS = {"images_0_1": "strides_of_two", "sounds_0_1": "y"}


def skip_files_of_newer_keras(path):
    """Keras writes arguments that an older Keras does not know."""
    metadata = json.loads(zipfile.ZipFile(path).read("metadata.json"))

    def minor(version):
        return tuple(map(int, version.split(".")[:2]))

    if minor(metadata["keras_version"]) > minor(keras.version()):
        pytest.skip("The file was written by a newer Keras.")


@pytest.mark.parametrize("name", UNCHANGED)
def test_models_of_version_0_1(name):
    path = FIXTURES / f"{name}.keras"
    skip_files_of_newer_keras(path)
    model = keras.models.load_model(path)
    recorded = np.load(FIXTURES / f"{name}.npz")
    channels = UNCHANGED[name]
    for layer in learned_layers(model):
        layer.strides.assign(np.full(layer.strides.shape, 2.0))
        layer.refresh_sizes()
    outputs = keras.ops.convert_to_numpy(model(recorded["x"]))
    np.testing.assert_allclose(
        outputs[..., channels],
        recorded[OUTPUTS[name]][..., channels],
        rtol=1e-4,
        atol=1e-4,
    )
