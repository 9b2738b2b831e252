"""Sweep files: what they say, and the runs that follow from it."""

import dataclasses
import itertools
import pathlib
import random
import re
import shlex

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

KEYS = ("config", "seeds", "axes", "published", "report")
DRAW_KEYS = ("template", "between", "draws", "seed", "per_axis")


class SweepError(ValueError):
    """A sweep that cannot be made; the message names the culprit."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One value of one axis: what it is called and what it binds."""

    axis: str
    label: str
    files: tuple = ()
    params: tuple = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run."""

    choices: tuple
    seed: int
    files: tuple
    params: tuple = ()

    @property
    def name(self):
        parts = [f"{choice.axis}={choice.label}" for choice in self.choices]
        return ",".join([*parts, f"seed={self.seed}"])

    def command(self, workdir):
        """Arguments of the training binary."""
        files = [*self.files, *(f for c in self.choices for f in c.files)]
        params = [*(p for c in self.choices for p in c.params), *self.params]
        return [
            *[f"--gin_file={file}" for file in files],
            *[f"--gin_param={param}" for param in params],
            f"--workdir={pathlib.Path(workdir) / self.name}",
            f"--seed={self.seed}",
        ]

    def description(self, workdir):
        """What a run's directory says about it, as JSON."""
        return {
            "choices": {c.axis: c.label for c in self.choices},
            "seed": self.seed,
            "command": self.command(workdir),
        }


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
        text = pathlib.Path(path).read_text()
        sweep = tomllib.loads(text)
    except (FileNotFoundError, IsADirectoryError):
        raise SweepError(f"There is no file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise SweepError(f"{path} is not TOML: {error}") from None
    if unknown := sorted(set(sweep) - set(KEYS)):
        raise SweepError(
            f"{path}: unknown keys {unknown}; a sweep has {sorted(KEYS)}"
        )
    if missing := [key for key in ("config", "seeds") if key not in sweep]:
        raise SweepError(f"{path}: {missing} must be given")
    axes = {}
    for name, axis in sweep.get("axes", {}).items():
        try:
            axes[name] = _read_axis(name, axis)
        except SweepError as error:
            raise SweepError(f"{path}: {error}") from None
    # Seeds change last: a part of the runs has each choice at least once.
    runs = [
        Run(tuple(choices), seed, tuple(sweep["config"]))
        for seed, *choices in itertools.product(sweep["seeds"], *axes.values())
    ]
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SweepError(f"{path}: several runs have the name {twice[0]}")
    published, report = (sweep.get(key, {}) for key in ("published", "report"))
    for section in (published, report):
        for key in ("rows", "columns"):
            if key in section and section[key] not in axes:
                raise SweepError(
                    f"{path}: `{key}` must be an axis, one of {list(axes)}. "
                    f"Received: {key}={section[key]!r}"
                )
    return Sweep(text, axes, runs, published, report)


def _read_axis(name, axis):
    """The choices of one axis."""
    if set(axis) == {"gin_file"}:
        return [
            Choice(name, pathlib.Path(file).stem, files=(file,))
            for file in axis["gin_file"]
        ]
    if "gin_param" in axis and (
        set(axis) - {"gin_param"}
        in ({"values"}, {"random"}, {"values", "random"})
    ):
        values = list(axis.get("values", []))
        if "random" in axis:
            values += _draw(name, axis["random"], taken=values)
        return [
            Choice(name, label(v), params=(f"{axis['gin_param']} = {v!r}",))
            for v in values
        ]
    if set(axis) == {"choices"}:
        for choice, bindings in axis["choices"].items():
            if not isinstance(bindings, list):
                raise SweepError(
                    f"choice '{choice}' of axis '{name}' must be a list. It is "
                    f"{bindings!r}"
                )
        return [
            Choice(
                name,
                choice,
                tuple(b for b in bindings if b.endswith(".gin")),
                tuple(b for b in bindings if not b.endswith(".gin")),
            )
            for choice, bindings in axis["choices"].items()
        ]
    raise SweepError(
        f"axis '{name}' must have `gin_file`, or `gin_param` with `values` or "
        f"`random` or both, or `choices`. It has {sorted(axis)}"
    )


def _draw(name, settings, taken):
    """Random values of an axis: the same ones every time the file is read."""
    if set(settings) - set(DRAW_KEYS) or not set(DRAW_KEYS[:4]) <= set(
        settings
    ):
        raise SweepError(
            f"`random` of axis '{name}' must have {list(DRAW_KEYS[:4])}, and "
            f"may have `per_axis`. It has {sorted(settings)}"
        )
    low, high = settings["between"]
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
    for _ in range(1000 * settings["draws"]):
        if len(drawn) == settings["draws"]:
            break
        value = fill(settings["template"])
        if value not in [*taken, *drawn]:
            drawn.append(value)
    else:
        raise SweepError(
            f"`random` of axis '{name}' has too few different values for "
            f"{settings['draws']} draws"
        )
    return drawn


def label(value):
    """A value as part of a directory's name: [1, (2, 3)] becomes 1-2-3."""
    return re.sub(r"[^\w.]+", "-", str(value)).strip("-")


def shell_command(arguments):
    """The command of a run, as one pastes it into a shell."""
    return " ".join(["python -m diffstride.train", *(map(_quoted, arguments))])


def _quoted(argument):
    # Bindings hold quotes of their own, which `shlex` makes hard to read.
    if "'" in argument and not re.search(r'["$`\\!]', argument):
        return f'"{argument}"'
    return shlex.quote(argument)
