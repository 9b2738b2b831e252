"""Reads the state of a run from its directory."""

import json
import os
import pathlib
import re
import signal
import zipfile

from diffstride.experiments.errors import SweepError


def is_finished(directory):
    """Whether the trainer has saved the trained model."""
    return zipfile.is_zipfile(pathlib.Path(directory) / "model.keras")


def bindings(command):
    """The arguments of a command without the directory of the run."""
    return [part for part in command if not part.startswith("--workdir=")]


def is_of_another_command(directory, command):
    """Whether a directory holds a run of other files or bindings.

    A run that failed in its first epoch does not count.
    """
    directory = pathlib.Path(directory)
    history = directory / "history.jsonl"
    if failure(directory) and not (history.exists() and history.read_text()):
        return False
    try:
        before = json.loads((directory / "sweep.json").read_text())["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # No file, or half a file of a sweep that was killed.
    return command is None or bindings(before) != bindings(command)


def check_workdir(workdir, runs):
    """Refuses a directory that holds other runs than these."""
    commands = {run.name: run.command(workdir) for run in runs}
    others = [
        path.parent.name
        for path in sorted(pathlib.Path(workdir).glob("*/sweep.json"))
        if is_of_another_command(path.parent, commands.get(path.parent.name))
    ]
    if others:
        raise SweepError(
            f"{workdir} has runs of other choices, seeds or bindings than this "
            f"sweep's, {len(others)} in all, such as {others[0]}. Choose "
            "another `--workdir`, or remove them"
        )


def failure(directory):
    """Why a run failed, read from its directory, or None."""
    try:
        found = json.loads((directory / "failure.json").read_text())
        code, error = int(found["code"]), found["error"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        words = names.get(-code, "unknown")
        if -code == signal.SIGKILL:
            words += ", often out of memory"
        return f"killed by signal {-code} ({words})"
    return f"exit code {code}: {error}".removesuffix(": ")


def last_words(path, start=0):
    """The last line of a log that is not empty, from byte `start` on."""
    with open(path, "rb") as log:
        log.seek(max(start, os.fstat(log.fileno()).st_size - 10_000))
        lines = log.read().decode(errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    errors = [
        line
        for line in lines
        if re.match(r"Configuration error:|[\w.]*(Error|Exit)\b", line)
    ]
    return [*lines, *errors][-1] if lines else ""


def last_result(directory):
    """The final metrics on the test split, from the history."""
    lines = (directory / "history.jsonl").read_text().splitlines()
    row = json.loads(lines[-1])
    return ", ".join(
        f"{name} {value:.4f}"
        for name, value in row.items()
        if name.startswith("val_")
    )
