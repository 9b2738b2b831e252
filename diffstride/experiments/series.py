"""Groups the runs that share a color in a figure."""


def main_axis(folder, rates=None):
    """The axis whose choices get colors: that of methods, or the last one."""
    axes = [axis for axis in folder.axes if len(folder.axes[axis]) > 1]
    if rates:  # Leave out the axis that sets the rate.
        axes = [
            axis
            for axis in axes
            if len(
                {(r.choices[axis], r.frames_per_second) for r in folder.runs}
            )
            > len(rates)
        ]
    return "method" if "method" in axes else axes[-1] if axes else None


def series(folder, axis, prefixes=()):
    """Runs of each configuration, by their choice on an axis.

    Args:
        folder: `RunFolder`.
        axis: name of the axis, or None for a single series, `"all"`.
        prefixes: beginnings of labels; labels that share one are one series.
    """
    found = {}
    for runs in folder.configurations().values():
        label = runs[0].choices[axis] if axis else "all"
        starts = [prefix for prefix in prefixes if label.startswith(prefix)]
        found.setdefault((starts or [label])[0], []).append(runs)
    return found
