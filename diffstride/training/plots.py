"""Plots of what a run has recorded."""

import math

from absl import logging


def plot_strides(strides_by_epoch, path):
    """Draws how the strides of each layer moved, one panel a layer.

    Args:
        strides_by_epoch: list of dicts from the name of a layer to its strides,
            the initial ones first.
        path: the file to write; its suffix tells the format.

    Returns:
        Whether there is a plot: not without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        logging.warning("No plot of the strides without matplotlib.")
        return False
    names = list(strides_by_epoch[0])
    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3 * columns, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        rows, columns, squeeze=False, sharex=True, sharey=True
    ).flat
    for name, panel in zip(names, panels, strict=False):
        by_axis = list(zip(*(s[name] for s in strides_by_epoch), strict=True))
        labels = ("height", "width") if len(by_axis) == 2 else None
        for axis, strides in enumerate(by_axis):
            panel.plot(strides, label=labels and labels[axis])
        panel.set_title(name, fontsize="small")
        panel.grid(alpha=0.3)
    for panel in list(panels)[len(names) :]:
        panel.set_visible(False)
    if labels:
        figure.axes[0].legend(fontsize="small")
    figure.supxlabel("epoch")
    figure.supylabel("stride")
    figure.savefig(path, dpi=150)
    return True
