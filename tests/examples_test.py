"""Commands and gin files of the 2022 release run, or say what to write."""

import os
import pathlib
import subprocess
import sys

import gin
import keras
import numpy as np
import pytest

from diffstride.bindings import reading
from diffstride.configurables import ConfigError, parse
from diffstride.data.tfds_source import write_tfds
from diffstride.examples import data, names
from diffstride.layers import pooling
from diffstride.training import schedules, trainer

ROOT = pathlib.Path(__file__).parents[1]

# The forms of bindings that the release's own file and its README have.
FILE_OF_2022 = """
import diffstride.examples.external_configurables

import diffstride.examples.data as data
import diffstride.examples.train as train
import diffstride.resnet as resnet
import diffstride.pooling as pooling

data.load_datasets:
  name = 'icons'
  batch_size = 4
  mixup_alpha = 0.2
train.train:
  load_data_fn = @data.load_datasets
  model_cls = @resnet.resnet18

  # A comment in a block.
  optimizer_cls = @tf.keras.optimizers.SGD
  num_epochs = 1
tf.keras.optimizers.SGD:
  learning_rate = @tf.keras.optimizers.schedules.PiecewiseConstantDecay()
  momentum = 0.9
tf.keras.optimizers.schedules.PiecewiseConstantDecay:
  boundaries = [1, 18_000]
  values = [0.01, 0.1, 0.001]
tf.keras.losses.CategoricalCrossentropy:
  label_smoothing = 0.2
resnet.resnet18.strides = [1, 1, 2, 2, 2]
resnet.Resnet:
  output_activation = 'softmax'
  weight_decay = 5e-4
  pooling_cls = @pooling.DiffStride
batch_norm:
  momentum = 0.9
  epsilon = 1e-5
pooling.DiffStride:
  smoothness_factor = 4.0
  cropping = True
  trainable = True
  shared_stride = False
  lower_limit_stride = None
  upper_limit_stride = None
"""


@pytest.fixture(autouse=True)
def _clear_config():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A small set of images in TFDS's format."""
    folder = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    splits = {
        split: (
            rng.integers(0, 256, (size, 16, 16, 3), "uint8"),
            np.arange(size) % 3,
        )
        for split, size in (("train", 21), ("test", 5))
    }
    write_tfds(folder, "icons", splits, num_classes=3)
    return folder


def parse_text(text, *bindings):
    parse([], [text, *bindings])


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_file_and_a_command_of_2022_run(tmp_path, data_dir):
    (tmp_path / "mine.gin").write_text(FILE_OF_2022)
    workdir = tmp_path / "run"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "diffstride.examples.main"),
            "--gin_config=mine.gin",
            f"--configs_folder={tmp_path}",
            f"--gin_bindings=train.workdir = '{workdir}'",
            "--gin_bindings=resnet.resnet18.filters = 4",
            "--gin_bindings=resnet.resnet18.num_layers = 1",
        ],
        cwd=ROOT,
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert (
        "CategoricalCrossentropy.label_smoothing` has no eff" in result.stderr
    )
    assert (workdir / "model.keras").exists()
    config = (workdir / "config.gin").read_text()
    for line in (
        "train.seed = 1",
        "train.dataset = @data.load_datasets",
        "train.learning_rate = @schedules.PiecewiseConstantDecay()",
        "train.optimizer = @optimizers.SGD",
        "resnet18.pooling_cls = @pooling.DiffStride",
        "resnet18.weight_decay = 0.0005",
    ):
        assert line in config
    assert "workdir" not in config


@pytest.mark.tensorflow
@pytest.mark.slow
def test_the_command_without_a_folder_finds_the_file_of_the_package(tmp_path):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "diffstride.examples.main"),
            "--gin_config=cifar10.gin",
            f"--gin_bindings=train.workdir = '{tmp_path}'",
            "--gin_bindings=data.load_datasets.name = 'no_such_set'",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    # It gets as far as the data.
    assert "name='no_such_set'" in result.stderr


