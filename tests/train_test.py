"""The binary: flags, gin files, and what they may get wrong."""

import json
import os
import subprocess
import sys

import gin
import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from diffstride import (
    configurables,
    train,
)
from diffstride.bindings import reading
from diffstride.configurables import ConfigError, parse
from diffstride.layers import pooling

SMALL = [
    "synthetic.synthetic.num_train = 16",
    "synthetic.synthetic.num_test = 8",
    "synthetic.synthetic.image_size = 16",
    "synthetic.synthetic.batch_size = 8",
    "resnet.resnet18.filters = 2",
    "resnet.resnet18.strides = [1, 2]",
    "train.train.num_epochs = 1",
]
BASE = ["quickstart.gin"]


@pytest.fixture(autouse=True)
def _clear_config():
    yield
    gin.clear_config()


def command(workdir, *arguments):
    return [
        sys.executable,
        "-m",
        "diffstride.train",
        f"--workdir={workdir}",
        *arguments,
        *(f"--gin_param={param}" for param in SMALL),
    ]


def run_main(**values):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["train"])
    with flagsaver.flagsaver(**values):
        train.main(["train"])


def test_trains_from_any_directory_and_evaluates(tmp_path):
    workdir = tmp_path / "run"
    result = subprocess.run(
        command(workdir, "--gin_file=configs/quickstart.gin", "--seed=3"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "block1_layer1_pooling: (2.000, 2.000) -> (" in result.stdout
    assert "Path not found" not in result.stderr
    (row,) = map(json.loads, (workdir / "history.jsonl").open())

    # The configuration in the directory is complete: it is enough by itself.
    config = (workdir / "config.gin").read_text()
    assert max(map(len, config.splitlines())) < 500
    assert "seed = 3" in config
    assert "resnet18.strides = [1, 2]" in config
    assert "@pooling.DiffStride" in config
    run_main(workdir=str(workdir), mode="eval")
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    assert evaluation["accuracy"] == pytest.approx(row["val_accuracy"])

    # Another seed is another run, and this one is done already.
    run_main(workdir=str(workdir))
    with pytest.raises(
        SystemExit, match="there: train.train.seed = 3"
    ) as error:
        run_main(workdir=str(workdir), seed=4)
    assert "now:   train.train.seed = 4" in str(error.value)


TRAIN_WITHOUT_TENSORFLOW = """
import runpy, sys
blocked = ["tensorflow", "tensorflow_datasets", "tensorboard"]
sys.modules.update(dict.fromkeys(blocked))
runpy.run_module("diffstride.train", run_name="__main__")
assert not any(sys.modules[name] for name in blocked)
"""


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="needs the JAX backend"
)
def test_npz_files_need_no_tensorflow(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), "uint8")
    labels = np.arange(24) % 3
    np.savez(
        tmp_path / "images.npz",
        x_train=images,
        y_train=labels,
        x_test=images[:9],
        y_test=labels[:9],
    )
    subprocess.run(
        [
            *(sys.executable, "-c", TRAIN_WITHOUT_TENSORFLOW),
            f"--workdir={tmp_path}",
            "--gin_file=base.gin",
            "--gin_file=datasets/npz.gin",
            "--gin_file=models/resnet18.gin",
            "--gin_file=pooling/diffstride.gin",
            f"--gin_param=arrays.from_arrays.data = '{tmp_path}/images.npz'",
            "--gin_param=arrays.from_arrays.batch_size = 8",
            "--gin_param=pooling.DiffStride.size_multiple = 4",
            *(
                f"--gin_param={param}"
                for param in SMALL
                if "synth" not in param
            ),
        ],
        check=True,
    )
    (row,) = map(json.loads, (tmp_path / "history.jsonl").open())
    assert row["compilations"] == 1
    assert row["sizes"]["stem_pooling"] == [16, 16]
    assert (tmp_path / "model.keras").exists()


def test_what_nothing_asks_for_is_named_before_training(tmp_path):
    params = [
        *SMALL,
        "schedules.cosine.peak = 1.0",
        "SOME_MACRO = 1",
        "other/pooling.DiffStride.norm = 'ortho'",
    ]
    with pytest.raises(SystemExit) as error:
        run_main(workdir=str(tmp_path / "run"), gin_file=BASE, gin_param=params)
    message = str(error.value)
    assert "`SOME_MACRO`, `other/pooling.DiffStride.norm`" in message
    assert "`schedules.cosine.peak`" in message
    assert not os.path.exists(tmp_path / "run")


def test_what_is_missing_is_said_in_one_sentence(tmp_path):
    workdir = str(tmp_path / "run")
    for values, missing in [
        ({"workdir": workdir}, "binds `train.train.dataset`: add an exper"),
        (
            {"workdir": workdir, "gin_file": ["datasets/synthetic.gin"]},
            "binds `train.train.model`: .* a file of `configs/models/`",
        ),
        ({"gin_file": BASE}, "Say where to keep the run: `--workdir="),
        ({}, "binds `train.train.dataset`"),
    ]:
        with pytest.raises(SystemExit, match=missing) as error:
            run_main(**values)
        message = str(error.value)
        assert message.startswith("Configuration error: ")
        assert "\n" not in message and "configurable" not in message
        assert not os.path.exists(workdir)


