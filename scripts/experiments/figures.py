"""Figures of the papers, drawn from finished runs where they have the data."""

import math
import statistics
import typing

import matplotlib
from matplotlib import ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST_PANELS = 24
AXIS_STYLES = ("-", "--", ":")
AXIS_MARKERS = ("o", "x", "^")
# The same numbers make the same file.
matplotlib.rcParams["svg.hashsalt"] = "diffstride"


class Drawing(typing.NamedTuple):
    """A figure, the name of its files, and what to know to read it."""

    name: str
    figure: Figure
    caption: str


def draw_all(folder, metric):
    """All figures for which the runs have data.

    Args:
        folder: `RunFolder`.
        metric: `Metric` of the accuracy.
    """
    groups = {
        ", ".join(labels): runs
        for labels, runs in folder.configurations().items()
    }
    learned = {
        name: runs
        for name, runs in groups.items()
        if all(run.learned for run in runs)
    }
    drawings = [
        learned and strides_by_epoch(learned),
        learned and learned_strides(learned),
        accuracy_against_cost(folder, metric),
        diffres_curves(groups),
        accuracy_against_frames(folder, metric),
    ]
    return [drawing for drawing in drawings if drawing]


def save(drawing, directory):
    """Writes a figure as PNG and SVG; returns the paths."""
    paths = [directory / f"{drawing.name}.{end}" for end in ("png", "svg")]
    drawing.figure.savefig(paths[0], dpi=150)
    drawing.figure.savefig(paths[1], metadata={"Date": None})
    return paths


def strides_by_epoch(groups):
    """Figure 3a: the strides of every layer, a panel for each configuration."""
    shown = dict(list(groups.items())[:MOST_PANELS])
    figure, panels = _panels(len(shown))
    for (name, runs), panel in zip(shown.items(), panels, strict=False):
        for run in runs:
            start = 1 if run.strides_after(0) is None else 0
            epochs = range(start, len(run.history) + 1)
            rows = [run.strides_after(epoch) for epoch in epochs]
            for index, layer in enumerate(rows[0]):
                for axis, style in zip(
                    range(len(rows[0][layer])), AXIS_STYLES, strict=False
                ):
                    panel.plot(
                        epochs,
                        [row[layer][axis] for row in rows],
                        style,
                        color=f"C{index % 10}",
                        alpha=1 if len(runs) == 1 else 0.6,
                        linewidth=1,
                        label=layer if run is runs[0] and axis == 0 else None,
                    )
        panel.set_title(name, fontsize="small")
        panel.grid(alpha=0.3)
        panel.tick_params(labelbottom=True)
    figure.supxlabel("epoch")
    figure.supylabel("stride")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=4, fontsize="small"
    )
    caption = (
        "Strides by epoch (Figure 3a of Riad et al., 2022): a line for each "
        "seed and axis; the first axis, height or time, is drawn through, the "
        "second dashed."
    )
    if len(shown) < len(groups):
        caption += f" The first {len(shown)} of {len(groups)} configurations."
    return Drawing("strides_by_epoch", figure, caption)


def learned_strides(groups):
    """Figures 3b, 3c, A.1 and A.2: where strides end, by configuration."""
    figure = _figure(max(6.0, 1.6 + 0.55 * len(groups)), 6.5)
    strides_panel, total_panel = figure.subplots(2, sharex=True)
    layers = next(iter(groups.values()))[0].learned
    for position, runs in enumerate(groups.values()):
        initial = runs[0].strides_after(0)
        for index, layer in enumerate(runs[0].learned):
            offset = 0.7 * ((index + 0.5) / len(runs[0].learned) - 0.5)
            _scatter(
                strides_panel,
                position + offset,
                [run.learned[layer] for run in runs],
                initial and initial[layer],
                f"C{index % 10}",
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
    for index, layer in enumerate(layers):
        strides_panel.plot([], [], "s", color=f"C{index % 10}", label=layer)
    for axis, marker in enumerate(AXIS_MARKERS[: len(_products(layers))]):
        total_panel.plot(
            [], [], marker, color="black", label=_axis_name(axis, layers)
        )
    total_panel.plot([], [], "-", color="gray", label="at the start")
    for panel in (strides_panel, total_panel):
        panel.grid(alpha=0.3)
    figure.legend(loc="outside upper center", fontsize="x-small", ncols=3)
    _logarithmic(total_panel.yaxis)
    strides_panel.set_ylabel("stride")
    total_panel.set_ylabel("global striding factor")
    total_panel.set_xticks(
        range(len(groups)), groups, rotation=45, ha="right", fontsize="small"
    )
    return Drawing(
        "learned_strides",
        figure,
        "Learned strides of each layer, and the global striding factor, their "
        "product over the layers, for each axis (Figures 3b, 3c, A.1 and A.2 "
        "of Riad et al., 2022): a mark for each seed; lines are initial "
        "values.",
    )


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


def _axis_name(axis, layers):
    rank = len(_products(layers))
    return ("height or time", "width or frequency")[axis] if rank == 2 else axis


def accuracy_against_cost(folder, metric):
    """Figure 4: accuracy against complexity J and against real operations."""
    costs = [
        ("complexity", "complexity J (Eq. 6)", 1.0),
        ("macs", "million MACs for an example", 1e-6),
    ]
    costs = [
        cost
        for cost in costs
        if len({run.value(cost[0]) for run in folder.runs} - {None}) > 1
    ]
    if not costs or _lacks(folder, metric):
        return None
    figure = _figure(4.6 * len(costs), 4.2)
    panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    axis = _main_axis(folder)
    for panel, (name, title, scale) in zip(panels, costs, strict=True):
        for series, points in _series(folder, axis).items():
            pairs = [
                (
                    [scale * run.value(name) for run in runs],
                    [metric.scale * run.value(metric.name) for run in runs],
                )
                for runs in points
                if all(run.value(name) is not None for run in runs)
            ]
            if not pairs:
                continue
            panel.errorbar(
                *_means_and_bars(pairs),
                fmt="o",
                markersize=4,
                linewidth=1,
                label=series,
            )
        _logarithmic(panel.xaxis)
        panel.set_xlabel(title)
        panel.grid(alpha=0.3, which="both")
    panels[0].set_ylabel(metric.title)
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=4, fontsize="small"
    )
    return Drawing(
        "accuracy_against_cost",
        figure,
        "Accuracy against the complexity J of the strides (Figure 4 of Riad "
        "et al., 2022) and against operations counted at the actual sizes. A "
        "point for each configuration: mean and sd over seeds. J leaves out "
        "the margins of the windows; operations do not.",
    )


