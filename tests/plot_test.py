"""Pictures of DiffRes, from a saved model and from histories."""

import json
import sys
import wave

import keras
import numpy as np
import pytest

from diffstride import LEAF, SincFilterbank, TimeDomainFilterbank
from diffstride.layers.diffres import DiffRes
from diffstride.layers.log_mel import LogMelSpectrogram

pytestmark = pytest.mark.once

pytest.importorskip("matplotlib")
plot = pytest.importorskip("diffstride.plot")


def run(monkeypatch, *arguments):
    arguments = ["plot.py", *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", arguments)
    plot.main()


def pixels(path):
    from matplotlib import image

    return image.imread(path)


def test_a_clip_through_a_saved_model(tmp_path, monkeypatch):
    model = keras.Sequential(
        [
            keras.Input((8000,)),
            LogMelSpectrogram(num_mels=32),
            DiffRes(reduction_rate=0.75),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    model.save(tmp_path / "model.keras")
    samples = np.random.default_rng(0).normal(0, 3000, 5000).astype("int16")
    with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    waveform = np.pad(samples / 2.0**15, (0, 3000)).astype("float32")
    np.save(tmp_path / "clip.npy", waveform)
    for suffix in ("wav", "npy"):
        run(
            monkeypatch,
            *("clip", tmp_path / "model.keras", tmp_path / f"clip.{suffix}"),
            *("--output", tmp_path / f"{suffix}.png"),
        )
    picture = pixels(tmp_path / "wav.png")
    assert picture.std() > 0.1
    np.testing.assert_array_equal(picture, pixels(tmp_path / "npy.png"))


def test_curves_of_runs(tmp_path, monkeypatch):
    for seed in range(2):
        directory = tmp_path / f"run{seed}"
        directory.mkdir()
        rows = [
            {
                "activeness": 0.1 * epoch,
                "guide_loss": 1 / (epoch + seed + 1),
                "val_accuracy": epoch / 5,
            }
            for epoch in range(5)
        ]
        (directory / "history.jsonl").write_text(
            "\n".join(json.dumps(row) for row in rows)
        )
    run(
        monkeypatch,
        *("curves", tmp_path / "run0", tmp_path / "run1"),
        *("--output", tmp_path / "curves.png"),
    )
    assert pixels(tmp_path / "curves.png").std() > 0.05
    for rows in ([], [{"loss": 1}]):
        with pytest.raises(ValueError, match="'a' has no epoch with .*activen"):
            plot.draw_curves({"a": rows}, tmp_path / "a.png")
    with pytest.raises(SystemExit, match="Error: .*history.jsonl"):
        run(monkeypatch, "curves", tmp_path, "--output", tmp_path / "a.png")


@pytest.mark.parametrize("make", [LEAF, SincFilterbank, TimeDomainFilterbank])
def test_filters_before_and_after(make, tmp_path, monkeypatch):
    layer = make(sample_rate=4000, num_filters=6, fmax=None)
    model = keras.Sequential([keras.Input((800,)), layer])
    model.save(tmp_path / "model.keras")
    arguments = (tmp_path / "model.keras", "--output", tmp_path / "a.png")
    run(monkeypatch, "filters", *arguments)
    same = pixels(tmp_path / "a.png")
    weight = layer.trainable_weights[0]
    weight.assign(0.9 * keras.ops.convert_to_numpy(weight)[::-1])
    model.save(tmp_path / "model.keras")
    run(monkeypatch, "filters", *arguments)
    moved = pixels(tmp_path / "a.png")
    assert same.std() > 0.05 and np.abs(moved - same).mean() > 0.003


def test_peaks_and_edges():
    frequencies = np.arange(6) * 10.0
    responses = np.array([[0, 1, 5, 9, 5, 9.5], [4, 3, 1, 0, 0, 0]])
    peaks, lower, upper = plot.peaks_and_edges(frequencies, responses)
    assert peaks.tolist() == [50, 0]
    assert lower.tolist() == [20, 0] and upper.tolist() == [50, 10]


def test_models_that_cannot_be_drawn(tmp_path):
    model = keras.Sequential([keras.Input((20, 8)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match="must have a DiffRes among"):
        plot.diffres_and_input(model, np.zeros((20, 8)))
    with pytest.raises(ValueError, match="must have a front end with weights"):
        plot.learned_frontend(model)
    with pytest.raises(ValueError, match="takes spectrograms, not sounds"):
        plot.read_clip(tmp_path / "clip.wav", model)
