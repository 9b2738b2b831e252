"""Sweeps expand into the runs they name, and make them whatever happens."""

import ast
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shlex
import signal
import sys
import types
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]

from diffstride import check_runs as check_module  # noqa: E402
from diffstride import sweep  # noqa: E402
from diffstride.experiments import (  # noqa: E402
    checks,
    run_state,
    runner,
    sweep_file,
)
from diffstride.experiments.checks import check_runs  # noqa: E402
from diffstride.experiments.runs import shell_command  # noqa: E402

SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.toml"))

# Stands for the training binary, and does what it is bound to do.
TRAINER = """
import json, os, pathlib, signal, sys, zipfile
workdir = pathlib.Path(sys.argv[-2].removeprefix("--workdir="))
(workdir / "growth").write_text(
    os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH", "none")
    + " "
    + os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "none")
)
does = sys.argv[-3].rpartition("=")[2].strip(" '")
with open(workdir / "visits", "a") as file:
    file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "all") + "\\n")
if does == "crash":
    sys.exit("RuntimeError: out of memory")
if does == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if does == "wrong":
    sys.exit("Configuration error: no `x`\\n  Did you mean: y?")
if does == "silent":
    os._exit(3)
if does.startswith("meet"):
    # Neither opens the pipe before the other does.
    open(workdir.parent / "pipe", does[-1]).close()
if does == "stop" and not (workdir / "saved").exists():
    def save(number, frame):
        (workdir / "saved").touch()
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, save)
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
row = {"val_accuracy": 0.5, "epoch": 1}
(workdir / "history.jsonl").write_text(json.dumps(row))
zipfile.ZipFile(workdir / "model.keras", "w").close()
"""


def write(path, text):
    path.write_text(text)
    return path


def read(tmp_path, text):
    return sweep_file.read_sweep(write(tmp_path / "sweep.toml", text))


def test_a_sweep_expands_into_all_combinations(tmp_path):
    runs = read(
        tmp_path,
        """
        config = ["a.gin"]
        gin_param = ["p.ramp = 'none'"]
        seeds = [1, 2]
        [axes.method]
        gin_file = ["pooling/x.gin", "pooling/y.gin"]
        [axes.strides]
        gin_param = "net.strides"
        values = [[1, 2], 3.5]
        [axes.ramp.choices]
        inside = ["r.gin", "p.ramp = 'inside'"]
        """,
    ).runs
    assert len({run.name for run in runs}) == len(runs) == 8
    # All choices come before the second seed.
    assert [run.seed for run in runs] == [1] * 4 + [2] * 4
    assert runs[1].name == "method=x,strides=3.5,ramp=inside,seed=1"
    command = [
        "--gin_file=a.gin",
        "--gin_file=pooling/x.gin",
        "--gin_file=r.gin",
        "--gin_param=p.ramp = 'none'",
        "--gin_param=net.strides = [1, 2]",
        "--gin_param=p.ramp = 'inside'",
        "--workdir=w/method=x,strides=1-2,ramp=inside,seed=2",
        "--seed=2",
    ]
    assert runs[4].command("w") == command
    # What a run cannot use is left out of what all runs are bound to.
    run = dataclasses.replace(runs[4], left_out=("p.ramp = 'none'",))
    assert run.command("w") == [part for part in command if "none" not in part]
    assert run.description("w")["left_out"] == ["p.ramp = 'none'"]
    # A shell makes of the printed command what it was.
    printed = shell_command([*command, "--gin_param=a = '$b\"'"])
    assert shlex.split(printed)[3:] == [*command, "--gin_param=a = '$b\"'"]


def drawn(tmp_path, between, per_axis="false", seed=3, draws=5):
    sweep = read(
        tmp_path,
        f"""
        config = ["a.gin"]
        seeds = [1]
        [axes.strides]
        gin_param = "net.strides"
        values = [[1, 2, 2]]
        [axes.strides.random]
        template = [1, "?", "?"]
        between = {between}
        draws = {draws}
        seed = {seed}
        per_axis = {per_axis}
        """,
    )
    params = [choice.params[0] for choice in sweep.axes["strides"]]
    return [json.loads(param.partition(" = ")[2]) for param in params]


