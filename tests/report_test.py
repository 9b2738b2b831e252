"""Reports say what the histories say, and what is wrong with a folder."""

import csv
import dataclasses
import html.parser
import io
import json
import math
import pathlib
import re
import sys
import zipfile

import numpy as np
import pytest

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import sizes  # noqa: E402

from diffstride import report  # noqa: E402
from diffstride.experiments import (  # noqa: E402
    curve_figures,
    formats,
    page,
    runner,
    sweep_file,
    tables,
)
from diffstride.experiments.finished_run import FinishedRun  # noqa: E402
from diffstride.experiments.run_folder import read_folder  # noqa: E402

SWEEP = """# What is asked.

config = ["a.gin"]
seeds = [1, 2, 3]
[axes.strides]
gin_param = "resnet.resnet18.strides"
values = [[1, 2, 3], [1, 3, 1]]
[axes.method]
gin_file = ["pooling/strided.gin", "pooling/diffstride.gin"]
[published]
metric = "val_accuracy"
rows = "strides"
columns = "method"
source = "Table 9"
[published.values]
"1-2-3" = ["91.25 ± 0.2", "92.5"]
"1-3-1" = ["90.0", "93.0"]
"""


def write_run(directory, description, rows, config=(), finished=True):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sweep.json").write_text(json.dumps(description))
    lines = [json.dumps(row) + "\n" for row in rows]
    (directory / "history.jsonl").write_text("".join(lines))
    (directory / "config.gin").write_text(
        "# Parameters for train:\n" + "\n".join(config) + "\n"
    )
    if finished:
        zipfile.ZipFile(directory / "model.keras", "w").close()


def make_history(rng, learned, blocks=(1, 2), **more):
    """Epochs of noise, with strides of two layers where they are learned."""
    rows = []
    for epoch in range(1, 4):
        names = [f"block{index}_pooling" for index in blocks if learned]
        strides = {name: rng.uniform(1, 4, 2).tolist() for name in names}
        rows.append(
            {
                "epoch": epoch,
                "accuracy": rng.uniform(),
                "loss": rng.uniform(),
                "val_accuracy": rng.uniform(),
                "val_top5_accuracy": rng.uniform(),
                "val_loss": rng.uniform(),
                "strides": strides,
                "sizes": {name: [8, 8] for name in strides},
                "macs": int(rng.integers(1e6, 1e8)),
                "seconds": rng.uniform(1, 100),
                **{name: rng.uniform() for name in more},
            }
        )
    return rows


@pytest.fixture
def folder(tmp_path):
    """The runs of a sweep, all finished."""
    rng = np.random.default_rng(0)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    for run in sweep_file.read_sweep(tmp_path / "sweep.toml").runs:
        strides, method = (choice.label for choice in run.choices)
        config = [
            "train.model = @resnet.resnet18",
            "train.num_epochs = 3",
            f"resnet18.strides = [{strides.replace('-', ', ')}]",
        ]
        rows = make_history(rng, learned=method == "diffstride")
        description = run.description(tmp_path)
        write_run(tmp_path / run.name, description, rows, config)
    return tmp_path


def last_rows(path, *choices):
    """The last line of each history, by seed: read without our code."""
    return [
        json.loads((run / "history.jsonl").read_text().splitlines()[-1])
        for run in sorted(path.iterdir())
        if run.is_dir() and all(choice in run.name for choice in choices)
    ]


def read_csv(table):
    rows = csv.DictReader(io.StringIO(formats.to_csv(table)))
    return {(row["row"], row["column"]): row for row in rows}


def test_means_and_deviations(folder):
    read = read_folder(folder)
    metrics = report.choose_metrics(read)
    assert [metric.name for metric in metrics] == ["val_accuracy"]
    table, everything = report.make_tables(read, metrics)
    cells = read_csv(table)
    for strides in ("1-2-3", "1-3-1"):
        for method in ("strided", "diffstride"):
            chosen = last_rows(folder, f"s={strides},", f"={method},")
            values = [100 * row["val_accuracy"] for row in chosen]
            cell = cells[strides, method]
            assert int(cell["n"]) == len(values) == 3
            assert float(cell["mean"]) == pytest.approx(np.mean(values))
            assert float(cell["sd"]) == pytest.approx(np.std(values, ddof=1))
            row = read_csv(everything)[f"{strides}, {method}", "million MACs"]
            macs = [row["macs"] / 1e6 for row in chosen]
            assert float(row["mean"]) == pytest.approx(np.mean(macs))
    for method in ("strided", "diffstride"):
        values = [
            100 * row["val_accuracy"]
            for row in last_rows(folder, f"={method},")
        ]
        cell = cells["mean of all", method]
        assert float(cell["mean"]) == pytest.approx(np.mean(values))
        assert float(cell["sd"]) == pytest.approx(np.std(values, ddof=1))
    # As printed: two decimals, since a published number has two.
    assert cells["1-2-3", "strided"]["published"] == "91.25 ± 0.2"
    text = formats.to_markdown(table)
    means = {
        method: float(cells["1-2-3", method]["mean"])
        for method in ("strided", "diffstride")
    }
    line = next(line for line in text.splitlines() if "1-2-3" in line)
    assert all(f"{mean:.2f} ± " in line for mean in means.values())
    # Of random numbers none is better beyond the noise.
    assert "**" not in text and "Bold" not in text
    assert "(91.25 ± 0.2)" in line and "(92.5)" in line
    assert "In brackets: Table 9." in text
    # Turned over, the table has the same numbers.
    turned, _ = report.make_tables(read, metrics, columns="strides")
    assert {
        (row, column): cell["published"]
        for (column, row), cell in read_csv(turned).items()
        if column != "mean of all"
    } == {
        key: cell["published"]
        for key, cell in cells.items()
        if key[0] != "mean of all"
    }


