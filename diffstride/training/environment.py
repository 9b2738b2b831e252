"""Where a run was trained: backend, devices, versions, commit and date."""

import datetime
import importlib.metadata
import json
import pathlib
import platform
import subprocess

import keras
from absl import logging

import diffstride
from diffstride.training import distribution, processes
from diffstride.validation import ConfigError

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def check_backend():
    """Refuses backends that the training binary does not know."""
    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax"):
        raise ConfigError(
            "The training binary needs KERAS_BACKEND=tensorflow or "
            "KERAS_BACKEND=jax; on other backends, call `fit` of a model. "
            f"Received: KERAS_BACKEND={backend}"
        )


def describe(devices=None):
    """What a result may depend on besides the configuration.

    Args:
        devices: list of device names, as for `distribution.scope`.
    """
    backend = keras.backend.backend()
    versions = {
        "diffstride": diffstride.__version__,
        "python": platform.python_version(),
    }
    for package in ("keras", "numpy", backend):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "date": now.isoformat(timespec="seconds"),
        "backend": backend,
        "device": distribution.device_kind(),
        "devices": distribution.count_devices(devices),
        "processes": processes.process_count(),
        "versions": versions,
        "commit": _commit(),
    }


def record(directory, environment):
    """Adds a line to `environment.jsonl`, and says what has changed.

    Args:
        directory: path of the work directory.
        environment: what `describe` returned.
    """
    path = pathlib.Path(directory, "environment.jsonl")
    lines = path.read_text().splitlines() if path.exists() else []
    if lines:
        _say_changes(json.loads(lines[-1]), environment)
    with open(path, "a") as file:
        file.write(json.dumps(environment) + "\n")


def _say_changes(before, now):
    changes = [
        f"{name} {before.get(name)!r} -> {now[name]!r}"
        for name in now
        if name != "date" and before.get(name) != now[name]
    ]
    if changes:
        logging.warning(
            "This run goes on in another environment than before, so that its "
            "numbers may differ from those of an uninterrupted one: %s",
            "; ".join(changes),
        )


def _commit():
    """The commit of a checkout, or None for an installed package."""
    if not (_PACKAGE.parent / ".git").exists():
        return None

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(_PACKAGE.parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
