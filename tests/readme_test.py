"""The README promises nothing that is not there."""

import pathlib
import re

import keras
import numpy as np
import pytest

import diffstride
from diffstride.models.audio_cnn import audio_cnn

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_files_that_the_readme_names_exist():
    paths = re.findall(r"\b((?:configs|scripts|docs)/[\w./]+\w)", README)
    assert len(paths) > 5
    missing = [path for path in set(paths) if not (ROOT / path).exists()]
    assert missing == []


def test_snippets_run_in_a_model(tmp_path):
    sounds = audio_cnn(2, channels=(2, 2), strides=((2, 2), (2, 2)))
    sounds.save(tmp_path / "model.keras")
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    x = keras.Input((16, 16, 3))
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            diffstride.DiffStride(2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    names = {
        "keras": keras,
        "diffstride": diffstride,
        "model": model,
        "x": x,
        "main": x,
        "shortcut": x,
        "waveform": np.zeros(40000, "float32"),
    }
    data = "np.ones((2, 32, 32, 3)), np.ones((2, 1)), verbose=0"
    for snippet in SNIPPETS:
        snippet = snippet.replace("compile(...", "compile('sgd', 'mse'")
        snippet = snippet.replace("/tmp/own_sounds", str(tmp_path))
        exec(snippet.replace("fit(...", f"fit({data}"), names | {"np": np})


@pytest.mark.parametrize("name", diffstride.__all__)
def test_public_names_are_there(name):
    assert getattr(diffstride, name).__doc__
