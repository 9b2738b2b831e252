"""Manifests of published sets of sounds, from their folders as unpacked."""

import collections
import csv
import pathlib
import re

from diffstride.data.manifest import (
    SUFFIXES,
    Row,
    check_rows,
    name_order,
    read_manifest,
)

# Names of files have more than the eleven characters of a YouTube identifier:
# `Y---1_cCGK4M.wav`, `---1_cCGK4M_0.000_10.000.wav`.
_AUDIOSET_NAME = re.compile(r"^Y?([\w-]{11})(_[\d.]+(_[\d.]+)?)?$")
AUDIOSET_SPLITS = ("balanced_train", "unbalanced_train", "eval")


def esc50(folder, esc10=False):
    """ESC-50: 2,000 clips of 50 classes in 5 folds.

    Args:
        folder: The unpacked repository, with `meta/esc50.csv` and `audio/`.
        esc10: Whether to take the ten classes of ESC-10 alone.

    Returns:
        A list of `diffstride.data.manifest.Row`.
    """
    folder = pathlib.Path(folder).expanduser()
    path = folder / "meta" / "esc50.csv"
    rows = read_manifest(path, folder / "audio", "filename", "category")
    if not esc10:
        return rows
    chosen = {
        line["filename"] for line in _read(path) if line["esc10"] == "True"
    }
    return [row for row in rows if row.path.name in chosen]


def acoustic_scenes(folder, fold1=False):
    """TUT Urban Acoustic Scenes 2018, development set: 8,640 clips of 10 s.

    The classes are ten kinds of places, and the splits `train` and `test`. The
    clips are cut from longer recordings. In a split by clips, parts of one
    recording are trained on and tested, which makes it the easier one.

    Args:
        folder: The unpacked set, with `audio/` and `evaluation_setup/`.
        fold1: Whether to take the published split, `fold1_train.txt` and
            `fold1_evaluate.txt`, of 6,122 and 2,518 clips from different
            places. By default a tenth of the clips of each class is tested, as
            in Riad et al., 2022, who have 7,829 and 810 clips. Which ones they
            took is not known; here the names of the files decide.

    Returns:
        A list of `diffstride.data.manifest.Row`.
    """
    folder = pathlib.Path(folder).expanduser()
    if not fold1:
        # The names begin with the class: `airport-barcelona-0-0-a.wav`.
        paths = sorted(
            (folder / "audio").glob("*-*.wav"),
            key=lambda path: name_order(path.name),
        )
        by_class = collections.defaultdict(list)
        for path in paths:
            by_class[path.name.partition("-")[0]].append(path)
        rows = [
            Row(path, name, "test" if index < len(paths) // 10 else "train")
            for name, paths in sorted(by_class.items())
            for index, path in enumerate(paths)
        ]
        return check_rows(rows, folder / "audio")
    rows = []
    for split, part in [("train", "train"), ("test", "evaluate")]:
        path = folder / "evaluation_setup" / f"fold1_{part}.txt"
        names = [
            line.split("\t")[0].strip()
            for line in path.read_text().splitlines()
            if line.strip()
        ]
        rows += [
            Row(
                folder / name,
                pathlib.PurePosixPath(name).name.partition("-")[0],
                split,
            )
            for name in names
        ]
    return check_rows(rows, folder)


def fsd50k(folder):
    """FSD50K: 51,197 clips with one or more of 200 tags.

    The splits are `train`, `val` (together "dev") and `test`.

    Args:
        folder: The folder with `FSD50K.ground_truth/`, `FSD50K.dev_audio/` and
            `FSD50K.eval_audio/`.

    Returns:
        A list of `diffstride.data.manifest.Row`.
    """
    folder = pathlib.Path(folder).expanduser()
    rows = []
    for part in ("dev", "eval"):
        path = folder / "FSD50K.ground_truth" / f"{part}.csv"
        rows += [
            Row(
                folder / f"FSD50K.{part}_audio" / f"{line['fname']}.wav",
                tuple(line["labels"].split(",")),
                line.get("split", "test"),
            )
            for line in _read(path)
        ]
    return check_rows(rows, folder)


def audioset(folder):
    """AudioSet: two million clips with one or more of 527 tags.

    The splits are `balanced_train`, `unbalanced_train` and `eval`, as far as
    there are lists of them. Clips that YouTube no longer has are listed, too:
    `prepare` counts and names their missing files.

    Args:
        folder: The folder with `class_labels_indices.csv`, lists such as
            `eval_segments.csv`, and somewhere below it the sound files. Their
            names are YouTube identifiers; a `Y` may stand before them, and the
            seconds of the segment after them.

    Returns:
        A list of `diffstride.data.manifest.Row`.
    """
    folder = pathlib.Path(folder).expanduser()
    names = {
        line["mid"]: line["display_name"]
        for line in _read(folder / "class_labels_indices.csv")
    }
    files = {}
    for path in folder.rglob("*"):
        match = _AUDIOSET_NAME.match(path.stem)
        if match and path.suffix.lower() in SUFFIXES:
            files[match[1]] = path
    rows = []
    for split in AUDIOSET_SPLITS:
        path = folder / f"{split}_segments.csv"
        if not path.exists():
            continue
        with open(path, newline="", encoding="utf-8") as file:
            lines = [line for line in file if not line.startswith("#")]
        for identifier, _, _, tags in csv.reader(lines, skipinitialspace=True):
            rows.append(
                Row(
                    files.get(identifier, folder / split / f"{identifier}.wav"),
                    tuple(names[tag] for tag in tags.split(",")),
                    split,
                )
            )
    return check_rows(rows, folder)


def _read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
