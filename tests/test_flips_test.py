import json

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from diffstride.training import trainer
from diffstride.training.test_flips import MirrorAverage, check_test_flips
from diffstride.validation import ConfigError


def test_the_mean_of_both():
    network = keras.Sequential(
        [
            keras.Input((6, 5, 2)),
            keras.layers.Conv2D(3, 2),
            keras.layers.Flatten(),
        ]
    )
    images = (
        np.random.default_rng(0).normal(size=(4, 6, 5, 2)).astype("float32")
    )
    expected = (network(images) + network(images[:, :, ::-1].copy())) / 2
    found = MirrorAverage(network)(images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_evaluation_with_and_without(tmp_path):
    arguments = {
        "dataset": tiny.dataset,
        "model": tiny.model,
        "workdir": tmp_path,
        "num_epochs": 1,
        "tensorboard": False,
        "verbose": 0,
    }
    history = trainer.train(**arguments)
    plain = trainer.train(**arguments, mode="eval")
    assert plain["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-5)
    mirrored = trainer.train(**arguments, mode="eval", test_flips=True)
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    losses = [
        keras.losses.sparse_categorical_crossentropy(
            y, (model(x) + model(x[:, :, ::-1].copy())) / 2, from_logits=True
        )
        for x, y in tiny.dataset().test()
    ]
    expected = np.concatenate([ops.convert_to_numpy(loss) for loss in losses])
    assert mirrored["loss"] == pytest.approx(expected.mean(), rel=1e-4)
    assert mirrored["loss"] != plain["loss"]
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["loss"] == mirrored["loss"]


def test_other_data_are_refused():
    data = tiny.dataset()
    check_test_flips(data)
    with pytest.raises(ConfigError, match="`test_flips` must be False"):
        check_test_flips(
            data.__class__(**{**vars(data), "label_shape": (4, 4)})
        )
