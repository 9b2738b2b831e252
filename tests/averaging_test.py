"""Averaged weights, of checkpoints by hand and of those of a run."""

import functools
import json

import numpy as np
import tiny
from keras import ops

from diffstride.training import checkpoint_files as checkpoints_lib
from diffstride.training import trainer
from diffstride.training.averaging import average_checkpoints
from diffstride.training.checkpoint_files import Checkpoints


def test_weights_of_epochs_are_averaged_and_nothing_else(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3, epoch_steps=2)
    assert average_checkpoints(checkpoints) is None
    for step in (2, 3, 4, 6, 7, 8, 9):
        arrays = {
            "model/0": np.full(4, step, "float32"),
            "model/1": np.array([step], "uint32"),
            "optimizer/0": np.array(float(step)),
        }
        checkpoints.save(step, arrays, {"epoch": step // 2}, best_step=2)
    # Those within an epoch do not push out the ends of epochs.
    assert checkpoints.steps() == [2, 4, 6, 7, 8, 9]
    for keep, expected in [(3, [4, 6, 8]), (2, [6, 8])]:
        checkpoints.keep = keep
        arrays, state, steps = average_checkpoints(checkpoints)
        assert state == {"epoch": 4} and steps == expected
        assert arrays["model/0"].dtype == np.float32
        np.testing.assert_allclose(arrays["model/0"], np.mean(steps), 1e-6)
        assert arrays["model/1"] == 8 and arrays["optimizer/0"] == 8


def test_evaluation_of_a_run(tmp_path):
    arguments = {
        "dataset": tiny.dataset,
        "model": functools.partial(tiny.model, trainable=False),
        "workdir": tmp_path,
        "num_epochs": 3,
        "keep_checkpoints": 3,
        "tensorboard": False,
        "verbose": 0,
    }
    trainer.train(**arguments)
    found = trainer.train(**arguments, mode="eval", eval_checkpoint="average")
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    assert found["checkpoint"] == [
        f"checkpoint-{step:09d}.npz" for step in (6, 12, 18)
    ]
    assert len(checkpoints.steps()) == 3
    loaded = [checkpoints.load(step)[0] for step in checkpoints.steps()]
    data = tiny.dataset()
    model = tiny.model(data.num_classes, data.input_shape, trainable=False)
    model.compile("sgd", "sparse_categorical_crossentropy")
    names = [f"model/{index}" for index in range(len(model.variables))]
    means = {
        name: np.mean([arrays[name] for arrays in loaded], axis=0)
        for name in names
    }
    assert any(np.any(means[name] != loaded[-1][name]) for name in names)
    arrays = {**loaded[-1], **means}
    checkpoints_lib.restore_model(model, arrays, groups=["model"])
    right = [
        ops.convert_to_numpy(model(x)).argmax(axis=1) == y
        for x, y in data.test()
    ]
    np.testing.assert_allclose(found["accuracy"], np.mean(right), rtol=1e-6)
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["accuracy"] == found["accuracy"] and saved["epoch"] == 3