@pytest.mark.parametrize(
    "name, values, best",
    [
        # Means 0.9 and 0.8, standard error of the difference 0.0816: 1.2 of it.
        ("val_accuracy", [(0.8, 0.9, 1.0), (0.7, 0.8, 0.9)], None),
        # The same with a third of the deviation: 3.7 of it.
        ("val_accuracy", [(0.867, 0.9, 0.933), (0.767, 0.8, 0.833)], 0),
        # The best must be so against each other one.
        ("val_accuracy", [(0.5, 0.501), (0.5, 0.502), (0.2, 0.201)], None),
        ("val_loss", [(0.5, 0.51), (0.4, 0.41), (0.9, 0.91)], 1),
        # Of a single run the noise is not known.
        ("val_accuracy", [(0.9,), (0.1,)], None),
        ("val_accuracy", [(0.9, 0.9), (0.1,)], None),
        # What has no noise differs by what it differs.
        ("macs", [(5.0, 5.0), (4.0, 4.0)], 1),
        ("macs", [(4.0, 4.0), (4.0, 4.0)], None),
    ],
)
def test_bold_is_what_is_better_beyond_the_noise(name, values, best):
    cells = [tables.Cell(list(numbers)) for numbers in values]
    tables._mark_best([*cells, tables.Cell()], tables.find_metric(name))
    assert [i for i, cell in enumerate(cells) if cell.best] == (
        [] if best is None else [best]
    )


@pytest.mark.parametrize(
    "name, means, fixed, decimals",
    [
        ("val_accuracy", [91.25, 85.0], None, 1),
        ("macs", [52.13, 4.2], None, 1),
        ("macs", [52.13, 0.123], None, 2),
        ("macs", [0.0123], None, 3),
        ("macs", [0.0123], 1, 1),
        ("val_loss", [0.5, 0.00012], None, 5),
        ("val_loss", [0.0], None, 3),
        ("total_seconds", [0.04, 3.0], None, 3),
    ],
)
def test_small_numbers_have_more_decimals(name, means, fixed, decimals):
    metric = tables.find_metric(name, decimals=fixed)
    cells = [tables.Cell([mean]) for mean in means]
    assert tables._decimals(metric, [*cells, tables.Cell()]) == decimals
    if fixed is None:
        texts = ["1.25 ± 0.1", "2"]
        assert tables._decimals(metric, cells, texts) == max(decimals, 2)


def test_complexity_and_strides(folder):
    read = read_folder(folder)
    for run in read.runs:
        if run.choices["method"] == "diffstride":
            rows = (folder / run.name / "history.jsonl").read_text()
            strides = json.loads(rows.splitlines()[-1])["strides"]
            first, second = strides["block1_pooling"], strides["block2_pooling"]
            # The stem is no downsampling layer.
            initial = [float(s) for s in run.choices["strides"].split("-")[1:]]
            assert run.strides_after(0) == {
                "block1_pooling": [initial[0]] * 2,
                "block2_pooling": [initial[1]] * 2,
            }
        else:
            first, second = (
                [float(s)] * 2 for s in run.choices["strides"].split("-")[1:]
            )
            assert run.strides_after(0) == {}
        expected = 1 / math.prod(first) + 1 / math.prod(first + second)
        assert run.complexity == pytest.approx(expected)


