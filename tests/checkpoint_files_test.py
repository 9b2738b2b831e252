import errno
import functools
import os

import keras
import numpy as np
import pytest
import tiny

from diffstride.training import checkpoint_files as checkpoints_lib
from diffstride.training.checkpoint_files import Checkpoints


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def arrays(value):
    return {"kernel": np.full(1000, value), "count": np.array(value)}


def test_loads_what_was_saved(checkpoints):
    assert checkpoints.load() is None
    saved = {
        "float": np.random.default_rng(0).normal(size=(3, 4)).astype("float32"),
        "model/0": np.arange(5, dtype="uint32"),
        "scalar": np.array(True),
    }
    state = {"epoch": 3, "history": [{"loss": 0.1}], "best": None}
    checkpoints.save(7, saved, state)
    loaded, loaded_state = checkpoints.load()
    assert loaded_state == state
    assert loaded.keys() == saved.keys()
    for name, array in saved.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_keeps_the_latest_and_the_best(checkpoints, tmp_path):
    for step, best in [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2)]:
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / "checkpoint-9.npz.tmp").write_bytes(b"PK")
        checkpoints.save(step, arrays(step), {}, best_step=best)
    assert checkpoints.steps() == [2, 4, 5]
    assert len(os.listdir(checkpoints.directory)) == 3
    checkpoints.save(6, arrays(6), {}, best_step=6)
    assert checkpoints.steps() == [5, 6]
    assert checkpoints.load(step=5)[0]["count"] == 5


def test_foreign_files_are_passed_over(checkpoints):
    checkpoints.directory.mkdir()
    foreign = [
        "checkpoint-best.npz",
        "checkpoint-7.npz",
        "checkpoint-000000009 (copy).npz",
        "notes.tmp",
    ]
    for name in foreign:
        (checkpoints.directory / name).write_text("mine")
    assert checkpoints.load() is None
    for step in (1, 2, 3):
        checkpoints.save(step, arrays(step), {})
    assert checkpoints.steps() == [2, 3]
    assert checkpoints.load()[0]["count"] == 3
    assert set(foreign) < set(os.listdir(checkpoints.directory))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_falls_back_to_an_intact_checkpoint(checkpoints, damage, caplog):
    for step in (1, 2):
        path = checkpoints.save(step, arrays(step), {"step": step})
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    else:
        data = data[: len(data) // 2] if damage == "cut" else b""
    path.write_bytes(data)
    with caplog.at_level("WARNING", logger="absl"):
        loaded, state = checkpoints.load()
    assert state["step"] == loaded["count"] == 1
    assert f"Corrupt checkpoint: {path}" in caplog.text
    assert (
        f"Falling back to the checkpoint {checkpoints.path(1)}" in caplog.text
    )


def test_says_so_when_no_checkpoint_is_intact(checkpoints):
    checkpoints.save(1, arrays(1), {}).write_bytes(b"PK")
    with pytest.raises(ValueError, match="No intact checkpoint is left"):
        checkpoints.load()


def test_a_full_disk_leaves_the_last_good_checkpoint(checkpoints, monkeypatch):
    checkpoints.save(1, arrays(1), {})

    def full(file, **arrays):
        file.write(b"PK half a checkpoint")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space left.*000000001.npz"):
            checkpoints.save(2, arrays(2), {})
    assert os.listdir(checkpoints.directory) == ["checkpoint-000000001.npz"]
    assert checkpoints.load()[0]["count"] == 1
    checkpoints.save(2, arrays(2), {})
    assert checkpoints.load()[0]["count"] == 2


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`keep` must be at least 1"):
        Checkpoints(tmp_path, keep=0)


def built_model(**kwargs):
    model = tiny.model(3, (16, 16, 1), **kwargs)
    model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_every_variable_of_a_model_is_restored():
    model, other = built_model(), built_model()
    rng = np.random.default_rng(0)
    for variable in model.variables + model.optimizer.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(1.5 + rng.random(variable.shape))
        else:
            variable.assign(np.ones(variable.shape))
    assert any("seed" in variable.path for variable in model.variables)
    saved = checkpoints_lib.model_arrays(model)
    checkpoints_lib.restore_model(other, saved, ("model", "optimizer"))
    restored = checkpoints_lib.model_arrays(other)
    for name, array in saved.items():
        np.testing.assert_array_equal(restored[name], array)


def test_static_sizes_of_training_stay_those_of_the_interrupted_epoch():
    model = built_model(static_sizes=True, smoothness_factor=2.0)
    layer = model.get_layer("pooling")
    x = np.ones((1, 16, 16, 1), "float32")
    shape = layer(x).shape
    layer.graph_sizes.hold()  # As `RefreshSizes` does.
    first_strides = layer.graph_sizes.held
    layer.strides.assign([4.0, 4.0])  # Trained, not yet refreshed.
    saved = checkpoints_lib.model_arrays(model)
    other = built_model(static_sizes=True, smoothness_factor=2.0)
    checkpoints_lib.restore_model(other, saved, ("model",))
    restored = other.get_layer("pooling")
    # The output is that of the weights; training goes on with its sizes.
    assert restored(x).shape == layer(x).shape != shape
    restored.graph_sizes.hold()
    assert restored.graph_sizes.held == first_strides
    restored.refresh_sizes()
    assert restored.graph_sizes.held == (4.0, 4.0)


def test_bfloat16_survives():
    keras.config.set_dtype_policy("bfloat16")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    saved = checkpoints_lib.model_arrays(model)
    assert saved["model/0"].dtype == "float32"
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    model.layers[0].kernel.assign(np.zeros((3, 2)))
    checkpoints_lib.restore_model(model, saved, ("model",))
    np.testing.assert_array_equal(model.layers[0].kernel, kernel)


def test_a_checkpoint_of_another_model_is_refused():
    saved = checkpoints_lib.model_arrays(built_model())
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.compile("sgd", "mse")
    with pytest.raises(ValueError, match="has 9 variables of the model"):
        checkpoints_lib.restore_model(other, saved, ("model",))
    wide = tiny.model(5, (16, 16, 1))
    wide.compile("sgd", "mse")
    with pytest.raises(ValueError, match="predictions/kernel.*the shape"):
        checkpoints_lib.restore_model(wide, saved, ("model",))


def dense_model(*names):
    model = keras.Sequential(
        [keras.Input((3,)), *(keras.layers.Dense(3, name=n) for n in names)]
    )
    model.compile("sgd", "mse")
    return model


def test_weights_are_found_by_their_paths():
    model = dense_model("first", "second")
    saved = checkpoints_lib.model_arrays(model)
    paths = checkpoints_lib.variable_paths(model)
    restore = functools.partial(
        checkpoints_lib.restore_model, arrays=saved, groups=("model",)
    )
    # Another order, as where a builder makes its layers in another one.
    other = keras.Sequential([keras.Input((3,))], name=model.name)
    for name in ("second", "first"):
        other.add(keras.layers.Dense(3, name=name))
    other.compile("sgd", "mse")
    restore(other, paths=paths)
    for name in ("first", "second"):
        np.testing.assert_array_equal(
            other.get_layer(name).kernel, model.get_layer(name).kernel
        )
    # Names that Keras gives depend on what the process has made before.
    restore(dense_model("first", "second_7"), paths=paths)
    message = (
        "has a variable `.*/second/kernel` where this .* `.*/third/kernel`"
    )
    with pytest.raises(ValueError, match=message):
        restore(dense_model("first", "third"), paths=paths)
    # Earlier checkpoints know no paths.
    restore(dense_model("first", "third"), paths=None)
