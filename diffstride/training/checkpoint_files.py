"""Checkpoints that survive a kill at any moment.

One file holds everything: every variable, and the place in the run. It appears
under its name only once it is complete on the disk, and the checksums of its
archive tell when that is no longer so.
"""

import contextlib
import json
import os
import pathlib
import re
import zipfile
import zlib

import numpy as np
from absl import logging
from keras import ops

from diffstride.analysis.learned_layers import learned_layers

_STATE = "state"
_CORRUPT = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError)


def write_atomically(path, write):
    """Calls `write(file)`; the file replaces `path` when it is on the disk."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # Of a read-only file system.
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise OSError(
            error.errno, f"{path} could not be written: {reason}."
        ) from error
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # The new name, too, is on the disk.
    finally:
        os.close(directory)


class Checkpoints:
    """The checkpoints of one run, in one directory.

    Args:
        directory: where they are, or will be.
        keep: integer. How many of the latest to keep, and how many of those
            at the end of an epoch; the best one is kept besides.
        epoch_steps: integer. Steps in an epoch.

    Example:

    >>> import tempfile
    >>> checkpoints = Checkpoints(tempfile.mkdtemp())
    >>> _ = checkpoints.save(100, {"kernel": np.ones(3)}, {"epoch": 2})
    >>> arrays, state = checkpoints.load()
    >>> arrays["kernel"], state["epoch"]
    (array([1., 1., 1.]), 2)
    """

    def __init__(self, directory, keep=2, epoch_steps=1):
        if keep < 1:
            raise ValueError(
                f"`keep` must be at least 1. Received: keep={keep}"
            )
        self.directory = pathlib.Path(directory)
        self.keep = keep
        self.epoch_steps = epoch_steps

    def path(self, step):
        return self.directory / f"checkpoint-{step:09d}.npz"

    def steps(self):
        """The steps at which there are checkpoints, in order."""
        matches = (
            re.fullmatch(r"checkpoint-(\d{9,})\.npz", path.name)
            for path in self.directory.glob("checkpoint-*.npz")
        )
        return sorted(int(match[1]) for match in matches if match)

    def epoch_ends(self):
        """The steps of the latest checkpoints at the end of an epoch."""
        ends = [step for step in self.steps() if step % self.epoch_steps == 0]
        return ends[-self.keep :]

    def save(self, step, arrays, state, best_step=None):
        """Writes a checkpoint and removes those no longer needed.

        Args:
            step: integer. Training steps so far, in all epochs.
            arrays: dict of NumPy arrays.
            state: whatever else, as JSON.
            best_step: integer. The checkpoint to keep besides the latest ones.

        Returns:
            The path of the checkpoint.
        """
        path = self.path(step)
        encoded = np.frombuffer(json.dumps(state).encode(), np.uint8)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(
                path,
                lambda file: np.savez(file, **{_STATE: encoded}, **arrays),
            )
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror} {self._where_it_goes_on()}"
            ) from error
        needed = {best_step, *self.epoch_ends(), *self.steps()[-self.keep :]}
        for old in self.steps():
            if old not in needed:
                self.path(old).unlink(missing_ok=True)
        for unfinished in self.directory.glob("checkpoint-*.npz.tmp"):
            unfinished.unlink()  # Left by a kill.
        return path

    def load(self, step=None):
        """Reads a checkpoint: by default the latest one that is intact.

        Args:
            step: integer. The checkpoint to read, and no other.

        Returns:
            `(arrays, state)` as saved, or None where nothing was.
        """
        if step is not None:
            return self._read(self.path(step))
        errors = []
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                loaded = self._read(path)
            except _CORRUPT as error:
                errors.append(f"{path} ({error})")
                logging.warning("Corrupt checkpoint: %s", errors[-1])
                continue
            if errors:
                logging.warning("Falling back to the checkpoint %s", path)
            return loaded
        if errors:
            raise ValueError(
                "No intact checkpoint is left; empty "
                f"{self.directory} to start again. Corrupt: "
                + ", ".join(errors)
            )
        return None

    def _read(self, path):
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, json.loads(arrays.pop(_STATE).tobytes())

    def _where_it_goes_on(self):
        steps = self.steps()
        if not steps:
            return "There is no earlier one."
        return (
            f"The last good one is {self.path(steps[-1])}: the same command "
            "goes on from there."
        )


def model_arrays(model):
    """All variables of a compiled model: weights, optimizer and metrics."""
    if hasattr(model, "jax_state_sync"):
        # During `fit` under JAX the variables live outside the model.
        model.jax_state_sync()
    arrays = {
        f"{group}/{index}": to_numpy(variable)
        for group, variables in _groups(model).items()
        for index, variable in enumerate(variables)
    }
    for index, layer in enumerate(learned_layers(model)):
        # Static sizes follow from strides that are not those of this step.
        store = {}
        layer.save_own_variables(store)
        for name, value in store.items():
            arrays[f"layer{index}/{name}"] = to_numpy(value)
    return arrays


def variable_paths(model):
    """The paths of the variables of a model, group by group."""
    return {
        group: [variable.path for variable in variables]
        for group, variables in _groups(model).items()
    }


def restore_model(model, arrays, groups, paths=None):
    """Assigns what `model_arrays` returned to groups of variables of a model.

    Args:
        model: a built and compiled Keras model.
        arrays: dict of NumPy arrays.
        groups: names out of `"model"`, `"optimizer"` and `"metrics"`.
        paths: what `variable_paths` returned for the saved model. None for a
            checkpoint that does not know them: then the order tells.
    """
    for group in groups:
        variables = _groups(model)[group]
        saved = _group(arrays, group)
        saved_paths = (paths or {}).get(group)
        if saved_paths is None:
            saved_paths = [variable.path for variable in variables]
        if len(saved) != len(variables):
            raise ValueError(
                f"The checkpoint has {len(saved)} variables of the {group}, "
                f"this configuration {len(variables)}."
            )
        places = _places(saved_paths, [variable.path for variable in variables])
        for variable, place in zip(variables, places, strict=True):
            value = saved[str(place)]
            if value.shape != tuple(variable.shape):
                raise ValueError(
                    f"`{variable.path}` has the shape {tuple(variable.shape)} "
                    f"in this configuration, {value.shape} in the checkpoint."
                )
            variable.assign(value)
    if "model" not in groups:
        return
    for index, layer in enumerate(learned_layers(model)):
        layer.load_own_variables(_group(arrays, f"layer{index}"))


def _places(saved_paths, paths):
    """For each variable, where it stands among the saved ones."""
    if len(set(saved_paths)) == len(paths) and set(saved_paths) == set(paths):
        return [saved_paths.index(path) for path in paths]
    for saved_path, path in zip(saved_paths, paths, strict=True):
        if _without_numbers(saved_path) != _without_numbers(path):
            raise ValueError(
                f"The checkpoint has a variable `{saved_path}` where this "
                f"configuration has `{path}`: it is one of another model."
            )
    return range(len(paths))


def _without_numbers(path):
    """A path without the numbers that Keras gives to names by default.

    They depend on how many layers the process has made before.
    """
    return re.sub(r"_\d+(?=[_/]|$)", "", path)


def _groups(model):
    return {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }


def _group(arrays, group):
    return {
        name.removeprefix(f"{group}/"): value
        for name, value in arrays.items()
        if name.startswith(f"{group}/")
    }


def to_numpy(variable):
    value = ops.convert_to_numpy(variable)
    # NumPy archives know no bfloat16; float32 holds its values exactly.
    return value.astype("float32") if value.dtype.kind == "V" else value
