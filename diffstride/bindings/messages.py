"""Sentences about configurations that are wrong."""

import contextlib
import difflib
import pathlib
import re
import traceback

from diffstride.bindings.reading import MACRO, bound, defaults, name
from diffstride.examples import names


def explain(message, registered, folders):
    """Adds to a message of gin what may have been meant.

    Args:
        message: string. What gin says about a file or a binding.
        registered: dict of everything that has a name, by that name.
        folders: where gin looks for files.
    """
    if match := re.search(r"Unable to open file: (.+?)\. Searched", message):
        places = ", ".join(
            path or str(pathlib.Path.cwd()) for path in dict.fromkeys(folders)
        )
        start, end = match.span()
        rest = message[end:].partition("\n")[2]
        message = f"There is no gin file {match[1]} in {places}.\n{rest}"
        return message.strip()
    if match := re.search(
        r"No bindings specified for '(.+?)/gin.macro'", message
    ):
        macros = [scope for scope, *key in bound() if key[0] == MACRO]
        return f"The macro %{match[1]} has no value.{_near(match[1], macros)}"
    if match := re.search(r"No configurable matching .*?'@?([\w./]+)", message):
        name = match[1].split("/")[-1]
        if equivalent := names.equivalent(name):
            return f"{message}\n  In place of `{name}` bind {equivalent}."
        return message + _near(name, registered)
    match = re.search(
        r"'(.+?)' doesn't have a parameter named '(.+?)'", message
    )
    if match:
        parameters = [
            parameter
            for name, configurable in registered.items()
            if name.split(".")[-1] == match[1].split(".")[-1]
            for parameter in defaults(configurable)
        ]
        return message + _near(match[2], parameters)
    return message


def _near(name, names):
    """Names like the given one, by their last part too."""
    by_last_part = {n.split(".")[-1]: n for n in names}
    near = difflib.get_close_matches(name, list(names), n=3)
    near += [
        by_last_part[n]
        for n in difflib.get_close_matches(
            name.split(".")[-1], list(by_last_part), n=2
        )
    ]
    near = list(dict.fromkeys(near))
    return f"\n  Did you mean: {', '.join(near)}?" if near else ""


def sentence(message, values, reading):
    """One sentence about an error, with the binding that caused it.

    Args:
        message: string. That of an exception that passed through calls that
            gin made, each of which added a line.
        values: dict of the bindings in effect, from key to value.
        reading: the `diffstride.bindings.Reading` of the files.
    """
    calls = re.findall(r"\n  In call to configurable '(.+?)'", message)
    text = message.partition("\n  In call to configurable")[0]
    if match := re.search(
        r"No values supplied by Gin or caller for arguments: \['(.+?)'", text
    ):
        text = f"Nothing binds `{match[1]}` of `{calls[0]}`."
    # Keras adds the arguments of the call, and colors.
    text = text.partition("\n\nArguments received by")[0]
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
    key = _cause(text, calls, values)
    if key is None:
        return text
    source = reading.sources.get(key, "the command line or a file")
    return f"{text} (`{name(key)} = {values[key]!r}`, {source})"


def _cause(text, calls, values):
    """The key of the binding that an error is about, or None."""
    for call in calls:
        for key in values:
            _, selector, parameter = key
            if selector.rpartition(".")[2] == call.rpartition(".")[2] and (
                re.search(rf"`{parameter}`|\b{parameter}=", text)
            ):
                return key
    # No value of its own: then what brought the configurable into the run.
    for call in calls:
        for key, value in values.items():
            if re.fullmatch(rf"@([\w./]+[./])?{call}(\(\))?", repr(value)):
                return key
    return None


def keep_traceback(workdir):
    """Writes the traceback of the error that is handled.

    Args:
        workdir: path of the work directory, or None.

    Returns:
        The path of the file, or the text where there can be no file.
    """
    text = traceback.format_exc()
    if workdir:
        path = pathlib.Path(workdir).expanduser() / "error.log"
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return path
    return f"\n{text}"