@pytest.mark.parametrize(
    "options, expected",
    [
        # Version 0.1: a slot in each block.
        ([], [2, 3, 4]),
        (["id_only = False"], [2, 3, 4]),
        (
            [
                "stem_slot = True",
                "id_only = (0,)",
                "downsample_identity = False",
            ],
            [1, 3, 4],
        ),
        (
            [
                "stem_slot = False",
                "id_only = (0,)",
                "downsample_identity = True",
            ],
            [2, 3, 4],
        ),
    ],
)
def test_initial_strides_are_those_of_the_slots(options, expected):
    options = [f"resnet18.{option}" for option in options]
    for strides in ("[1, 2, 3, 4]", "'1, 2, 3, 4'"):
        config = [
            "train.model = @resnet.resnet18",
            f"resnet18.strides = {strides}",
            *options,
        ]
        run = FinishedRun("", {}, 1, None, [{}], config)
        assert run.initial == [[float(s)] * 2 for s in expected]


def test_files_of_a_report(folder, monkeypatch, capsys):
    output = folder / "report"
    output.mkdir()
    # Of an earlier report, but for one.
    for name in ("table9.csv", "cutoffs.svg", "table_of_mine.csv"):
        (output / name).touch()
    monkeypatch.setattr(sys, "argv", ["report.py", str(folder)])
    report.main()
    printed = capsys.readouterr().out
    assert "12 of 12 runs of the sweep are finished" in printed
    written = {path.name for path in output.iterdir()}
    figures = (
        "accuracy_by_epoch",
        "loss_by_epoch",
        "strides_by_epoch",
        "learned_strides",
        "accuracy_against_cost",
    )
    assert written == {
        "index.html",
        "report.md",
        "runs.csv",
        "table_of_mine.csv",
        "table1.csv",
        "table2.csv",
        *(f"{name}.{end}" for name in figures for end in ("png", "svg")),
    }
    runs = list(csv.DictReader(io.StringIO((output / "runs.csv").read_text())))
    assert len(runs) == 12
    for row in runs:
        [last] = last_rows(folder, row["run"])
        assert float(row["val_loss"]) == last["val_loss"]
    page = (output / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{5})', page)
    assert sources == ["data:"] * len(figures)
    assert "<script" not in page
    assert '[published.values]\n"1-2-3"' in html.unescape(page)
    assert page.count('<div class="scroll"><img') == len(figures)
    assert "What is asked." in page
    assert "python -m diffstride.train --gin_file=a.gin" in page
    checker = html.parser.HTMLParser()
    opened = []
    checker.handle_starttag = lambda tag, attributes: opened.append(tag)
    checker.handle_endtag = lambda tag: opened.remove(tag)
    checker.feed(page)
    assert set(opened) == {"meta", "img"}
    # Made again, it is the same to the byte: the SVG, too.
    report.main()
    assert (output / "index.html").read_text() == page


def test_failed_partial_and_foreign_runs_are_named(folder, capsys, monkeypatch):
    def path(strides, method, seed):
        return folder / f"strides={strides},method={method},seed={seed}"

    failed = path("1-2-3", "strided", 1)
    (failed / "model.keras").unlink()
    (failed / "failure.json").write_text('{"code": 7, "error": "Oh <no>"}')
    partial = path("1-2-3", "diffstride", 2)
    (partial / "model.keras").write_bytes(b"PK")
    lines = (partial / "history.jsonl").read_text().splitlines()
    (partial / "history.jsonl").write_text("\n".join(lines[:2]) + '\n{"epo')
    absent = path("1-3-1", "strided", 3)
    for file in absent.iterdir():
        file.unlink()
    absent.rmdir()
    emptied = path("1-3-1", "diffstride", 1)
    (emptied / "history.jsonl").write_text("")
    infinite = path("1-3-1", "diffstride", 2)
    (infinite / "history.jsonl").write_text('{"val_accuracy": NaN}\n')
    other = path("1-3-1", "diffstride", 3)
    description = json.loads((other / "sweep.json").read_text())
    description["command"].insert(2, "--gin_param=c.d = 1")
    (other / "sweep.json").write_text(json.dumps(description))
    (folder / "notes").mkdir()
    (folder / "by_hand").mkdir()
    (folder / "by_hand" / "history.jsonl").write_text("{}\n")
    (folder / "half").mkdir()
    (folder / "half" / "sweep.json").write_text('{"choi')
    write_run(folder / "strides=9,seed=1", {"choices": {"strides": "9"}}, [{}])
    read = read_folder(folder)
    assert read.unfinished == {
        failed.name: "failed after 3 of 3 epochs, exit code 7: Oh <no>",
        partial.name: "not finished: 2 of 3 epochs",
        absent.name: "not started",
        emptied.name: "finished, but there is no line in its history",
        infinite.name: "finished, but there is a number that is not finite in "
        "its history",
    }
    assert read.foreign == {
        other.name: "made with other bindings: --gin_param=c.d = 1",
        "notes": "not a run",
        "by_hand": "a run, but not of a sweep (no sweep.json)",
        "half": "its sweep.json cannot be read",
        "strides=9,seed=1": "not a run of this sweep",
    }
    assert len(read.runs) == 6
    monkeypatch.setattr(sys, "argv", ["report.py", str(folder)])
    report.main()
    printed = capsys.readouterr().out
    page = (folder / "report" / "index.html").read_text()
    assert "6 of 12 runs of the sweep are finished" in printed
    for name in (*read.unfinished, *read.foreign):
        assert f"- {name}: " in printed and f"<li>{name}: " in page
    assert "Oh &lt;no&gt;" in page
    # Nor does the table hide that cells have fewer runs than others.
    table = report.make_tables(read, report.choose_metrics(read))[0]
    chosen = last_rows(folder, "s=1-2-3,", "=strided,", "seed=")[1:]
    cell = table.rows["1-2-3"][0]
    assert cell.mean == pytest.approx(
        100 * np.mean([row["val_accuracy"] for row in chosen])
    )
    assert "[n = " in printed
    assert "mean of all" not in printed


