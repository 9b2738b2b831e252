"""Kills tiny runs at random steps, and compares them with one left alone.

    python scripts/kill_test.py --kills=20
    KERAS_BACKEND=jax python scripts/kill_test.py --kills=20

A run goes on after every SIGKILL from its last checkpoint. In the end its
history and all arrays of its last checkpoint must be bit-equal to those of a
run that nothing interrupts.
"""

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import tempfile

import keras
import numpy as np

from diffstride import DiffStride
from diffstride.data.arrays import from_arrays
from diffstride.training import trainer
from diffstride.training.checkpoint_files import Checkpoints

EPOCHS, STEPS = 4, 6
# These differ from run to run.
TIMES = ("seconds", "images_per_second", "compilations")


class Kill(keras.callbacks.Callback):
    """Ends the process at once, so many events after its start."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def _count(self):
        if self.after == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.after -= 1

    def on_train_batch_begin(self, batch, logs=None):
        self._count()

    def on_test_batch_begin(self, batch, logs=None):
        self._count()

    def on_epoch_end(self, epoch, logs=None):
        self._count()


def build(num_output_classes, input_shape):
    """A model with every kind of state, and sizes that change."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(4, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            DiffStride(2.0, 1, static_sizes=True, name="pooling"),
            keras.layers.Dropout(0.2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(num_output_classes),
        ]
    )


def train(workdir, after=None):
    rng = np.random.default_rng(0)
    y = np.arange(64) % 3
    x = rng.normal(size=(64, 16, 16, 1)) + y[:, None, None, None]
    callbacks = [
        keras.callbacks.EarlyStopping(
            "val_loss", patience=9, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau(
            "val_loss", min_delta=9.0, patience=1, factor=0.5
        ),
    ]
    if after is not None:
        callbacks.append(Kill(after))
    trainer.train(
        dataset=from_arrays(((x[:48], y[:48]), (x[48:], y[48:])), batch_size=8),
        model=build,
        workdir=workdir,
        num_epochs=EPOCHS,
        learning_rate=0.05,
        optimizer=functools.partial(keras.optimizers.SGD, momentum=0.9),
        complexity_weight=10.0,
        checkpoint_steps=2,
        refresh_sizes=4,
        deterministic=True,
        callbacks=callbacks,
        tensorboard=False,
        verbose=0,
    )


def run(context, *args):
    process = context.Process(target=train, args=args)
    process.start()
    process.join()
    return process.exitcode


def outcome(workdir):
    """The history without times, and the arrays of the last checkpoint."""
    lines = (workdir / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        for name in TIMES:
            row.pop(name)
    return rows, Checkpoints(workdir / "checkpoints").load()[0]


def is_equal(workdir, other):
    (rows, arrays), (other_rows, other_arrays) = map(outcome, (workdir, other))
    return (
        rows == other_rows
        and arrays.keys() == other_arrays.keys()
        and all(
            np.array_equal(array, other_arrays[name])
            for name, array in arrays.items()
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    context = multiprocessing.get_context("forkserver")
    # One process imports, and forks those that train.
    context.set_forkserver_preload(["diffstride.training.trainer"])
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder, "whole")
        assert run(context, str(whole)) == 0
        kills, runs, equal = 0, 0, 0
        while kills < args.kills:
            workdir = pathlib.Path(folder, str(runs))
            # Two kills a run, so that the second one meets a run that has
            # already gone on once.
            for _ in range(2):
                after = int(rng.integers(1, EPOCHS * STEPS // 2))
                code = run(context, str(workdir), after)
                kills += code == -signal.SIGKILL
            assert run(context, str(workdir)) == 0
            runs += 1
            equal += is_equal(workdir, whole)
            print(f"{kills} kills: {equal} of {runs} runs equal", flush=True)
    raise SystemExit(equal != runs)


if __name__ == "__main__":
    main()
