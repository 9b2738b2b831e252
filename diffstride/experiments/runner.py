"""Makes the runs of a sweep, on this machine or on a cluster.

Every run is a process of its own, so that a crash does not end the sweep. An
interrupted run goes on where it stopped when it is started again. Its process
holds a lock in its directory, so that two sweeps cannot make the same run.
"""

import collections
import contextlib
import itertools
import json
import math
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time

try:
    import fcntl
except ImportError:  # Windows has no locks. Do not share directories there.
    fcntl = None

from diffstride.experiments.errors import SweepError
from diffstride.experiments.run_state import (
    failure,
    is_finished,
    is_of_another_command,
    last_result,
    last_words,
)

TRAIN = ("-m", "diffstride.train")
# Exit codes after SIGTERM: the first one if the trainer saved a checkpoint, the
# second one if the signal came before the trainer had begun.
ASKED_TO_STOP = (128 + signal.SIGTERM, -signal.SIGTERM)


def train(
    directory,
    description,
    train=TRAIN,
    wait=False,
    environment=(),
    launch=subprocess.Popen,
):
    """Makes one run, in a process of its own.

    Args:
        directory: Directory of the run.
        description: dict, the run's `sweep.json`, with the `command`: arguments
            of the training binary.
        train: arguments of Python before them.
        wait: whether to wait where another process makes the same run.
        environment: dict, added to the environment of the process.
        launch: function that starts the process.

    Returns:
        The exit code; None where another process makes the run; or a text that
        says why it cannot be made.
    """
    directory = pathlib.Path(directory)
    command = description["command"]
    with open(directory / "lock", "a") as lock:
        if fcntl:
            try:
                fcntl.flock(
                    lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
                )
            except BlockingIOError:
                return None
        # Look again while the lock is held, because another sweep may have
        # begun the run a moment ago.
        if is_of_another_command(directory, command):
            return "of another command; see its sweep.json"
        if is_finished(directory):
            return 0
        (directory / "sweep.json").write_text(json.dumps(description))
        (directory / "failure.json").unlink(missing_ok=True)
        with open(directory / "log.txt", "ab") as log:
            start = log.tell()
            process = launch(
                [sys.executable, *train, *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                # The process gets the lock, because it may outlive this one.
                pass_fds=[lock.fileno()] if fcntl else (),
                # Ctrl-C must reach only the sweep, which asks its runs to stop.
                start_new_session=True,
                env={**os.environ, **dict(environment)},
            )
        try:
            # Give a limit, because Python then looks for interrupts from time
            # to time. Ray's way to interrupt a task ends no system call.
            code = process.wait(timeout=math.inf)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        succeeded = code == 0 and is_finished(directory)
        if not succeeded and code not in ASKED_TO_STOP:
            words = last_words(directory / "log.txt", start)
            (directory / "failure.json").write_text(
                json.dumps({"code": code, "error": words})
            )
        return code


def find_gpus():
    """Names of the NVIDIA GPUs that a process on this machine may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return [name for name in names if name not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", listed, re.MULTILINE)


def share_out(gpus, parallel):
    """Divides the GPUs among the runs that are made at the same time.

    Args:
        gpus: list of names.
        parallel: integer. How many runs there are at a time.

    Returns:
        A list with an entry for each of these runs. If there are more GPUs than
        runs, an entry names several, such as `"0,1"`. If there are fewer,
        several entries name the same one. Without GPUs the list is empty.

    Example:

    >>> share_out(["0", "1", "2", "3"], 2), share_out(["0", "1"], 3)
    (['0,1', '2,3'], ['0', '1', '0'])
    """
    if len(gpus) <= parallel:
        return [gpus[i % len(gpus)] for i in range(parallel if gpus else 0)]
    bounds = [i * len(gpus) // parallel for i in range(parallel + 1)]
    return [",".join(gpus[a:b]) for a, b in itertools.pairwise(bounds)]


class Local:
    """Makes runs on this machine.

    Args:
        parallel: integer. How many at a time.
        gpus: list of names of devices, such as `"0"` or `"0,1"`. Each run gets
            one entry. Two runs share an entry that is there twice. If the list
            is empty, each run sees all devices.
    """

    on_stop = "runs save a checkpoint"

    def __init__(self, parallel=1, gpus=(), train_arguments=TRAIN):
        self.parallel = min(parallel, len(gpus)) if gpus else parallel
        self._train = train_arguments
        self._gpus = list(gpus)
        self._shared = {gpu for gpu in gpus if list(gpus).count(gpu) > 1}
        self._processes = {}
        self._stopping = False
        self._starting = threading.Lock()
        self._ended = queue.Queue()
        self.running = 0

    def has_room(self):
        return self.running < self.parallel

    def start(self, run, directory, description, wait, say):
        self.running += 1
        gpu = self._gpus.pop(0) if self._gpus else None
        environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        if gpu in self._shared:
            # Set this, because by default a process takes all memory of a GPU.
            environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

        def launch(*args, **kwargs):
            with self._starting:
                if self._stopping:
                    raise InterruptedError("The sweep stops")
                process = subprocess.Popen(*args, **kwargs)
                self._processes[run] = process
                say("starts")
                return process

        def make():
            try:
                code = train(
                    directory,
                    description,
                    self._train,
                    wait,
                    environment,
                    launch,
                )
            except OSError as error:
                code = str(error)
            self._ended.put((run, code, gpu))

        threading.Thread(target=make, daemon=True).start()

    def next_ended(self):
        run, code, gpu = self._ended.get()
        self.running -= 1
        self._processes.pop(run, None)
        if gpu is not None:
            self._gpus.append(gpu)
        return run, code

    def stop(self):
        with self._starting:
            self._stopping = True
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait()


class Ray:
    """Makes runs on a Ray cluster.

    All nodes need this package and see the directory of the sweep. The cluster
    is that of `RAY_ADDRESS`; without one, Ray starts on this machine.

    Args:
        cpus: number of cores for a run.
        gpus: number of GPUs for a run. Defaults to one where there are any.
    """

    on_stop = "runs save a checkpoint"

    def __init__(self, cpus=1, gpus=None, train_arguments=TRAIN):
        try:
            import ray
        except ImportError:
            raise SweepError(
                "`--ray` needs Ray: pip install 'diffstride[ray]'"
            ) from None
        self._ray = ray
        ray.init(log_to_driver=False)
        if gpus is None:
            gpus = min(1, ray.cluster_resources().get("GPU", 0))
        # Send these modules along, because nodes may not have them.
        for module in ("runner", "run_state", "errors"):
            ray.cloudpickle.register_pickle_by_value(
                sys.modules[f"diffstride.experiments.{module}"]
            )
        # If a node is lost, another one goes on with the run.
        self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(
            train
        )
        self._train = train_arguments
        self._references = {}

    @property
    def running(self):
        return len(self._references)

    def has_room(self):
        return True  # Ray has a queue of its own.

    def start(self, run, directory, description, wait, say):
        names = {"KERAS_BACKEND"} & set(os.environ)
        reference = self._remote.remote(
            str(directory),
            description,
            self._train,
            wait,
            {name: os.environ[name] for name in names},
        )
        self._references[reference] = run
        say("queued")

    def next_ended(self):
        [reference], _ = self._ray.wait(list(self._references))
        run = self._references.pop(reference)
        try:
            return run, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return run, str(error).strip().splitlines()[-1]

    def stop(self):
        for reference in self._references:
            self._ray.cancel(reference)
        self._ray.wait(
            list(self._references),
            num_returns=len(self._references),
            timeout=120,
        )
        self._ray.shutdown()


def make_runs(runs, workdir, executor, say=print):
    """Makes the runs that are not finished.

    Args:
        runs: list of `Run`.
        workdir: directory of the sweep.
        executor: `Local` or `Ray`, or another object like these.
        say: function that takes a line of progress.

    Returns:
        The runs that failed, with the reason of each.
    """
    workdir = pathlib.Path(workdir)
    heads = {
        run: f"[{index + 1}/{len(runs)}] {run.name}"
        for index, run in enumerate(runs)
    }
    failed, pending = {}, collections.deque()
    for run in runs:
        directory = workdir / run.name
        if is_finished(directory) and not is_of_another_command(
            directory, run.command(workdir)
        ):
            say(f"{heads[run]}: finished before")
        else:
            pending.append((run, False))
    total, made, start = len(pending), 0, time.monotonic()
    try:
        with _interrupted_by_sigterm():
            while pending or executor.running:
                while pending and executor.has_room():
                    run, wait = pending.popleft()
                    directory = workdir / run.name
                    directory.mkdir(parents=True, exist_ok=True)
                    if wait:
                        say(f"{heads[run]}: waiting")
                    executor.start(
                        run,
                        directory,
                        run.description(workdir),
                        wait,
                        lambda word, head=heads[run]: say(f"{head}: {word}"),
                    )
                run, code = executor.next_ended()
                if code is None:
                    say(f"{heads[run]}: another process makes it; later")
                    pending.append((run, True))
                    continue
                made += 1
                directory = workdir / run.name
                if code == 0 and is_finished(directory):
                    outcome = last_result(directory)
                elif isinstance(code, str):
                    failed[run] = outcome = code
                else:
                    failed[run] = failure(directory) or "asked to stop"
                    outcome = f"{failed[run]}; see {directory / 'log.txt'}"
                say(f"{heads[run]}: {outcome}{_progress(made, total, start)}")
    except KeyboardInterrupt:
        say(f"Stopping: {executor.on_stop}. The same command goes on.")
        executor.stop()
        raise
    return failed


@contextlib.contextmanager
def _interrupted_by_sigterm():
    """Makes SIGTERM act as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _progress(made, total, start):
    seconds = (time.monotonic() - start) / made * (total - made)
    left = f", about {duration(seconds)} left" if made < total else ""
    return f" ({made} of {total} done{left})"


def duration(seconds):
    """A time to wait, as one would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
