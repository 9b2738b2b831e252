"""Figures of learned strides and of the frequencies that they keep."""

import math

import numpy as np

from diffstride.experiments.drawing import (
    Drawing,
    colors,
    count_epochs,
    legend_above,
    logarithmic,
    new_figure,
    new_panels,
)

MOST_PANELS = 24
AXIS_STYLES = ("-", "--", ":")
AXIS_MARKERS = ("o", "x", "^")


def strides_by_epoch(groups):
    """Figure 3a: the strides of every layer, a panel for each configuration."""
    shown = dict(list(groups.items())[:MOST_PANELS])
    figure, panels = new_panels(len(shown))
    color = _colors(shown)
    widths = dict(zip(color, np.linspace(2.5, 1.0, len(color)), strict=True))
    for (name, runs), panel in zip(shown.items(), panels, strict=False):
        for run in runs:
            start = 1 if run.strides_after(0) is None else 0
            epochs = range(start, len(run.history) + 1)
            rows = [run.strides_after(epoch) for epoch in epochs]
            for layer in rows[0]:
                for axis, style in zip(
                    range(len(rows[0][layer])), AXIS_STYLES, strict=False
                ):
                    panel.plot(
                        epochs,
                        [row[layer][axis] for row in rows],
                        style,
                        color=color[layer],
                        alpha=1 if len(runs) == 1 else 0.6,
                        # Later lines are thinner, so that lines in the same
                        # place can all be seen.
                        linewidth=widths[layer],
                    )
        panel.set_title(name, fontsize="small")
        count_epochs(panel)
        panel.grid(alpha=0.3)
        panel.tick_params(labelbottom=True)
    figure.supxlabel("epoch")
    figure.supylabel("stride")
    for layer in color:
        panels[0].plot([], [], color=color[layer], label=layer)
    names = _axis_names(shown)
    for name, style in zip(names, AXIS_STYLES, strict=False):
        panels[0].plot([], [], style, color="black", label=name)
    legend_above(figure, panels)
    caption = (
        "Strides by epoch (Figure 3a of Riad et al., 2022): a line for each "
        "seed and axis."
    )
    if len(shown) < len(groups):
        caption += f" The first {len(shown)} of {len(groups)} configurations."
    return Drawing("strides_by_epoch", figure, caption)


def learned_strides(groups):
    """Figures 3b, 3c, A.1 and A.2: final strides of each configuration."""
    figure, (strides_panel, total_panel) = _by_configuration(groups)
    color = _colors(groups)
    for position, runs in enumerate(groups.values()):
        initial = runs[0].strides_after(0)
        for index, layer in enumerate(runs[0].learned):
            offset = 0.7 * ((index + 0.5) / len(runs[0].learned) - 0.5)
            _scatter(
                strides_panel,
                position + offset,
                [run.learned[layer] for run in runs],
                initial and initial[layer],
                color[layer],
                0.3 / len(runs[0].learned),
            )
        _scatter(
            total_panel,
            position,
            [_products(run.learned) for run in runs],
            initial and _products(initial),
            "black",
            0.2,
        )
    for layer in color:
        strides_panel.plot([], [], "s", color=color[layer], label=layer)
    for name, marker in zip(_axis_names(groups), AXIS_MARKERS, strict=False):
        total_panel.plot([], [], marker, color="black", label=name)
    total_panel.plot([], [], "-", color="gray", label="at the start")
    legend_above(figure, (strides_panel, total_panel))
    logarithmic(total_panel.yaxis)
    strides_panel.set_ylabel("stride")
    total_panel.set_ylabel("global striding factor")
    return Drawing(
        "learned_strides",
        figure,
        "Learned strides of each layer, and the global striding factor, their "
        "product over the layers, for each axis (Figures 3b, 3c, A.1 and A.2 "
        "of Riad et al., 2022): a mark for each seed; lines are initial "
        "values.",
    )


def cutoffs(groups):
    """Cut-offs of the first layer of a spectrogram after training, or None."""
    passed = {
        name: [run.cutoffs for run in runs]
        for name, runs in groups.items()
        if all(run.cutoffs is not None for run in runs)
    }
    if not passed:
        return None
    figure, panels = _by_configuration(passed)
    for position, by_run in enumerate(passed.values()):
        for panel, values in zip(
            panels, zip(*by_run, strict=True), strict=True
        ):
            _scatter(panel, position, [[v] for v in values], None, "C0", 0.2)
    for panel, label in zip(
        panels, ("time, Hz", "frequency, cycles/mel"), strict=True
    ):
        panel.set_ylabel(f"cut-off in {label}", fontsize="small")
        panel.set_ylim(bottom=0)
    return Drawing(
        "cutoffs",
        figure,
        "Cut-off frequencies of the first layer at the end of training, along "
        "time and along frequency (Table 2 of Riad et al., 2022): a mark for "
        "each seed.",
    )


def _colors(groups):
    """A color for each layer that any configuration has."""
    layers = [layer for runs in groups.values() for layer in runs[0].learned]
    return colors(dict.fromkeys(layers))


def _by_configuration(groups):
    """A figure of two panels, with the configurations side by side."""
    figure = new_figure(max(6.0, 1.6 + 0.55 * len(groups)), 6.5)
    panels = figure.subplots(2, sharex=True)
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[1].set_xticks(
        range(len(groups)), groups, rotation=45, ha="right", fontsize="small"
    )
    return figure, panels


def _scatter(panel, position, by_run, initial, color, width):
    for axis, marker in zip(range(len(by_run[0])), AXIS_MARKERS, strict=False):
        panel.plot(
            [position] * len(by_run),
            [values[axis] for values in by_run],
            marker,
            color=color,
            markersize=4,
            alpha=0.8,
            fillstyle="none",
        )
    for value in set(initial or ()):
        panel.hlines(value, position - width, position + width, "gray")


def _products(strides):
    """The product over layers of the strides of each axis."""
    return [math.prod(axis) for axis in zip(*strides.values(), strict=True)]


def _axis_names(groups):
    """Names of the axes of strides, or numbers if there are not two axes."""
    run = next(iter(groups.values()))[0]
    rank = len(_products(run.learned))
    return run.axis_names if rank == 2 else [f"axis {i}" for i in range(rank)]