def test_random_values_are_distinct_and_the_same_every_time(tmp_path):
    strides = drawn(tmp_path, "[1, 3]", draws=8)
    # All nine pairs of integers, the given one first, each once.
    assert strides[0] == [1, 2, 2]
    assert sorted(strides) == [[1, a, b] for a in (1, 2, 3) for b in (1, 2, 3)]
    assert drawn(tmp_path, "[1, 3]", draws=8) == strides
    assert drawn(tmp_path, "[1, 3]", draws=8, seed=4) != strides
    fractions = drawn(tmp_path, "[1.0, 3.0]")[1:]
    assert all(1 <= s <= 3 for row in fractions for s in row[1:])
    assert any(s % 1 for row in fractions for s in row[1:])
    by_axis = drawn(tmp_path, "[1.0, 3.0]", per_axis="true")[1:]
    assert all(len(pair) == 2 for row in by_axis for pair in row[1:])
    assert any(height != width for _, (height, width), _ in by_axis)
    assert sweep_file.label([1, [1.25, 2.0], 3]) == "1-1.25x2.0-3"
    with pytest.raises(sweep_file.SweepError, match="too few different values"):
        drawn(tmp_path, "[1, 3]", draws=9)


def test_values_are_what_gin_reads(tmp_path):
    [choices] = read(
        tmp_path,
        """
        config = []
        seeds = [1]
        [axes.a]
        gin_param = "b.c"
        values = [0.1, -0.1, [1, -2], "@f.G", ["@f.G", "%H"], "it's", true]
        """,
    ).axes.values()
    assert [(c.label, *c.params) for c in choices] == [
        ("0.1", "b.c = 0.1"),
        ("-0.1", "b.c = -0.1"),
        ("1--2", "b.c = [1, -2]"),
        ("f.G", "b.c = @f.G"),
        ("f.G-H", "b.c = [@f.G, %H]"),
        ("it-s", 'b.c = "it\'s"'),
        ("True", "b.c = True"),
    ]


ONE = "config = []\nseeds = [1]\n"
VALUES = ONE + "[axes.a]\ngin_param = 'b.c'\n"
RANDOM = VALUES + "random = {{ template = '?', seed = 0, {} }}"
PUBLISHED = (
    VALUES + "values = [1, 2]\n[axes.d]\ngin_file = ['e.gin']\n[published]\n"
)


