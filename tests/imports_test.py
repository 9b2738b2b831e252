"""What may be imported where: the layers and builders need Keras alone."""

import os
import pathlib
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).parents[1] / "diffstride"
LAYERS_AND_BUILDERS = [
    "spectral",
    "base_pooling",
    "pooling",
    "complexity",
    "cloning",
    "freezing",
    "conversion",
    "resolutions",
    "warping",
    "base_diffres",
    "diffres",
    "frame_pooling",
    "frontend",
    "slot",
    "residual",
    "resnet",
    "efficientnet",
    "densenet",
    "audio_cnn",
    "audio_tagger",
    "spec_augment",
    "average_precision",
]
# With arrays in memory, training under JAX needs no TensorFlow.
WITHOUT_TENSORFLOW = ["callbacks", "trainer", "data.arrays"]

SCRIPT = """
import importlib, sys
blocked = ["tensorflow", "tensorflow_datasets", "tensorboard"]
sys.modules.update(dict.fromkeys(blocked))
import keras, numpy as np  # Keras itself uses absl.
absl = {name: m for name, m in sys.modules.items() if name[:4] == "absl"}
sys.modules.update(dict.fromkeys({*absl, "absl", "gin"}))
layers_and_builders, without_tensorflow = map(str.split, sys.argv[1:])
for name in layers_and_builders:
    importlib.import_module("diffstride." + name)
import diffstride
model = keras.Sequential([
    diffstride.DiffStride(2), keras.layers.GlobalMaxPooling2D()
])
model.compile("sgd", "mse")
model.fit(np.ones((1, 12, 12, 1)), np.ones((1, 1)), verbose=0)
for name in {*absl, "absl", "gin"}:
    del sys.modules[name]
sys.modules.update(absl)
for name in without_tensorflow:
    importlib.import_module("diffstride." + name)
assert not any(sys.modules.get(name) for name in blocked)
print("imported")
"""


def existing(names):
    return [
        name
        for name in names
        if (PACKAGE / (name.replace(".", "/") + ".py")).exists()
    ]


def test_imports_without_what_they_do_not_need():
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            " ".join(existing(LAYERS_AND_BUILDERS)),
            " ".join(existing(WITHOUT_TENSORFLOW)),
        ],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "imported"


def test_the_list_of_layers_and_builders_is_complete():
    # Whoever registers a class with Keras, or builds a model, is among them.
    found = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if "register_keras_serializable" in path.read_text()
        or "keras.Model(" in path.read_text()
    }
    apart = {"schedules", "objectives", "pretrained"}
    assert found - apart <= set(LAYERS_AND_BUILDERS)
