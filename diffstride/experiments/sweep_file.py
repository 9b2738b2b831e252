"""Sweep files: what they say, and the runs that follow from it."""

import collections
import dataclasses
import itertools
import pathlib
import random
import re

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

from diffstride.configs import SEARCH_PATHS
from diffstride.experiments.runs import Choice, Run

# What a file system allows the name of a directory.
MOST_BYTES = 255


class SweepError(ValueError):
    """A sweep that cannot be made; the message names the culprit."""


def require(condition, name, must, value):
    """Complains about a value of a sweep file where a condition fails."""
    if not condition:
        raise SweepError(f"`{name}` must be {must}. Received: {name}={value!r}")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file that was read.

    Args:
        text: The file itself.
        axes: The choices of each axis, by its name.
        runs: One `Run` for each combination of choices and each seed.
        published: What was published, as the file gives it.
        report: How the file wants its report.
    """

    text: str
    axes: dict
    runs: list
    published: dict
    report: dict

    @property
    def header(self):
        """The comment at the top of the file."""
        lines = itertools.takewhile(
            lambda line: line.startswith("#"), self.text.splitlines()
        )
        return "\n".join(line[1:].removeprefix(" ") for line in lines)


def read_sweep(path):
    """Reads a sweep file."""
    try:
        return _parse(pathlib.Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise SweepError(f"There is no file {path}") from None
    except SweepError as error:
        raise SweepError(f"{path}: {error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SweepError(f"{path} is not TOML: {error}") from None


def check_files(runs):
    """Complains about gin files that the training binary would not find."""
    places = dict.fromkeys([pathlib.Path.cwd(), *SEARCH_PATHS])
    for file in dict.fromkeys(file for run in runs for file in run.all_files):
        if not any((place / file).is_file() for place in places):
            raise SweepError(
                f"There is no gin file {file} in {', '.join(map(str, places))}"
            )


def _parse(text):
    sweep = tomllib.loads(text)
    _require_keys(
        "a sweep",
        sweep,
        ("config", "seeds"),
        ("gin_param", "axes", "published", "report"),
    )
    config, seeds = sweep["config"], sweep["seeds"]
    params = sweep.get("gin_param", [])
    require(_all(str, config), "config", "a list of gin files", config)
    require(_all(str, params), "gin_param", "a list of bindings", params)
    require(
        seeds and _all(int, seeds),
        "seeds",
        "a list of integers, one or more",
        seeds,
    )
    axes = sweep.get("axes", {})
    require(isinstance(axes, dict), "axes", "a table", axes)
    axes = {name: _read_axis(name, axis) for name, axis in axes.items()}
    # Seeds change last: a part of the runs has each choice at least once.
    runs = [
        Run(tuple(choices), seed, tuple(config), tuple(params))
        for seed, *choices in itertools.product(seeds, *axes.values())
    ]
    names = collections.Counter(run.name for run in runs)
    [(name, count)] = names.most_common(1)
    if count > 1:
        raise SweepError(f"several runs have the name {name}")
    longest = max(names, key=lambda name: len(name.encode()))
    if len(longest.encode()) > MOST_BYTES:
        raise SweepError(
            f"the names of runs must be of {MOST_BYTES} bytes at most, since "
            "they name directories; give long values short names in "
            f"`[axes.NAME.choices]`. Received: {len(longest.encode())} bytes "
            f"in {longest}"
        )
    published, report = (sweep.get(key, {}) for key in ("published", "report"))
    if published != {}:
        _check_published(published, axes)
    _check_report(report, axes)
    return Sweep(text, axes, runs, published, report)


def _all(kind, values):
    """Whether this is a list of a kind; true and false are no integers."""
    return isinstance(values, list) and all(type(v) is kind for v in values)


def _require_keys(name, table, needed, others=()):
    require(isinstance(table, dict), name, "a table", table)
    known = [*needed, *others]
    if unknown := sorted(set(table) - set(known)):
        raise SweepError(f"unknown keys {unknown}; {name} has {known}")
    if missing := [key for key in needed if key not in table]:
        raise SweepError(f"{missing} must be given; {name} has {known}")


def _check_published(section, axes):
    """Complains about published numbers that belong to no choice."""
    _require_keys(
        "[published]",
        section,
        ("metric", "rows", "values"),
        ("columns", "source"),
    )
    for key in ("metric", "rows", "source"):
        text = section.get(key, "")
        require(isinstance(text, str), key, "a string", text)
    _require_axes(section, axes)
    values, count = section["values"], None
    require(isinstance(values, dict), "published.values", "a table", values)
    labels = [choice.label for choice in axes[section["rows"]]]
    if "columns" in section:
        count = len(axes[section["columns"]])
    for row, texts in values.items():
        if row not in labels:
            raise SweepError(
                f"the rows of `published.values` must be among {labels}. "
                f"Received: {row!r}"
            )
        name = f"published.values.{row}"
        if count is None:
            require(isinstance(texts, str), name, "a string", texts)
        else:
            require(
                _all(str, texts) and len(texts) == count,
                name,
                f"a list of {count} strings, one for each column",
                texts,
            )


def _check_report(section, axes):
    _require_keys("[report]", section, (), ("rows", "columns", "metrics"))
    metrics = section.get("metrics", [])
    require(_all(str, metrics), "metrics", "a list of strings", metrics)
    _require_axes(section, axes)


def _require_axes(section, axes):
    """Complains unless rows and columns are axes, and different ones."""
    rows, columns = section.get("rows", []), section.get("columns")
    rows = rows if isinstance(rows, list) else [rows]
    named = [("rows", row) for row in rows]
    if columns is not None:
        named.append(("columns", columns))
    for key, axis in named:
        require(axis in list(axes), key, f"an axis, one of {list(axes)}", axis)
    require(columns not in rows, "columns", "no axis of the rows", columns)


def _read_axis(name, axis):
    """The choices of one axis."""
    place = f"axes.{name}"
    _require_label(place, name)
    require(isinstance(axis, dict), place, "a table", axis)
    if set(axis) == {"gin_file"}:
        files = axis["gin_file"]
        require(_all(str, files), f"{place}.gin_file", "a list of files", files)
        choices = [
            Choice(name, label(pathlib.Path(file).stem), files=(file,))
            for file in files
        ]
    elif "gin_param" in axis and (
        set(axis) - {"gin_param"}
        in ({"values"}, {"random"}, {"values", "random"})
    ):
        param, values = axis["gin_param"], axis.get("values", [])
        require(isinstance(param, str), f"{place}.gin_param", "a string", param)
        require(isinstance(values, list), f"{place}.values", "a list", values)
        if "random" in axis:
            values = values + _draw(f"{place}.random", axis["random"], values)
        choices = [
            Choice(name, label(value), params=(f"{param} = {in_gin(value)}",))
            for value in values
        ]
    elif set(axis) == {"choices"}:
        place = f"{place}.choices"
        require(
            isinstance(axis["choices"], dict), place, "a table", axis["choices"]
        )
        choices = [
            _read_choice(name, f"{place}.{key}", key, bindings)
            for key, bindings in axis["choices"].items()
        ]
    else:
        raise SweepError(
            f"axis '{name}' must have `gin_file`, or `gin_param` with `values` "
            f"or `random` or both, or `choices`. It has {sorted(axis)}"
        )
    require(choices, place, "an axis of one choice or more", axis)
    return choices


def _read_choice(axis, place, key, bindings):
    _require_label(place, key)
    require(
        _all(str, bindings), place, "a list of files and bindings", bindings
    )
    return Choice(
        axis,
        key,
        tuple(b for b in bindings if b.endswith(".gin")),
        tuple(b for b in bindings if not b.endswith(".gin")),
    )


def _require_label(place, name):
    """Names of axes and choices become names of directories."""
    if not name or name != label(name):
        raise SweepError(
            f"the name of `{place}` must be of letters, digits, and _ . + -. "
            f"Received: {name!r}"
        )


def _draw(place, settings, taken):
    """Random values of an axis: the same ones every time the file is read."""
    _require_keys(
        place, settings, ("template", "between", "draws", "seed"), ("per_axis",)
    )
    between, draws = settings["between"], settings["draws"]
    require(
        isinstance(between, list)
        and [type(b) in (int, float) for b in between] == [True, True]
        and between[0] <= between[1],
        f"{place}.between",
        "two numbers, the lower one first",
        between,
    )
    require(
        type(draws) is int and draws > 0, f"{place}.draws", "1 or more", draws
    )
    for key, kind in (("seed", int), ("per_axis", bool)):
        value = settings.get(key, False)
        require(
            type(value) is kind,
            f"{place}.{key}",
            f"of type {kind.__name__}",
            value,
        )
    low, high = between
    generator = random.Random(settings["seed"])

    def number():
        if isinstance(low, int) and isinstance(high, int):
            return generator.randint(low, high)
        return round(generator.uniform(low, high), 2)

    def fill(template):
        if isinstance(template, list):
            return [fill(entry) for entry in template]
        if template != "?":
            return template
        return [number(), number()] if settings.get("per_axis") else number()

    drawn = []
    for _ in range(1000 * draws):
        if len(drawn) == draws:
            break
        value = fill(settings["template"])
        if value not in [*taken, *drawn]:
            drawn.append(value)
    else:
        raise SweepError(
            f"`{place}` has too few different values for {draws} draws"
        )
    return drawn


def in_gin(value):
    """A value as gin reads it; a string with @ or % first is a reference."""
    if isinstance(value, list):
        return f"[{', '.join(map(in_gin, value))}]"
    if isinstance(value, str) and value[:1] in ("@", "%"):
        return value
    return repr(value)


def label(value):
    """A value as part of a directory's name.

    Example:

    >>> label([1, 2.5, "@f.G"]), label([1, [1.5, 2]])
    ('1-2.5-f.G', '1-1.5x2')
    """
    if isinstance(value, list) and any(isinstance(v, list) for v in value):
        # Strides for height and width.
        parts = [v if isinstance(v, list) else [v] for v in value]
        return "-".join("x".join(map(label, part)) for part in parts)
    return "-".join(re.findall(r"[\w.+-]+", str(value)))
