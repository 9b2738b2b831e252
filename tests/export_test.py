"""Tests of exported models, and of the script that makes them."""

import json

import keras
import numpy as np
import pytest

import diffstride
from diffstride import DiffStride
from diffstride import export as script
from diffstride.analysis.keras_graph import sublayers
from diffstride.analysis.learned_layers import learned_layers
from diffstride.models.audio_cnn import audio_cnn
from diffstride.models.resnet import Resnet

for module in ("ai_edge_litert", "onnx", "onnxruntime", "tf2onnx"):
    pytest.importorskip(module)
pytestmark = pytest.mark.tensorflow
needs_litert = pytest.mark.skipif(
    script.is_beyond_keras(script.FORMATS["litert"]),
    reason="This Keras does not write LiteRT.",
)


def trained(model):
    """A model with other strides, and other weights, than it began with."""
    generator = np.random.default_rng(0)
    for layer in learned_layers(model):
        layer.strides.assign(generator.uniform(1.5, 2.6, layer.strides.shape))
    for layer in sublayers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    return model


def tiny():
    return keras.Sequential([keras.Input((12, 12, 2)), DiffStride(2)])


def saved(model, directory):
    directory.mkdir(exist_ok=True)
    model.save(directory / "model.keras")
    return str(directory)


def check(report):
    assert set(report["formats"]) == {"saved_model", "litert", "onnx"}
    # Outputs that are worth comparing.
    assert report["largest_output"] > 0.1
    for row in [
        {"difference": report["freezing"]},
        *report["formats"].values(),
    ]:
        assert row["difference"] < 1e-4 * max(1, report["largest_output"])


@needs_litert
def test_a_resnet_from_the_work_directory_of_a_run(tmp_path, capsys):
    model = trained(
        Resnet(
            filters=2,
            strides=(1, 1, 2),
            num_layers=1,
            pooling_cls=DiffStride,
            input_shape=(None, None, 3),
        )
    )
    workdir = saved(model, tmp_path / "run")
    output_dir = tmp_path / "exported"
    arguments = [workdir, "--output_dir", str(output_dir)]
    assert script.main([*arguments, "--input_shape", "24", "20", "3"]) == 0
    assert {path.name for path in output_dir.iterdir()} == {
        "saved_model",
        "model.tflite",
        "model.onnx",
        "parity.json",
    }
    report = json.loads((output_dir / "parity.json").read_text())
    check(report)
    # Batches of several sizes went through one file.
    assert report["batch_shapes"] == [[1, 24, 20, 3], [3, 24, 20, 3]]
    printed = capsys.readouterr().out
    for name, row in report["formats"].items():
        assert f"{name:12s} {row['difference']:8.1e}" in printed
        assert row["bytes"] > 1000


@needs_litert
def test_an_audio_model_of_two_tasks_and_clips_of_any_length(tmp_path):
    model = trained(
        audio_cnn(
            {"word": 3, "bird": 2},
            (1600,),
            channels=(2,),
            strides=((2, 2),),
            pooling_cls=DiffStride,
        )
    )
    report = script.export(model, tmp_path, test_shape=(3500,))
    check(report)
    # The same files take clips of another length.
    batches = [np.random.uniform(-1, 1, (2, 700)).astype("float32")]
    expected = [model.predict_on_batch(batches[0])]
    for name, made in script.FORMATS.items():
        runs = made.run(report["formats"][name]["path"], batches)
        assert script.largest_difference(runs, expected) < 1e-4
        np.testing.assert_allclose(
            runs[0]["word"], expected[0]["word"], atol=1e-4
        )


def test_a_nan_is_the_largest_difference():
    expected = [np.zeros(2), np.zeros(3)]
    for runs in (
        [np.zeros(2), np.full(3, np.nan)],
        [np.full(2, np.nan), np.zeros(3)],
    ):
        assert np.isnan(script.largest_difference(runs, expected))
    assert script.largest_difference([np.ones(2), np.zeros(3)], expected) == 1