def test_what_a_run_could_not_use_is_no_difference(folder):
    """All runs are bound to the same, but for what some cannot use."""
    (folder / "sweep.toml").write_text("gin_param = ['a.b = 1']\n" + SWEEP)
    for run in sweep_file.read_sweep(folder / "sweep.toml").runs:
        path = folder / run.name / "sweep.json"
        run = dataclasses.replace(run, added=("c.d = 2",))
        if "method=strided" in run.name:
            run = dataclasses.replace(run, left_out=("a.b = 1", "c.d = 2"))
        path.write_text(json.dumps(run.description(folder)))
    read = read_folder(folder)
    assert len(read.runs) == 12 and not read.foreign
    assert read.bindings == ["c.d = 2"]


def test_a_finished_run_has_each_epoch_once(folder):
    for seed, kept, fault in (
        (1, [0, 1], "there are 2 of 3 epochs"),
        (2, [0, 2], "there are 2 of 3 epochs"),
        (3, [0, 1, 1, 2], "there are epochs twice or out of order"),
    ):
        run = folder / f"strides=1-2-3,method=strided,seed={seed}"
        lines = (run / "history.jsonl").read_text().splitlines()
        (run / "history.jsonl").write_text("\n".join(lines[i] for i in kept))
        unfinished = read_folder(folder).unfinished
        assert unfinished[run.name] == f"finished, but {fault} in its history"


def test_a_sweep_without_its_file_and_runs_made_by_hand(folder, tmp_path):
    (folder / "sweep.toml").unlink()
    read = read_folder(folder)
    assert len(read.runs) == 12 and not read.foreign
    assert read.axes == {
        "strides": ["1-2-3", "1-3-1"],
        "method": ["diffstride", "strided"],
    }
    for run in folder.iterdir():
        (run / "sweep.json").unlink()
    read = read_folder(folder)
    assert len(read.axes["run"]) == 12
    made = report.make_tables(read, report.choose_metrics(read))
    assert len(made) == 1 and len(made[0].rows) == 12


def test_errors_name_the_culprit(folder, monkeypatch, tmp_path):
    read = read_folder(folder)
    with pytest.raises(sweep_file.SweepError, match="no metric 'f1'"):
        report.choose_metrics(read, ["macs", "f1"])
    macs = tables.find_metric("macs")
    for rows, columns, message in (
        (None, "ramp", "no axis 'ramp'"),
        (["method"], "method", "'method' must be of rows or of columns"),
        (["method", "strides"], None, "one must be of columns"),
    ):
        with pytest.raises(sweep_file.SweepError, match=message):
            tables.pivot(read, macs, rows, columns)
    for main, *argv in (
        (report.main, "directory", "--decimals=-1"),
        (sizes.main, "map", "--size=0"),
    ):
        monkeypatch.setattr(sys, "argv", ["script", *argv])
        with pytest.raises(SystemExit, match="2"):
            main()
    with pytest.raises(sweep_file.SweepError, match="no directory"):
        read_folder(folder / "none")
    (tmp_path / "empty").mkdir()
    argv = ["report.py", str(tmp_path / "empty")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match="no finished run"):
        report.main()


def test_what_is_asked_for_goes_before_what_the_file_says(folder):
    text = SWEEP + "[report]\nrows = ['strides']\ncolumns = 'method'\n"
    (folder / "sweep.toml").write_text(text)
    read = read_folder(folder)
    metrics = report.choose_metrics(read)
    for arguments, corner in (
        ({}, "strides"),
        ({"columns": "strides"}, "method"),
        ({"rows": ["method"]}, "method"),
    ):
        assert (
            report.make_tables(read, metrics, **arguments)[0].corner == corner
        )


