"""Manifests: lists of sound files with the class and the split of each."""

import collections
import concurrent.futures
import csv
import dataclasses
import errno
import hashlib
import os
import pathlib

from absl import logging

from diffstride.data import sounds

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".mp3")
# Sound files that the decoder cannot read.
_OTHER_SUFFIXES = (".m4a", ".mp4", ".aac", ".wma", ".webm", ".amr", ".3gp")
# Number of files that are decoded ahead, and so of sounds in memory.
_AHEAD = 64
# Number of files that a printed report names. `problems.csv` names all.
_NAMED = 50
# What the operating system says of a file that is not there.
MISSING = os.strerror(errno.ENOENT)
# The default of the share of sound files that may be unreadable.
MAX_BAD_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a manifest.

    Args:
        path: Path of the sound file.
        label: Name of its class, or a tuple of the names of all its classes.
        split: Name of the split that it belongs to.
    """

    path: pathlib.Path
    label: str | tuple
    split: str


def read_manifest(
    path,
    root=None,
    path_column="path",
    label_column="label",
    split_column=None,
    label_separator=None,
):
    """Reads a CSV file with a line for each sound file.

    Args:
        path: Path of the CSV file, with the names of its columns on top.
        root: Folder that paths in the file are relative to. Defaults to that
            of the CSV file.
        path_column: Column of the paths.
        label_column: Column of the names of classes.
        split_column: Column of the splits. Defaults to `"split"`, or else
            `"fold"`; the folds are splits with the names `fold1`, `fold2`, ...
        label_separator: Text between the names of classes, such as `","`, if a
            sound may have several classes. Defaults to None: each sound has one
            class.

    Returns:
        A list of `Row`.
    """
    path = pathlib.Path(path).expanduser()
    root = path.parent if root is None else pathlib.Path(root).expanduser()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lines = list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error}") from error
    columns = reader.fieldnames or []
    if split_column is None:
        split_column = "split" if "split" in columns else "fold"
        if split_column not in columns:
            raise ValueError(
                f"{path} must have a column `split` or `fold`, or another one "
                f"named by `split_column`. It has {columns}"
            )
    for argument, column in [
        ("path_column", path_column),
        ("label_column", label_column),
        ("split_column", split_column),
    ]:
        if column not in columns:
            raise ValueError(
                f"`{argument}` must be a column of {path}, one of {columns}. "
                f"Received: {argument}={column!r}"
            )
    rows = []
    for number, line in enumerate(lines, start=2):
        values = [
            (line[column] or "").strip()
            for column in (path_column, label_column, split_column)
        ]
        if not all(values):
            raise ValueError(
                f"Every line of {path} must have a path, a label and a split. "
                f"Received: line {number}, {values}"
            )
        sound, label, split = values
        if split.isdigit():
            split = f"fold{int(split)}"
        if label_separator is not None:
            label = tuple(
                dict.fromkeys(
                    name.strip()
                    for name in label.split(label_separator)
                    if name.strip()
                )
            )
        rows.append(Row(root / sound, label, split))
    return check_rows(rows, path)


def read_folder(folder, test_percent=20, lists=None):
    """Lists the sound files of a folder that has a folder for each class.

    Folders whose names begin with `_` or `.` are left out, such as the
    `_background_noise_` of Speech Commands.

    Args:
        folder: Path of the folder, with files like `dog/3.wav`.
        test_percent: Percentage of the files of each class that make the split
            `test`; the others make `train`. The names of the files decide
            which ones. If recordings belong together, such as those of one
            speaker, use a manifest instead.
        lists: Dict from the name of a split to a text file with the files that
            belong to it, like `dog/3.wav`, one on a line. The files on no list
            make `train`, whatever `test_percent`.

    Returns:
        A list of `Row`.
    """
    folder = pathlib.Path(folder).expanduser()
    if not 0 <= test_percent <= 100:
        raise ValueError(
            "`test_percent` must lie between 0 and 100. "
            f"Received: test_percent={test_percent}"
        )
    listed = {
        folder / line.strip(): split
        for split, path in (lists or {}).items()
        for line in pathlib.Path(path).read_text().splitlines()
        if line.strip()
    }
    if not folder.is_dir():
        raise ValueError(f"`folder` must be a folder. Received: {folder}")
    rows, without, unread = [], {}, collections.Counter()
    for class_folder in sorted(folder.glob("[!_.]*")):
        if not class_folder.is_dir():
            continue
        suffixes = {path: path.suffix.lower() for path in _files(class_folder)}
        paths = [path for path in suffixes if suffixes[path] in SUFFIXES]
        if not paths:
            without[class_folder.name] = set(suffixes.values())
        unread.update(s for s in suffixes.values() if s in _OTHER_SUFFIXES)
        paths.sort(
            key=lambda path: name_order(path.relative_to(folder).as_posix())
        )
        tests = 0 if lists else round(len(paths) * test_percent / 100)
        for index, path in enumerate(paths):
            split = listed.pop(path, "test" if index < tests else "train")
            rows.append(Row(path, class_folder.name, split))
    if rows:
        _check_class_folders(folder, without, unread)
    if listed:
        raise ValueError(
            f"`lists` must name sound files in {folder}. Received: "
            f"{len(listed)} that are not there, such as {next(iter(listed))}"
        )
    return check_rows(rows, folder)


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def _check_class_folders(folder, without, unread):
    """Refuses classes without a sound; warns of sounds of unknown formats."""
    if without:
        found = [
            f"{name!r} has only {', '.join(sorted(suffixes))}"
            if suffixes
            else f"{name!r} is empty"
            for name, suffixes in without.items()
        ]
        raise ValueError(
            f"Every folder in {folder} is a class and must have sound files "
            f"that end in one of {', '.join(SUFFIXES)}. Convert its files, "
            "remove it, or begin its name with `_` to leave it out. Received: "
            f"{'; '.join(found)}"
        )
    if unread:
        counts = [f"{count} {suffix}" for suffix, count in unread.items()]
        logging.warning(
            "%s has sounds of formats that cannot be read, which are left out: "
            "%s. Convert them to one of %s.",
            folder,
            ", ".join(counts),
            ", ".join(SUFFIXES),
        )


def name_order(name):
    """A key that brings names into an order which looks random, but is not."""
    return hashlib.sha1(name.encode()).hexdigest()


def check_rows(rows, source):
    """Returns the rows, or raises an error if two name the same sound file."""
    if not rows:
        raise ValueError(
            f"There must be sound files in {source}: lines of a CSV file, or "
            "files in a folder of each class, like dog/3.wav, that end in one "
            f"of {', '.join(SUFFIXES)}. Found none."
        )
    first = {}
    for row in rows:
        other = first.setdefault(row.path, row)
        if other is not row:
            raise ValueError(
                f"A sound file must be in {source} once. Received: {row.path} "
                f"twice, for {other.label!r} in the split {other.split!r} and "
                f"for {row.label!r} in {row.split!r}"
            )
    return rows


def labels_of(row):
    """The names of all classes of a sound, one or several."""
    return (row.label,) if isinstance(row.label, str) else row.label


def class_names(rows):
    """The names of all classes in order; numbers are ordered as numbers."""
    names = {name for row in rows for name in labels_of(row)}
    if all(name.isdecimal() for name in names):
        return sorted(names, key=int)
    return sorted(names)


@dataclasses.dataclass
class Report:
    """Which files of a manifest were read, and what was wrong with the others.

    Args:
        read: Number of files that are used.
        bad: The path and the problem of each file that is not.
        remarks: The path and the remark about files that are used all the
            same: silent, or beyond full scale.
    """

    read: int = 0
    bad: list = dataclasses.field(default_factory=list)
    remarks: list = dataclasses.field(default_factory=list)

    def __str__(self):
        """How many files there were of each kind, and which ones are bad."""
        counts = collections.Counter(remark for _, remark in self.remarks)
        kinds = [f"{count} {remark}" for remark, count in counts.items()]
        text = f"{self.read} sound files read"
        if kinds:
            text += f" ({', '.join(kinds)})"
        text += f", {len(self.bad)} skipped"
        missing = sum(MISSING in problem for _, problem in self.bad)
        if missing:
            text += f" ({missing} missing)"
        lines = [f"  {path}: {problem}" for path, problem in self.bad[:_NAMED]]
        if len(self.bad) > _NAMED:
            lines.append(f"  and {len(self.bad) - _NAMED} more")
        return "\n".join([text + (":" if self.bad else ""), *lines])

    def check(self, total, max_bad_share):
        """Raises a ValueError if too many files cannot be used.

        Args:
            total: Number of files there are, those yet to be read included.
            max_bad_share: Share of them that may be bad.
        """
        if len(self.bad) > max_bad_share * total:
            logging.warning("%s", self)
            path, problem = self.bad[0]
            raise ValueError(
                f"At most {max_bad_share:.0%} of the sound files may be "
                "unusable. Mend them, or raise `max_bad_share` to go on "
                f"without them. Received: max_bad_share={max_bad_share}, with "
                f"{len(self.bad)} of {total} unusable, such as {path}: "
                f"{problem}"
            )

    def write(self, path):
        """Writes a CSV file of all that was wrong or unusual."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "used", "problem"])
            writer.writerows(
                [path, "no", problem] for path, problem in self.bad
            )
            writer.writerows(
                [path, "yes", remark] for path, remark in self.remarks
            )


def read_sounds(rows, sample_rate, report, workers=None):
    """Decodes the files of a manifest, in threads, in their order.

    Args:
        rows: List of `Row`.
        sample_rate: Samples per second.
        report: The `Report` to add to. Files that cannot be read are named
            there and skipped.
        workers: Number of threads. Defaults to the number of processors.

    Yields:
        The `Row` and the int16 samples of each file.
    """

    def read(row):
        try:
            return sounds.read_sound(row.path, sample_rate)
        except sounds.SoundError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(
        workers or os.cpu_count()
    ) as pool:
        queue = collections.deque()
        for row in [*rows, *[None] * _AHEAD]:
            queue.append((row, row and pool.submit(read, row)))
            if len(queue) <= _AHEAD:
                continue
            row, future = queue.popleft()
            sound = future.result()
            if isinstance(sound, sounds.SoundError):
                report.bad.append((str(row.path), str(sound)))
                continue
            report.read += 1
            report.remarks += [(str(row.path), text) for text in sound.remarks]
            yield row, sound.samples