@pytest.mark.parametrize(
    "text, message",
    [
        ("config = [1", "is not TOML"),
        ("config = []\nseeds = [1]\nseed = 3", "unknown keys .'seed'."),
        ("config = []", "'seeds'. must be given"),
        ("config = 'a.gin'\nseeds = [1]", "`config` must be a list"),
        (f"gin_param = 'a.b = 1'\n{ONE}", "`gin_param` must be a list"),
        ("config = []\nseeds = []", "`seeds` must .* Received: seeds=.."),
        ("config = []\nseeds = 3", "`seeds` must .* Received: seeds=3"),
        ("config = []\nseeds = [true]", "`seeds` must"),
        (f"{ONE}axes = 3", "`axes` must be a table"),
        (f"{ONE}axes.a = 3", "`axes.a` must be a table"),
        (f"{ONE}axes.a.values = [1]", "axis 'a' must have"),
        (f"{ONE}[axes.'a/b'.choices]\nx = []", "name of `axes.a/b` must be of"),
        (
            f"{ONE}[axes.a.choices]\n'../x' = []",
            "name of `axes.a.choices.../x`",
        ),
        (f"{ONE}[axes.a.choices]\n'' = []", "name of `axes.a.choices.` must"),
        (
            f"{ONE}[axes.a.choices]\nx = 'y'",
            "`axes.a.choices.x` must be a list",
        ),
        (
            f"{ONE}[axes.a.choices]\nx = [1]",
            "`axes.a.choices.x` must be a list",
        ),
        (f"{ONE}[axes.a.choices]", "`axes.a.choices` must be an axis of one"),
        (
            f"{VALUES}values = ['{'é' * 127}']",
            "of 255 bytes at most, .* Received: 263 bytes in a=é",
        ),
        (f"{ONE}axes.a.gin_file = 'x.gin'", "`axes.a.gin_file` must be a list"),
        (
            f"{ONE}axes.a.gin_file = []",
            "`axes.a` must be an axis of one choice",
        ),
        (f"{VALUES}values = []", "`axes.a` must be an axis of one choice"),
        (f"{VALUES}values = 3", "`axes.a.values` must be a list"),
        (
            f"{VALUES}values = ['x', 'x ']",
            "several runs have the name a=x,seed",
        ),
        (f"{VALUES}random = 3", "`axes.a.random` must be a table"),
        (f"{VALUES}random.low = 1", "unknown keys .'low'.; `?axes.a.random"),
        (
            RANDOM.format("between = 3, draws = 1"),
            "between` must be two numbers",
        ),
        (RANDOM.format("between = [3, 1], draws = 1"), "between` must be two"),
        (
            RANDOM.format("between = [1, 3], draws = 0"),
            "draws` must be 1 or more",
        ),
        (f"{ONE}[report]\ncolumns = 'a'", "`columns` must be an axis"),
        (f"{ONE}[report]\ntitle = 3", "`title` must be a string"),
        (f"{ONE}[report]\nseries = 3", "`series` must be a list"),
        (
            f"{VALUES}values = [1]\n"
            + 2 * "[[published]]\nmetric = 'm'\nrows = 'a'\nvalues = {}\n",
            "`published.metric` must be another one in each section",
        ),
        (f"{ONE}[report]\ncolums = 'a'", "unknown keys .'colums'."),
        (f"{ONE}[report]\nmetrics = 'macs'", "`metrics` must be a list"),
        (
            f"{VALUES}values = [1]\n[report]\nrows = ['a']\ncolumns = 'a'",
            "`columns` must be no axis of the rows",
        ),
        (f"{PUBLISHED}metric = 'm'\nvalues = {{}}", "'rows'. must be given"),
        (f"{PUBLISHED}metric='m'\nrows='a'\nvalues = {{ 9 = '1' }}", "among"),
        (
            f"{PUBLISHED}metric = 'm'\nrows = 'a'\ncolumns = 'd'\n"
            "values = { 1 = ['1', '2'] }",
            "`published.values.1` must be a list of 1 strings",
        ),
    ],
)
def test_errors_name_the_culprit(tmp_path, text, message):
    with pytest.raises(sweep_file.SweepError, match=message):
        read(tmp_path, text)


