"""Decodes sound files once, into a prepared data set of TFDS."""

import collections
import dataclasses
import hashlib
import json
import pathlib
import re

import numpy as np
from absl import logging

from diffstride.data import shards
from diffstride.data.manifest import (
    MAX_BAD_SHARE,
    MISSING,
    Report,
    class_names,
    labels_of,
    read_sounds,
)


def prepare(
    rows,
    name,
    data_dir=None,
    sample_rate=16000,
    version="1.0.0",
    shard_size=1000,
    process_index=0,
    process_count=1,
    workers=1,
    max_bad_share=MAX_BAD_SHARE,
):
    """Writes the files of a manifest as a prepared data set of TFDS.

    The clips are decoded, mono and at one sample rate. `tfds_audio` reads them
    much faster than the files, and in any order, because the set has the format
    ArrayRecord. `tfds.data_source(name, data_dir=data_dir)` reads it, too. The
    file `problems.csv` beside the data names each sound file that was skipped
    or is unusual.

    The data are written in shards. After an interruption the same call goes on
    with the shards that are missing. Several calls, on several machines with a
    common folder, share the work: each takes the next shard when it is ready.
    If the set is there already, a call with the same arguments changes nothing.

    Args:
        rows: List of `diffstride.data.manifest.Row`.
        name: Name of the data set, in lower case with underscores.
        data_dir: Folder of prepared data sets. Defaults to that of TFDS,
            `~/tensorflow_datasets` or the variable `TFDS_DATA_DIR`.
        sample_rate: Samples per second of the result.
        version: Version of the data set. An existing one is not overwritten.
        shard_size: Number of files in a shard.
        process_index: Number of this process.
        process_count: Number of processes that each write their own shards. To
            be used on file systems without locks, because there several calls
            cannot share the work by themselves.
        workers: Number of processes that this call starts to write shards. With
            1, this process writes them and decodes in threads.
        max_bad_share: Share of the sound files that may be unusable. The
            preparation ends with an error as soon as there are more.

    Returns:
        The TFDS builder and the `Report` on all files. The builder is None as
        long as other processes have shards to write.
    """
    import tensorflow_datasets as tfds

    _check_names(rows, name)
    for argument, value, holds in [
        ("shard_size", shard_size, shard_size > 0),
        ("workers", workers, workers > 0),
        ("process_index", process_index, 0 <= process_index < process_count),
    ]:
        if not holds:
            raise ValueError(
                f"`{argument}` must be positive, and a `process_index` less "
                f"than `process_count`. Received: {argument}={value}"
            )
    if data_dir is None:
        data_dir = tfds.core.constants.DATA_DIR
    folder = pathlib.Path(data_dir).expanduser() / name / version
    by_split = _plan(rows, name, folder, shard_size, sample_rate, workers)
    every = [shard for split in by_split for shard in by_split[split]]
    is_finished = (folder / "dataset_info.json").exists()
    if is_finished and not _is_of_these(every):
        raise ValueError(
            "`version` must be new for a set that exists with other sounds, "
            "labels, sample rate or shard size. Received: "
            f"name={name!r}, version={version!r}"
        )
    report = _report(every)
    report.check(len(rows), max_bad_share)
    missing = [shard for shard in every if shard.read_index() is None]
    if is_finished and not missing:
        logging.info("%s is already there.", folder)
        return tfds.builder_from_directory(folder), report
    _check_presence(missing, len(rows), max_bad_share)
    own = every[process_index::process_count]
    for shard in shards.write_shards(own, workers, wait=process_count == 1):
        logging.info("Wrote shard %d of %d.", shard.number + 1, len(every))
        report = _report([shard], report)
        report.check(len(rows), max_bad_share)
    report = _report(every)
    if any(shard.read_index() is None for shard in every):
        return None, report
    report.write(folder / "problems.csv")
    _write_metadata(by_split, _features(rows), folder, sample_rate)
    return tfds.builder_from_directory(folder), report


