"""Reads the directories of runs, and says which ones cannot be used."""

import collections
import dataclasses
import json
import math
import pathlib
import re

from diffstride.experiments.errors import SweepError
from diffstride.experiments.finished_run import FinishedRun
from diffstride.experiments.run_state import bindings, failure, is_finished
from diffstride.experiments.sweep_file import read_sweep

NO_LINE = "there is no line"


@dataclasses.dataclass
class RunFolder:
    """The runs of a directory.

    Args:
        path: Path of the directory.
        sweep: The `Sweep` whose runs these are, or None.
        runs: The finished runs, in the order of the sweep.
        unfinished: Dict from the names of the other runs of the sweep to their
            state.
        foreign: Dict from the names of directories that do not belong to the
            sweep to the reason.
        axes: The labels of each axis that occur, in order.
        bindings: Bindings of all runs that were given beside the sweep file.
    """

    path: pathlib.Path
    sweep: object = None
    runs: list = dataclasses.field(default_factory=list)
    unfinished: dict = dataclasses.field(default_factory=dict)
    foreign: dict = dataclasses.field(default_factory=dict)
    axes: dict = dataclasses.field(default_factory=dict)
    bindings: list = dataclasses.field(default_factory=list)

    @property
    def title(self):
        """The title of the report."""
        name = self.path.resolve().name
        return (self.sweep and self.sweep.title) or name

    def configurations(self):
        """Dict from labels to the runs that differ only in their seeds."""
        groups = {}
        for run in self.runs:
            groups.setdefault(self.row(run, self.axes), []).append(run)
        return groups

    def row(self, run, axes):
        """The name of the row of a run, made of its choices on some axes."""
        labels = [run.choices[axis] for axis in axes]
        return ", ".join(labels) or self.path.resolve().name


def read_folder(path):
    """Reads a directory of runs: of a sweep, or of runs made one by one."""
    folder = RunFolder(pathlib.Path(path))
    if not folder.path.is_dir():
        raise SweepError(f"There is no directory {path}")
    if (folder.path / "sweep.toml").exists():
        folder.sweep = read_sweep(folder.path / "sweep.toml")
    directories = sorted(
        directory
        for directory in folder.path.iterdir()
        if directory.is_dir() and directory.name != "report"
    )
    descriptions = {d.name: _read_description(d) for d in directories}
    if folder.sweep is None and not any(
        isinstance(d, dict) for d in descriptions.values()
    ):
        # None of them belongs to a sweep, so only their names tell them apart.
        descriptions = {
            directory.name: {"choices": {"run": directory.name}}
            if (directory / "history.jsonl").exists()
            else "not a run"
            for directory in directories
        }
    expected = {}
    if folder.sweep is not None:
        expected = {run.name: run for run in folder.sweep.runs}
    usable = {}
    for directory in directories:
        description = descriptions[directory.name]
        if isinstance(description, str):
            folder.foreign[directory.name] = description
        elif expected and directory.name not in expected:
            folder.foreign[directory.name] = "not a run of this sweep"
        else:
            usable[directory] = description
    folder.bindings = _leave_out_other_commands(folder, usable, expected)
    for directory, description in usable.items():
        run = _read_run(directory, description)
        if isinstance(run, str):
            folder.unfinished[directory.name] = run
        else:
            folder.runs.append(run)
    folder.unfinished |= {
        name: "not started"
        for name in expected
        if not (folder.path / name).exists()
    }
    order = list(expected)
    if order:
        folder.runs.sort(key=lambda run: order.index(run.name))
        axes = {
            name: [choice.label for choice in choices]
            for name, choices in folder.sweep.axes.items()
        }
    else:
        axes = _axes_of(folder)
    folder.axes = {
        name: [
            label
            for label in labels
            if any(run.choices[name] == label for run in folder.runs)
        ]
        for name, labels in axes.items()
    }
    return folder


def _read_description(directory):
    """The choices and the command of a run, or why they cannot be read."""
    path = directory / "sweep.json"
    if not path.exists():
        if (directory / "history.jsonl").exists():
            return "a run, but not of a sweep (no sweep.json)"
        return "not a run"
    try:
        description = json.loads(path.read_text())
        if isinstance(description["choices"], dict):
            return description
    except (ValueError, KeyError, TypeError):
        pass
    return "its sweep.json cannot be read"