def test_files_that_are_not_there_are_named(tmp_path, monkeypatch):
    with pytest.raises(sweep_file.SweepError, match="There is no file"):
        sweep_file.read_sweep(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes("# é".encode("latin-1"))
    with pytest.raises(sweep_file.SweepError, match="is not TOML: 'utf-8'"):
        sweep_file.read_sweep(tmp_path / "latin.toml")
    text = ONE + "axes.a.gin_file = ['pooling/spectral.gin', 'mine.gin']"
    runs = read(tmp_path, text).runs
    with pytest.raises(sweep_file.SweepError, match="no gin file mine.gin in"):
        sweep_file.check_files(runs)
    # As the training binary, it looks in the working directory, too.
    (tmp_path / "mine.gin").touch()
    monkeypatch.chdir(tmp_path)
    sweep_file.check_files(runs)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_shipped_sweeps_name_files_that_exist(path):
    sweep = sweep_file.read_sweep(path)
    files = {f for r in sweep.runs for f in r.files} | {
        f for r in sweep.runs for c in r.choices for f in c.files
    }
    assert files
    assert [f for f in files if not (ROOT / "configs" / f).exists()] == []
    assert (
        f"python -m diffstride.sweep configs/sweeps/{path.name}" in sweep.header
    )
    # A published value belongs to a choice that the sweep makes.
    for section in sweep.published:
        values = section["values"]
        labels = {
            axis: [choice.label for choice in choices]
            for axis, choices in sweep.axes.items()
        }
        assert list(values) == labels[section["rows"]]
        if "columns" in section:
            columns = labels[section["columns"]]
            assert {len(texts) for texts in values.values()} == {len(columns)}
        else:
            assert all(isinstance(text, str) for text in values.values())


@pytest.mark.tensorflow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_gin_knows_what_shipped_sweeps_bind(path):
    import gin

    from diffstride import configurables

    runs = sweep_file.read_sweep(path).runs
    for run in runs:
        if run.seed == runs[0].seed:
            files = [*run.files, *(f for c in run.choices for f in c.files)]
            params = [param for c in run.choices for param in c.params]
            configurables.parse(files, params)
            for param in params:
                name, _, value = param.partition(" = ")
                if not re.search("[@%]", value):
                    # A name without a dot is a macro.
                    key = name if "." in name else f"{name}/gin.macro.value"
                    bound = gin.query_parameter(key)
                    assert repr(bound) == repr(ast.literal_eval(value))
            assert configurables.useless(run.all_params) == []
    gin.clear_config()


@pytest.fixture
def checks_here(monkeypatch):
    """The check of a sweep without a process, which takes seconds to start."""

    def run(command, input, **arguments):
        found = [check_module.check(**each) for each in json.loads(input)]
        return types.SimpleNamespace(returncode=0, stdout=json.dumps(found))

    process = types.SimpleNamespace(run=run)
    monkeypatch.setattr(checks, "subprocess", process)


CHECKED = """
config = ["quickstart.gin"]
gin_param = ["pooling.DiffStride.symmetric = True"]
seeds = [1, 2]
[axes.method]
gin_file = ["pooling/spectral.gin", "pooling/diffstride.gin"]
[axes.filters]
gin_param = "resnet.resnet18.filters"
values = [4, 8]
"""


@pytest.mark.tensorflow
def test_what_a_choice_cannot_use_is_left_out_there_and_said(tmp_path):
    added = ("pooling.DiffStride.shared_stride = True", "train.train.seed = 3")
    runs = [
        dataclasses.replace(run, added=added)
        for run in read(tmp_path, CHECKED).runs
    ]
    checked, notes = check_runs(runs)
    for run in checked:
        spectral = "method=spectral" in run.name
        assert len(run.left_out) == (2 if spectral else 0)
        command = " ".join(run.command(tmp_path))
        assert ("DiffStride.symmetric" in command) != spectral
        assert ("DiffStride.shared" in command) != spectral
        assert "train.train.seed" in command
    assert len(notes) == 2
    assert notes[0].startswith(
        "4 of 8 runs cannot use pooling.DiffStride.symmetric = True, which is "
        "left out there: method=spectral,filters=4,seed=1, method=spectral"
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "resnet.resnet18.filters",
            "densenet.densenet.growth",
            "8 of 8 runs cannot be made(.|\n)*filters=4,seed=1: nothing in it "
            "uses densenet.densenet.growth = 4(.|\n)*and 3 more",
        ),
        (
            "resnet.resnet18.filters",
            "resnet.resnet18.filter",
            "8 of 8 runs .*\n(.|\n)*named 'filter'",
        ),
        (
            "DiffStride.symmetric",
            "SpatialPooling.pool_size",
            "no run uses the binding for all runs pooling.SpatialPooling.pool",
        ),
        ('"quickstart.gin"', '"pooling/strided.gin"', "`train.train.dataset`"),
    ],
)
def test_all_runs_are_checked_before_the_first_starts(
    tmp_path, monkeypatch, checks_here, old, new, message
):
    path = write(tmp_path / "sweep.toml", CHECKED.replace(old, new))
    workdir = tmp_path / "runs"
    argv = ["sweep.py", str(path), f"--workdir={workdir}"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match=message):
        sweep.main()
    assert not workdir.exists()


def test_a_check_that_cannot_be_made_says_why(tmp_path):
    runs = read(tmp_path, CHECKED).runs
    with pytest.raises(
        sweep_file.SweepError, match="be checked: OSError: gone"
    ):
        check_runs(runs, ("-c", "raise OSError('gone')"))