def _plan(rows, name, folder, shard_size, sample_rate, workers):
    """The shards of each split."""
    splits = collections.defaultdict(list)
    for row in rows:
        splits[row.split].append(row)
    numbers = {name: number for number, name in enumerate(class_names(rows))}
    serialize = _features(rows).serialize_example
    plan, first = {}, 0
    for split in sorted(splits):
        count = -(-len(splits[split]) // shard_size)
        parts = np.array_split(np.arange(len(splits[split])), count)
        plan[split] = []
        for number, part in enumerate(parts):
            own = [splits[split][index] for index in part]
            content = [[str(row.path), labels_of(row)] for row in own]
            digest = json.dumps([sample_rate, list(numbers), content])
            shard = shards.Shard(
                folder / f"{name}-{split}.array_record-{number:05d}-of-"
                f"{count:05d}",
                first + number,
                hashlib.sha1(digest.encode()).hexdigest(),
                sample_rate,
                # With several processes, one thread in each is enough to keep
                # all processors busy.
                _Decode(own, numbers, sample_rate, 1 if workers > 1 else None),
                serialize,
            )
            plan[split].append(shard)
        first += count
    return plan


@dataclasses.dataclass(frozen=True)
class _Decode:
    """Decodes the sounds of a shard; a class, because it must be pickled."""

    rows: list
    numbers: dict
    sample_rate: int
    threads: int | None

    def __call__(self, report):
        for row, samples in read_sounds(
            self.rows, self.sample_rate, report, self.threads
        ):
            classes = [self.numbers[name] for name in labels_of(row)]
            label = classes[0] if isinstance(row.label, str) else classes
            example = {
                "audio": samples,
                "sample_rate": self.sample_rate,
                "label": label,
                "file": str(row.path),
            }
            yield example, len(samples), {"label": label}


def _features(rows):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=class_names(rows))
    if not isinstance(rows[0].label, str):
        label = tfds.features.Sequence(label)
    return shards.features(
        sample_rate=tfds.features.Scalar(dtype=np.int32),
        label=label,
        file=tfds.features.Text(),
    )


def _is_of_these(every):
    """Whether files that are there were written for these shards."""
    found = [shards.load_index(shard.path) for shard in every]
    found = [
        index["digest"] == shard.digest
        for index, shard in zip(found, every, strict=True)
        if index
    ]
    return bool(found) and all(found)


def _report(every, report=None):
    """Adds the reports on all shards that are written."""
    report = report or Report()
    for index in filter(None, (shard.read_index() for shard in every)):
        report.read += index["read"]
        report.bad += map(tuple, index["bad"])
        report.remarks += map(tuple, index["remarks"])
    return report


def _check_presence(missing, total, max_bad_share):
    """Raises an error early, not after hours, if too many files are missing."""
    gone = [
        (str(row.path), MISSING)
        for shard in missing
        for row in shard.make.rows
        if not row.path.exists()
    ]
    Report(bad=gone).check(total, max_bad_share)


def _write_metadata(by_split, features, folder, sample_rate):
    """Writes the files by which TFDS reads the shards as a data set."""
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        dataset_name=folder.parent.name,
        filetype_suffix="array_record",
    )
    indices = {
        split: [shard.read_index() for shard in by_split[split]]
        for split in by_split
    }
    clips = sum(index["read"] for each in indices.values() for index in each)
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[index["read"] for index in indices[split]],
                num_bytes=sum(index["octets"] for index in indices[split]),
                filename_template=template.replace(split=split),
            )
            for split in indices
        ],
        version=folder.name,
        filename_template=template,
        description=f"{clips} sound files at {sample_rate} Hz.",
        check_data=False,
    )


def _check_names(rows, name):
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if name in known or not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(
            "`name` must consist of lower-case letters, digits and underscores "
            f"and not be that of a data set of TFDS. Received: name={name!r}"
        )
    splits = {row.split for row in rows}
    wrong = sorted(split for split in splits if not split.isidentifier())
    if wrong:
        raise ValueError(
            "The names of splits must consist of letters, digits and "
            f"underscores. Received: {wrong}"
        )
