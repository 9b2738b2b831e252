"""Tables in the form of the papers: mean ± standard deviation over seeds."""

import dataclasses
import math
import statistics

from diffstride.experiments.errors import SweepError
from diffstride.experiments.metrics import CONSISTENCIES, COSTS, find_metric

PLUS_MINUS = " ± "
# The least number of digits that are shown, without leading zeros.
_DIGITS = 2


@dataclasses.dataclass
class Cell:
    """Numbers of several runs, or a text.

    Args:
        values: One number for each run, in the unit of the table.
        decimals: Number of decimals of their mean.
        published: The number in the paper, as printed.
        text: A text that is shown instead of numbers.
        best: Whether this is the best of its row or column.
    """

    values: list = dataclasses.field(default_factory=list)
    decimals: int = 1
    published: str = ""
    text: str = ""
    best: bool = False

    @property
    def mean(self):
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self):
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def error(self):
        """The standard error of the mean; infinite if it is not known."""
        if self.deviation is None:
            return math.inf
        return self.deviation / math.sqrt(len(self.values))

    def __str__(self):
        if not self.values:
            return self.text
        text = f"{self.mean:.{self.decimals}f}"
        # Equal numbers have no noise, such as operations of fixed strides.
        if len(set(self.values)) > 1:
            text += f"{PLUS_MINUS}{self.deviation:.{self.decimals}f}"
        return text


@dataclasses.dataclass
class Table:
    """Cells by row and column.

    Args:
        title: Title of the table.
        corner: Text above the names of rows.
        columns: Names of the columns.
        rows: Dict from the name of a row to its cells.
        usual: Number of runs of most cells.
        note: Explanation below the table.
    """

    title: str
    corner: str
    columns: list
    rows: dict
    usual: int = 0
    note: str = ""

    def count(self, cell):
        """The number of runs of a cell if it is not the usual one."""
        different = cell.values and len(cell.values) != self.usual
        return f"n = {len(cell.values)}" if different else ""


def pivot(folder, metric, rows=None, columns=None):
    """A table of one metric, by two axes or more.

    Args:
        folder: `RunFolder`.
        metric: `Metric`.
        rows: names of the axes of the rows. Defaults to all but `columns`. The
            mean is over axes that are in neither.
        columns: name of an axis. Defaults to the last one.
    """
    axes = list(folder.axes)
    rows, columns = _layout(axes, rows, columns)
    published = _published(folder, metric, rows, columns)
    cells = {}
    for run in folder.runs:
        key = folder.row(run, rows), run.choices[columns]
        cell = cells.setdefault(key, Cell())
        value = run.value(metric.name)
        if value is not None:
            cell.values.append(metric.scale * value)
    for key in published:
        cells.setdefault(key, Cell())
    decimals = _decimals(metric, cells.values(), published.values())
    for key, cell in cells.items():
        cell.decimals, cell.published = decimals, published.get(key, "")
    column_names = _ordered(folder, columns, [key[1] for key in cells])
    table = {}
    for row in dict.fromkeys(key[0] for key in cells):
        table[row] = [
            cells.get((row, column), Cell()) for column in column_names
        ]
    # Compare methods, in rows or in columns.
    by_column = "method" in rows and columns != "method"
    for compared in (
        zip(*table.values(), strict=True) if by_column else table.values()
    ):
        _mark_best(compared, metric)
    usual = _usual(
        folder, (*rows, columns), [len(c.values) for c in cells.values()]
    )
    means = [
        Cell([v for row in table.values() for v in row[i].values], decimals)
        for i in range(len(column_names))
    ]
    complete = all(
        len(cell.values) == usual for row in table.values() for cell in row
    )
    if len(table) > 1 and complete and not by_column:
        _mark_best(means, metric)
        table["mean of all"] = means
    over = [axis for axis in axes if axis not in (*rows, columns)]
    note = _means_over(usual, "cell") + _about_bold(table)
    if over:
        note += f" They differ in {', '.join(over)}, too."
    if published:
        section = folder.sweep.published_of(metric.name)
        note += f" In brackets: {section.get('source', 'as published')}."
    return Table(
        metric.title, ", ".join(rows), column_names, table, usual, note
    )


def _layout(axes, rows, columns):
    """The axes of the rows and the axis of the columns, with defaults."""
    asked = [*(rows or []), *([columns] if columns else [])]
    for axis in asked:
        if axis not in axes:
            raise SweepError(f"The sweep has no axis '{axis}'; it has {axes}")
        if asked.count(axis) > 1:
            raise SweepError(f"The axis '{axis}' must be of rows or of columns")
    rest = [axis for axis in axes if axis not in asked]
    if not columns and not rest:
        raise SweepError("All axes are of rows; one must be of columns")
    columns = columns or rest[-1]
    return rows or [axis for axis in axes if axis != columns], columns


def _usual(folder, axes, counts):
    """The number of runs that the sweep has for each choice of some axes."""
    if folder.sweep is None:
        return statistics.mode(count for count in counts if count)
    runs = [
        tuple(c.label for c in run.choices if c.axis in axes)
        for run in folder.sweep.runs
    ]
    return len(runs) // len(set(runs))


def _means_over(count, what):
    if count == 1:
        return f"One run a {what}."
    return f"Mean ± sd over {count} runs a {what}."


def _published(folder, metric, rows, columns):
    """Published numbers, by labels of row and column."""
    section = folder.sweep.published_of(metric.name) if folder.sweep else {}
    axes = [section.get("rows"), section.get("columns")]
    if len(rows) != 1:
        return {}
    if axes not in ([*rows, columns], [columns, *rows]):
        return {}
    labels = [choice.label for choice in folder.sweep.axes[axes[1]]]
    numbers = {
        (row, column): text
        for row, texts in section["values"].items()
        for column, text in zip(labels, texts, strict=True)
    }
    if axes == [*rows, columns]:
        return numbers
    return {(row, column): text for (column, row), text in numbers.items()}