def test_torch_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(SystemExit) as error:
        run_main(workdir=str(tmp_path / "run"), gin_file=["no_such_file.gin"])
    message = str(error.value)
    assert message.startswith("Configuration error: The training binary needs ")
    assert message.endswith("Received: KERAS_BACKEND=torch")
    assert "\n" not in message
    assert not os.path.exists(tmp_path / "run")


def test_unknown_arguments_are_refused():
    with pytest.raises(train.app.UsageError, match="Unknown arguments: --x"):
        train.main(["train", "--x"])


@pytest.mark.parametrize(
    "binding, culprit, hint",
    [
        (
            "train.train.num_epoch = 1",
            "parameter named 'num_epoch'",
            "Did you mean: num_epochs?",
        ),
        (
            "pooling.DiffStride.smoothnes_factor = 1",
            "parameter named 'smoothnes_factor'",
            "Did you mean: smoothness_factor?",
        ),
        (
            "poling.DiffStride.norm = 'forward'",
            "matching 'poling.DiffStride'",
            "pooling.DiffStride",
        ),
        (
            "train.train.model = @resnet.resnet81",
            "matching reference '@resnet.resnet81'",
            "resnet.resnet18",
        ),
        (
            "train.train.dataset = @some/images.tfds_image()",
            "tfds_image",
            "images.tfds_images",
        ),
        (
            "resnet.resnet18.pooling_cls = %POLING",
            "The macro %POLING has no value",
            "Did you mean: POOLING, POOLING_ORDER?",
        ),
        ("train.train.num_epochs = ", "Unable to parse value", ""),
        ("include 'datasets/cifra10.gin'", "datasets/cifra10.gin", "configs"),
    ],
)
def test_mistakes_are_named(binding, culprit, hint):
    with pytest.raises(ConfigError) as error:
        parse(BASE, [binding])
    assert culprit in str(error.value)
    assert hint in str(error.value)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as error:
        parse(["configs/quickstrat.gin"])
    for place in (tmp_path, *configurables.SEARCH_PATHS):
        assert str(place) in str(error.value)
    (tmp_path / "mine.gin").write_text(
        "include 'quickstart.gin'\ninclude 'missing.gin'\n"
    )
    with pytest.raises(ConfigError, match="missing.gin(.|\n)*mine.gin.*line 2"):
        parse(["mine.gin"])


def test_later_files_and_bindings_prevail():
    parse(
        [*BASE, "pooling/spectral.gin"],
        ["train.train.num_epochs = 7", "train.train.num_epochs = 8"],
    )
    assert gin.query_parameter("train.train.num_epochs") == 8
    parse([], [gin.config_str()])
    assert "POOLING = @pooling.FixedSpectralPooling" in gin.config_str()


def test_callbacks_of_keras_have_names():
    parse(
        [],
        [
            "train.train.callbacks = "
            "[@callbacks.EarlyStopping(), @callbacks.ReduceLROnPlateau()]",
            "callbacks.EarlyStopping.patience = 7",
            "callbacks.ReduceLROnPlateau.factor = 0.3",
        ],
    )
    stopping, plateau = (
        reference.scoped_configurable_fn()
        for reference in gin.query_parameter("train.train.callbacks")
    )
    assert stopping.patience == 7
    assert isinstance(plateau, keras.callbacks.ReduceLROnPlateau)
    assert plateau.factor == 0.3


def test_a_class_receives_its_bindings_where_gin_hands_it_over():
    parse(
        [],
        [
            "pooling.DiffStride.smoothness_factor = 2.5",
            "resnet.resnet18.pooling_cls = @pooling.DiffStride",
            "resnet.resnet18.strides = [1, 2]",
            "resnet.resnet18.filters = 2",
        ],
    )
    model = gin.get_configurable("resnet.resnet18")(input_shape=(16, 16, 3))
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, pooling.DiffStride)
    ]
    assert [layer.smoothness_factor for layer in layers] == [2.5]
    assert type(layers[0]) is pooling.DiffStride
    assert reading.unread() == []
    restored = type(model).from_config(model.get_config())
    gin.clear_config()
    (layer,) = (
        layer
        for layer in restored._flatten_layers()
        if isinstance(layer, pooling.DiffStride)
    )
    assert layer.smoothness_factor == 2.5


@pytest.mark.parametrize(
    "model", ["@resnet.resnet18", "%MODEL"], ids=["reference", "macro"]
)
def test_bindings_of_the_release_reach_the_variant(model):
    bindings = [
        "resnet.Resnet.pooling_cls = @pooling.DiffStride",
        "resnet.Resnet.num_layers = 1",
        "resnet.resnet18.num_layers = 2",
        f"train.train.model = {model}",
    ]
    parse([], bindings + (["MODEL = @resnet.resnet18"] if "%" in model else []))
    assert gin.query_parameter("resnet.resnet18.num_layers") == 2
    pooling_cls = gin.query_parameter("resnet.resnet18.pooling_cls")
    assert pooling_cls.configurable.wrapped is pooling.DiffStride
    with pytest.raises(ValueError, match="no bound parameters"):
        gin.query_parameter("resnet.Resnet.num_layers")
