"""README and documentation promise nothing that is not there."""

import pathlib
import re

import keras
import numpy as np
import pytest

import diffstride
from diffstride.models.audio_cnn import audio_cnn

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[1]
PATHS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in PATHS}


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    text = PAGES[page]
    folders = "configs|scripts|docs|diffstride|tests"
    names = re.findall(rf"(?<![/\w])((?:{folders})/[\w./]*\w)(?![\w*])", text)
    paths = {ROOT / name for name in names if "NAME" not in name}
    paths |= {
        ROOT / "configs" / "sweeps" / name
        for name in re.findall(r"`(study_\w+\.toml)`", text)
    }
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", text)
    paths |= {(ROOT / page).parent / link for link in links}
    assert sorted(str(path) for path in paths if not path.exists()) == []


@pytest.mark.parametrize(
    "page",
    [
        # It has four networks of Keras.
        pytest.param(name, marks=pytest.mark.slow)
        if name == "docs/guides/any_model.md"
        else name
        for name in PAGES
        if name.startswith(("README", "docs/guides"))
        and "```python" in PAGES[name]
    ],
)
@pytest.mark.filterwarnings("ignore:Model doesn't support")
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sounds = audio_cnn(2, channels=(2, 2), strides=((2, 2), (2, 2)))
    sounds.save(tmp_path / "model.keras")
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            diffstride.DiffStride(2),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    tensor = keras.Input((16, 16, 3))
    names = {
        "np": np,
        "keras": keras,
        "diffstride": diffstride,
        "images": np.ones((2, 96, 96, 3)),
        "y": np.ones((2, 1)),
    }
    for snippet in re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL):
        snippet = snippet.replace("compile(...", "compile('sgd', 'mse'")
        snippet = snippet.replace("fit(...", "fit(x, y, verbose=0")
        snippet = snippet.replace("epochs=10", "epochs=1")
        snippet = snippet.replace("/tmp/own_sounds", str(tmp_path))
        # Exports have tests of their own.
        snippet = re.sub(r"\w+\.export\(.*\)", "", snippet)
        x = np.ones((2, 32, 32, 3)) if "fit(" in snippet else tensor
        own = {"model": model, "x": x, "main": tensor, "shortcut": tensor}
        own["skip"] = tensor
        exec(snippet, names | own)


def test_snippets_of_the_page_on_sounds_import_what_they_use():
    page = PAGES["docs/guides/sounds.md"]
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        used = set(re.findall(r"\b(keras|np)\.", snippet))
        imported = set(re.findall(r"(?:import|as) (\w+)", snippet))
        assert used <= imported, snippet


@pytest.mark.parametrize("name", diffstride.__all__)
def test_public_names_have_docstrings(name):
    assert getattr(diffstride, name).__doc__


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 200
