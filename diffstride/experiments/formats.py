"""Tables as Markdown and as CSV."""

import csv
import io

from diffstride.experiments.tables import mean_strides

BAR = r"\|"


def to_markdown(table):
    """A table for a README."""
    lines = [
        _line([table.corner, *table.columns]),
        "|---" * (len(table.columns) + 1) + "|",
    ]
    for name, cells in table.rows.items():
        texts = []
        for cell in cells:
            text = f"**{cell}**" if cell.best else str(cell)
            more = [f"({cell.published})"] if cell.published else []
            if name != "mean of all" and table.count(cell):
                more.append(f"[{table.count(cell)}]")
            texts.append(" ".join([text, *more]).strip())
        lines.append(_line([name, *texts]))
    return "\n".join([f"{table.title}", "", *lines, "", table.note])


def _line(texts):
    return f"| {' | '.join(text.replace('|', BAR) for text in texts)} |"


def to_csv(table):
    """A table with a line for each cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["row", "column", "n", "mean", "sd", "published", "text"])
    for name, cells in table.rows.items():
        for column, cell in zip(table.columns, cells, strict=True):
            writer.writerow(
                [
                    name,
                    column,
                    len(cell.values),
                    _or_nothing(cell.mean),
                    _or_nothing(cell.deviation),
                    cell.published,
                    cell.text,
                ]
            )
    return file.getvalue()


def _or_nothing(number):
    return "" if number is None else f"{number:.10g}"


def runs_to_csv(folder):
    """All numbers of all finished runs at their end, a line for each run."""
    columns = list(
        dict.fromkeys(name for run in folder.runs for name in run.numbers)
    )
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    extra = ["complexity", "total_seconds"]
    writer.writerow(["run", *folder.axes, "seed", *columns, *extra, "strides"])
    for run in folder.runs:
        writer.writerow(
            [
                run.name,
                *(run.choices[axis] for axis in folder.axes),
                run.seed,
                *(run.value(name) for name in [*columns, *extra]),
                mean_strides([run]),
            ]
        )
    return file.getvalue()
