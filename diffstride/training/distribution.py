"""Training on many devices, and on those of many processes.

On TensorFlow the GPUs of one machine train in step, each on its share of a
batch. Under JAX so do all devices of one or more processes, on one host or
more: each process makes its own rows of every batch, all hold the same weights,
and the first one alone writes.
"""

import contextlib
import dataclasses
import functools
import inspect
import os
import signal
import sys
import threading
import traceback

import keras
import numpy as np

from diffstride.validation import ConfigError

# A process that was silent for so long counts as lost.
_HEARTBEAT_SECONDS = 60


def process_index():
    return _jax().process_index() if _on_jax() else 0


def process_count():
    return _jax().process_count() if _on_jax() else 1


def is_first():
    """Whether this is the process that writes."""
    return process_index() == 0


def agree(value):
    """The integer that the first process has."""
    if process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


@contextlib.contextmanager
def joined(coordinator_address=None, process_count=None, process_index=None):
    """Makes this process one of several that train together, where asked to.

    It waits for the others. Arguments left out are taken from the environment:
    from Keras's `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `..._NUM_PROCESSES` and
    `..._PROCESS_ID`, or from Slurm within a step of several tasks. Where there
    are none, the process trains by itself.

    An error of one process is the end of all: it leaves at once, and the
    others notice within about a minute.

    Args:
        coordinator_address: string. Host and port of the first process, the
            same for all.
        process_count: integer. Number of processes.
        process_index: integer. Number of this one, from 0.
    """
    settings = _settings(coordinator_address, process_count, process_index)
    address, count, index = settings
    in_slurm = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    asked = any(setting is not None for setting in settings)
    if count == 1 or not (asked or (in_slurm and _on_jax())):
        yield
        return
    if not _on_jax():
        raise ValueError(
            "Several processes train together with KERAS_BACKEND=jax only. "
            f"Received: process_count={count}, process_index={index}"
        )
    if None in settings and not in_slurm:
        raise ValueError(
            "`coordinator_address`, `process_count` and `process_index` must "
            "be given together. Received: "
            f"coordinator_address={address!r}, process_count={count}, "
            f"process_index={index}"
        )
    _jax().distributed.initialize(
        *settings, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
    try:
        yield
    except BaseException as error:
        # All processes exit with a signal's number, one alone with a message.
        if not isinstance(error, SystemExit) or isinstance(error.code, str):
            _leave(error)
        raise
    finally:
        _jax().distributed.shutdown()  # Waits for the others.


def _settings(*arguments):
    names = "JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"
    values = [
        os.environ.get(f"KERAS_DISTRIBUTION_{name}") if value is None else value
        for name, value in zip(names, arguments, strict=True)
    ]
    address, *numbers = values
    address = address and address.split(",")[0]  # Keras takes all of them.
    return address, *(n if n is None else int(n) for n in numbers)


def _leave(error):
    """Ends the process at once: an orderly end would wait for the others."""
    if isinstance(error, SystemExit):
        print(error.code, file=sys.stderr)
    else:
        traceback.print_exception(error)
        print(
            f"Process {process_index()} of {process_count()} ends: it failed, "
            "or it lost another one (see above). The others end within about a "
            "minute; then the same command goes on from the last checkpoint.",
            file=sys.stderr,
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def load(dataset, seed):
    """A data set; of several processes, the rows of this one.

    Args:
        dataset: a `diffstride.data.dataset.Dataset`, or a function of `seed`
            that loads one, and of `process_index` and `process_count` if
            several processes are to train on it.
        seed: integer.

    Raises:
        ConfigError: where the function does not find what it is to load.
    """
    if not callable(dataset):
        return dataset
    share = {
        "process_index": process_index(),
        "process_count": process_count(),
    }
    # Always given where taken, lest a configuration depend on them.
    if not share.keys() <= inspect.signature(dataset).parameters.keys():
        if process_count() > 1:
            raise ValueError(
                "`dataset` must take `process_index` and `process_count`, to "
                "load the rows of one of several processes. Received: "
                f"dataset={dataset}"
            )
        share = {}
    try:
        return dataset(seed=seed, **share)
    except (ValueError, OSError, TypeError) as error:
        unbound = "No values supplied by Gin" in str(error)
        if isinstance(error, TypeError) and not unbound:
            raise
        raise ConfigError(str(error)) from error


def scope(devices=None):
    """How to make and train a model on several devices.

    Args:
        devices: list of names. Defaults to all GPUs on TensorFlow, to all
            devices of all processes under JAX.

    Returns:
        A function that makes the context to do it in.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
        if devices is None and len(gpus) < 2:
            return contextlib.nullcontext
        return tf.distribute.MirroredStrategy(devices or gpus).scope
    if _on_jax() and (devices or len(keras.distribution.list_devices()) > 1):
        return keras.distribution.DataParallel(
            devices=devices, auto_shard_dataset=False
        ).scope
    return contextlib.nullcontext


def divide(data):
    """A data set whose batches divide among the devices of the scope.

    Keras puts the same number of rows on every device. A test batch with other
    numbers is filled up with examples of no weight; the weights of the others
    are such that the loss, an average over all rows, is that of the examples.

    Args:
        data: a `diffstride.data.dataset.Dataset`.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return data
    processes = process_count()
    devices = distribution.num_model_replicas // processes

    def checked(batches):
        for batch in batches:
            rows = _count_rows(batch)
            if rows % devices:
                raise ValueError(
                    "`batch_size` must be a multiple of the number of devices. "
                    f"Received: batch_size={rows * processes} on "
                    f"{devices * processes} devices"
                )
            yield batch

    def train(epoch, start_step=0):
        return _InOrder(
            lambda: checked(data.train(epoch, start_step)),
            data.train_steps - start_step,
        )

    @functools.cache
    def plan_test():
        """Rows of each test batch here, and the weight of an example."""
        rows = np.array([_count_rows(batch) for batch in data.test()], "int32")
        rows = _gather(rows)
        even = -(-rows.max(axis=0) // devices) * devices
        return even, processes * even.sum() / rows.sum()

    def filled_up(batches, sizes, weight):
        for batch, size in zip(batches, sizes, strict=True):
            yield batch if weight == 1 else _fill_up(batch, size, weight)

    def test():
        plan = plan_test()
        return _InOrder(lambda: filled_up(data.test(), *plan), len(plan[0]))

    return dataclasses.replace(data, train=train, test=test)


class _InOrder(keras.utils.PyDataset):
    """Batches of which Keras knows the number, and asks for one by one."""

    def __init__(self, iterate, length):
        super().__init__()
        self._iterate = iterate
        self._length = length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if index == 0:
            self._batches = iter(self._iterate())
        return next(self._batches)


def _gather(values):
    """Values of all processes, `(processes, ...)`."""
    if process_count() == 1:
        return values[np.newaxis]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


def _count_rows(batch):
    return len(keras.tree.flatten(batch)[0])


def _fill_up(batch, size, weight):
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    if weights is None:
        weights = keras.tree.map_structure(lambda each: np.ones(len(each)), y)

    def repeat(array):
        # Rows that occur: the weight would not make a NaN vanish.
        return np.resize(array, (size, *np.shape(array)[1:]))

    def pad(array):
        array = np.asarray(array) * weight
        return np.pad(array, (0, size - len(array))).astype("float32")

    return (
        keras.tree.map_structure(repeat, x),
        keras.tree.map_structure(repeat, y),
        keras.tree.map_structure(pad, weights),
    )


@contextlib.contextmanager
def termination():
    """Notes the first SIGTERM; a second one acts as ever.

    Of several processes all are asked to end at the same step, whichever of
    them was sent the signal.

    Yields:
        A function that tells which signal asks to end, or None. Each process
        must call it equally often.
    """
    if process_count() > 1:
        yield _AgreedTermination()
        return
    received = None
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # Python handles signals in its main thread only.
        return

    def note(number, frame):
        nonlocal received
        received = number
        signal.signal(signal.SIGTERM, previous)

    previous = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: received
    finally:
        signal.signal(signal.SIGTERM, previous)


class _AgreedTermination:
    """JAX catches the signal, and spreads the word."""

    def __init__(self):
        self._calls = 0

    def __call__(self):
        from jax.experimental import multihost_utils

        self._calls += 1
        if multihost_utils.reached_preemption_sync_point(self._calls):
            return signal.SIGTERM
        return None


def _on_jax():
    return keras.backend.backend() == "jax"


def _jax():
    import jax

    return jax