def test_names_that_are_empty_or_have_bars(tmp_path):
    [row] = make_history(np.random.default_rng(0), learned=False)[:1]
    (tmp_path / "sweep.toml").write_text("config = []\nseeds = [1]")
    write_run(tmp_path / "seed=1", {"choices": {}, "seed": 1}, [row])
    read = read_folder(tmp_path)
    [made] = report.make_tables(read, report.choose_metrics(read))
    assert list(made.rows) == [tmp_path.name]
    table = tables.Table("t", "run", ["x"], {"a|b": [tables.Cell([1.0])]}, 1)
    assert "\n| a\\|b | 1.0 |" in formats.to_markdown(table)


def test_a_layer_has_its_color_in_all_configurations(tmp_path):
    from diffstride.experiments import figures

    rng = np.random.default_rng(0)
    for name, blocks in (("a", (1, 2)), ("b", (3, 2))):
        rows = make_history(rng, True, blocks)
        write_run(tmp_path / name, {"choices": {"x": name}, "seed": 1}, rows)
    read = read_folder(tmp_path)
    metric = tables.find_metric("val_accuracy")
    drawn = {d.name: d.figure for d in figures.draw_all(read, metric)}
    for name in ("strides_by_epoch", "learned_strides"):
        [legend] = drawn[name].legends
        labels = [text.get_text() for text in legend.get_texts()]
        layers = [f"block{index}_pooling" for index in (1, 2, 3)]
        assert labels[:3] == layers
    colors = dict(zip(layers, ("C0", "C1", "C2"), strict=True))
    for name, panel in zip("ab", drawn["strides_by_epoch"].axes, strict=True):
        for layer, strides in last_rows(tmp_path, name)[0]["strides"].items():
            [line] = [
                line for line in panel.lines if strides[0] in line.get_ydata()
            ]
            assert line.get_color() == colors[layer]


def test_curves_of_loss_and_accuracy(folder):
    """Means over seeds, of training and of the test set, beside one another."""
    from diffstride.experiments import figures

    read = read_folder(folder)
    metric = tables.find_metric("val_accuracy")
    drawn = {d.name: d.figure for d in figures.draw_all(read, metric)}
    for name, key, scale in (
        ("accuracy_by_epoch", "accuracy", 100),
        ("loss_by_epoch", "loss", 1),
    ):
        panels = drawn[name].axes
        assert [panel.get_title() for panel in panels] == ["1-2-3", "1-3-1"]
        [legend] = drawn[name].legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert texts == ["strided", "diffstride", "test", "training"]
        for panel, strides in zip(panels, ("1-2-3", "1-3-1"), strict=True):
            for color, method in (("C0", "strided"), ("C1", "diffstride")):
                for style, column in (("-", f"val_{key}"), ("--", key)):
                    [line] = [
                        line
                        for line in panel.lines
                        if (line.get_color(), line.get_linestyle())
                        == (color, style)
                        and len(line.get_xdata())
                    ]
                    histories = [
                        [
                            json.loads(row)[column]
                            for row in (
                                folder
                                / f"strides={strides},method={method},seed={s}"
                                / "history.jsonl"
                            )
                            .read_text()
                            .splitlines()
                        ]
                        for s in (1, 2, 3)
                    ]
                    assert list(line.get_xdata()) == [1, 2, 3]
                    assert list(line.get_ydata()) == pytest.approx(
                        scale * np.mean(histories, axis=0)
                    )
            assert len(panel.collections) == 2  # A band for each method.
            assert all(tick % 1 == 0 for tick in panel.get_xticks())


def test_the_report_has_the_accuracy_of_training(folder):
    read = read_folder(folder)
    *_, everything = report.make_tables(read, report.choose_metrics(read))
    assert everything.columns[:2] == [
        "test accuracy, %",
        "training accuracy, %",
    ]
    values = [
        100 * r["accuracy"] for r in last_rows(folder, "1-2-3", "=strided")
    ]
    cell = read_csv(everything)["1-2-3, strided", "training accuracy, %"]
    assert float(cell["mean"]) == pytest.approx(np.mean(values))


def test_figures_of_the_test_split(folder):
    """Runs with a validation split have them in a file of their own."""
    (folder / "sweep.toml").write_text(SWEEP.partition("[published]")[0])
    rng = np.random.default_rng(1)
    for run in read_folder(folder).runs:
        found = {
            which: {
                "epoch": 3,
                "step": 30,
                "checkpoint": "30",
                "accuracy": rng.uniform(),
                "shift_consistency": rng.uniform(),
            }
            for which in ("best", "final")
        }
        (folder / run.name / "test.json").write_text(json.dumps(found))
    read = read_folder(folder)
    metrics = report.choose_metrics(read)
    assert [metric.title for metric in metrics] == [
        "test accuracy, %",
        "test shift consistency, %",
    ]
    assert read.runs[-1].value("test_accuracy") == found["final"]["accuracy"]
    best = read.runs[-1].value("best_test_shift_consistency")
    assert best == found["best"]["shift_consistency"]
    (metric,) = report.choose_metrics(read, ["val_accuracy"])
    assert metric.title == "validation accuracy, %"
    (metric,) = report.choose_metrics(read, ["best_test_accuracy"])
    assert metric.title == "best test accuracy, %"
    table = report.make_tables(read, metrics)[-1]
    assert table.columns[:2] == [
        "test accuracy, %",
        "test shift consistency, %",
    ]
    assert ",best_test_accuracy," in formats.runs_to_csv(read)
    curves = curve_figures.accuracy_by_epoch(read, metrics[0])
    assert curves is not None


