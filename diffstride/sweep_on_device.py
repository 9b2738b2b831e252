"""Makes the runs of a sweep in one process, with the data on the device.

`python -m diffstride.sweep --on_device` asks for it. Runs that differ only in
their seeds share what is compiled (see `diffstride.training.on_device`), and
are made one after the other. A run keeps no checkpoints: one that was
interrupted starts anew.
"""

import contextlib
import signal

import keras

from diffstride import configurables
from diffstride.experiments.errors import SweepError
from diffstride.experiments.runner import train
from diffstride.training.on_device import OnDevice
from diffstride.validation import ConfigError


def by_choices(runs):
    """The runs in an order in which all seeds of a choice follow one another.

    Args:
        runs: list of `Run`.
    """
    choices = list(dict.fromkeys(run.choices for run in runs))
    return sorted(runs, key=lambda run: choices.index(run.choices))


class InThisProcess:
    """Makes runs one after the other, as an executor of `make_runs`."""

    on_stop = "this run starts anew"

    def __init__(self):
        self.running = 0
        self._shared = None, None
        try:
            OnDevice()
        except ConfigError as error:
            raise SweepError(str(error)) from None

    def has_room(self):
        return not self.running

    def start(self, run, directory, description, wait, say):
        self.running = 1
        self._next = run, directory, description, wait, say

    def next_ended(self):
        run, directory, description, wait, say = self._next

        def launch(*args, **kwargs):
            say("starts")
            return _Training(lambda: self._train(run, directory), directory)

        try:
            code = train(directory, description, (), wait=wait, launch=launch)
        except OSError as error:
            code = str(error)
        self.running = 0
        return run, code

    def stop(self):
        """Nothing runs besides."""

    def _train(self, run, directory):
        # Layers without a name are called alike in all runs.
        keras.utils.clear_session(free_memory=False)
        configurables.parse(
            run.all_files, [*run.all_params, f"train.train.seed = {run.seed}"]
        )
        configurables.check_complete()
        configurables.check_bindings()
        configuration = run.all_files, run.all_params
        if self._shared[0] != configuration:
            self._shared = configuration, OnDevice()
        configurables.train(directory, mode="train", on_device=self._shared[1])


class _Training:
    """Stands for the process that `train` waits for.

    Args:
        function: function that trains.
        directory: path of the run, where a log takes what it prints.
    """

    def __init__(self, function, directory):
        self._function = function
        self._directory = directory

    def wait(self, timeout=None):
        function, self._function = self._function, None
        if function is None:  # It was interrupted.
            return 128 + signal.SIGTERM
        with open(self._directory / "log.txt", "a", buffering=1) as log:
            try:
                with (
                    contextlib.redirect_stdout(log),
                    contextlib.redirect_stderr(log),
                    configurables.errors_in_sentences(self._directory),
                ):
                    function()
            except SystemExit as end:
                if isinstance(end.code, int):
                    raise KeyboardInterrupt from None
                print(end.code, file=log)
                return 1
        return 0

    def terminate(self):
        """The training has ended already when this is called."""
