#!/usr/bin/env python3
"""Tables of a sweep, from the directories of its runs alone.

    python scripts/report.py runs/table3_cifar10 --rows strides --columns method

A cell is the mean over the seeds, ± the standard deviation of a sample, and the
number of runs where it is not that of the other cells. Runs that are not
finished are named, and left out.
"""

import argparse
import json
import pathlib
import statistics


def read_runs(directory):
    """Choices and history of each finished run, and the names of others."""
    finished, others = [], []
    for path in sorted(directory.glob("*/sweep.json")):
        history = path.parent / "history.jsonl"
        if not (path.parent / "model.keras").exists():
            others.append(path.parent.name)
            continue
        rows = [json.loads(line) for line in history.read_text().splitlines()]
        finished.append((json.loads(path.read_text())["choices"], rows))
    return finished, others


def cells(runs, rows, columns, metric):
    """The metric at the end of each run, by row and column."""
    table = {}
    for choices, history in runs:
        for axis in (rows, columns):
            if axis not in choices:
                raise SystemExit(
                    f"The sweep has no axis '{axis}'; it has {list(choices)}"
                )
        if metric not in history[-1]:
            raise SystemExit(
                f"The runs have no metric '{metric}'; they have "
                f"{list(history[-1])}"
            )
        cell = (choices[rows], choices[columns])
        table.setdefault(cell, []).append(history[-1][metric])
    return table


def format_table(table, rows, scale=1.0):
    """A Markdown table of mean ± standard deviation."""
    row_names = list(dict.fromkeys(row for row, _ in table))
    column_names = list(dict.fromkeys(column for _, column in table))
    usual = statistics.mode(len(values) for values in table.values())
    lines = [
        "| " + " | ".join([rows, *column_names]) + " |",
        "|---" * (len(column_names) + 1) + "|",
    ]
    for row in row_names:
        texts = []
        for column in column_names:
            values = [scale * v for v in table.get((row, column), [])]
            text = f"{statistics.mean(values):.1f}" if values else ""
            if len(values) > 1:
                text += f" ± {statistics.stdev(values):.1f}"
            if values and len(values) != usual:
                text += f" (n = {len(values)})"
            texts.append(text)
        lines.append("| " + " | ".join([row, *texts]) + " |")
    return "\n".join([*lines, "", f"n = {usual} runs a cell"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=pathlib.Path, help="of the runs")
    parser.add_argument("--rows", default="method", help="axis of the rows")
    parser.add_argument(
        "--columns", default="strides", help="axis of the columns"
    )
    parser.add_argument("--metric", default="val_accuracy")
    parser.add_argument(
        "--scale", type=float, default=100.0, help="factor of the metric"
    )
    args = parser.parse_args()
    runs, others = read_runs(args.directory)
    for name in others:
        print(f"not finished: {name}")
    if not runs:
        raise SystemExit(f"There is no finished run in {args.directory}")
    table = cells(runs, args.rows, args.columns, args.metric)
    print(format_table(table, args.rows, args.scale))


if __name__ == "__main__":
    main()
