"""Names, units and decimals of the numbers of runs."""

import typing

COSTS = ("macs", "complexity", "total_seconds")
CONSISTENCIES = ("val_shift_consistency", "test_shift_consistency")
_QUALITIES = ("_auc", "_iou", "_map", "_precision", "_consistency")


class Metric(typing.NamedTuple):
    """How a number of a run is shown.

    Args:
        name: Name in the history, or one of `COSTS`.
        title: Title of a table, with the unit.
        scale: Factor that converts the number to this unit.
        decimals: The least number of decimals; small numbers have more.
        lower_is_better: Whether the best is the lowest.
        is_fixed: Whether small numbers have no more decimals, either.
    """

    name: str
    title: str
    scale: float = 1.0
    decimals: int = 3
    lower_is_better: bool = False
    is_fixed: bool = False

    @property
    def words(self):
        """The title without a unit."""
        return self.title.partition(",")[0]


def find_metric(name, scale=None, decimals=None):
    """The `Metric` of this name, which says how it is shown."""
    title = name.removeprefix("val_").replace("_", " ")
    is_quality = name.endswith(("accuracy", "loss", *_QUALITIES))
    if name.startswith("val_"):
        title = f"test {title}"
    elif is_quality and not name.startswith(("test_", "best_test_")):
        title = f"training {title}"
    metric = Metric(name, title)
    if name.endswith(("accuracy", *_QUALITIES)):
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
        metric = metric._replace(decimals=decimals, is_fixed=True)
    return metric


def default_metrics(runs):
    """The metrics that a report shows, if runs have them.

    These are accuracies, and how consistent they are.
    """
    numbers = runs[0].numbers
    # Without a validation split, `val_` figures are those of the test split.
    prefix = "test_" if runs[0].test else "val_"
    tested = [name for name in numbers if name.startswith(prefix)]
    accuracies = [
        name
        for name in tested
        if name.endswith(("accuracy", "_consistency")) and "top5" not in name
    ]
    return accuracies or [n for n in tested if "loss" not in n] or ["val_loss"]