def _leave_out_other_commands(folder, usable, expected):
    """Keeps the runs of one command line; returns its additional bindings."""
    added = {}
    for directory, description in usable.items():
        command = description.get("command")
        if command is None or directory.name not in expected:
            continue
        asked = bindings(expected[directory.name].command(folder.path))
        # Bindings that this run cannot use count, too: other runs have them.
        left_out = description.get("left_out", [])
        made = bindings(command) + [f"--gin_param={p}" for p in left_out]
        if any(part not in made for part in asked):
            folder.foreign[directory.name] = "made by another command"
        else:
            others = {part for part in made if part not in asked}
            added[directory] = tuple(sorted(others))
    [(usual, _)] = collections.Counter(added.values()).most_common(1) or [
        ((), 0)
    ]
    for directory, others in added.items():
        if others != usual:
            folder.foreign[directory.name] = "made with other bindings: " + (
                ", ".join(others) or "none"
            )
    for directory in list(usable):
        if directory.name in folder.foreign:
            del usable[directory]
    return [part.removeprefix("--gin_param=") for part in usual]


def _read_run(directory, description):
    """A `FinishedRun`, or a text about the state of the run."""
    history, fault = _read_history(directory / "history.jsonl")
    config = _read_config(directory / "config.gin")
    run = FinishedRun(
        directory.name,
        description["choices"],
        description.get("seed"),
        description.get("command"),
        history,
        config,
        _read_environment(directory / "environment.jsonl"),
        _read_test(directory / "test.json"),
    )
    if run.seed is None:
        seed = run.parameter("train.seed")
        run = dataclasses.replace(run, seed=seed)
    epochs = run.parameter("train.num_epochs", "?")
    if is_finished(directory):
        fault = fault or _fault_of_epochs(history, epochs)
        return f"finished, but {fault} in its history" if fault else run
    done = f"{len(history)} of {epochs} epochs"
    why = failure(directory)
    return f"failed after {done}, {why}" if why else f"not finished: {done}"


def _fault_of_epochs(history, epochs):
    """The problem of the rows of a finished run, or None."""
    numbers = [row.get("epoch") for row in history]
    if not isinstance(epochs, int) or numbers == list(range(1, epochs + 1)):
        return None
    if len(set(numbers)) < epochs:
        return f"there are {len(set(numbers))} of {epochs} epochs"
    return "there are epochs twice or out of order"


def _read_history(path):
    """The rows of a history, and its problem, or None."""
    rows = []
    try:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if not isinstance(row, dict):
                return rows, "there is a line that is no epoch"
            rows.append(row)
    except OSError:
        return rows, NO_LINE
    except ValueError:
        return rows, "there is a line that cannot be read"
    numbers = [
        value for row in rows for value in row.values() if _is_number(value)
    ]
    if not all(map(math.isfinite, numbers)):
        return rows, "there is a number that is not finite"
    return rows, None if rows else NO_LINE


def _read_environment(path):
    """The last line of the file about the environment, or an empty dict."""
    try:
        environment = json.loads(path.read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return environment if isinstance(environment, dict) else {}


def _read_test(path):
    """The figures of the test split by checkpoint, or an empty dict."""
    try:
        test = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return test if isinstance(test, dict) else {}


def _is_number(value):
    return isinstance(value, (int, float))


def _read_config(path):
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if re.match(r"[\w./]+ = ", line)]


def _axes_of(folder):
    """Axes and labels as the runs have them, if there is no sweep file."""
    kinds = collections.Counter(tuple(run.choices) for run in folder.runs)
    if not kinds:
        return {}
    [(axes, _)] = kinds.most_common(1)
    for run in folder.runs:
        if tuple(run.choices) != axes:
            folder.foreign[run.name] = "a run of another sweep"
    folder.runs = [run for run in folder.runs if tuple(run.choices) == axes]
    return {
        axis: list(dict.fromkeys(run.choices[axis] for run in folder.runs))
        for axis in axes
    }
