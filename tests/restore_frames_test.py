"""A detector: few frames inside of a model, a prediction for every frame."""

import keras
import numpy as np
import pytest
from keras import ops

from diffstride import DiffRes, RestoreFrames


def detector(**kwargs):
    inputs = keras.Input((40, 8))
    merge = DiffRes(0.5, features="mean", return_warp=True, name="merge")
    x, warp = merge(inputs)
    x = keras.layers.Conv1D(8, 3, padding="same", activation="relu")(x)
    x = keras.layers.Dense(1, activation="sigmoid", dtype="float32")(x)
    return keras.Model(inputs, RestoreFrames(dtype="float32")(x, warp))


def clips(count, seed=0):
    """A sound of eight frames somewhere in noise, and where it is."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-4, 0.5, (count, 40, 8))
    y = np.zeros((count, 40, 1), "float32")
    for clip, start in enumerate(rng.integers(0, 32, count)):
        x[clip, start : start + 8, :4] += 3
        y[clip, start : start + 8] = 1
    return x.astype("float32"), y


@pytest.mark.slow
def test_a_detector_learns_and_is_saved(tmp_path):
    model = detector()
    assert model.output_shape == (None, 40, 1)
    x, y = clips(128)
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy")
    model.fit(x, y, batch_size=32, epochs=8, verbose=0)
    found = model.predict(x, verbose=0)
    assert np.mean((found > 0.5) == y) > 0.93
    # The layer does the same for predictions that a model has made.
    features = keras.Model(model.input, model.layers[-2].output)
    merge = model.get_layer("merge")
    restored = merge.to_frames(features.predict(x, verbose=0), x)
    np.testing.assert_allclose(ops.convert_to_numpy(restored), found, atol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), found, atol=1e-5)


@pytest.mark.parametrize("policy", ("mixed_float16", "mixed_bfloat16"))
def test_the_warp_keeps_its_precision(policy):
    """Half a precision knows no whole numbers beyond 2048."""
    x = np.random.default_rng(0).normal(-4, 1, (1, 6000, 8)).astype("float32")
    merge = DiffRes(0.5, features="mean", return_warp=True, dtype=policy)
    merged, warp = merge(x)
    assert keras.backend.standardize_dtype(warp.dtype) == "float32"
    assert keras.backend.standardize_dtype(merged.dtype) == policy[6:]
    numbers = np.arange(3000, dtype="float32")[None, :, None]
    found = RestoreFrames(dtype="float32")(numbers, warp)
    found = ops.convert_to_numpy(found)[0, :, 0]
    assert np.all(np.diff(found) >= -1e-3) and found[-1] == 2999
    inputs = keras.Input((40, 8))
    assert [x.dtype for x in merge(inputs)] == [policy[6:], "float32"]


@pytest.mark.filterwarnings("error:Layer")
def test_the_mask_of_the_frames_comes_back():
    """So that padding is left out, as by the pooling here."""
    x = np.random.default_rng(0).normal(-4, 1, (2, 20, 8)).astype("float32")
    x[1, 12:] = 0
    masked = keras.layers.Masking()(inputs := keras.Input((20, 8)))
    merge = DiffRes(0.5, features="mean", return_warp=True)
    merged, warp = merge(masked)
    restored = RestoreFrames()(merged, warp)
    pooled = keras.layers.GlobalAveragePooling1D()(restored)
    model = keras.Model(inputs, [restored, pooled])
    restored, pooled = (ops.convert_to_numpy(y) for y in model(x))
    np.testing.assert_allclose(pooled[0], restored[0].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        pooled[1], restored[1, :12].mean(axis=0), rtol=1e-5
    )
    # A mask of the output frames alone says nothing about the frames.
    some = keras.layers.Masking()(x[:, :10])
    warp = ops.convert_to_numpy(merge(x)[1])
    restored = RestoreFrames()(some, warp)
    assert getattr(restored, "_keras_mask", None) is None


@pytest.mark.parametrize(
    "name,outputs,warp",
    [
        ("ndim", (2, 10, 4, 1), (2, 20, 3)),
        ("`warp`", (2, 10, 4), (2, 20, 4)),
        ("`warp`", (2, 10, 4), (2, 20)),
        ("`warp`", (2, 10, 4), (3, 20, 3)),
    ],
)
def test_shapes_are_checked(name, outputs, warp):
    with pytest.raises(ValueError, match=f"{name}(.|\n)*[Rr]eceived"):
        RestoreFrames()(np.zeros(outputs), np.zeros(warp))
