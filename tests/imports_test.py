"""What may import what, as rules over folders."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "diffstride"

# Each folder may import those named here, and itself. `experiments` reads what
# runs left behind, and stands apart.
MAY_IMPORT = {
    "ops": set(),
    "layers": {"ops"},
    "models": {"ops", "layers"},
    "analysis": {"ops", "layers", "models"},
    "surgery": {"ops", "layers", "models", "analysis"},
    "data": {"ops", "layers"},
    "training": {"ops", "layers", "models", "analysis", "surgery", "data"},
    "experiments": {"analysis"},
    "bindings": {"training", "examples"},
    # Paths of the 2022 release: its binary is that of today.
    "examples": {"data", "training", "train"},
}
# Anybody may use these: they import nothing of the package.
SHARED = {"configs", "types", "validation"}
# Users of a layer or a model have Keras, and perhaps nothing else.
KERAS_ALONE = ("ops", "layers", "models", "analysis", "surgery")
HEAVY = {"gin", "absl", "tensorflow", "tensorflow_datasets", "jax", "torch"}


def imported(path):
    """Modules that a file imports, at its top or inside of functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "diffstride":
                yield from (f"diffstride.{a.name}" for a in node.names)


def files(folder):
    return sorted((PACKAGE / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder):
    allowed = MAY_IMPORT[folder] | SHARED | {folder}
    for path in files(folder):
        for name in imported(path):
            first, _, rest = name.partition(".")
            if first == "diffstride" and rest:
                assert rest.split(".")[0] in allowed, f"{path}: {name}"


def test_every_folder_has_a_rule():
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders == set(MAY_IMPORT)


@pytest.mark.parametrize("folder", KERAS_ALONE)
def test_layers_and_models_need_keras_alone(folder):
    for path in files(folder):
        names = {name.split(".")[0] for name in imported(path)}
        assert not names & HEAVY, path


def test_few_modules_know_gin():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "gin" in {name.split(".")[0] for name in imported(path)}
    }
    assert users == {
        "bindings/configuration.py",
        "bindings/reading.py",
        "configurables.py",
    }


def test_a_module_has_one_idea():
    lengths = {
        path.name: len(path.read_text().splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {n: lines for n, lines in lengths.items() if lines > 400} == {}


def test_one_module_knows_the_private_parts_of_models():
    private = ("._flatten_layers(", "._nodes_by_depth", "._keras_history")
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(f"{name}" in path.read_text() for name in private)
    }
    assert users == {"analysis/keras_graph.py"}


TRAINING = """
import sys
for name in ["tensorflow", "tensorflow_datasets", "tensorboard"]:
    sys.modules[name] = None
import diffstride, keras, numpy as np
import diffstride.training.trainer, diffstride.data.arrays
model = keras.Sequential([
    diffstride.DiffStride(2), keras.layers.GlobalMaxPooling2D()
])
model.compile("sgd", "mse")
model.fit(np.ones((1, 12, 12, 1)), np.ones((1, 1)), verbose=0)
print("trained")
"""


def test_training_under_jax_needs_no_tensorflow():
    result = subprocess.run(
        [sys.executable, "-c", TRAINING],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "trained"


def test_an_unknown_keras_is_warned_about():
    program = (
        "import warnings, keras; keras.version = lambda: '4.0.0';"
        "warnings.simplefilter('error', UserWarning); import diffstride"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert "Installed: Keras 4.0.0" in result.stderr
