"""The pages in docs/ promise nothing that is not there."""

import pathlib
import re
import sys

import conftest
import gin
import keras
import numpy as np
import pytest

import diffstride

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import sizes  # noqa: E402

from diffstride import configurables, sweep  # noqa: E402
from diffstride.experiments import sweep_file  # noqa: E402

PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def test_contributing_names_the_slow_tests(request):
    """All of them, and no other, as far as whole files are collected."""
    config = request.config
    if any("::" in argument for argument in config.args):
        pytest.skip("A file is collected in part.")
    page = (ROOT / "CONTRIBUTING.md").read_text()
    table = page[page.index("## The slow part") :]
    named = {
        f"{file}.py": [f"test_{name}" for name in re.findall(r"`(\w+)`", names)]
        for file, names in re.findall(r"\| `(\w+)` \| (.*?) \|", table)
    }
    assert [f for f in named if not (ROOT / "tests" / f).exists()] == []
    assert config.stash[conftest.SLOW] == {
        f"{file}::{name}"
        for file in config.stash[conftest.FILES] & set(named)
        for name in named[file]
    }


def test_sizes_of_maps_are_those_that_the_command_prints(capsys):
    page = PAGES["sizing.md"]
    for size in re.findall(r"scripts/sizes.py map --size (\d+)\n", page):
        sizes.print_map(int(size), [1, 1.5, 2, 3, 4, 8], [1, 2, 4])
        assert capsys.readouterr().out in page


@pytest.mark.tensorflow
@pytest.mark.parametrize("order", ["after", "before"])
def test_operations_of_a_model_are_those_that_the_command_prints(order, capsys):
    sizes.print_model("resnet18", [1, 1, 2, 2, 2], [4], order)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6
    assert all(line in PAGES["sizing.md"] for line in printed)


@pytest.mark.tensorflow
def test_odd_sizes_and_scales_of_the_answers():
    def outputs(size, layer):
        return layer(np.ones((1, size, size, 1), "float32"))

    assert outputs(33, diffstride.DiffStride(2)).shape[1] == 25
    assert outputs(33, diffstride.DiffStride(2, ramp="inside")).shape[1] == 17
    assert outputs(33, diffstride.FixedSpectralPooling(2)).shape[1] == 16
    for ramp, gain in (("inside", 4.0), ("outside", 1.78)):
        mean = np.mean(outputs(32, diffstride.DiffStride(2, ramp=ramp)))
        assert mean == pytest.approx(gain, abs=0.005)


def test_pictures_are_small():
    pictures = [*ROOT.glob("docs/**/*.png"), *ROOT.glob("docs/**/*.svg")]
    assert pictures
    for path in pictures:
        assert path.stat().st_size < 150_000, (
            f"{path} is large: `python scripts/draw_pictures.py --compress`"
        )


@pytest.mark.filterwarnings("ignore:Model doesn't support")
def test_snippets_run():
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(2, 3, strides=2, name="convolution"),
            diffstride.DiffStride(2),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    names = {
        "diffstride": diffstride,
        "model": model,
        "x": np.ones((2, 16, 16, 3)),
        "y": np.ones((2, 1)),
    }
    snippets = re.findall(r"```python\n(.*?)```", PAGES["questions.md"], re.S)
    assert len(snippets) > 2
    for snippet in snippets:
        # Exports have tests of their own.
        exec(re.sub(r"\w+\.export\(.*\)", "", snippet), names)
    assert names["frozen"].count_params() < model.count_params()


def test_the_sweep_of_the_reports_page_can_be_read(tmp_path):
    for index, snippet in enumerate(
        re.findall(r"```toml\n(.*?)```", PAGES["reports.md"], re.S)
    ):
        path = tmp_path / f"{index}.toml"
        path.write_text("config = ['a.gin']\nseeds = [1, 2]\n" + snippet)
        assert len(sweep_file.read_sweep(path).runs) > 1


@pytest.mark.parametrize("text", [PAGES["reports.md"], sweep.__doc__])
def test_the_learning_rate_of_the_documented_sweep_falls(text, caplog):
    """Fewer epochs than a recipe has need other boundaries, too."""
    [params] = re.findall(r"gin_param = \[([^@]*?)\n *\]", text)
    params = re.findall(r'"(.+)"', params)
    assert any("num_epochs" in param for param in params)
    configurables.parse(["papers/diffstride/cifar10.gin"], params)
    epochs = gin.query_parameter("train.train.num_epochs")
    schedule = gin.get_configurable("schedules.piecewise")(10, epochs)
    assert not caplog.records
    assert float(schedule(10 * epochs)) < float(schedule(0))
    gin.clear_config()


def test_frames_of_clips_are_those_of_the_layer():
    layer = diffstride.LogMelSpectrogram()
    frames = [
        f"{layer.compute_output_shape((1, 16000 * seconds))[1]:,}"
        for seconds in (10, 30, 5, 4, 1)
    ]
    text = f"{', '.join(frames[:-1])} and {frames[-1]}"
    assert f"inside the clip: {text}" in PAGES["papers.md"]