def test_shift_consistency_is_a_column(folder):
    for run in read_folder(folder).runs:
        path = folder / run.name / "history.jsonl"
        *rows, last = map(json.loads, path.read_text().splitlines())
        rows.append(last | {"val_shift_consistency": 0.625})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_folder(folder)
    *_, everything = report.make_tables(read, report.choose_metrics(read))
    cell = read_csv(everything)["1-2-3, strided", "test shift consistency, %"]
    assert float(cell["mean"]) == 62.5


def test_date_device_and_versions(folder):
    read = read_folder(folder)
    assert "Made" not in report.to_markdown(read, [])
    found = {
        "date": "2026-03-02T10:00:00+00:00",
        "device": "Some GPU",
        "devices": 2,
        "versions": {"diffstride": "0.1.0", "keras": "3.15.0"},
        "commit": "0123456789abcdef-dirty",
    }

    def write(run, **changes):
        path = folder / run.name / "environment.jsonl"
        lines = ["an earlier line", json.dumps(found | changes)]
        path.write_text("\n".join(lines) + "\n")

    for run in read.runs:
        write(run)
    text = (
        "on 2 x Some GPU, with diffstride 0.1.0, keras 3.15.0, commit "
        "0123456789-dirty."
    )
    for made in (
        report.to_markdown(read_folder(folder), []),
        page.make_page(read_folder(folder), [], []),
    ):
        assert f"Made on 2026-03-02 {text}" in made
    for run in read.runs[:5]:
        write(run, date="2026-03-01T10:00:00+00:00", device="Another")
    made = report.to_markdown(read_folder(folder), [])
    assert "Made from 2026-03-01 to 2026-03-02:" in made
    assert "5 of them on 2 x Another, with" in made
    assert f"7 of them {text}" in made


@pytest.mark.parametrize(
    "header, title",
    [
        ("# Table 3, CIFAR-10: 6 strides x 3 methods.\n", "Table 3, CIFAR-10"),
        (
            "# The price, λ in Eq. 6.\n#\n#   python x\n",
            "The price, λ in Eq. 6",
        ),
        ("# One idea\n# in two lines. Another.\n", "One idea in two lines"),
        ("", "runs"),
        ("# A: b\n[report]\ntitle = 'Mine'\n", "Mine"),
    ],
)
def test_a_report_has_a_title_of_its_own(tmp_path, header, title):
    directory = tmp_path / "runs"
    [row] = make_history(np.random.default_rng(0), learned=False)[:1]
    write_run(directory / "seed=1", {"choices": {}, "seed": 1}, [row])
    head, report_section, rest = header.partition("[report]")
    (directory / "sweep.toml").write_text(
        f"{head}config = []\nseeds = [1]\n{report_section}{rest}"
    )
    read = read_folder(directory)
    made = page.make_page(read, [], [])
    assert f"<title>{title}</title>" in made and f"<h1>{title}</h1>" in made
    assert report.to_markdown(read, []).startswith(f"# {title}\n")
    assert "<code>runs</code>: 1 of 1 runs" in made


def test_several_published_metrics(folder):
    more = SWEEP.partition("[published]")[2].replace("91.25", "99.75")
    more = more.replace("val_accuracy", "val_top5_accuracy")
    text = SWEEP.replace("[published]", "[[published]]")
    (folder / "sweep.toml").write_text(f"{text}[[published]]{more}")
    read = read_folder(folder)
    metrics = report.choose_metrics(read)
    assert [m.name for m in metrics] == ["val_accuracy", "val_top5_accuracy"]
    top1, top5, _ = report.make_tables(read, metrics)
    for table, text in ((top1, "91.25 ± 0.2"), (top5, "99.75 ± 0.2")):
        cells = read_csv(table)
        assert cells["1-2-3", "strided"]["published"] == text
        assert cells["1-3-1", "diffstride"]["published"] == "93.0"


