"""Several processes train like one."""

import contextlib
import functools
import json
import multiprocessing
import os
import signal
import socket
import time

import keras
import numpy as np
import pytest
import tiny

from diffstride.data.arrays import from_arrays
from diffstride.training import (
    processes,
    trainer,
)
from diffstride.training.checkpoint_files import Checkpoints

on_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="needs the JAX backend"
)
EPOCHS, STEPS = 2, 5


def images(seed, process_index, process_count):
    """21 test images: batches that divide among two devices, and a last one."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 61)
    x = rng.normal(size=(61, 16, 16, 1)) + y[:, None, None, None]
    return from_arrays(
        ((x[:40], y[:40]), (x[40:], y[40:])),
        batch_size=8,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
    )


class At(keras.callbacks.Callback):
    """Sends this process a signal after so many training steps of its own."""

    def __init__(self, number, steps):
        super().__init__()
        self.number, self.steps = number, steps

    def on_train_batch_begin(self, batch, logs=None):
        if self.steps == 0:
            os.kill(os.getpid(), self.number)
        self.steps -= 1


def train(workdir, cache, devices, end, environment, settings):
    os.environ |= environment | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0"
    }
    import jax

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    os.makedirs(workdir, exist_ok=True)
    with (
        open(os.path.join(workdir, f"log{settings[-1]}"), "w") as log,
        contextlib.redirect_stderr(log),
        processes.joined(*settings),
    ):
        trainer.train(
            dataset=images,
            model=functools.partial(
                tiny.model, static_sizes=True, smoothness_factor=1
            ),
            workdir=workdir,
            num_epochs=EPOCHS,
            learning_rate=0.02,
            optimizer=functools.partial(keras.optimizers.SGD, momentum=0.9),
            complexity_weight=30.0,
            refresh_sizes=2,
            checkpoint_steps=3,
            callbacks=[At(*end)] if end else [],
            verbose=0,
        )


def test_settings_are_complete(monkeypatch):
    with processes.joined(), processes.joined(process_count=1):
        assert processes.process_count() == 1
    if keras.backend.backend() == "tensorflow":
        message = "KERAS_BACKEND=jax only. Received: process_count=2"
    else:
        message = "must be given together.*_address=None, process_count=2"
    with pytest.raises(ValueError, match=message):
        processes.joined(process_count=2).__enter__()
    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "a:1,b:1")
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "1")
    assert processes._settings(None, None, None) == ("a:1", 2, 1)
    assert processes._settings("c:2", None, 0) == ("c:2", 2, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trains in new processes; returns how they ended."""
    context = multiprocessing.get_context("forkserver")
    # One process imports, and forks those that train.
    context.set_forkserver_preload(["diffstride.training.trainer"])
    cache = str(tmp_path_factory.mktemp("cache"))

    def start(workdir, count=1, devices=1, end=None, in_slurm=False):
        port = free_port()
        started = []
        for index in range(count):
            environment, settings = {}, (f"127.0.0.1:{port}", count, index)
            if in_slurm:
                environment = slurm_environment(port, count, index)
                settings = (None, None, None)
            # The last process is the one to be ended.
            own_end = end if index == count - 1 else None
            arguments = (devices, own_end, environment, settings)
            started.append(
                context.Process(
                    target=train, args=(str(workdir), cache, *arguments)
                )
            )
        for process in started:
            process.start()
        for process in started:
            process.join()
        return [process.exitcode for process in started]

    return start


def free_port():
    """One of those that JAX takes under Slurm."""
    for port in np.random.default_rng().permutation(np.arange(61440, 65536)):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", int(port)))
            return int(port)


def test_processes_of_a_cluster_find_one_another(monkeypatch):
    assert not processes._is_in_cluster()
    for name, alone, several in [
        ("SLURM_STEP_NUM_TASKS", "1", "4"),
        ("OMPI_COMM_WORLD_SIZE", "1", "2"),
        ("TPU_WORKER_HOSTNAMES", "host0", "host0,host1"),
    ]:
        with monkeypatch.context() as patch:
            for value in (alone, several):
                patch.setenv(name, value)
                assert processes._is_in_cluster() == (value == several)


def slurm_environment(port, count, index):
    return {
        "SLURM_JOB_ID": str(port - 61440),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    assert run(workdir) == [0]
    return workdir


def assert_same_run(workdir, other):
    rows, other_rows = (
        [json.loads(line) for line in open(path / "history.jsonl")]
        for path in (workdir, other)
    )
    assert len(rows) == EPOCHS
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row["sizes"] == other_row["sizes"]
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            np.testing.assert_allclose(row[name], other_row[name], 1e-4)
        np.testing.assert_allclose(
            row["strides"]["pooling"], other_row["strides"]["pooling"], 1e-4
        )
    # Sizes have changed, and were compiled.
    assert rows[-1]["compilations"] > 1
    arrays, other_arrays = (
        Checkpoints(path / "checkpoints").load()[0] for path in (workdir, other)
    )
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        if name.startswith("metrics/"):
            continue  # Sums and counts, up to a factor.
        np.testing.assert_allclose(
            array, other_arrays[name], 1e-4, 1e-5, err_msg=name
        )


@on_jax
def test_two_processes_of_two_devices_train_like_one_device(
    run, alone, tmp_path
):
    assert run(tmp_path, count=2, devices=2) == [0, 0]
    assert_same_run(tmp_path, alone)


@on_jax
@pytest.mark.slow
def test_processes_end_together(run, alone, tmp_path):
    # Sent to one of them, the signal ends both, at one step.
    pair = functools.partial(run, tmp_path, count=2)
    codes = pair(end=(signal.SIGTERM, 1), in_slurm=True)
    assert codes == [128 + signal.SIGTERM] * 2
    assert 1 < Checkpoints(tmp_path / "checkpoints").steps()[-1] <= STEPS
    # A lost one ends the other.
    began = time.monotonic()
    codes = pair(end=(signal.SIGKILL, 3))
    assert time.monotonic() - began < 120
    assert codes[0] not in (0, None) and codes[1] == -signal.SIGKILL
    log = (tmp_path / "log0").read_text()
    assert "Process 0 of 2 ends" in log and "from the last checkpoint" in log
    assert pair() == [0, 0]
    assert_same_run(tmp_path, alone)
