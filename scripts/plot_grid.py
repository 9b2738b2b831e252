#!/usr/bin/env python3
"""Draws what fixed strides cost and reach, and where learned ones end.

    python scripts/plot_grid.py runs/study_grid runs/study_grid_learned \
        --output docs/pictures/grid.png

The first folder holds a run for each combination of fixed strides, the second
runs whose strides were learned, with the axes "start" and "budget". The line
joins the fixed runs that no other one beats at their cost.
"""

import argparse
import itertools
import pathlib

from diffstride.experiments import drawing
from diffstride.experiments.run_folder import read_folder


def accuracy(run):
    return 100 * run.value("val_accuracy")


def millions(run):
    return run.value("macs") / 1e6


def front(runs):
    """The runs that are better than all that cost less."""
    best, found = 0.0, []
    for run in sorted(runs, key=millions):
        if accuracy(run) > best:
            best = accuracy(run)
            found.append(run)
    return found


def draw(fixed, learned):
    figure = drawing.new_figure(6.5, 4.2)
    panel = figure.subplots()
    panel.scatter(
        [millions(run) for run in fixed],
        [accuracy(run) for run in fixed],
        s=18,
        color="0.65",
        label="fixed strides",
    )
    best = front(fixed)
    panel.plot(
        [millions(run) for run in best],
        [accuracy(run) for run in best],
        color="0.65",
        linewidth=1,
    )
    starts = drawing.colors(
        dict.fromkeys(run.choices["start"] for run in learned)
    )
    for run in learned:
        is_free = run.choices["budget"] == "none"
        panel.scatter(
            millions(run),
            accuracy(run),
            s=60,
            marker="o" if is_free else "*",
            facecolors="none" if is_free else starts[run.choices["start"]],
            edgecolors=starts[run.choices["start"]],
            label=f"learned from {run.choices['start']}"
            + ("" if is_free else ", budget"),
        )
    drawing.logarithmic(panel.xaxis)
    panel.set_xlabel("million MACs an image at the end of training")
    panel.set_ylabel("test accuracy in %")
    drawing.legend_above(figure, [panel])
    return figure


def report(fixed, learned):
    """Prints each learned run beside the best fixed run of its cost."""
    print("| start | budget | strides | million MACs | accuracy | best fixed |")
    print("|---|---|---|---|---|---|")
    for run in learned:
        rivals = [
            accuracy(each)
            for each in fixed
            if millions(each) <= 1.03 * millions(run)
        ]
        strides = itertools.chain.from_iterable(run.learned.values())
        print(
            f"| {run.choices['start']} | {run.choices['budget']} | "
            f"{', '.join(f'{stride:.2f}' for stride in strides)} | "
            f"{millions(run):.2f} | {accuracy(run):.1f} | "
            f"{max(rivals, default=float('nan')):.1f} |"
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
        read_folder(path).runs for path in (args.fixed, args.learned)
    )
    report(fixed, learned)
    draw(fixed, learned).savefig(args.output, dpi=120)


if __name__ == "__main__":
    main()
