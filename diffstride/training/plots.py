"""Plots of what a run has recorded."""

import math

from absl import logging

IMAGE_AXES = ("height", "width")
SPECTROGRAM_AXES = ("time", "frequency")
_STYLES = ("-", "--", ":")


def plot_strides(strides_by_epoch, path, axis_names=IMAGE_AXES):
    """Draws the strides of each layer by epoch, one panel a layer.

    Args:
        strides_by_epoch: list of dicts from the name of a layer to its strides,
            the initial ones first.
        path: the file to write; its suffix says which format.
        axis_names: what the two axes of a layer are.

    Returns:
        Whether there is a plot: not without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
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
    ).ravel()
    for panel in panels[len(names) :]:
        panel.remove()
    lines = {}
    for index, (name, panel) in enumerate(zip(names, panels, strict=False)):
        by_axis = list(zip(*(s[name] for s in strides_by_epoch), strict=True))
        for axis, strides in enumerate(by_axis):
            # Dashes, so that two axes of equal strides both show.
            [line] = panel.plot(strides, _STYLES[axis % len(_STYLES)])
            if len(by_axis) == len(axis_names):
                lines.setdefault(axis_names[axis], line)
        panel.set_title(name, fontsize="small")
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        # The panels below it may be missing.
        panel.tick_params(labelbottom=index + columns >= len(names))
    if lines:
        figure.legend(
            lines.values(),
            lines,
            loc="outside upper right",
            ncols=len(lines),
            fontsize="small",
        )
    figure.supxlabel("epoch")
    figure.supylabel("stride")
    figure.savefig(path, dpi=150)
    return True