@pytest.fixture
def make(tmp_path):
    """Makes runs that do what they are told; returns failures and progress."""
    trainer = ("-S", "-E", str(write(tmp_path / "trainer.py", TRAINER)))

    def make(*does, parallel=1, gpus=(), say=None):
        sweep = read(
            tmp_path,
            f"config = ['a.gin']\nseeds = [1]\n[axes.does]\n"
            f"gin_param = 'a.b'\nvalues = {list(does)}",
        )
        lines = []

        def note(line):
            lines.append(line)
            if say:
                say(line)

        executor = runner.Local(parallel, gpus, trainer)
        failed = runner.make_runs(sweep.runs, tmp_path, executor, note)
        return {run.name: why for run, why in failed.items()}, lines

    return make


def visits(tmp_path, does):
    path = tmp_path / f"does={does},seed=1" / "visits"
    return path.read_text().split() if path.exists() else []


def test_crashes_are_named_and_finished_runs_not_made_again(tmp_path, make):
    # A model that was cut off while it was saved does not count.
    finished = tmp_path / "does=before,seed=1"
    cut_off = tmp_path / "does=b,seed=1"
    for directory in (finished, cut_off):
        directory.mkdir()
        zipfile.ZipFile(directory / "model.keras", "w").close()
    with open(cut_off / "model.keras", "rb+") as file:
        file.truncate(10)
    failed, lines = make("before", "crash", "b")
    assert list(failed) == ["does=crash,seed=1"]
    assert "exit code 1: RuntimeError: out of memory" in str(failed)
    failure = tmp_path / "does=crash,seed=1" / "failure.json"
    assert json.loads(failure.read_text()) == {
        "code": 1,
        "error": "RuntimeError: out of memory",
    }
    assert lines[0] == "[1/3] does=before,seed=1: finished before"
    assert lines[1] == "[2/3] does=crash,seed=1: starts"
    assert "crash,seed=1: exit code 1: RuntimeError: out of m" in lines[2]
    assert "(1 of 2 done, about " in lines[2]
    assert lines[4].endswith("val_accuracy 0.5000 (2 of 2 done)")
    assert visits(tmp_path, "before") == []
    # The failed one is tried again, the others are not.
    make("before", "crash", "b")
    assert len(visits(tmp_path, "crash")) == 2
    assert len(visits(tmp_path, "b")) == 1


def test_failures_say_what_this_attempt_said(tmp_path, make):
    silent = tmp_path / "does=silent,seed=1"
    silent.mkdir()
    (silent / "log.txt").write_text("RuntimeError: of an earlier attempt\n")
    failed, _ = make("wrong", "killed", "silent")
    assert list(failed.values()) == [
        "exit code 1: Configuration error: no `x`",
        "killed by signal 9 (SIGKILL, often out of memory)",
        "exit code 3",
    ]


def test_another_binding_is_another_run(tmp_path, make):
    make("a")
    path = tmp_path / "does=a,seed=1" / "sweep.json"
    described = json.loads(path.read_text())
    assert described["choices"] == {"does": "a"}
    described["command"].append("--gin_param=c.d = 1")
    path.write_text(json.dumps(described))
    failed, lines = make("a")
    assert list(failed) == ["does=a,seed=1"]
    assert "of another command; see its sweep.json" in lines[0]
    assert json.loads(path.read_text()) == described


def test_what_another_sweep_has_begun_meanwhile_is_left_alone(tmp_path, make):
    """It is only known with the lock whose run a directory holds."""
    directory = tmp_path / "does=a,seed=1"
    directory.mkdir()
    other = open(directory / "lock", "a")
    fcntl.flock(other, fcntl.LOCK_EX)
    described = '{"command": ["--gin_param=c.d = 1"]}'

    def finish(line):
        if "another process makes it" in line:
            write(directory / "sweep.json", described)
            write(directory / "history.jsonl", '{"val_accuracy": 0.25}')
            zipfile.ZipFile(directory / "model.keras", "w").close()
            other.close()

    failed, _ = make("a", say=finish)
    assert "of another command" in failed["does=a,seed=1"]
    assert (directory / "sweep.json").read_text() == described


