"""Sweeps expand into the runs they name; reports recompute their results."""

import importlib.util
import json
import pathlib
import statistics

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def load_script(name):
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sweep = load_script("sweep")
report = load_script("report")
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.toml"))


def write(path, text):
    path.write_text(text)
    return path


def test_a_sweep_expands_into_all_combinations(tmp_path):
    path = write(
        tmp_path / "sweep.toml",
        """
        config = ["a.gin"]
        seeds = [1, 2]
        [axes.method]
        gin_file = ["pooling/x.gin", "pooling/y.gin"]
        [axes.strides]
        gin_param = "net.strides"
        values = [[1, 2], 3.5]
        [axes.ramp.choices]
        inside = ["r.gin", "p.ramp = 'inside'"]
        """,
    )
    runs = sweep.read_sweep(path)
    assert len({run.name for run in runs}) == len(runs) == 8
    # All choices come before the second seed.
    assert [run.seed for run in runs] == [1] * 4 + [2] * 4
    assert runs[1].name == "method=x,strides=3.5,ramp=inside,seed=1"
    assert runs[4].command("w") == [
        "--gin_file=a.gin",
        "--gin_file=pooling/x.gin",
        "--gin_file=r.gin",
        "--gin_param=net.strides = [1, 2]",
        "--gin_param=p.ramp = 'inside'",
        "--workdir=w/method=x,strides=1-2,ramp=inside,seed=2",
        "--seed=2",
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("config = [1", "is not TOML"),
        ("config = []\nseeds = [1]\nseed = 3", "unknown keys .'seed'."),
        ("config = []", "'seeds'. must be given"),
        (
            "config = []\nseeds = [1]\n[axes.a]\nvalues = [1]",
            "axis 'a' must have",
        ),
        (
            "config = []\nseeds = [1]\n[axes.a.choices]\nx = 'y'",
            "choice 'x' of axis 'a' must be a list",
        ),
        (
            "config = []\nseeds = [1]\n[axes.a]\ngin_file = ['b/x', 'c/x']",
            "several runs have the name a=x,seed=1",
        ),
    ],
)
def test_errors_name_the_culprit(tmp_path, text, message):
    with pytest.raises(sweep.SweepError, match=message):
        sweep.read_sweep(write(tmp_path / "sweep.toml", text))
    with pytest.raises(sweep.SweepError, match="There is no file"):
        sweep.read_sweep(tmp_path / "none.toml")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_shipped_sweeps_name_files_that_exist(path):
    runs = sweep.read_sweep(path)
    files = {f for r in runs for f in r.files} | {
        f for r in runs for c in r.choices for f in c.files
    }
    assert files
    assert [f for f in files if not (ROOT / "configs" / f).exists()] == []
    # A published value belongs to a choice that the sweep makes.
    published = sweep.tomllib.loads(path.read_text()).get("published")
    if published:
        rows, columns = (
            dict.fromkeys(
                c.label
                for r in runs
                for c in r.choices
                if c.axis == published[axis]
            )
            for axis in ("rows", "columns")
        )
        assert list(published["values"]) == list(rows)
        assert {len(v) for v in published["values"].values()} == {len(columns)}


def make_run(directory, method, seed, accuracy, finished=True):
    directory = directory / f"method={method},seed={seed}"
    directory.mkdir()
    choices = {"method": method, "strides": "2"}
    write(directory / "sweep.json", json.dumps({"choices": choices}))
    lines = [{"val_accuracy": 0.1}, {"val_accuracy": accuracy}]
    write(directory / "history.jsonl", "\n".join(map(json.dumps, lines)))
    if finished:
        write(directory / "model.keras", "")


def test_report_recomputes_means_and_deviations(tmp_path):
    for seed, accuracy in enumerate([0.5, 0.6, 0.75]):
        make_run(tmp_path, "a", seed, accuracy)
    for seed, accuracy in enumerate([0.8, 0.9]):
        make_run(tmp_path, "b", seed, accuracy)
    make_run(tmp_path, "b", 2, 0.2, finished=False)
    write(tmp_path / "stray.txt", "not a run")
    runs, others = report.read_runs(tmp_path)
    assert others == ["method=b,seed=2"]
    table = report.cells(runs, "method", "strides", "val_accuracy")
    text = report.format_table(table, "method", 100)
    deviation = statistics.stdev([50, 60, 75])
    assert f"| a | {185 / 3:.1f} ± {deviation:.1f} |" in text
    assert "| b | 85.0 ± 7.1 (n = 2) |" in text
    with pytest.raises(SystemExit, match="no axis 'ramp'"):
        report.cells(runs, "ramp", "strides", "val_accuracy")
    with pytest.raises(SystemExit, match="no metric 'f1'"):
        report.cells(runs, "method", "strides", "f1")


def test_finished_runs_are_not_made_again_and_failures_named(
    tmp_path, monkeypatch, capsys
):
    path = write(
        tmp_path / "sweep.toml",
        'config = ["a.gin"]\nseeds = [1, 2, 3]\n',
    )
    runs = sweep.read_sweep(path)
    (tmp_path / runs[0].name).mkdir()
    write(tmp_path / runs[0].name / "model.keras", "")
    made = []

    def train(command, **_):
        workdir = pathlib.Path(command[-2].removeprefix("--workdir="))
        made.append(workdir.name)
        if workdir.name == "seed=2":
            return sweep.subprocess.CompletedProcess(command, 7)
        write(workdir / "history.jsonl", '{"val_accuracy": 0.5}\n')
        return sweep.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(sweep.subprocess, "run", train)
    failed = sweep.make_runs(runs, tmp_path, verbose=False)
    assert made == ["seed=2", "seed=3"]
    assert [run.name for run in failed] == ["seed=2"]
    output = capsys.readouterr().out
    # Another binding is another run, finished or not.
    other = sweep.dataclasses.replace(runs[2], params=("a.b = 1",))
    assert sweep.make_runs([other], tmp_path, verbose=False) == [other]
    assert "[1/3] seed=1: finished before" in output
    assert "[2/3] seed=2: failed with 7" in output
    assert "[3/3] seed=3: val_accuracy 0.5000" in output
