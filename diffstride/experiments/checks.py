"""Checks all runs of a sweep before the first one starts."""

import dataclasses
import json
import subprocess
import sys

from diffstride.experiments.errors import SweepError

CHECK = ("-m", "diffstride.check_runs")
MOST_NAMED = 5


def check_runs(runs, check=CHECK):
    """Reads the configuration of every run, as the training binary would.

    A binding that the sweep has for all runs, and that some of them cannot use
    (a parameter of `DiffStride` where convolutions are strided), is left out of
    those.

    Args:
        runs: list of `Run`.
        check: arguments of Python that start the check.

    Returns:
        The runs, and a line for each binding that is left out of some.

    Raises:
        SweepError: names the runs that cannot be made, and why.
    """
    answers = dict(zip(runs, _ask(runs, check), strict=True))
    errors = {}
    for run, answer in answers.items():
        useless = [b for b in answer["useless"] if b in run.own_params]
        if answer["error"]:
            errors[run] = answer["error"]
        elif useless:
            errors[run] = f"nothing in it uses {', '.join(useless)}"
    if errors:
        lines = [f"  {run.name}: {why}" for run, why in errors.items()]
        raise SweepError(
            "\n".join(
                [
                    f"{len(errors)} of {len(runs)} runs cannot be made",
                    *_few(lines),
                ]
            )
        )
    notes = []
    shared = dict.fromkeys(p for run in runs for p in run.shared_params)
    for param in shared:
        without = [run for run in runs if param in answers[run]["useless"]]
        if len(without) == len(runs):
            raise SweepError(f"no run uses the binding for all runs {param}")
        if without:
            names = _few([run.name for run in without])
            notes.append(
                f"{len(without)} of {len(runs)} runs cannot use {param}, which "
                f"is left out there: {', '.join(names)}"
            )
    return [
        dataclasses.replace(
            run,
            left_out=tuple(
                p for p in run.shared_params if p in answers[run]["useless"]
            ),
        )
        for run in runs
    ], notes


def _few(lines):
    """The first lines, and the number of the others."""
    more = len(lines) - MOST_NAMED
    return [*lines[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]


def _ask(runs, check):
    """The answers of one process, which reads each configuration once."""
    requests = {
        run: json.dumps({"files": run.all_files, "bindings": run.all_params})
        for run in runs
    }
    different = list(dict.fromkeys(requests.values()))
    result = subprocess.run(
        [sys.executable, *check],
        input=f"[{','.join(different)}]",
        capture_output=True,
        text=True,
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no word"]
        raise SweepError(f"the runs could not be checked: {lines[-1]}")
    answers = json.loads(result.stdout.splitlines()[-1])
    by_request = dict(zip(different, answers, strict=True))
    return [by_request[requests[run]] for run in runs]