def test_labels_that_begin_alike_share_a_color(tmp_path):
    from diffstride.experiments import figures

    rng = np.random.default_rng(0)
    labels = ["strided_1", "strided_2", "diff_1", "diff_2", "other"]
    choices = "".join(f"{label} = []\n" for label in labels)
    (tmp_path / "sweep.toml").write_text(
        f"config = []\nseeds = [1]\n[axes.model.choices]\n{choices}"
        "[report]\nseries = ['diff', 'strided']\n"
    )
    for label in labels:
        rows = make_history(rng, learned=False)
        name = f"model={label},seed=1"
        choice = {"choices": {"model": label}, "seed": 1}
        write_run(tmp_path / name, choice, rows)
    metric = tables.find_metric("val_accuracy")
    drawing = figures.accuracy_against_cost(read_folder(tmp_path), metric)
    [legend] = drawing.figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["strided", "diff", "other"]


def test_lines_in_one_place_are_all_seen(folder):
    from diffstride.experiments import stride_figures

    groups = {
        name: runs
        for name, runs in read_folder(folder).configurations().items()
        if runs[0].learned
    }
    figure = stride_figures.strides_by_epoch(groups).figure
    widths = {
        line.get_color(): line.get_linewidth()
        for line in figure.axes[0].lines
        if len(line.get_xdata())
    }
    assert widths["C0"] > widths["C1"]
    styles = {line.get_linestyle() for line in figure.axes[0].lines}
    assert styles == {"-", "--"}


@pytest.mark.parametrize(
    "lines, expected",
    [
        ([], 100),
        (["audio_tagger.reduction_rate = 0.75"], 25),
        (["audio_tagger.reduction_rate = (0.25, 0.75)"], 50),
        (
            [
                "FRAMES = @diffres.all_frames",
                "audio_tagger.frame_reduction = %FRAMES",
                "audio_tagger.reduction_rate = 0.75",
            ],
            100,
        ),
    ],
)
def test_frames_per_second(lines, expected):
    config = ["LogMelSpectrogram.hop_ms = 10.0", *lines]
    run = FinishedRun("", {}, 1, None, [{}], config)
    assert run.frames_per_second == expected


def test_frames_per_second_of_another_front_end():
    config = [
        "NUM_BANDS = 40",
        "frontend.LEAF.hop_ms = 5.0",
        "LEAF.num_filters = %NUM_BANDS",
    ]
    strides = {"strides": {"pooling": [2.0, 2.0]}, "sizes": {"pooling": [9, 9]}}
    run = FinishedRun("", {}, 1, None, [strides], config)
    assert run.frames_per_second == 200
    assert run.axis_names == ("time", "frequency")
    assert run.cutoffs == (50.0, 10 / 40)


def test_strides_of_a_run_that_does_not_know_its_sizes():
    strides = {"strides": {"pooling": [2.0, 3.0]}, "sizes": {}}
    run = FinishedRun("", {}, 1, None, [strides], [])
    assert run.learned == {"pooling": [2.0, 3.0]}


def test_colors_are_different_for_many_labels():
    from diffstride.experiments import drawing

    for count in (3, 10, 11, 20, 43):
        chosen = drawing.colors(map(str, range(count)))
        assert len(set(chosen.values())) == count


def test_figures_show_a_quality_even_where_a_cost_is_asked_for(folder):
    from diffstride.experiments import figures

    read = read_folder(folder)
    for names, words in (
        (["macs"], "Test accuracy"),
        (["macs", "val_loss"], "Test loss"),
    ):
        asked = report.choose_metrics(read, names)
        metric = report.metric_of_figures(read, asked)
        drawn = figures.draw_all(read, metric)
        assert {d.name for d in drawn} <= set(report.FIGURES)
        [drawing] = [d for d in drawn if d.name == "accuracy_against_cost"]
        assert drawing.caption.startswith(f"{words} against the complexity J")
        label = drawing.figure.axes[0].get_ylabel()
        assert label == words[0].lower() + words[1:] + (
            ", %" if "accuracy" in label else ""
        )


@pytest.mark.parametrize("last", [1.02, 1.3, 4.0, 500.0])
def test_logarithmic_axes_have_numbers(last):
    from diffstride.experiments import drawing

    figure = drawing.new_figure(4, 3)
    panel = figure.subplots()
    panel.plot([1.01, last], [1, 2], "o")
    drawing.logarithmic(panel.xaxis)
    figure.canvas.draw()
    low, high = panel.get_xlim()
    shown = [
        tick.label1.get_text()
        for tick in panel.xaxis.get_major_ticks()
        if low <= tick.get_loc() <= high
    ]
    assert len(set(filter(None, shown))) == len(shown) >= 3


