"""The command that lists, shows and copies configurations."""

import pathlib

import pytest

from diffstride import configs

pytestmark = pytest.mark.once

FOLDER = pathlib.Path(__file__).parents[1] / "configs"


def test_list_has_a_line_for_each_file(capsys):
    configs.main([])
    lines = capsys.readouterr().out.splitlines()
    files = [p for p in FOLDER.rglob("*") if p.suffix in (".gin", ".toml")]
    assert len(lines) == len(files) > 50
    for line in lines:
        name, _, sentence = line.partition(" ")
        assert (FOLDER / name).is_file()
        assert len(sentence.split()) >= 3, line
    configs.main(["list", "configs/pooling"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list((FOLDER / "pooling").iterdir()))


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.gin", "configs/quickstart.gin"]
)
def test_show(name, capsys):
    configs.main(["show", name])
    assert capsys.readouterr().out == (FOLDER / "quickstart.gin").read_text()


def test_copy_brings_includes_and_keeps_what_is_there(tmp_path, capsys):
    configs.main(["copy", "papers/diffstride/cifar10.gin", str(tmp_path)])
    copied = {
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*.gin")
    }
    assert copied == {
        "papers/diffstride/cifar10.gin",
        "base.gin",
        "datasets/cifar10.gin",
        "models/resnet18.gin",
        "pooling/diffstride.gin",
    }
    for name in copied:
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text()
    (tmp_path / "base.gin").write_text("# mine")
    with pytest.raises(SystemExit, match="base.gin would be overwritten"):
        configs.main(["copy", "quickstart", str(tmp_path)])
    assert (tmp_path / "base.gin").read_text() == "# mine"


def test_a_sweep_brings_its_gin_files(tmp_path):
    copied = configs.copy("study_textures", tmp_path)
    names = {path.name for path in copied}
    assert {"study_textures.toml", "textures.gin", "spectral.gin"} <= names


@pytest.mark.parametrize(
    "name, hint",
    [("quickstrat.gin", "quickstart.gin"), ("cifar10", "fits .*cifar10")],
)
def test_unknown_and_ambiguous_names(name, hint):
    with pytest.raises(SystemExit, match=hint):
        configs.main(["show", name])