def test_both_files_of_the_release_say_the_same(data_dir):
    """In the names of 2022 and in those of today."""

    def read(files, folder, **names):
        parse(files, folder=folder)
        found = {
            "epochs": gin.query_parameter("train.train.num_epochs"),
            "momentum": gin.query_parameter("optimizers.SGD.momentum"),
        }
        for name in ("pooling_cls", "weight_decay", "output_activation"):
            value = gin.query_parameter(f"resnet.resnet18.{name}")
            while isinstance(value, gin.config.ConfigurableReference):
                if value.configurable.selector != "gin.macro":
                    value = value.configurable.selector
                    break
                value = gin.query_parameter(f"{value.scopes[0]}/macro.value")
            found[name] = value
        found["strides"] = gin.query_parameter("resnet.resnet18.strides")
        rate = gin.query_parameter("train.train.learning_rate")
        rate = rate.scoped_configurable_fn()
        steps = (0, 400, 401, 18_001, 32_001)
        found["rates"] = [float(rate(step)) for step in steps]
        return found

    examples = ROOT / "diffstride" / "examples"
    assert read(["cifar10.gin"], str(examples)) == read(
        ["papers/diffstride/release_cifar10.gin"], None
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_batches_are_those_of_the_file_of_today(data_dir, mixup):
    parse(
        ["papers/diffstride/release_cifar10.gin"],
        [
            "images.tfds_images.name = 'icons'",
            "images.tfds_images.batch_size = 4",
            f"images.tfds_images.mixup_alpha = {mixup}",
        ],
    )
    today = gin.get_configurable("images.tfds_images")(
        seed=3, data_dir=data_dir
    )
    then = data.load_datasets(
        "icons", 4, mixup_alpha=mixup, seed=3, data_dir=data_dir
    )
    assert then.train_steps == today.train_steps == (2 if mixup else 5)
    for batch, other in zip(then.train(1), today.train(1), strict=True):
        for one, two in zip(batch, other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.tensorflow
def test_options_of_the_data(data_dir, caplog):
    parse_text(
        "data.load_datasets.name = 'icons'\n"
        "data.load_datasets.batch_size = 21\n"
        "data.load_datasets.augment_fn = @data.augment\n"
        "data.augment.pad_size = 1"
    )
    load = gin.get_configurable("data.load_datasets")
    x, y = load(data_dir=data_dir).train(0)[0]
    plain, labels = data.load_datasets("icons", 21, data_dir=data_dir).train(0)[
        0
    ]
    np.testing.assert_array_equal(y, labels)
    # The order is the same: a crop takes an image by a pixel at most.
    assert not np.array_equal(x, plain)
    for image, other in zip(x, plain, strict=True):
        moved = [
            np.roll(form, shift, (0, 1))[2:-2, 2:-2]
            for form in (other, other[:, ::-1])
            for shift in np.ndindex(3, 3)
            for shift in [np.subtract(shift, 1)]
        ]
        assert any(np.array_equal(image[2:-2, 2:-2], form) for form in moved)
    assert not caplog.records
    data.load_datasets("icons", 4, mixup_alpha=0.3, data_dir=data_dir)
    assert "alpha of 0.2, as the release did, in place of 0.3" in caplog.text
    with pytest.raises(ValueError, match="`augment_fn` must be None or"):
        data.load_datasets("icons", 4, augment_fn=lambda x: x)


def test_names_of_2022_become_those_of_today():
    parse_text(FILE_OF_2022)
    model = gin.query_parameter("train.train.model").configurable
    assert model.selector == "resnet.resnet18"
    layer = gin.query_parameter("resnet.resnet18.pooling_cls").configurable
    assert layer.wrapped is pooling.DiffStride
    schedule = gin.query_parameter("train.train.learning_rate")
    rate = schedule.scoped_configurable_fn()
    rates = [float(rate(step)) for step in (1, 2, 18_000, 18_001)]
    np.testing.assert_allclose(rates, [0.01, 0.1, 0.1, 0.001])
    assert gin.query_parameter("optimizers.SGD.momentum") == 0.9
    # What is no name of the release stays, where it looks like one, too.
    for text in (
        "my.function.model_cls = 3",
        "my.function:\n  model_cls = 3\n",
        "train.train.num_epochs = 3\nother.model_cls = 1",
    ):
        assert names.translate(text) == text


@pytest.mark.parametrize("method", ["@pooling.FixedSpectralPooling", "None"])
def test_the_methods_of_the_readme(method):
    parse_text(FILE_OF_2022, f"resnet.Resnet.pooling_cls = {method}")
    model = gin.get_configurable("resnet.resnet18")(
        filters=4, input_shape=(16, 16, 3)
    )
    layers = {type(layer) for layer in model._flatten_layers()}
    assert (pooling.FixedSpectralPooling in layers) == (method != "None")
    assert pooling.DiffStride not in layers


@pytest.mark.parametrize(
    "binding, hint",
    [
        ("resnet.ResidualLayer.kernel_size = 5", "of `resnet.Resnet`"),
        ("resnet.ResnetBlock.num_layers = 3", "of `resnet.Resnet`"),
        ("train.lr_schedule.divisions = [(1, 2.)]", "@schedules.piecewise"),
        ("pooling.LearnableSpectralPooling.cropping = 1", "pooling.DiffStride"),
        (
            "train.train.learning_rate = "
            "@tf.keras.optimizers.schedules.CosineDecay()",
            "@schedules.cosine",
        ),
        ("tf.keras.layers.Dense.use_bias = False", "parameters of the model"),
        ("batch_norm.momentum = 0.99", "momentum` must be 0.9"),
        ("data.load_datasets.nam = 'x'", "Did you mean: name"),
    ],
)
def test_what_is_no_longer_there_has_one_error_with_what_is(binding, hint):
    with pytest.raises(ConfigError) as error:
        parse_text(FILE_OF_2022, binding)
    assert hint in str(error.value)


def test_the_learning_rate_of_the_optimizer_is_that_of_the_run(tmp_path):
    parse_text(
        "train.train.optimizer = @optimizers.Adam\n"
        "optimizers.Adam.learning_rate = 0.25\n"
        "optimizers.SGD.learning_rate = 0.5"
    )
    assert gin.query_parameter("train.train.learning_rate") == 0.25
    assert [reading.name(key) for key in reading.unread()] == [
        "optimizers.SGD.learning_rate",
        "train.train.learning_rate",
        "train.train.optimizer",
    ]
    # Where both are bound, one of them is used, and the other one named.
    parse_text(
        "train.train.optimizer = @optimizers.SGD\n"
        "train.train.learning_rate = @schedules.cosine\n"
        "optimizers.SGD.learning_rate = 0.5"
    )
    rate = gin.query_parameter("train.train.learning_rate")
    assert rate.configurable.wrapped is schedules.cosine
    assert gin.query_parameter("optimizers.SGD.learning_rate") == 0.5


def test_import_paths():
    from diffstride.examples import external_configurables, train

    assert train.train is trainer.train
    assert external_configurables.__doc__
    assert keras.optimizers.SGD is not None
