"""Reads sweep files and lists the runs that they describe."""

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
from diffstride.experiments.errors import (
    SweepError,
    all_of,
    require,
    require_keys,
)
from diffstride.experiments.runs import Choice, Run
from diffstride.experiments.sections import check_report, read_published

# The longest name of a directory that file systems allow.
MOST_BYTES = 255


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file that was read.

    Args:
        text: The text of the file.
        axes: Dict from the name of each axis to its choices.
        runs: One `Run` for each combination of choices and each seed.
        published: Sections of published numbers, one for each metric.
        report: The settings of the report.
    """

    text: str
    axes: dict
    runs: list
    published: list
    report: dict

    def published_of(self, metric):
        """The published numbers of a metric, or an empty dict."""
        for section in self.published:
            if section["metric"] == metric:
                return section
        return {}

    @property
    def title(self):
        """The title of the report, or the first words of the file."""
        paragraph = " ".join(self.header.partition("\n\n")[0].split())
        # Take the words up to a colon or to the end of a sentence. A full stop
        # ends one only if a capital follows, because of `Eq. 6`.
        words = re.match(r"(.*?)(: |\. (?=[A-Z])|\.?$)", paragraph)[1]
        return self.report.get("title", words)

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
    """Raises an error if the training binary would not find a gin file."""
    places = dict.fromkeys([pathlib.Path.cwd(), *SEARCH_PATHS])
    for file in dict.fromkeys(file for run in runs for file in run.all_files):
        if not any((place / file).is_file() for place in places):
            raise SweepError(
                f"There is no gin file {file} in {', '.join(map(str, places))}"
            )


def _parse(text):
    sweep = tomllib.loads(text)
    require_keys(
        "a sweep",
        sweep,
        ("config", "seeds"),
        ("gin_param", "axes", "published", "report"),
    )
    config, seeds = sweep["config"], sweep["seeds"]
    params = sweep.get("gin_param", [])
    require(all_of(str, config), "config", "a list of gin files", config)
    require(all_of(str, params), "gin_param", "a list of bindings", params)
    require(
        seeds and all_of(int, seeds),
        "seeds",
        "a list of integers, one or more",
        seeds,
    )
    axes = sweep.get("axes", {})
    require(isinstance(axes, dict), "axes", "a table", axes)
    axes = {name: _read_axis(name, axis) for name, axis in axes.items()}
    # Change seeds last, so that the first runs have each choice once.
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
    published = read_published(sweep.get("published", []), axes)
    report = sweep.get("report", {})
    check_report(report, axes)
    return Sweep(text, axes, runs, published, report)


def _read_axis(name, axis):
    """The choices of one axis."""
    place = f"axes.{name}"
    _require_label(place, name)
    require(isinstance(axis, dict), place, "a table", axis)
    if set(axis) == {"gin_file"}:
        files = axis["gin_file"]
        require(
            all_of(str, files), f"{place}.gin_file", "a list of files", files
        )
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
        all_of(str, bindings), place, "a list of files and bindings", bindings
    )
    return Choice(
        axis,
        key,
        tuple(b for b in bindings if b.endswith(".gin")),
        tuple(b for b in bindings if not b.endswith(".gin")),
    )


def _require_label(place, name):
    """Raises an error unless the name can be part of that of a directory."""
    if not name or name != label(name):
        raise SweepError(
            f"the name of `{place}` must be of letters, digits, and _ . + -. "
            f"Received: {name!r}"
        )


def _draw(place, settings, taken):
    """Random values of an axis, the same ones each time the file is read."""
    require_keys(
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
    """A value in the syntax of gin; texts such as "@name" are references."""
    if isinstance(value, list):
        return f"[{', '.join(map(in_gin, value))}]"
    if isinstance(value, str) and value[:1] in ("@", "%"):
        return value
    return repr(value)


def label(value):
    """A value as a part of the name of a directory.

    Example:

    >>> label([1, 2.5, "@f.G"]), label([1, [1.5, 2]])
    ('1-2.5-f.G', '1-1.5x2')
    """
    if isinstance(value, list) and any(isinstance(v, list) for v in value):
        # A pair inside of the list is a stride for height and one for width.
        parts = [v if isinstance(v, list) else [v] for v in value]
        return "-".join("x".join(map(label, part)) for part in parts)
    return "-".join(re.findall(r"[\w.+-]+", str(value)))