def diffres_curves(groups):
    """Activeness and guide loss of DiffRes by epoch."""
    groups = {
        name: runs
        for name, runs in groups.items()
        if all("activeness" in row for run in runs for row in run.history)
    }
    if not groups:
        return None
    figure = _figure(9, 3.8)
    names = ("activeness", "guide_loss")
    for panel, key in zip(figure.subplots(1, 2), names, strict=True):
        for name, runs in groups.items():
            curves = [[row.get(key) for row in run.history] for run in runs]
            if any(value is None for curve in curves for value in curve):
                continue
            means = [
                statistics.fmean(values)
                for values in zip(*curves, strict=False)
            ]
            panel.plot(range(1, len(means) + 1), means, label=name)
        panel.set_title(key.replace("_", " "), fontsize="medium")
        panel.set_xlabel("epoch")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panel.legend(fontsize="x-small")
    return Drawing(
        "diffres",
        figure,
        "Activeness and guide loss of DiffRes by epoch, mean over seeds "
        "(Figures 6 and 7 of Liu et al., 2022).",
    )


def accuracy_against_frames(folder, metric):
    """Accuracy against the frames per second that a classifier sees."""
    rates = {run.frames_per_second for run in folder.runs}
    if None in rates or len(rates) < 2 or _lacks(folder, metric):
        return None
    figure = _figure(5.5, 4)
    panel = figure.subplots()
    for series, points in _series(folder, _main_axis(folder, rates)).items():
        accuracies = {}
        for run in (run for runs in points for run in runs):
            accuracies.setdefault(run.frames_per_second, []).append(
                metric.scale * run.value(metric.name)
            )
        pairs = [([rate], values) for rate, values in accuracies.items()]
        pairs.sort()
        panel.errorbar(
            *_means_and_bars(pairs), fmt="o-", markersize=4, label=series
        )
    panel.set_xlabel("frames per second")
    panel.set_ylabel(metric.title)
    panel.grid(alpha=0.3)
    panel.legend(fontsize="x-small")
    return Drawing(
        "accuracy_against_frames",
        figure,
        "Accuracy against the frames per second that are left for the "
        "classifier: mean and sd over the runs.",
    )


def _lacks(folder, metric):
    return any(run.value(metric.name) is None for run in folder.runs)


def _main_axis(folder, rates=None):
    """The axis that has its colours: one of methods, or the last one."""
    axes = [axis for axis in folder.axes if len(folder.axes[axis]) > 1]
    if rates:  # Not the one that sets the rate.
        axes = [
            axis
            for axis in axes
            if len(
                {(r.choices[axis], r.frames_per_second) for r in folder.runs}
            )
            > len(rates)
        ]
    return "method" if "method" in axes else axes[-1] if axes else None


def _series(folder, axis):
    """Runs of each configuration, by their choice on an axis."""
    series = {}
    for runs in folder.configurations().values():
        label = runs[0].choices[axis] if axis else "all"
        series.setdefault(label, []).append(runs)
    return series


def _means_and_bars(pairs):
    """Means of x and y, then standard deviations of y and x, for errorbar."""
    xs, ys = zip(*pairs, strict=True)

    def deviation(values):
        return statistics.stdev(values) if len(values) > 1 else 0.0

    return (
        list(map(statistics.fmean, xs)),
        list(map(statistics.fmean, ys)),
        list(map(deviation, ys)),
        list(map(deviation, xs)),
    )


def _logarithmic(axis):
    """A logarithmic axis with numbers that one can read."""
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _figure(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(count):
    columns = min(count, 4) if count != 5 else 3
    rows = math.ceil(count / columns)
    figure = _figure(max(5.0, 2.8 * columns), 1.0 + 2.2 * rows)
    panels = figure.subplots(
        rows, columns, squeeze=False, sharex=True, sharey=True
    ).ravel()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels
