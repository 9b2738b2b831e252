"""Shards: written once, by one or many processes, killed or not."""

import dataclasses
import multiprocessing
import os
import pathlib
import signal
import time

import numpy as np
import pytest

from diffstride.data import shards
from diffstride.data.clips import open_stored

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def quick_start(monkeypatch):
    """New processes need not import TensorFlow, which takes seconds."""
    monkeypatch.setenv("KERAS_BACKEND", "numpy")


@dataclasses.dataclass(frozen=True)
class Make:
    """Clips that hold their number. Every clip made leaves a line in a log."""

    numbers: tuple
    log: pathlib.Path
    seconds: float = 0.0

    def __call__(self, report):
        for number in self.numbers:
            with open(self.log, "a") as file:
                file.write(f"{number} {os.getpid()}\n")
            time.sleep(self.seconds)
            report.read += 1
            samples = np.full(number + 1, number, "int16")
            yield {"audio": samples}, number + 1, {"label": number % 3}


def make_shards(folder, count=4, size=3, digest="1", seconds=0.0):
    serialize = shards.features().serialize_example
    return [
        shards.Shard(
            folder / "data" / f"a.array_record-{number}",
            number,
            digest,
            1000,
            Make(
                tuple(range(number * size, (number + 1) * size)),
                folder / "log",
                seconds,
            ),
            serialize,
        )
        for number in range(count)
    ]


def read(shards_):
    """The first sample of each clip, from all shards."""
    clips = open_stored(
        [(shard.path, 0, len(shard.make.numbers)) for shard in shards_],
        "label",
        ("x", "y", "z"),
        "test",
    )
    numbers = np.zeros(len(clips), int)
    for row, samples in clips.whole(np.arange(len(clips))):
        assert len(samples) == clips.lengths[row] == samples[0] + 1
        assert clips.labels[row] == samples[0] % 3
        numbers[row] = samples[0]
    return numbers.tolist()


def log(folder):
    """The clips that were made, and the processes that made them."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [int(a) for a, _ in lines], [int(b) for _, b in lines]


@pytest.mark.parametrize(
    "workers", [1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_written_once(tmp_path, workers):
    parts = make_shards(tmp_path)
    written = list(shards.write_shards(parts, workers))
    assert sorted(shard.number for shard in written) == [0, 1, 2, 3]
    assert read(parts) == list(range(12))
    assert not list(shards.write_shards(parts, workers))
    made, processes = log(tmp_path)
    assert sorted(made) == list(range(12))
    assert (os.getpid() in processes) == (workers == 1)
    index = parts[1].read_index()
    assert index["lengths"] == [4, 5, 6] and index["labels"]["label"] == [
        0,
        1,
        2,
    ]
    assert index["sample_rate"] == 1000 and index["read"] == 3


def test_another_digest_is_another_content(tmp_path):
    list(shards.write_shards(make_shards(tmp_path)))
    others = make_shards(tmp_path, size=2, digest="2")
    assert others[0].read_index() is None
    assert len(list(shards.write_shards(others))) == 4
    assert read(others) == list(range(8))


def test_error_in_a_shard(tmp_path):
    """The other shards stay, nothing half-written does."""
    good, bad = make_shards(tmp_path, count=2)
    bad = dataclasses.replace(bad, serialize=len)
    with pytest.raises(TypeError):
        list(shards.write_shards([good, bad]))
    assert read([good]) == [0, 1, 2]
    assert bad.read_index() is None
    assert len(list((tmp_path / "data").iterdir())) == 3  # And the lock.


SPAWN = multiprocessing.get_context("spawn")


def write_in_process(*arguments):
    process = SPAWN.Process(target=_write, args=arguments)
    process.start()
    return process


def _write(folder, seconds, workers=1, barrier=None):
    if barrier:
        barrier.wait()
    list(shards.write_shards(make_shards(folder, 6, 3, "1", seconds), workers))


def wait_for(condition):
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened for two minutes")


def test_processes_share_the_work(tmp_path):
    """Each shard is written by one of them, and both wait for the end."""
    parts = make_shards(tmp_path, 6, 3)
    barrier = SPAWN.Barrier(2)
    others = [write_in_process(tmp_path, 0.05, 1, barrier) for _ in range(2)]
    for process in others:
        process.join(60)
        assert process.exitcode == 0
        assert read(parts) == list(range(18))
    made, processes = log(tmp_path)
    assert sorted(made) == list(range(18))
    assert len(set(processes)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_gone_on(tmp_path, workers):
    parts = make_shards(tmp_path, 6, 3)
    process = write_in_process(tmp_path, 0.1, workers)
    wait_for(lambda: parts[0].read_index())
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    _, processes = log(tmp_path)
    # Workers end with the process that started them.
    wait_for(lambda: not any(map(is_alive, processes)))
    (made_before, _) = log(tmp_path)
    assert len(made_before) < 18
    list(shards.write_shards(parts))
    assert read(parts) == list(range(18))
    made, _ = log(tmp_path)
    # What was complete is not made again.
    assert made[len(made_before) :].count(0) == 0
    names = [path.name for path in (tmp_path / "data").iterdir()]
    assert [name for name in names if name.startswith(".")] == [".lock"]


def is_alive(process):
    try:
        state = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"
