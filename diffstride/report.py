"""Tables, figures and a page of a sweep, from the directories of its runs.

    python -m diffstride.report runs/table3_cifar10
    python -m diffstride.report runs/table3_cifar10 --columns strides
    python -m diffstride.report runs/table3_cifar10 --metric val_loss

It prints its tables and writes to `report/` in the directory of the runs:
`index.html`, which holds everything and needs nothing else; `report.md`; a CSV
file of each table and one of all runs; the figures as PNG and SVG. They replace
those of an earlier report.

A cell is the mean over the seeds, ± the standard deviation of a sample, and the
published number in brackets, where the sweep file has one. The best of a row or
a column is in bold where it is better than all others beyond the noise, which
is twice the standard error of the difference. Metrics are those of
`history.jsonl` at the end of a run, `complexity` (J in Eq. 6) and
`total_seconds`. Runs with a validation split also have `test_accuracy` and the
like, of the final weights, and `best_test_accuracy`, of the best epoch.

Runs that failed, are not finished or belong elsewhere are named, and left out.
A directory of runs that were made one by one is reported, too.
"""

import argparse
import pathlib

from diffstride.experiments import formats, page, tables
from diffstride.experiments.errors import SweepError
from diffstride.experiments.metrics import COSTS, default_metrics, find_metric
from diffstride.experiments.run_folder import read_folder

# Names that figures have.
FIGURES = (
    "loss_by_epoch",
    "accuracy_by_epoch",
    "strides_by_epoch",
    "learned_strides",
    "cutoffs",
    "accuracy_against_cost",
    "diffres",
    "accuracy_against_frames",
)


def make_tables(folder, metrics, rows=None, columns=None):
    """The tables of a report: one for each metric, then all there is."""
    made = []
    section = folder.sweep.report if folder.sweep else {}
    published = folder.sweep.published if folder.sweep else []
    # What is asked for goes before what the file says.
    usual = section.get("columns")
    usual = usual or next(
        (s["columns"] for s in published if "columns" in s), None
    )
    if not columns and usual not in (rows or []):
        columns = usual
    usual = section.get("rows", [])
    usual = [usual] if isinstance(usual, str) else usual
    if not rows and columns not in usual:
        rows = usual
    if rows or columns or len(folder.axes) > 1:
        made += [tables.pivot(folder, m, rows, columns) for m in metrics]
    made.append(tables.configurations(folder, metrics))
    cutoffs = tables.cutoffs(folder)
    return made + ([cutoffs] if cutoffs else [])


def choose_metrics(folder, names=(), scale=None, decimals=None):
    section = folder.sweep.report if folder.sweep else {}
    published = folder.sweep.published if folder.sweep else []
    names = names or section.get("metrics")
    names = names or [section["metric"] for section in published]
    names = names or default_metrics(folder.runs)
    metrics = [find_metric(name, scale, decimals) for name in names]
    if any(run.test for run in folder.runs):
        metrics = [
            metric._replace(title=metric.title.replace("test", "validation"))
            if metric.name.startswith("val_")
            else metric
            for metric in metrics
        ]
    for metric in metrics:
        if all(run.value(metric.name) is None for run in folder.runs):
            known = sorted(folder.runs[0].numbers)
            raise SweepError(
                f"The runs have no metric '{metric.name}'; they have {known}"
            )
    return metrics


def metric_of_figures(folder, metrics):
    """The first metric that is no cost."""
    for metric in metrics:
        if metric.name not in COSTS:
            return metric
    return find_metric(default_metrics(folder.runs)[0])


def write_report(folder, metrics, made, output):
    """Writes all files of a report; returns the path of the page."""
    output.mkdir(parents=True, exist_ok=True)
    _remove_earlier(output)
    drawings = []
    try:
        from diffstride.experiments import figures
        from diffstride.experiments.drawing import save
    except ImportError:
        print("No figures without matplotlib: pip install 'diffstride[plot]'")
    else:
        metric = metric_of_figures(folder, metrics)
        for drawing in figures.draw_all(folder, metric):
            _, path = save(drawing, output)
            drawings.append((drawing, path))
    for index, table in enumerate(made):
        path = output / f"table{index + 1}.csv"
        path.write_text(formats.to_csv(table))
    (output / "runs.csv").write_text(formats.runs_to_csv(folder))
    (output / "report.md").write_text(to_markdown(folder, made) + "\n")
    path = output / "index.html"
    path.write_text(page.make_page(folder, made, drawings))
    return path


def _remove_earlier(output):
    """Removes an earlier report, which may have had more tables and figures."""
    for path in output.glob("table[0-9]*.csv"):
        path.unlink()
    for name in FIGURES:
        for ending in ("png", "svg"):
            (output / f"{name}.{ending}").unlink(missing_ok=True)


def to_markdown(folder, made):
    first, trouble = page.summary_lines(folder)
    parts = [f"# {folder.title}", f"{first}.", *page.environments(folder)]
    if trouble:
        parts.append("Left out:\n" + "\n".join(f"- {line}" for line in trouble))
    return "\n\n".join([*parts, *map(formats.to_markdown, made)])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=pathlib.Path, help="of the runs")
    parser.add_argument(
        "--output", type=pathlib.Path, help="defaults to report/ in it"
    )
    parser.add_argument(
        "--rows",
        type=lambda names: names.split(","),
        help="axes of the rows; defaults to all but that of the columns",
    )
    parser.add_argument(
        "--columns", help="axis of the columns; defaults to the last one"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        help="defaults to the test accuracy",
    )
    parser.add_argument("--scale", type=float, help="factor of the metrics")
    parser.add_argument("--decimals", type=int, help="of the metrics")
    args = parser.parse_args()
    if args.decimals is not None and args.decimals < 0:
        parser.error(f"--decimals must be 0 or more, not {args.decimals}")
    try:
        folder = read_folder(args.directory)
        if not folder.runs:
            _, trouble = page.summary_lines(folder)
            raise SweepError(
                f"There is no finished run in {args.directory}\n"
                + "\n".join(f"  {line}" for line in trouble)
            )
        metrics = choose_metrics(folder, args.metric, args.scale, args.decimals)
        made = make_tables(folder, metrics, args.rows, args.columns)
    except SweepError as error:
        raise SystemExit(f"Report error: {error}") from None
    output = args.output or args.directory / "report"
    path = write_report(folder, metrics, made, output)
    print(to_markdown(folder, made))
    print(f"\nThe report: {path}")


if __name__ == "__main__":
    main()