def _decimals(metric, cells, published=()):
    """The number of decimals of cells that are compared.

    It is that of the published numbers, or more if the smallest mean would have
    less than two digits.
    """
    if metric.is_fixed:
        return metric.decimals
    decimals = [metric.decimals]
    for text in published:
        number = text.split(PLUS_MINUS.strip())[0].strip()
        decimals.append(len(number.partition(".")[2]))
    means = [abs(cell.mean) for cell in cells if cell.mean]
    if means:
        decimals.append(_DIGITS - 1 - math.floor(math.log10(min(means))))
    return max(decimals)


def _ordered(folder, axis, labels):
    known = folder.axes[axis]
    if folder.sweep is not None:
        known = [choice.label for choice in folder.sweep.axes[axis]]
    return [label for label in known if label in labels]


def _mark_best(cells, metric):
    """Marks the best mean if its lead over all others is larger than the noise.

    The noise is twice the standard error of the difference of two means. The
    noise of a single run is not known, so it is never marked.
    """
    cells = [cell for cell in cells if cell.values]
    if len(cells) < 2:
        return
    sign = -1 if metric.lower_is_better else 1
    best, *others = sorted(cells, key=lambda cell: -sign * cell.mean)
    best.best = all(
        sign * (best.mean - other.mean)
        > 2 * math.hypot(best.error, other.error)
        for other in others
    )


def _about_bold(rows):
    """A sentence that explains bold numbers, if the table has them."""
    if not any(cell.best for row in rows.values() for cell in row):
        return ""
    return (
        " Bold: better than all that it is compared with by more than twice "
        "the standard error of the difference."
    )


def configurations(folder, metrics):
    """A table of qualities and costs, with a row for each configuration."""
    groups = folder.configurations()
    columns = [*metrics, *_further_columns(folder, metrics)]
    rows = {name: [] for name in groups}
    sources = {}
    for metric in columns:
        cells = [
            Cell(
                [
                    metric.scale * value
                    for value in (run.value(metric.name) for run in runs)
                    if value is not None
                ],
                published=_published_alone(folder, metric, runs[0]),
            )
            for runs in groups.values()
        ]
        texts = [cell.published for cell in cells if cell.published]
        if texts:
            section = folder.sweep.published_of(metric.name)
            sources[section.get("source", "as published")] = True
        decimals = _decimals(metric, cells, texts)
        for row, cell in zip(rows.values(), cells, strict=True):
            cell.decimals = decimals
            row.append(cell)
        if metric in metrics:
            _mark_best(cells, metric)
    for row, runs in zip(rows.values(), groups.values(), strict=True):
        row.append(Cell(text=mean_strides(runs)))
    usual = _usual(folder, folder.axes, map(len, groups.values()))
    note = _means_over(usual, "row") + _about_bold(rows)
    if sources:
        note += f" In brackets: {', '.join(sources)}."
    names = [*(metric.title for metric in columns), "strides at the end"]
    if not any(row[-1].text for row in rows.values()):
        names.pop()
        rows = {name: row[:-1] for name, row in rows.items()}
    return Table(
        "Configurations",
        ", ".join(folder.axes) or "run",
        names,
        rows,
        usual,
        note,
    )


def _further_columns(folder, metrics):
    """Metrics of the columns after `metrics`.

    These are those of training, then the shift consistency, then costs.
    """
    names = [metric.name for metric in metrics]
    training = [
        name.removeprefix("val_") for name in names if name.startswith("val_")
    ]
    return [
        find_metric(name)
        for name in [*training, *CONSISTENCIES, *COSTS]
        if name not in names
        and any(run.value(name) is not None for run in folder.runs)
    ]


def _published_alone(folder, metric, run):
    """A published number that depends on one axis only."""
    section = folder.sweep.published_of(metric.name) if folder.sweep else {}
    if not section or "columns" in section:
        return ""
    return section["values"].get(run.choices[section["rows"]], "")


def mean_strides(runs):
    """The mean over runs of the strides that each layer has learned."""
    learned = [list(run.learned.values()) for run in runs if run.learned]
    if not learned:
        return ""
    layers = []
    for layer in zip(*learned, strict=True):
        means = [statistics.fmean(axis) for axis in zip(*layer, strict=True)]
        layers.append("(" + ", ".join(f"{mean:.2f}" for mean in means) + ")")
    return " ".join(layers)


def cutoffs(folder):
    """Table 2: cut-offs of the first layer of a spectrogram, or None."""
    rows = {}
    for name, runs in folder.configurations().items():
        runs = [run for run in runs if run.cutoffs is not None]
        if not runs:
            continue
        strides = [next(iter(run.learned.values())) for run in runs]
        rows[name] = [
            Cell([s[0] for s in strides], 2),
            Cell([s[1] for s in strides], 2),
            Cell([run.cutoffs[0] for run in runs], 2),
            Cell([run.cutoffs[1] for run in runs], 4),
        ]
    if not rows:
        return None
    counts = [len(row[0].values) for row in rows.values()]
    usual = _usual(folder, folder.axes, counts)
    return Table(
        "Cut-off frequencies of the first layer",
        ", ".join(folder.axes) or "run",
        [
            "stride in time",
            "stride in frequency",
            "cut-off in time, Hz",
            "cut-off in frequency, cycles/mel",
        ],
        rows,
        usual,
        "The highest frequency of the spectrogram's Fourier transform below "
        f"the cut-off, as in Table 2. {_means_over(usual, 'row')}",
    )