def test_spectrograms(tmp_path):
    """Cut-offs of Table 2, curves of DiffRes, accuracy against FPS."""
    rng = np.random.default_rng(1)
    for fps, rate in ((100, 0.0), (25, 0.75)):
        for seed in (1, 2):
            config = [
                "LogMelSpectrogram.center = False",
                "LogMelSpectrogram.hop_ms = 10.0",
                "LogMelSpectrogram.num_mels = 64",
                "LogMelSpectrogram.sample_rate = 16000",
                "LogMelSpectrogram.window_ms = 25.0",
                "tfds_audio.window_seconds = 1.0",
                f"audio_tagger.reduction_rate = {rate}",
            ]
            rows = make_history(rng, True, activeness=None, guide_loss=None)
            write_run(
                tmp_path / f"fps={fps},seed={seed}",
                {"choices": {"fps": str(fps)}, "seed": seed},
                rows,
                config,
            )
    read = read_folder(tmp_path)
    assert [run.frames_per_second for run in read.runs] == [100, 100, 25, 25]
    made = report.make_tables(read, report.choose_metrics(read))
    cells = read_csv(made[-1])
    last = [
        row["strides"]["block1_pooling"] for row in last_rows(tmp_path, "=100,")
    ]
    # A second has 98 frames; a Fourier transform knows multiples of 100/98 Hz.
    hertz = [100 / 98 * (98 / (2 * time) // 1) for time, _ in last]
    cycles = [(32 / frequency // 1) / 64 for _, frequency in last]
    cell = cells["100", "cut-off in time, Hz"]
    assert float(cell["mean"]) == pytest.approx(np.mean(hertz))
    assert float(cell["sd"]) == pytest.approx(np.std(hertz, ddof=1))
    cell = cells["100", "cut-off in frequency, cycles/mel"]
    assert float(cell["mean"]) == pytest.approx(np.mean(cycles))
    from diffstride.experiments import figures

    metric = tables.find_metric("val_accuracy")
    drawn = {d.name: d.figure for d in figures.draw_all(read, metric)}
    assert (
        {"diffres", "accuracy_against_frames"} < set(drawn) <= {*report.FIGURES}
    )
    [legend] = drawn["strides_by_epoch"].legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[-2:] == ["time", "frequency"]
    for panel, passed in zip(
        drawn["cutoffs"].axes, (hertz, cycles), strict=True
    ):
        marks = panel.lines[0]
        assert list(marks.get_xdata()) == [0, 0]
        assert marks.get_ydata() == pytest.approx(passed)
    activeness, _ = drawn["diffres"].axes
    curves = [line.get_ydata() for line in activeness.lines]
    histories = [
        [
            json.loads(line)["activeness"]
            for line in (tmp_path / f"fps=25,seed={seed}" / "history.jsonl")
            .read_text()
            .splitlines()
        ]
        for seed in (1, 2)
    ]
    expected = np.mean(histories, axis=0)
    assert any(np.allclose(curve, expected) for curve in curves)


# Trains an epoch, and is killed after the second one the first time.
KILLED = """
import json, os, pathlib, random, signal, sys, zipfile
workdir = pathlib.Path(sys.argv[-2].removeprefix("--workdir="))
seed = int(sys.argv[-1].removeprefix("--seed="))
path = workdir / "history.jsonl"
start = len(path.read_text().splitlines()) if path.exists() else 0
for epoch in range(start, 4):
    row = {"val_accuracy": random.Random(10 * seed + epoch).random()}
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\\n")
    if (epoch, seed, workdir.parent.name) == (1, 2, "killed"):
        os.kill(os.getpid(), signal.SIGKILL)
zipfile.ZipFile(workdir / "model.keras", "w").close()
"""


def test_killed_and_started_again_gives_the_same_table(tmp_path):
    trainer = tmp_path / "trainer.py"
    trainer.write_text(KILLED)
    path = tmp_path / "sweep.toml"
    path.write_text(
        "# Killed.\nconfig = ['a.gin']\nseeds = [1, 2]\n[axes.x]\n"
        "gin_param = 'a.b'\nvalues = [1, 2]"
    )
    sweep = sweep_file.read_sweep(path)

    def make(workdir):
        workdir.mkdir(exist_ok=True)
        (workdir / "sweep.toml").write_text(sweep.text)
        executor = runner.Local(2, train_arguments=("-S", "-E", str(trainer)))
        failed = runner.make_runs(
            sweep.runs, workdir, executor, say=lambda line: None
        )
        read = read_folder(workdir)
        return (
            failed,
            read.unfinished,
            report.to_markdown(
                read, report.make_tables(read, report.choose_metrics(read))
            ),
        )

    failed, unfinished, text = make(tmp_path / "killed")
    assert len(failed) == len(unfinished) == 2
    assert all(
        "after 2 of ? epochs, killed by signal 9 (SIGKILL" in why
        for why in unfinished.values()
    )
    assert "2 of 4 runs" in text
    failed, unfinished, text = make(tmp_path / "killed")
    assert not failed and not unfinished
    assert make(tmp_path / "whole") == ({}, {}, text)
