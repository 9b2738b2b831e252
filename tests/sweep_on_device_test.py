"""Sweeps whose runs are made in one process, with the data on the device."""

import json

import keras
import numpy as np
import pytest

from diffstride.experiments.run_folder import read_folder
from diffstride.experiments.runner import make_runs
from diffstride.experiments.sweep_file import read_sweep
from diffstride.sweep_on_device import InThisProcess, by_choices

on_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="needs the JAX backend"
)

SWEEP = """
# Two ways of downsampling, and one with what cannot be made.
config = ["base.gin", "models/fast_cnn.gin"]
seeds = [1, 2]
gin_param = [
    "train.train.dataset = @arrays.from_arrays",
    "arrays.from_arrays.data = '{data}'",
    "arrays.from_arrays.batch_size = 32",
    "fast_cnn.fast_cnn.filters = [4]",
    "fast_cnn.fast_cnn.strides = [2]",
    "train.train.num_epochs = 2",
    "train.train.verbose = 2",
]
[axes.pooling.choices]
max = ["pooling/max.gin"]
learned = [
    "pooling/diffstride.gin",
    "pooling/before.gin",
    "pooling.DiffStride.size_multiple = 8",
    "train.train.target_macs = 1.0",
]
mixup = ["pooling/max.gin", "arrays.from_arrays.mixup_alpha = 0.2"]
"""


@pytest.fixture
def workdir(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (64, 16, 16, 3)).astype("uint8")
    y = np.arange(64) % 4
    data = tmp_path / "images.npz"
    np.savez(data, x_train=x, y_train=y, x_test=x[:32], y_test=y[:32])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sweep.toml").write_text(SWEEP.format(data=data))
    return tmp_path / "runs"


@on_jax
def test_runs_are_made_and_reported(workdir, monkeypatch):
    sweep = read_sweep(workdir / "sweep.toml")
    runs = by_choices(sweep.runs)
    assert [run.name for run in runs[:3]] == [
        "pooling=max,seed=1",
        "pooling=max,seed=2",
        "pooling=learned,seed=1",
    ]
    # Ctrl-C ends the sweep. It is no failure of the run.
    executor, lines = InThisProcess(), []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(executor, "_train", interrupt)
        make_runs(runs, workdir, executor, lines.append)
    assert "this run starts anew" in lines[-1]
    assert not list(workdir.glob("*/failure.json"))

    failed = make_runs(runs, workdir, InThisProcess(), lines.append)
    assert [run.name for run in failed] == [
        "pooling=mixup,seed=1",
        "pooling=mixup,seed=2",
    ]
    assert all("`mixup_alpha` must be 0" in why for why in failed.values())
    folder = read_folder(workdir)
    assert sorted(run.name for run in folder.runs) == sorted(
        run.name for run in runs[:4]
    )
    compiled = {
        run.name: [row["compilations"] for row in run.history]
        for run in folder.runs
    }
    assert compiled == {
        "pooling=max,seed=1": [1, 1],
        "pooling=max,seed=2": [0, 0],
        "pooling=learned,seed=1": [1, 1],
        "pooling=learned,seed=2": [0, 0],
    }
    names = {run.parameter("train.seed") for run in folder.runs}
    assert names == {1, 2}
    [learned] = [r for r in folder.runs if r.name == "pooling=learned,seed=2"]
    assert list(learned.history[-1]["strides"]) == ["block1_pooling"]
    log = (workdir / learned.name / "log.txt").read_text()
    assert "Epoch 2/2" in log and "val_accuracy" in log
    again = []
    make_runs(runs[:4], workdir, InThisProcess(), again.append)
    assert len(again) == 4 and all("finished before" in x for x in again)
    description = json.loads(
        (workdir / learned.name / "sweep.json").read_text()
    )
    assert description["command"] == learned.command


def interrupt(run, directory):
    raise KeyboardInterrupt