def test_a_directory_with_runs_of_another_sweep_is_refused(tmp_path, make):
    make("a", "b", "crash")

    def check(values, params="[]"):
        sweep = read(
            tmp_path,
            f"config = ['a.gin']\nseeds = [1]\ngin_param = {params}\n"
            f"[axes.does]\ngin_param = 'a.b'\nvalues = {values}",
        )
        run_state.check_workdir(tmp_path, sweep.runs)

    # More choices are the same sweep, and a choice that crashed is no loss.
    check(["a", "b", "c"])
    for values, params, name in (
        (["a", "c"], [], "b"),
        (["a", "b"], ["c.d = 1"], "a"),
    ):
        with pytest.raises(
            sweep_file.SweepError, match=f"such as does={name},seed=1. Choose"
        ):
            check(values, params)


@pytest.mark.parametrize(
    "arguments",
    [["--ray", "--parallel=2"], ["--ray", "--gpus=0"], ["--gpus_per_run=1"]],
)
def test_arguments_that_do_nothing_are_refused(
    arguments, monkeypatch, tmp_path, capsys
):
    argv = ["sweep.py", str(SWEEPS[0]), f"--workdir={tmp_path}", *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match="2"):
        sweep.main()
    assert "--ray" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_runs_in_parallel_each_with_a_gpu(tmp_path, make):
    os.mkfifo(tmp_path / "pipe")
    failed, _ = make("meet_w", "meet_r", parallel=2, gpus=["4", "7"])
    assert not failed
    used = [visits(tmp_path, "meet_w"), visits(tmp_path, "meet_r")]
    assert used == [["4"], ["7"]]


@pytest.mark.parametrize(
    "gpus, parallel, shares",
    [
        ("0", 2, ["0", "0"]),
        ("0123", 2, ["0,1", "2,3"]),
        ("0123", 3, ["0", "1", "2,3"]),
        ("012", 3, ["0", "1", "2"]),
        ("01", 3, ["0", "1", "0"]),
        ("", 2, []),
    ],
)
def test_gpus_are_shared_out(gpus, parallel, shares):
    assert runner.share_out(list(gpus), parallel) == shares


