"""Several processes that train together, on one host or more.

They do so under JAX: each process makes its own rows of every batch, all hold
the same weights, and the first one alone writes.
"""

import contextlib
import inspect
import os
import sys
import traceback

import keras
import numpy as np

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


def gather(values):
    """Values of all processes, `(processes, ...)`."""
    if process_count() == 1:
        return values[np.newaxis]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


@contextlib.contextmanager
def joined(coordinator_address=None, process_count=None, process_index=None):
    """Makes this process one of several that train together, where asked to.

    It waits for the others. Arguments left out are taken from the environment:
    from Keras's `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `..._NUM_PROCESSES` and
    `..._PROCESS_ID`, or from what JAX detects: Slurm, within a step of several
    tasks, Open MPI and pods of TPUs. Where there are none, the process trains
    by itself.

    An error of one process is the end of all: it leaves at once, and the
    others notice within about a minute.

    Args:
        coordinator_address: string. Host and port of the first process, the
            same for all; or `"auto"`, to let JAX detect all three in any
            cluster that it knows.
        process_count: integer. Number of processes.
        process_index: integer. Number of this one, from 0.
    """
    settings = _settings(coordinator_address, process_count, process_index)
    address, count, index = settings
    asked = any(setting is not None for setting in settings)
    detected = _on_jax() and _is_in_cluster()
    if count == 1 or not (asked or detected):
        yield
        return
    if not _on_jax():
        raise ValueError(
            "Several processes train together with KERAS_BACKEND=jax only. "
            f"Received: process_count={count}, process_index={index}"
        )
    if address == "auto":
        settings = (None, count, index)
    elif None in settings and not detected:
        raise ValueError(
            "`coordinator_address`, `process_count` and `process_index` must "
            "be given together, or 'auto' as `coordinator_address` where JAX "
            f"detects them. Received: coordinator_address={address!r}, "
            f"process_count={count}, process_index={index}"
        )
    initialize, options = _jax().distributed.initialize, {}
    # Before version 0.7 JAX has a fixed one.
    if "heartbeat_timeout_seconds" in inspect.signature(initialize).parameters:
        options["heartbeat_timeout_seconds"] = _HEARTBEAT_SECONDS
    initialize(*settings, **options)
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


def _is_in_cluster():
    """Whether this is one of several processes that JAX can find by itself."""
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    hosts = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
    return any(int(os.environ.get(name, 1)) > 1 for name in counts) or any(
        "," in os.environ.get(name, "") for name in hosts
    )


def _leave(error):
    """Ends the process at once: an orderly end would wait for the others."""
    if isinstance(error, SystemExit):
        print(error.code, file=sys.stderr)
    else:
        traceback.print_exception(error)
    if not str(error).startswith("Configuration error"):
        print(
            f"Process {process_index()} of {process_count()} ends: it failed, "
            "or it lost another one (see above). The others end within about a "
            "minute; then the same command goes on from the last checkpoint.",
            file=sys.stderr,
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _on_jax():
    return keras.backend.backend() == "jax"


def _jax():
    import jax

    return jax
