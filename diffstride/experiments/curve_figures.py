"""Curves by epoch: losses, accuracies, activeness of DiffRes."""

import statistics

from diffstride.experiments.drawing import (
    Drawing,
    colors,
    count_epochs,
    legend_above,
    logarithmic,
    new_figure,
    new_panels,
)
from diffstride.experiments.metrics import find_metric
from diffstride.experiments.series import main_axis, series

MOST_PANELS = 24
# An axis of losses is logarithmic if the largest value is this many times the
# smallest one, or more.
WIDE = 30


def loss_by_epoch(folder):
    """The loss of training and of the test set."""
    return _by_epoch(folder, find_metric("val_loss"), "loss_by_epoch")


def accuracy_by_epoch(folder, metric):
    """The accuracy, or another quality, of training and of the test set."""
    if metric.name.startswith("test_"):
        # Only the validation split is evaluated after each epoch.
        metric = find_metric(f"val_{metric.name.removeprefix('test_')}")
    if not metric.name.startswith("val_") or metric.name.endswith("loss"):
        return None
    return _by_epoch(folder, metric, "accuracy_by_epoch")


def _by_epoch(folder, metric, name):
    """A line for each choice on the main axis, a panel for each of the rest."""
    training = metric.name.removeprefix("val_")
    if not any(_curve([run], metric.name) for run in folder.runs):
        return None
    axis = main_axis(folder)
    others = [other for other in folder.axes if other != axis]
    panels_of = {}
    for run in folder.runs:
        panels_of.setdefault(folder.row(run, others), []).append(run)
    shown = dict(list(panels_of.items())[:MOST_PANELS])
    figure, panels = new_panels(len(shown))
    color = colors(series(folder, axis))
    values = []
    for (title, runs), panel in zip(shown.items(), panels, strict=False):
        for label in color:
            chosen = [
                r for r in runs if axis is None or r.choices[axis] == label
            ]
            for key, style, width in (
                (training, "--", 1.0),
                (metric.name, "-", 1.5),
            ):
                curve = _curve(chosen, key)
                if not curve:
                    continue
                epochs, means, deviations = zip(*curve, strict=True)
                means = [metric.scale * mean for mean in means]
                bars = [metric.scale * bar for bar in deviations]
                values += means
                panel.plot(
                    epochs,
                    means,
                    style,
                    color=color[label],
                    linewidth=width,
                    label=label if key == metric.name else None,
                )
                if key == metric.name and len(chosen) > 1:
                    panel.fill_between(
                        epochs,
                        [m - bar for m, bar in zip(means, bars, strict=True)],
                        [m + bar for m, bar in zip(means, bars, strict=True)],
                        color=color[label],
                        alpha=0.15,
                        linewidth=0,
                    )
        if len(shown) > 1:
            panel.set_title(title, fontsize="small")
        count_epochs(panel)
        panel.grid(alpha=0.3)
        panel.tick_params(labelbottom=True)
    if metric.lower_is_better and min(values) > 0:
        if max(values) > WIDE * min(values):
            logarithmic(panels[0].yaxis)
    figure.supxlabel("epoch")
    figure.supylabel(metric.title.removeprefix("test "))
    panels[0].plot([], [], "-", color="black", label="test")
    panels[0].plot([], [], "--", color="black", label="training")
    legend_above(figure, panels)
    words = metric.words.removeprefix("test ")
    caption = (
        f"{words[0].upper()}{words[1:]} by epoch, mean over seeds: solid lines "
        "for the test set, with a band of one standard deviation, dashed lines "
        "for training."
    )
    if len(shown) < len(panels_of):
        caption += f" The first {len(shown)} of {len(panels_of)} panels."
    return Drawing(name, figure, caption)


def _curve(runs, name):
    """Epochs in which all runs have a number, with means and deviations."""
    curve = []
    for rows in zip(*(run.history for run in runs), strict=False):
        values = [row.get(name) for row in rows]
        if all(isinstance(value, (int, float)) for value in values):
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            epoch = rows[0].get("epoch", len(curve) + 1)
            curve.append((epoch, statistics.fmean(values), deviation))
    return curve


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
    color = colors(groups)
    for panel, key in zip(panels, names, strict=True):
        for name, runs in groups.items():
            curve = _curve(runs, key)
            if not curve:
                continue
            epochs, means, _ = zip(*curve, strict=True)
            panel.plot(epochs, means, color=color[name], label=name)
        panel.set_title(key.replace("_", " "), fontsize="medium")
        panel.set_xlabel("epoch")
        count_epochs(panel)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    legend_above(figure, panels)
    return Drawing(
        "diffres",
        figure,
        "Activeness and guide loss of DiffRes by epoch, mean over seeds "
        "(Figures 6 and 7 of Liu et al., 2022).",
    )
