"""Tables in the form of the papers: mean ± standard deviation over seeds."""

import dataclasses
import statistics
import typing

from diffstride.experiments.sweep_file import SweepError

PLUS_MINUS = " ± "
COSTS = ("macs", "complexity", "total_seconds")


class Metric(typing.NamedTuple):
    """How a number of a run is shown."""

    name: str
    title: str
    scale: float = 1.0
    decimals: int = 3
    lower_is_better: bool = False

    @property
    def words(self):
        """The title without a unit."""
        return self.title.partition(",")[0]


def find_metric(name, scale=None, decimals=None):
    """How the metric of a name is shown."""
    title = name.removeprefix("val_").replace("_", " ")
    if name.startswith("val_"):
        title = f"test {title}"
    metric = Metric(name, title)
    if "accuracy" in name or name.endswith(("_auc", "_map", "_precision")):
        metric = Metric(name, f"{title}, %", 100.0, 1)
    elif name.endswith("loss"):
        metric = Metric(name, title, lower_is_better=True)
    elif name == "macs":
        metric = Metric(name, "million MACs", 1e-6, 1, True)
    elif name == "complexity":
        metric = Metric(name, "complexity J", 1.0, 3, True)
    elif name == "total_seconds":
        metric = Metric(name, "minutes a run", 1 / 60, 1, True)
    if scale is not None:
        metric = metric._replace(title=title, scale=scale)
    if decimals is not None:
        metric = metric._replace(decimals=decimals)
    return metric


def default_metrics(runs):
    """What a report shows of runs: accuracies, or else what it has."""
    tested = [name for name in runs[0].history[-1] if name.startswith("val_")]
    accuracies = [
        name
        for name in tested
        if name.endswith("accuracy") and "top5" not in name
    ]
    return accuracies or [n for n in tested if "loss" not in n] or ["val_loss"]


@dataclasses.dataclass
class Cell:
    """Numbers of several runs, or a text.

    Args:
        values: One for each run, in the unit of the table.
        decimals: Of their mean.
        published: The number in the paper, as printed.
        text: Instead of all that.
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

    def __str__(self):
        if not self.values:
            return self.text
        text = f"{self.mean:.{self.decimals}f}"
        if self.deviation is not None:
            text += f"{PLUS_MINUS}{self.deviation:.{self.decimals}f}"
        return text


@dataclasses.dataclass
class Table:
    """Cells by row and column.

    Args:
        title: Of the table.
        corner: What the names of rows are.
        columns: Names.
        rows: Cells of each column, by the name of the row.
        usual: How many runs most cells have.
        note: What to know to read it.
    """

    title: str
    corner: str
    columns: list
    rows: dict
    usual: int = 0
    note: str = ""

    def count(self, cell):
        """How many runs a cell has, where it is not what others have."""
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
    decimals = metric.decimals
    for text in published.values():
        decimals = max(decimals, _decimals(text))
    cells = {}
    for run in folder.runs:
        key = folder.row(run, rows), run.choices[columns]
        cell = cells.setdefault(key, Cell())
        value = run.value(metric.name)
        if value is not None:
            cell.values.append(metric.scale * value)
    for key in published:
        cells.setdefault(key, Cell())
    for key, cell in cells.items():
        cell.decimals, cell.published = decimals, published.get(key, "")
    column_names = _ordered(folder, columns, [key[1] for key in cells])
    table = {}
    for row in dict.fromkeys(key[0] for key in cells):
        table[row] = [
            cells.get((row, column), Cell()) for column in column_names
        ]
    # What is compared are methods, wherever they stand.
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
    note = _means_over(usual, "cell")
    if over:
        note += f" They differ in {', '.join(over)}, too."
    if published:
        source = folder.sweep.published.get("source", "as published")
        note += f" In brackets: {source}."
    return Table(
        metric.title, ", ".join(rows), column_names, table, usual, note
    )


def _layout(axes, rows, columns):
    """The axes of the rows and that of the columns, asked for or not."""
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
    """How many runs the sweep has for each choice of some axes."""
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
    section = folder.sweep.published if folder.sweep else {}
    axes = [section.get("rows"), section.get("columns")]
    if section.get("metric") != metric.name or len(rows) != 1:
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


def _decimals(text):
    number = text.split(PLUS_MINUS.strip())[0].strip()
    return len(number.partition(".")[2])


def _ordered(folder, axis, labels):
    known = folder.axes[axis]
    if folder.sweep is not None:
        known = [choice.label for choice in folder.sweep.axes[axis]]
    return [label for label in known if label in labels]


def _mark_best(cells, metric):
    """Marks the best mean, and those that print alike."""
    cells = [cell for cell in cells if cell.values]
    if len(cells) < 2:
        return
    means = [round(cell.mean, cell.decimals) for cell in cells]
    best = min(means) if metric.lower_is_better else max(means)
    for cell, mean in zip(cells, means, strict=True):
        cell.best = mean == best


def configurations(folder, metrics):
    """A table with a row for each configuration: what it does and costs."""
    groups = folder.configurations()
    columns = [*metrics]
    for name in COSTS:
        if name not in [metric.name for metric in metrics] and any(
            run.value(name) is not None for run in folder.runs
        ):
            columns.append(find_metric(name))
    rows = {}
    for name, runs in groups.items():
        row = rows[name] = []
        for metric in columns:
            values = [run.value(metric.name) for run in runs]
            row.append(
                Cell(
                    [metric.scale * v for v in values if v is not None],
                    metric.decimals,
                    _published_alone(folder, metric, runs[0]),
                )
            )
        row.append(Cell(text=mean_strides(runs)))
    for index, metric in enumerate(metrics):
        _mark_best([row[index] for row in rows.values()], metric)
    usual = _usual(folder, folder.axes, map(len, groups.values()))
    note = _means_over(usual, "row")
    if any(cell.published for row in rows.values() for cell in row):
        source = folder.sweep.published.get("source", "as published")
        note += f" In brackets: {source}."
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


def _published_alone(folder, metric, run):
    """A published number that depends on one axis only."""
    section = folder.sweep.published if folder.sweep else {}
    if section.get("metric") != metric.name or "columns" in section:
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
    """Table 2: what the first layer lets pass of a spectrogram, or None."""
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
