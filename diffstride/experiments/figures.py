"""Figures of the papers, drawn from finished runs that have their data."""

import statistics

from diffstride.experiments.curve_figures import (
    accuracy_by_epoch,
    diffres_curves,
    loss_by_epoch,
)
from diffstride.experiments.drawing import (
    Drawing,
    colors,
    legend_above,
    logarithmic,
    new_figure,
)
from diffstride.experiments.series import main_axis, series
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
        accuracy_by_epoch(folder, metric),
        loss_by_epoch(folder),
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
    report = folder.sweep.report if folder.sweep else {}
    groups = series(folder, main_axis(folder), report.get("series", ()))
    color = colors(groups)
    for panel, (name, title, scale) in zip(panels, costs, strict=True):
        for label, points in groups.items():
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
                color=color[label],
                markersize=4,
                linewidth=1,
                label=label,
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


def accuracy_against_frames(folder, metric):
    """Accuracy against the frames per second that a classifier sees."""
    rates = {run.frames_per_second for run in folder.runs}
    if None in rates or len(rates) < 2 or _lacks(folder, metric):
        return None
    figure = new_figure(5.5, 4)
    panel = figure.subplots()
    groups = series(folder, main_axis(folder, rates))
    color = colors(groups)
    # Draw methods side by side, so that none hides another.
    step = 0.012 * (max(rates) - min(rates))
    for index, (label, points) in enumerate(groups.items()):
        aside = step * (index - (len(groups) - 1) / 2)
        accuracies = {}
        for run in (run for runs in points for run in runs):
            accuracies.setdefault(run.frames_per_second, []).append(
                metric.scale * run.value(metric.name)
            )
        pairs = [([rate + aside], ys) for rate, ys in accuracies.items()]
        pairs.sort()
        panel.errorbar(
            *_means_and_bars(pairs),
            fmt="o-",
            color=color[label],
            markersize=4,
            label=label,
        )
    panel.set_xlabel("frames per second")
    panel.set_ylabel(metric.title)
    panel.grid(alpha=0.3)
    legend_above(figure, [panel])
    return Drawing(
        "accuracy_against_frames",
        figure,
        f"{_words(metric)} against the frames per second that are left for "
        "the classifier: mean and sd over the runs. Methods of the same rate "
        "stand side by side.",
    )


def _words(metric):
    return metric.words[0].upper() + metric.words[1:]


def _lacks(folder, metric):
    return any(run.value(metric.name) is None for run in folder.runs)


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
