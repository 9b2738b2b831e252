"""What the package offers has types."""

import inspect
import pathlib
import pkgutil
import re
import typing

import keras
import pytest

import diffstride

API = pathlib.Path(__file__).parents[1] / "docs" / "api"


def is_offered(name, value, module):
    return (
        not name.startswith("_")
        and (inspect.isroutine(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    )


def offered():
    """All classes and functions of `__all__` and of the reference."""
    found = {name: getattr(diffstride, name) for name in diffstride.__all__}
    pages = "\n".join(path.read_text() for path in API.glob("*.md"))
    for path in re.findall(r"^::: (\S+)", pages, re.MULTILINE):
        value = pkgutil.resolve_name(path)
        if not inspect.ismodule(value):
            found[path] = value
            continue
        for name, member in vars(value).items():
            if is_offered(name, member, value):
                found[f"{path}.{name}"] = member
    return found


def constructor(value):
    return value.__init__ if inspect.isclass(value) else value


@pytest.mark.parametrize("name", sorted(offered()))
def test_every_parameter_has_a_type(name):
    function = constructor(offered()[name])
    if not inspect.isfunction(function) or not function.__module__.startswith(
        "diffstride"
    ):
        pytest.skip("The constructor is that of a base class elsewhere.")
    missing = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind
        not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.annotation is parameter.empty
        and parameter.name != "self"
    ]
    assert not missing


def test_types_say_what_comes_back():
    hints = typing.get_type_hints(diffstride.learn_strides)
    assert hints["return"] is keras.Model
    assert hints["model"] is keras.Model
