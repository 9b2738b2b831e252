"""Panels and names of the plot of strides."""

import dataclasses
import pathlib

import numpy as np
import pytest
import tiny

from diffstride.training import plots, trainer

pytestmark = pytest.mark.once

matplotlib_figure = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    monkeypatch.setattr(
        matplotlib_figure.Figure,
        "savefig",
        lambda self, *args, **kwargs: figures.append(self),
    )
    return figures


def strides(layers, axes, epochs=3):
    return [
        {f"layer{i}": [2.0 + epoch] * axes for i in range(layers)}
        for epoch in range(epochs)
    ]


@pytest.mark.parametrize("layers", [1, 3, 5, 8])
def test_no_panel_is_empty(drawn, layers):
    plots.plot_strides(strides(layers, 2), "strides.png")
    [figure] = drawn
    assert len(figure.axes) == layers
    for index, panel in enumerate(figure.axes):
        assert panel.get_title() == f"layer{index}"
        # Both axes show where their strides are equal.
        assert [line.get_linestyle() for line in panel.lines] == ["-", "--"]
        np.testing.assert_array_equal(panel.lines[0].get_ydata(), [2, 3, 4])
        # Each column has its numbers of epochs, under its last panel.
        ticks = panel.xaxis.get_major_ticks()
        labels = {tick.label1.get_visible() for tick in ticks}
        assert labels == {index + 4 >= layers}


@pytest.mark.parametrize(
    "sample_rate, names",
    [(None, ["height", "width"]), (16000, ["time", "frequency"])],
)
def test_axes_of_images_and_of_sounds(drawn, tmp_path, sample_rate, names):
    data = dataclasses.replace(tiny.dataset(), sample_rate=sample_rate)
    trainer.train(
        dataset=lambda seed: data,
        model=tiny.model,
        workdir=pathlib.Path(tmp_path),
        num_epochs=1,
        tensorboard=False,
    )
    [legend] = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == names


def test_one_axis_needs_no_legend(drawn):
    plots.plot_strides(strides(1, 1), "strides.png")
    assert not drawn[0].legends
