"""Accuracy against the reduction rate of trained models."""

import importlib.util
import json
import pathlib
import types
import zipfile

import keras
import numpy as np
import pytest

from diffstride import DiffRes
from diffstride.experiments.sweep_file import read_sweep

pytestmark = pytest.mark.once

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "rate_curve.py"


@pytest.fixture(scope="module")
def rate_curve():
    spec = importlib.util.spec_from_file_location("rate_curve", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_of(rate):
    """A model, as `rate_curve.load` returns it, and its data."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((40, 8)),
            DiffRes(rate),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    model.compile(loss="mse", weighted_metrics=["accuracy"])
    x = np.random.default_rng(0).normal(-3, 2, (16, 40, 8))
    y = np.eye(2)[np.arange(16) % 2]
    data = types.SimpleNamespace(
        validation=None,
        test=lambda: (batch for batch in [(x.astype("float32"), y)]),
        input_shape=(40, 8),
    )
    return model, data


@pytest.mark.slow
def test_curves(rate_curve, monkeypatch, tmp_path, capsys):
    rates = {"any": (0.25, 0.75), "half": 0.5}
    monkeypatch.setattr(
        rate_curve,
        "groups_of",
        lambda path: {"any": ["any", "any"], "half": ["half"]},
    )
    monkeypatch.setattr(rate_curve, "load", lambda run: run_of(rates[run]))
    rate_curve.main(
        ["runs", "--rates", "0.25", "0.5", "--output", str(tmp_path / "rates")]
    )
    found = json.loads((tmp_path / "rates.json").read_text())
    assert (tmp_path / "rates.png").exists()
    assert found["any"]["trained"] == [0.25, 0.75]
    assert np.shape(found["any"]["accuracies"]) == (2, 2)
    assert found["half"]["rates"] == [0.25, 0.5]
    assert found["half"]["macs"] == found["any"]["macs"]
    model, data = run_of(0.5)
    (x, y), *_ = data.test()
    expected = np.mean(model.predict(x, verbose=0).argmax(1) == y.argmax(1))
    for accuracies in (
        found["any"]["accuracies"][1],
        *found["half"]["accuracies"],
    ):
        assert accuracies[1] == pytest.approx(expected)
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    assert table[-1].startswith("| half |") and table[-1].endswith("* |")
    assert "*" not in table[-2]


SWEEP = """
config = ["quickstart.gin"]
seeds = [1, 2]
[axes.fps.choices]
25 = ["audio_tagger.audio_tagger.reduction_rate = 0.75"]
50 = ["audio_tagger.audio_tagger.reduction_rate = 0.5"]
[axes.part]
gin_param = "audio.tfds_audio.test_fold"
values = [1, 2]
[axes.fold.choices]
a = ["audio.tfds_audio.test_fold = 1", "train.train.batch_size = 2"]
"""


def test_the_axis_of_folds_only_is_left_out(rate_curve, tmp_path):
    """Other labels may be of digits too, such as frames per second."""
    (tmp_path / "sweep.toml").write_text(SWEEP)
    for run in read_sweep(tmp_path / "sweep.toml").runs:
        folder = tmp_path / run.name
        folder.mkdir()
        choices = {choice.axis: choice.label for choice in run.choices}
        (folder / "sweep.json").write_text(json.dumps({"choices": choices}))
        (folder / "history.jsonl").write_text('{"epoch": 1}')
        zipfile.ZipFile(folder / "model.keras", "w").close()
    for is_there in (True, False):
        groups = rate_curve.groups_of(tmp_path)
        # Without the sweep file only the name of an axis tells.
        labels = ["25", "50"] if is_there else ["25, 1", "25, 2", "50, 1"]
        assert list(groups)[: len(labels)] == labels
        assert {len(runs) for runs in groups.values()} == {4 if is_there else 2}
        (tmp_path / "sweep.toml").unlink(missing_ok=True)


def test_a_line_has_one_rate(rate_curve, monkeypatch, tmp_path):
    results = {"a": (0.5, [0.1], [9]), "b": (0.75, [0.2], [9])}
    monkeypatch.setattr(rate_curve, "groups_of", lambda path: {"x": "ab"})
    monkeypatch.setattr(rate_curve, "evaluate", lambda run, rates: results[run])
    with pytest.raises(SystemExit, match=r"one reduction rate(.|\n)*0\.5, 0"):
        rate_curve.main(["runs", "--output", str(tmp_path / "rates")])


def test_models_without_a_rate_are_left_out(rate_curve, monkeypatch, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    monkeypatch.setattr(rate_curve, "groups_of", lambda path: {"one": ["one"]})
    monkeypatch.setattr(rate_curve, "load", lambda run: (model, None))
    with pytest.raises(SystemExit, match="No run has"):
        rate_curve.main(["runs", "--output", str(tmp_path / "rates")])
