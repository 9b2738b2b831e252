"""The figure of fixed and learned strides."""

import importlib.util
import pathlib

import pytest

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
    runs = [Run(3, 0.5), Run(1, 0.4), Run(2, 0.3), Run(4, 0.5), Run(5, 0.6)]
    found = [run.value("macs") / 1e6 for run in plot_grid.front(runs)]
    assert found == [1, 3, 5]


def test_the_table_names_the_best_rival_of_the_same_cost(plot_grid, capsys):
    fixed = [Run(1, 0.4), Run(2, 0.5), Run(4, 0.7)]
    plot_grid.report(fixed, [Run(2, 0.55, budget="budget")])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "| 2-2-2 | budget | 1.50, 2.00 | 2.00 | 55.0 | 50.0 |"


def test_the_figure_has_a_mark_for_each_run(plot_grid):
    learned = [Run(2, 0.5), Run(3, 0.6, budget="budget")]
    figure = plot_grid.draw([Run(1, 0.4), Run(4, 0.7)], learned)
    (panel,) = figure.axes
    assert sum(len(each.get_offsets()) for each in panel.collections) == 4