def test_gpus_are_found_where_there_are_any(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runner.find_gpus() == []
    listed = "GPU 0: A100 (UUID: GPU-1)\n  MIG 3g (UUID: M)\nGPU 1: A100\n"
    tool = write(tmp_path / "nvidia-smi", f"#!/bin/sh\necho '{listed}'\n")
    tool.chmod(0o755)
    assert runner.find_gpus() == ["0", "1"]
    for visible, found in (("", []), ("-1", []), ("2, 5", ["2", "5"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert runner.find_gpus() == found


def test_parallel_runs_share_the_gpus_of_the_machine(tmp_path, monkeypatch):
    made = []

    def make_runs(runs, workdir, executor, say):
        made.append((executor.parallel, executor._gpus, executor._shared))
        return {}

    monkeypatch.setattr(sweep, "make_runs", make_runs)
    monkeypatch.setattr(sweep, "check_runs", lambda runs: (runs, []))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    for arguments in ([], ["--parallel=2"], ["--parallel=3"], ["--gpus=0"]):
        argv = ["sweep.py", str(SWEEPS[0]), f"--workdir={tmp_path}"]
        monkeypatch.setattr(sys, "argv", [*argv, *arguments])
        sweep.main()
    assert made == [
        (1, [], set()),
        (2, ["4", "5"], set()),
        (3, ["4", "5", "4"], {"4"}),
        (1, ["0"], set()),
    ]


def test_runs_that_share_a_gpu_do_not_take_all_its_memory(tmp_path, make):
    os.mkfifo(tmp_path / "pipe")
    failed, _ = make("meet_w", "meet_r", parallel=2, gpus=["4", "4"])
    assert not failed
    assert visits(tmp_path, "meet_w") == visits(tmp_path, "meet_r") == ["4"]
    for does in ("meet_w", "meet_r"):
        growth = (tmp_path / f"does={does},seed=1" / "growth").read_text()
        assert growth == "true false"


def test_interrupted_runs_save_and_go_on(tmp_path, make):
    previous = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        make("stop", "a")
    assert signal.getsignal(signal.SIGTERM) == previous
    directory = tmp_path / "does=stop,seed=1"
    assert (directory / "saved").exists()
    # What was asked to stop did not fail.
    assert not (directory / "failure.json").exists()
    assert visits(tmp_path, "a") == []
    failed, _ = make("stop", "a")
    assert not failed
    assert len(visits(tmp_path, "stop")) == 2


def test_a_run_that_another_sweep_makes_is_waited_for(tmp_path, make):
    directory = tmp_path / "does=a,seed=1"
    directory.mkdir()
    other = open(directory / "lock", "a")
    fcntl.flock(other, fcntl.LOCK_EX)

    def finish(line):
        if "another process makes it" in line:
            write(directory / "history.jsonl", '{"val_accuracy": 0.25}')
            zipfile.ZipFile(directory / "model.keras", "w").close()
            other.close()

    failed, lines = make("a", "b", say=finish)
    assert not failed
    assert visits(tmp_path, "a") == []
    assert any("val_accuracy 0.2500" in line for line in lines)


def test_ray_makes_the_same_runs(tmp_path, make, monkeypatch):
    """Against a stand-in for Ray that has what we call of it."""
    calls = []

    class Remote:
        def __init__(self, function):
            self.function = function

        def remote(self, *args):
            calls.append(args)
            return len(calls) - 1

    def get(reference):
        if "lost" in calls[reference][0]:
            raise stand_in.exceptions.RayError("trace\nThe node died.")
        return runner.train(*calls[reference])

    stand_in = types.SimpleNamespace(
        init=lambda **kwargs: None,
        cluster_resources=lambda: {"CPU": 4.0},
        cloudpickle=types.SimpleNamespace(
            register_pickle_by_value=lambda module: None
        ),
        remote=lambda **resources: (
            calls.append(resources) or (lambda function: Remote(function))
        ),
        wait=lambda references: (references[:1], references[1:]),
        get=get,
        exceptions=types.SimpleNamespace(
            RayError=type("RayError", (Exception,), {})
        ),
    )
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    trainer = ("-S", "-E", str(tmp_path / "trainer.py"))
    executor = runner.Ray(cpus=2, train_arguments=trainer)
    assert calls == [{"num_cpus": 2, "num_gpus": 0, "max_retries": 3}]
    monkeypatch.setattr(runner, "Local", lambda *args: executor)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    failed, _ = make("a", "lost", "crash")
    assert list(failed) == ["does=lost,seed=1", "does=crash,seed=1"]
    assert failed["does=lost,seed=1"] == "The node died."
    # Nodes do not have the environment of this process.
    assert calls[1][-1] == {"KERAS_BACKEND": "jax"}
    assert len(visits(tmp_path, "a")) == 1
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(sweep_file.SweepError, match=r"diffstride\[ray\]"):
        runner.Ray()


@pytest.mark.parametrize("name", ["configs/sweeps/{}.toml", "{}"])
def test_dry_run_prints_the_commands(
    name, tmp_path, monkeypatch, checks_here, capsys
):
    monkeypatch.chdir(tmp_path)  # The sweep is found anywhere.
    param = "images.tfds_images.data_dir = 'c'"
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "sweep",
            name.format("table3_cifar10"),
            "--dry_run",
            f"--workdir={tmp_path / 'w'}",
            f"--gin_param={param}",
        ],
    )
    sweep.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 * 3 * 3
    assert all(
        line.startswith("python -m diffstride.train --gin_file=")
        and f'"--gin_param={param}"' in line
        for line in lines
    )
    assert not (tmp_path / "w").exists()


def test_a_sweep_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweep", "table3_cifar.toml"])
    with pytest.raises(SystemExit) as error:
        sweep.main()
    assert "There is no file table3_cifar.toml" in str(error.value)
    assert "sweeps/table3_cifar10.toml" in str(error.value)