def test_a_difference_over_the_tolerance_is_reported(
    tmp_path, capsys, monkeypatch
):
    form = script.FORMATS["saved_model"]
    wrong = form._replace(
        run=lambda path, batches: [
            output + 0.1 for output in form.run(path, batches)
        ]
    )
    monkeypatch.setitem(script.FORMATS, "saved_model", wrong)
    arguments = [
        saved(tiny(), tmp_path),
        "--output_dir",
        str(tmp_path),
        "--formats",
        "saved_model",
    ]
    assert script.main(arguments) == 1
    error = capsys.readouterr().err
    assert "error: a difference exceeds" in error
    assert "in format 'saved_model'" in error
    assert script.main([*arguments, "--tolerance", "0.2"]) == 0


@needs_litert
def test_a_format_that_fails_is_named_and_the_others_are_written(
    tmp_path, capsys, monkeypatch
):
    def fail(path, batches):
        raise RuntimeError("no such operation")

    onnx = script.FORMATS["onnx"]._replace(run=fail)
    monkeypatch.setitem(script.FORMATS, "onnx", onnx)
    output_dir = tmp_path / "exported"
    arguments = [saved(tiny(), tmp_path), "--output_dir", str(output_dir)]
    assert script.main([*arguments, "--formats", "onnx", "litert"]) == 1
    printed = capsys.readouterr()
    assert (
        "error: format 'onnx' failed with RuntimeError: no such operation"
        in printed.err
    )
    assert "litert" in printed.out
    assert {path.name for path in output_dir.iterdir()} == {
        "model.tflite",
        "parity.json",
    }
    rows = json.loads((output_dir / "parity.json").read_text())["formats"]
    assert rows["onnx"]["error"] == "RuntimeError: no such operation"
    assert rows["litert"]["difference"] < 1e-5


def test_keras_of_before_litert_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(keras, "version", lambda: "3.9.2")
    assert script.main([saved(tiny(), tmp_path), "--formats", "litert"]) == 2
    error = capsys.readouterr().err
    assert "'litert', which needs Keras 3.13" in error
    assert "Received: Keras 3.9.2" in error


@needs_litert
def test_constants_beside_the_weights_are_no_inputs(tmp_path):
    normalization = keras.layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(size=(8, 12, 12, 2)))
    model = keras.Sequential(
        [
            keras.Input((12, 12, 2)),
            normalization,
            keras.layers.Normalization(mean=0.5, variance=2.0),
            DiffStride(2),
        ]
    )
    check(script.export(model, tmp_path))


@pytest.mark.slow
def test_efficientnet_of_keras(tmp_path):
    model = keras.applications.EfficientNetB0(
        input_shape=(64, 64, 3), weights=None, include_top=False, pooling="avg"
    )
    # Untrained, it gives numbers of about 1e-10.
    outputs = keras.layers.Rescaling(1e9)(model.output)
    learned = diffstride.learn_strides(keras.Model(model.input, outputs))
    check(script.export(learned, tmp_path))


@pytest.mark.parametrize("path", ["missing.keras", ".", "a_file.txt"])
def test_a_model_that_is_not_there(path, tmp_path, capsys):
    (tmp_path / "a_file.txt").write_text("x")
    assert script.main([str(tmp_path / path)]) == 2
    assert "error: `model` must be a .keras file" in capsys.readouterr().err


def test_an_unknown_format(capsys):
    with pytest.raises(SystemExit):
        script.main(["model.keras", "--formats", "tar"])
    assert "invalid choice: 'tar'" in capsys.readouterr().err


def test_a_missing_package_names_the_extra(tmp_path, capsys, monkeypatch):
    onnx = script.FORMATS["onnx"]._replace(modules=("onnx", "not_there"))
    monkeypatch.setitem(script.FORMATS, "onnx", onnx)
    assert script.main([saved(tiny(), tmp_path), "--formats", "onnx"]) == 2
    error = capsys.readouterr().err
    assert "needs not_there" in error
    assert "diffstride[export]" in error


def test_sizes_that_remain_unknown_must_be_given(tmp_path, capsys):
    model = keras.Sequential([keras.Input((None, None, 2))])
    model.add(keras.layers.GlobalMaxPooling2D())
    assert script.main([saved(model, tmp_path), "--formats", "onnx"]) == 2
    assert "`--test_shape` must be given" in capsys.readouterr().err


def test_one_input_only(tmp_path):
    inputs = [keras.Input((4,)), keras.Input((4,))]
    model = keras.Model(inputs, keras.layers.Add()(inputs))
    with pytest.raises(script.ExportError, match="one input"):
        script.export(model, tmp_path)
