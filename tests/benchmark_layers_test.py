"""The summary of the benchmark of layers."""

import importlib.util
import pathlib

import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location(
        "benchmark_layers", SCRIPTS / "benchmark_layers.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ratios_of_each_shape_and_their_mean(benchmark, capsys):
    results = {
        shape: {
            name: {"training_ms": time, "memory_mib": 10 * time}
            for name, time in {
                "DiffStride": 4 * slowness,
                "DiffStride symmetric": 2,
                "DiffStride inside": 1,
                "conv 3x3": 6,
                "rfft2d": 16,
                "rfft2d channels_first": 12,
            }.items()
        }
        for shape, slowness in [("small", 1), ("large", 0.25)]
    }
    summary = benchmark.summarize(results)
    row = summary["rfft2d / DiffStride"]
    assert row == pytest.approx({"small": 4, "large": 16, "mean": 8})
    assert summary["rfft2d / DiffStride inside"]["mean"] == pytest.approx(16)
    memory = summary["memory, DiffStride / rfft2d"]
    assert memory == pytest.approx(
        {"small": 1 / 4, "large": 1 / 16, "mean": 1 / 8}
    )
    benchmark.print_summary(summary)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-len(summary) - 1].split() == ["small", "large", "mean"]
    for layers in results.values():
        for row in layers.values():
            del row["memory_mib"]
    assert not any("memory" in name for name in benchmark.summarize(results))
