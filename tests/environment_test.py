import json

import keras

from diffstride.training import environment


def test_what_is_recorded(tmp_path, caplog):
    found = environment.describe()
    backend = keras.backend.backend()
    assert found["backend"] == backend and found["devices"] == 1
    assert {"keras", "numpy", backend, "python"} < found["versions"].keys()
    assert len(found["commit"].removesuffix("-dirty")) == 40
    assert found["date"].endswith("+00:00") and found["device"]
    environment.record(tmp_path, found)
    later = {**found, "date": "later"}
    environment.record(tmp_path, later)
    assert caplog.text == ""
    environment.record(tmp_path, {**later, "backend": "other", "devices": 4})
    change = f"backend '{backend}' -> 'other'; devices 1 -> 4"
    assert "goes on in another environment" in caplog.text
    assert change in caplog.text
    lines = (tmp_path / "environment.jsonl").read_text().splitlines()
    assert [json.loads(line)["devices"] for line in lines] == [1, 1, 4]


def test_an_installed_package_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_PACKAGE", tmp_path / "diffstride")
    assert environment.describe()["commit"] is None
