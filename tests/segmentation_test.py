"""Models that give a class to each pixel train like other models."""

import json
import pathlib
import sys

import gin
import keras
import numpy as np
import pytest
import tiny

from diffstride import configurables
from diffstride.analysis.operations import count_macs
from diffstride.data.arrays import from_arrays
from diffstride.experiments import sweep_file
from diffstride.layers.pooling import DiffStride
from diffstride.training import trainer
from diffstride.validation import ConfigError

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import draw_label_maps  # noqa: E402


def dataset(seed=0, **options):
    """Bright blobs in noise; a border of pixels that do not count."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(20, 12, 16, 1)).astype("float32")
    blobs = np.zeros((20, 12, 16), "uint8")
    blobs[:, 3:9, 4:12] = rng.integers(0, 3, (20, 1, 1))
    images += 3 * blobs[..., np.newaxis]
    blobs[:, 0] = 255
    options = {
        "ignore_label": 255,
        "batch_size": 4,
        "crop_padding": 1,
        "class_weights": "median_frequency",
        "validation_split": 0.3,
        **options,
    }
    arrays = (images[:14], blobs[:14]), (images[14:], blobs[14:])
    return from_arrays(arrays, seed=seed, **options)


def model(num_output_classes, input_shape):
    """Learned strides, and back to the size of the input."""
    image = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    x = DiffStride(2.0, ramp="inside", norm="forward", name="pooling")(x)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = Enlarge(input_shape[:2])(x)
    return keras.Model(image, keras.layers.Conv2D(num_output_classes, 1)(x))


@keras.saving.register_keras_serializable()
class Enlarge(keras.layers.Layer):
    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, inputs):
        return keras.ops.image.resize(inputs, self.size)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.size, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def train(workdir, data=dataset, network=model, **options):
    options = {
        "num_epochs": 2,
        "optimizer": keras.optimizers.Adam,
        "learning_rate": 0.02,
        "verbose": 0,
        **options,
    }
    return trainer.train(data, network, workdir, **options)


def test_a_whole_run(tmp_path):
    history = train(tmp_path, pictures_every=2)
    first, last = history
    names = {"loss", "mean_iou", "pixel_accuracy"}
    assert names | {f"val_{name}" for name in names} <= set(last)
    assert last["loss"] < first["loss"]
    assert last["strides"]["pooling"] != [2.0, 2.0]
    # The figures of the test split are those of its pixels that count.
    test = json.loads((tmp_path / "test.json").read_text())
    data = dataset()
    network = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    (images, maps), (more_images, more_maps) = data.test()
    assert len(more_maps) < len(maps)
    logits = [network.predict(x, verbose=0) for x in (images, more_images)]
    predicted = np.concatenate(logits).argmax(-1)
    maps = np.concatenate([maps, more_maps])
    counted = maps >= 0
    assert 0 < counted.mean() < 1
    assert test["final"]["pixel_accuracy"] == pytest.approx(
        np.mean((predicted == maps)[counted])
    )
    pictures = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert pictures == ["epoch_002.png", "predictions.png", "strides.png"]
    result = train(tmp_path, mode="eval")
    assert result["mean_iou"] == pytest.approx(test["final"]["mean_iou"])
    # The best epoch is the one of the largest mean intersection over union.
    values = [row["val_mean_iou"] for row in history]
    assert test["best"]["epoch"] == 1 + int(np.argmax(values))


@pytest.mark.parametrize(
    "data, network, message",
    [
        (dataset, tiny.model, r"\(None, 12, 16, 3\).*output_shape=\(None, 3\)"),
        (tiny.dataset, model, r"`model` must give classes for each example"),
        (
            dataset,
            lambda num_output_classes, input_shape: keras.Sequential(
                [keras.Input(input_shape), keras.layers.Conv2D(3, 3)]
            ),
            r"\(None, 12, 16, 3\).*output_shape=\(None, 10, 14, 3\)",
        ),
    ],
)
def test_a_model_of_another_kind(data, network, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, data, network)


def test_pictures_need_label_maps(tmp_path):
    with pytest.raises(ConfigError, match="`pictures_every` must be None for"):
        train(tmp_path, tiny.dataset, tiny.model, pictures_every=1)


def test_weights_that_a_given_loss_would_not_have(tmp_path):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ConfigError, match="`class_weights` of the data set"):
        train(tmp_path, loss=loss)


def test_the_script_draws_predictions_of_runs(tmp_path):
    network = keras.Sequential(
        [keras.Input((12, 16, 1)), keras.layers.Conv2D(3, 1)]
    )
    network.save(tmp_path / "model.keras")
    images = np.zeros((4, 12, 16, 1), "uint8")
    maps = np.arange(4 * 12 * 16).reshape(4, 12, 16) % 3
    arrays = {"x_train": images, "y_train": maps}
    np.savez(tmp_path / "a.npz", **arrays, x_test=images, y_test=maps)
    (tmp_path / "config.gin").write_text(
        "train.train.dataset = @arrays.from_arrays\n"
        f"arrays.from_arrays.data = '{tmp_path}/a.npz'\n"
        "arrays.from_arrays.batch_size = 2\n"
    )
    draw_label_maps.draw([tmp_path, tmp_path], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    gin.clear_config()


@pytest.mark.once
def test_networks_of_the_study_cost_alike():
    """Within 5 % at their start; a budget keeps it there."""
    sweep = sweep_file.read_sweep(ROOT / "configs/sweeps/study_camvid.toml")
    macs = {}
    for run in sweep.runs:
        if run.seed != sweep.runs[0].seed:
            continue
        configurables.parse(run.all_files, run.all_params)
        builder = gin.query_parameter("train.train.model").selector
        with keras.StatelessScope(initialize_variables=False):
            network = gin.get_configurable(builder)(
                num_output_classes=11, input_shape=(120, 160, 3)
            )
        macs[run.name] = count_macs(network, (120, 160, 3))
    gin.clear_config()
    assert len(macs) == 5
    assert max(macs.values()) < 1.05 * min(macs.values())
