"""Runs the examples of the docstrings."""

import doctest
import importlib
import pathlib

import keras
import numpy as np
import pytest

import diffstride

PACKAGE = pathlib.Path(__file__).parents[1] / "diffstride"
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]
# What an example need not import.
NAMES = {"np": np, "keras": keras} | {
    name: getattr(diffstride, name) for name in diffstride.__all__
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(
        module,
        extraglobs=NAMES,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_class_has_an_example():
    for name in diffstride.__all__:
        assert ">>> " in getattr(diffstride, name).__doc__
