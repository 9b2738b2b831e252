"""The benchmark of front ends: every one runs, and ratios are of the mels."""

import importlib.util
import pathlib

import keras
import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location(
        "benchmark_frontends", SCRIPTS / "benchmark_frontends.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="needs compiled functions"
)
def test_front_ends_take_turns(benchmark, monkeypatch):
    chosen = ("mel", "LEAF 8 groups")
    all_cases = benchmark.cases
    monkeypatch.setattr(
        benchmark,
        "cases",
        lambda bands: {name: all_cases(bands)[name] for name in chosen},
    )
    rows = benchmark.time_frontends(8, 1, 0.05, 1)
    assert tuple(rows) == chosen
    assert rows["mel"]["million_macs"] == 0
    assert all(row["training_ms"] > 0 for row in rows.values())


def test_ratios_are_those_to_the_mel_spectrogram(benchmark):
    rows = {
        name: {"forward_ms": 2 * cost, "training_ms": 3 * cost, "macs": cost}
        for name, cost in {"mel": 1, "LEAF": 5}.items()
    }
    rows = benchmark.add_ratios(rows)
    assert rows["mel"]["forward_ratio"] == 1
    assert rows["LEAF"]["training_ratio"] == 5
    assert "memory_ratio" not in rows["mel"]
