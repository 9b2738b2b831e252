"""The benchmark of layers that enlarge maps."""

import importlib.util
import pathlib

import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


@pytest.mark.compiles
def test_ratios_to_the_baseline(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location(
        "benchmark_resize", SCRIPTS / "benchmark_resize.py"
    )
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    rows = benchmark.time_layers((1, 4, 4, 2), factor=1.5, repeats=1)
    assert set(rows) == set(benchmark.cases(1.5, 2))
    assert rows[benchmark.BASELINE]["training_ratio"] == 1
    row = rows["SpectralResize"]
    assert row["forward_ratio"] == pytest.approx(
        row["forward_ms"] / rows[benchmark.BASELINE]["forward_ms"]
    )
