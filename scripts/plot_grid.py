#!/usr/bin/env python3
"""Draws what fixed strides cost and reach, and where learned ones end.

    python scripts/plot_grid.py runs/study_grid runs/study_grid_learned \
        --output docs/pictures/grid.png

The first folder holds runs of each combination of fixed strides, the second
runs whose strides were learned, with the axes "start" and "budget". A point is
the mean over the seeds. The line joins the fixed strides that no other ones
beat at their cost.
"""

import argparse
import pathlib
import typing

import numpy as np

from diffstride.experiments import drawing
from diffstride.experiments.run_folder import read_folder


class Point(typing.NamedTuple):
    """Means over the seeds of one choice of axes."""

    choices: dict
    millions: float
    accuracy: float
    deviation: float
    strides: list


def points(runs):
    """The means of runs that differ in their seeds alone."""
    groups = {}
    for run in runs:
        groups.setdefault(tuple(run.choices.items()), []).append(run)
    return [
        Point(
            dict(choices),
            np.mean([run.value("macs") / 1e6 for run in group]),
            np.mean([100 * run.value("val_accuracy") for run in group]),
            np.std(
                [100 * run.value("val_accuracy") for run in group],
                ddof=min(len(group) - 1, 1),
            ),
            np.mean(
                [np.concatenate([*run.learned.values()]) for run in group],
                axis=0,
            )
            if group[0].learned
            else [],
        )
        for choices, group in groups.items()
    ]


def front(fixed):
    """The points that are better than all that cost less."""
    best, found = 0.0, []
    for point in sorted(fixed, key=lambda point: point.millions):
        if point.accuracy > best:
            best = point.accuracy
            found.append(point)
    return found


def draw(fixed, learned):
    figure = drawing.new_figure(6.5, 4.2)
    panel = figure.subplots()
    panel.scatter(
        [point.millions for point in fixed],
        [point.accuracy for point in fixed],
        s=18,
        color="0.65",
        label="fixed strides",
    )
    best = front(fixed)
    panel.plot(
        [point.millions for point in best],
        [point.accuracy for point in best],
        color="0.65",
        linewidth=1,
    )
    starts = drawing.colors(
        dict.fromkeys(point.choices["start"] for point in learned)
    )
    for point in learned:
        color = starts[point.choices["start"]]
        is_free = point.choices["budget"] == "none"
        panel.scatter(
            point.millions,
            point.accuracy,
            s=60,
            marker="o" if is_free else "*",
            facecolors="none" if is_free else color,
            edgecolors=color,
            label=f"learned from {point.choices['start']}"
            + ("" if is_free else ", budget"),
        )
    drawing.logarithmic(panel.xaxis)
    panel.set_xlabel("million MACs an image at the end of training")
    panel.set_ylabel("test accuracy in %")
    drawing.legend_above(figure, [panel])
    return figure


def report(fixed, learned):
    """Prints learned strides beside the best fixed ones of their cost."""
    print("| start | budget | strides | million MACs | accuracy | best fixed |")
    print("|---|---|---|---|---|---|")
    for point in learned:
        rivals = [
            each.accuracy
            for each in fixed
            if each.millions <= 1.03 * point.millions
        ]
        print(
            f"| {point.choices['start']} | {point.choices['budget']} | "
            f"{', '.join(f'{stride:.2f}' for stride in point.strides)} | "
            f"{point.millions:.2f} | "
            f"{point.accuracy:.1f} ± {point.deviation:.1f} | "
            f"{max(rivals, default=float('nan')):.1f} |"
        )
    print(
        "Deviation of fixed strides: "
        f"{np.mean([point.deviation for point in fixed]):.1f}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fixed", type=pathlib.Path)
    parser.add_argument("learned", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, default="grid.png")
    args = parser.parse_args()
    fixed, learned = (
        points(read_folder(path).runs) for path in (args.fixed, args.learned)
    )
    report(fixed, learned)
    draw(fixed, learned).savefig(args.output, dpi=120)


if __name__ == "__main__":
    main()
