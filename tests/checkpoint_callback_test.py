"""When a run is saved, and what callbacks remember."""

import checkpoint_files_test
import keras
import numpy as np
import pytest

from diffstride.training.checkpoint_callback import Checkpointing, Progress
from diffstride.training.checkpoint_files import Checkpoints


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def test_weights_that_are_not_finite_are_not_saved(checkpoints, caplog):
    model = checkpoint_files_test.built_model()
    checkpointing = Checkpointing(
        checkpoints,
        Progress(),
        train_steps=6,
        every=1,
        monitor=None,
        asked_to_end=lambda: None,
    )
    checkpointing.set_model(model)
    checkpointing.on_train_begin()
    checkpointing.on_epoch_begin(0)
    for step in (0, 1):
        checkpointing.on_train_batch_begin(step)
    model.get_layer("pooling").strides.assign([np.nan, 2.0])
    checkpointing.on_train_batch_begin(2)
    assert checkpoints.steps() == [1]
    assert "strides` is not finite" in caplog.text


def test_callbacks_remember(checkpoints):
    """What `EarlyStopping` and others have counted comes back exactly."""

    def start(progress):
        stopping = keras.callbacks.EarlyStopping(
            "val_error", 0.01, patience=4, restore_best_weights=True, mode="min"
        )
        plateau = keras.callbacks.ReduceLROnPlateau(
            "val_error", patience=3, cooldown=5
        )
        checkpointing = Checkpointing(
            checkpoints,
            progress,
            train_steps=6,
            every=None,
            monitor="val_error",
            asked_to_end=lambda: None,
            callbacks=(stopping, plateau),
        )
        model = checkpoint_files_test.built_model()
        plateau.mode = "min"
        loaded = checkpoints.load()
        if loaded:
            vars(progress).update(loaded[1])
            checkpointing.restore(model, loaded[0])
        callbacks = keras.callbacks.CallbackList(
            [stopping, plateau, checkpointing], model=model
        )
        model.stop_training = False
        callbacks.on_train_begin()
        return callbacks, stopping, plateau

    def memory(stopping, plateau):
        return {
            "wait": (stopping.wait, plateau.wait),
            "best": (stopping.best, plateau.best, stopping.best_epoch),
            "cooldown": plateau.cooldown_counter,
            "weights": stopping.best_weights,
            "min_delta": (stopping.min_delta, plateau.min_delta),
        }

    # The second value is less than `min_delta` better than the first one.
    errors = [0.5, 0.495, 0.6, 0.7, 0.1, 0.2, 0.3, 0.4, 0.5]
    whole, *memories = start(Progress())
    progress = Progress()
    for epoch, error in enumerate(errors):
        callbacks, stopping, plateau = start(progress)
        for each in (callbacks, whole):
            each.on_epoch_begin(epoch)
            each.model.get_layer("pooling").strides.assign([2 + error] * 2)
        callbacks.on_epoch_end(epoch, {"val_error": error})
        for callback in whole.callbacks[:2]:
            callback.on_epoch_end(epoch, {"val_error": error})
        found, expected = memory(stopping, plateau), memory(*memories)
        for one, other in zip(
            found.pop("weights"), expected.pop("weights"), strict=True
        ):
            if one.shape == (2,):  # The strides.
                np.testing.assert_array_equal(one, other)
        assert found == expected
        stopped = callbacks.model.stop_training
        assert stopped == whole.model.stop_training == progress.stopped
    assert progress.stopped and progress.best["epoch"] == 5
