"""The figure of fixed and learned strides."""

import importlib.util
import pathlib

import pytest

pytestmark = pytest.mark.once

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


class Run:
    """What the figure asks of a run."""

    def __init__(self, macs, val_accuracy, start="2-2-2", budget="none"):
        self.values = {"macs": macs * 1e6, "val_accuracy": val_accuracy}
        self.choices = {"start": start, "budget": budget}
        self.learned = {"pooling": (1.5, 2.0)}

    def value(self, metric):
        return self.values[metric]


@pytest.fixture(scope="module")
def plot_grid():
    spec = importlib.util.spec_from_file_location(
        "plot_grid", SCRIPTS / "plot_grid.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_front_has_what_no_cheaper_run_beats(plot_grid):
    runs = [
        Run(macs, accuracy, start=str(macs))
        for macs, accuracy in [(3, 0.5), (1, 0.4), (2, 0.3), (4, 0.5), (5, 0.6)]
    ]
    found = plot_grid.front(plot_grid.points(runs))
    assert [point.millions for point in found] == [1, 3, 5]


def test_a_point_is_the_mean_over_the_seeds(plot_grid):
    runs = [Run(1, 0.4), Run(3, 0.6), Run(5, 0.7, start="3-3-3")]
    one, other = plot_grid.points(runs)
    assert (one.millions, one.accuracy) == (2, 50)
    assert one.deviation == pytest.approx(200**0.5)
    assert list(one.strides) == [1.5, 2.0]
    assert (other.accuracy, other.deviation) == (70, 0)


def test_the_table_names_the_best_rival_of_the_same_cost(plot_grid, capsys):
    fixed = [Run(1, 0.4, "a"), Run(2, 0.5, "b"), Run(4, 0.7, "c")]
    learned = [Run(2, 0.55, budget="budget"), Run(2, 0.57, budget="budget")]
    plot_grid.report(plot_grid.points(fixed), plot_grid.points(learned))
    _, _, line, _ = capsys.readouterr().out.splitlines()
    assert line == "| 2-2-2 | budget | 1.50, 2.00 | 2.00 | 56.0 ± 1.4 | 50.0 |"


def test_the_figure_has_a_mark_for_each_run(plot_grid):
    fixed = plot_grid.points([Run(1, 0.4, "a"), Run(4, 0.7, "b")])
    learned = plot_grid.points([Run(2, 0.5), Run(3, 0.6, budget="budget")])
    figure = plot_grid.draw(fixed, learned)
    (panel,) = figure.axes
    assert sum(len(each.get_offsets()) for each in panel.collections) == 4
