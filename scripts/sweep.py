#!/usr/bin/env python3
"""Expands a sweep into training runs, and makes them one after the other.

    python scripts/sweep.py configs/sweeps/table3_cifar10.toml --dry_run
    python scripts/sweep.py configs/sweeps/table3_cifar10.toml --workdir=runs

A sweep is a TOML file: gin files that all runs share, seeds, and any number of
axes. A run takes one choice of each axis and one seed.

    config = ["papers/diffstride/cifar10.gin"]
    seeds = [1, 2, 3]

    [axes.method]                       # choices that are gin files
    gin_file = ["pooling/spectral.gin", "pooling/diffstride.gin"]

    [axes.strides]                      # choices that are values of a parameter
    gin_param = "resnet.resnet18.strides"
    values = [[1, 1, 2, 2, 2], [1, 1, 3, 2, 3]]

    [axes.ramp.choices]                 # choices of several bindings, by name
    inside = ["pooling.DiffStride.ramp = 'inside'", "..."]
    outside = []

Each run has a directory of its own, named after its choices. A run that is
finished is not made again, and one that was interrupted goes on, so that the
same command finishes a sweep. A run that fails does not stop the others; it is
named at the end. `--gin_param` adds bindings to all runs.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import re
import shlex
import subprocess
import sys
import time

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


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
    params: tuple

    @property
    def name(self):
        parts = [f"{choice.axis}={choice.label}" for choice in self.choices]
        return ",".join([*parts, f"seed={self.seed}"])

    def command(self, workdir):
        files = [*self.files, *(f for c in self.choices for f in c.files)]
        params = [*(p for c in self.choices for p in c.params), *self.params]
        return [
            *[f"--gin_file={file}" for file in files],
            *[f"--gin_param={param}" for param in params],
            f"--workdir={pathlib.Path(workdir) / self.name}",
            f"--seed={self.seed}",
        ]


class SweepError(ValueError):
    """A sweep file that does not mean anything, with the culprit named."""


def read_sweep(path):
    """The runs of a sweep file, in the order of the axes."""
    try:
        sweep = tomllib.loads(pathlib.Path(path).read_text())
    except FileNotFoundError:
        raise SweepError(f"There is no file {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise SweepError(f"{path} is not TOML: {error}") from None
    known = {"config", "seeds", "axes", "published"}
    if unknown := sorted(set(sweep) - known):
        raise SweepError(
            f"{path}: unknown keys {unknown}; a sweep has {sorted(known)}"
        )
    if missing := [key for key in ("config", "seeds") if key not in sweep]:
        raise SweepError(f"{path}: {missing} must be given")
    axes = [
        read_axis(name, axis, path)
        for name, axis in sweep.get("axes", {}).items()
    ]
    # Seeds change last: a part of the runs has each choice at least once.
    runs = [
        Run(tuple(choices), seed, tuple(sweep["config"]), ())
        for seed, *choices in itertools.product(sweep["seeds"], *axes)
    ]
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SweepError(f"{path}: several runs have the name {twice[0]}")
    return runs


def read_axis(name, axis, path):
    """The choices of one axis."""
    if set(axis) == {"gin_file"}:
        return [
            Choice(name, pathlib.Path(file).stem, files=(file,))
            for file in axis["gin_file"]
        ]
    if set(axis) == {"gin_param", "values"}:
        return [
            Choice(name, label(v), params=(f"{axis['gin_param']} = {v!r}",))
            for v in axis["values"]
        ]
    if set(axis) == {"choices"}:
        for choice, bindings in axis["choices"].items():
            if not isinstance(bindings, list):
                raise SweepError(
                    f"{path}: choice '{choice}' of axis '{name}' must be a "
                    f"list. It is {bindings!r}"
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
        f"{path}: axis '{name}' must have `gin_file`, or `gin_param` and "
        f"`values`, or `choices`. It has {sorted(axis)}"
    )


def label(value):
    """A value as part of a directory's name: [1, (2, 3)] becomes 1-2-3."""
    return re.sub(r"[^\w.]+", "-", str(value)).strip("-")


def made_by_another_command(run, workdir):
    """Whether a directory holds a run of other files or bindings."""
    path = workdir / run.name / "sweep.json"
    if not path.exists():
        return False

    def bindings(command):
        return [part for part in command if not part.startswith("--workdir=")]

    before = json.loads(path.read_text())["command"]
    return bindings(before) != bindings(run.command(workdir))


def is_finished(workdir):
    """Whether the trainer saved the trained model, which it does at the end."""
    return (workdir / "model.keras").exists()


def make_runs(runs, workdir, verbose):
    """Makes the runs; returns those that failed."""
    failed, start, made = [], time.time(), 0
    for index, run in enumerate(runs):
        directory = workdir / run.name
        head = f"[{index + 1}/{len(runs)}] {run.name}"
        if made_by_another_command(run, workdir):
            failed.append(run)
            print(f"{head}: {directory} is of another command; see sweep.json")
            continue
        if is_finished(directory):
            print(f"{head}: finished before")
            continue
        print(f"{head}: running{time_left(start, made, len(runs) - index)}")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "sweep.json").write_text(
            json.dumps(
                {
                    "choices": {c.axis: c.label for c in run.choices},
                    "seed": run.seed,
                    "command": run.command(workdir),
                }
            )
        )
        with open(directory / "log.txt", "ab") as log:
            code = subprocess.run(
                [sys.executable, "-m", "diffstride.train"]
                + run.command(workdir),
                stdout=None if verbose else log,
                stderr=None if verbose else log,
            ).returncode
        made += 1
        if code:
            failed.append(run)
            print(f"{head}: failed with {code}; see {directory / 'log.txt'}")
        else:
            print(f"{head}: {last_result(directory)}")
    return failed


def time_left(start, made, remaining):
    if not made:
        return ""
    minutes = (time.time() - start) / made * remaining / 60
    return f", about {minutes:.0f} minutes left for all"


def last_result(directory):
    """The final metrics on the test split, from the history."""
    lines = (directory / "history.jsonl").read_text().splitlines()
    row = json.loads(lines[-1])
    return ", ".join(
        f"{name} {value:.4f}"
        for name, value in row.items()
        if name.startswith("val_")
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", type=pathlib.Path, help="sweep file")
    parser.add_argument(
        "--workdir",
        type=pathlib.Path,
        help="directory of the runs; defaults to runs/ and the sweep's name",
    )
    parser.add_argument(
        "--gin_param", action="append", default=[], help="binding for all runs"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print the commands only"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show the output of the runs"
    )
    args = parser.parse_args()
    try:
        runs = read_sweep(args.sweep)
    except SweepError as error:
        raise SystemExit(f"Sweep error: {error}") from None
    workdir = args.workdir or pathlib.Path("runs") / args.sweep.stem
    runs = [
        dataclasses.replace(run, params=tuple(args.gin_param)) for run in runs
    ]
    if args.dry_run:
        for run in runs:
            command = ["python", "-m", "diffstride.train"]
            print(shlex.join(command + run.command(workdir)))
        return
    failed = make_runs(runs, workdir, args.verbose)
    print(f"{len(runs) - len(failed)} of {len(runs)} runs finished: {workdir}")
    if failed:
        raise SystemExit(
            "Failed:\n" + "\n".join(f"  {run.name}" for run in failed)
        )


if __name__ == "__main__":
    main()
