"""Figures of the papers, drawn from finished runs where they have the data."""

import statistics

from diffstride.experiments.drawing import (
    Drawing,
    legend_above,
    logarithmic,
    new_figure,
)
from diffstride.experiments.stride_figures import (
    cutoffs,
    learned_strides,
    strides_by_epoch,
)


def draw_all(folder, metric):
    """All figures for which the runs have data.

    Args:
        folder: `RunFolder`.
        metric: `Metric` of the accuracy, or of another quality.
    """
    groups = folder.configurations()
    learned = {
        name: runs
        for name, runs in groups.items()
        if all(run.learned for run in runs)
    }
    drawings = [
        learned and strides_by_epoch(learned),
        learned and learned_strides(learned),
        cutoffs(groups),
        accuracy_against_cost(folder, metric),
        diffres_curves(groups),
        accuracy_against_frames(folder, metric),
    ]
    return [drawing for drawing in drawings if drawing]


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
    figure = new_figure(4.6 * len(costs), 4.2)
    panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    axis = _main_axis(folder)
    for panel, (name, title, scale) in zip(panels, costs, strict=True):
        for index, (series, points) in enumerate(_series(folder, axis).items()):
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
                color=f"C{index % 10}",
                markersize=4,
                linewidth=1,
                label=series,
            )
        logarithmic(panel.xaxis)
        panel.set_xlabel(title)
        panel.grid(alpha=0.3, which="both")
    panels[0].set_ylabel(metric.title)
    legend_above(figure, panels)
    return Drawing(
        "accuracy_against_cost",
        figure,
        f"{_words(metric)} against the complexity J of the strides (Figure 4 "
        "of Riad et al., 2022) and against operations counted at the actual "
        "sizes. A point for each configuration: mean and sd over seeds. J "
        "leaves out the margins of the windows; operations do not.",
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
    figure = new_figure(9, 3.8)
    names = ("activeness", "guide_loss")
    panels = figure.subplots(1, 2)
    for panel, key in zip(panels, names, strict=True):
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
    legend_above(figure, panels)
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
    figure = new_figure(5.5, 4)
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
    legend_above(figure, [panel])
    return Drawing(
        "accuracy_against_frames",
        figure,
        f"{_words(metric)} against the frames per second that are left for "
        "the classifier: mean and sd over the runs.",
    )


def _words(metric):
    return metric.words[0].upper() + metric.words[1:]


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
