"""Parts that all figures share: files, axes, colors, legends."""

import math
import typing

import matplotlib
from matplotlib import ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Make names inside of SVG files the same in each run, so that the same numbers
# make the same file.
matplotlib.rcParams["svg.hashsalt"] = "diffstride"


class Drawing(typing.NamedTuple):
    """A figure, the name of its files, and a caption that explains it."""

    name: str
    figure: Figure
    caption: str


def save(drawing, directory):
    """Writes a figure as PNG and SVG; returns the paths."""
    paths = [directory / f"{drawing.name}.{end}" for end in ("png", "svg")]
    drawing.figure.savefig(paths[0], dpi=150)
    drawing.figure.savefig(paths[1], metadata={"Date": None})
    return paths


def logarithmic(axis):
    """Makes the axis of what is drawn logarithmic, with plain numbers on it."""
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    low, high = axis.get_view_interval()
    # Take the fewest numbers that make at least four ticks.
    for subs in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        locator = ticker.LogLocator(subs=subs)
        ticks = locator.tick_values(low, high)
        count = sum(low <= tick <= high for tick in ticks)
        if count >= 4:
            break
    if count < 3:
        locator = ticker.MaxNLocator(5)
    axis.set_major_locator(locator)
    axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def count_epochs(panel):
    """Puts whole numbers along the lower axis."""
    panel.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))


def colors(labels):
    """A color for each label; different ones for as many as there are."""
    labels = list(labels)
    if len(labels) <= 10:
        chosen = [f"C{index}" for index in range(len(labels))]
    else:
        name = "tab20" if len(labels) <= 20 else "turbo"
        palette = matplotlib.colormaps[name].resampled(max(20, len(labels)))
        chosen = [palette(index) for index in range(len(labels))]
    return dict(zip(labels, chosen, strict=True))


def new_figure(width, height):
    """A figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_above(figure, panels):
    """A legend for all panels, above them and no wider than the figure."""
    entries = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(),
        entries,
        loc="outside upper center",
        ncols=max(1, int(figure.get_figwidth() / 2.4)),
        fontsize="small",
    )


def new_panels(count):
    """A figure of panels that share their axes."""
    if count == 1:
        figure = new_figure(7.0, 4.5)
        return figure, [figure.subplots()]
    columns = min(count, 4) if count != 5 else 3
    rows = math.ceil(count / columns)
    figure = new_figure(max(5.0, 2.8 * columns), 1.0 + 2.2 * rows)
    panels = figure.subplots(
        rows, columns, squeeze=False, sharex=True, sharey=True
    ).ravel()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels
