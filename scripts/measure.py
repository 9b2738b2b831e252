"""What the benchmarks share: fair turns and peak memory."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import pathlib
import re
import statistics
import subprocess
import sys
import time

import keras


def median_milliseconds(steps, repeats):
    """Median time of each function, which take turns in every round.

    Args:
        steps: dict of functions without arguments, which return when their
            work is done.
        repeats: integer. Rounds, after one that is not counted.
    """
    times = {name: [] for name in steps}
    for round_index in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if round_index:
                times[name].append(1000 * (time.perf_counter() - start))
        print(f"\r  round {round_index}/{repeats}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return {
        name: statistics.median(measured) for name, measured in times.items()
    }


def median_of_pairs(pairs, repeats):
    """Medians of the first functions of pairs, then of the second ones."""
    return tuple(
        median_milliseconds(
            {name: pair[index] for name, pair in pairs.items()}, repeats
        )
        for index in (0, 1)
    )


def added_memory(step, repeats=3):
    """MiB that a function takes at its peak, beyond what is in use before."""
    before = memory()
    for _ in range(repeats):
        step()
    return memory(peak=True) - before


def jax_memory():
    """What JAX says of the memory of its GPU. None on a CPU."""
    if keras.backend.backend() != "jax":
        return None
    import jax

    return jax.devices()[0].memory_stats()


def memory(peak=False):
    """MiB in use by this process, or by its GPU, now or at most."""
    device = jax_memory()
    if device:
        key = "peak_bytes_in_use" if peak else "bytes_in_use"
        return device[key] / 2**20
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            device = tf.config.experimental.get_memory_info("GPU:0")
            return device["peak" if peak else "current"] / 2**20
    # Not getrusage, whose peak a process inherits from the one that started it.
    status = pathlib.Path("/proc/self/status").read_text()
    key = "VmHWM" if peak else "VmRSS"
    return int(re.search(rf"{key}:\s+(\d+)", status).group(1)) / 1024


def number_from_process(*arguments):
    """Runs the calling script anew and returns the last number it prints.

    Memory is measured so: in a process of its own, where nothing else ran.
    """
    command = [sys.executable, sys.argv[0], *map(str, arguments)]
    return float(subprocess.check_output(command, text=True).split()[-1])


def write_json(path, **measured):
    """Writes what was measured, with the backend."""
    measured = {"backend": keras.backend.backend(), **measured}
    path.write_text(json.dumps(measured, indent=2))
