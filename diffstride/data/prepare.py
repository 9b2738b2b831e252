"""Sound files, decoded once: a prepared data set of TFDS, shard by shard."""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import re

import numpy as np
from absl import logging

from diffstride.data.manifest import (
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
):
    """Writes the files of a manifest as a prepared data set of TFDS.

    Decoded, mono and at one sample rate, it loads much faster than the files:
    `tfds.builder(name, data_dir=data_dir)` finds it. Beside the data lies
    `problems.csv`, with each file that was skipped or is unusual.

    The data are written in shards, each of which appears under its name once it
    is complete. After an interruption the same call goes on with the shards
    that are missing, and several processes, on several machines with a common
    folder, can share the work. Whoever finds all shards there completes the
    data set.

    Args:
        rows: List of `Row`.
        name: Name of the data set, in lower case with underscores.
        data_dir: Folder of prepared data sets. Defaults to that of TFDS,
            `~/tensorflow_datasets` or the variable `TFDS_DATA_DIR`.
        sample_rate: Samples per second of the result.
        version: Version of the data set. An existing one is not overwritten.
        shard_size: Number of files in a shard.
        process_index: Number of this process.
        process_count: Number of processes that each write their own shards.

    Returns:
        The TFDS builder and the `Report` on all files; a builder of None as
        long as other processes have shards to write.
    """
    import tensorflow_datasets as tfds

    _check_names(rows, name)
    for argument, value, holds in [
        ("shard_size", shard_size, shard_size > 0),
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
    if (folder / "dataset_info.json").exists():
        raise ValueError(
            "`version` must be new for a set that exists. Received: "
            f"name={name!r}, version={version!r}"
        )
    features = _features(rows)
    shards = _shards(rows, name, folder, shard_size, sample_rate)
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(shards):
        if number % process_count == process_index and not shard.is_written():
            shard.write(features, sample_rate)
            logging.info("Wrote shard %d of %d.", number + 1, len(shards))
    report = Report()
    if not all(shard.is_written() for shard in shards):
        return None, report
    _complete(shards, features, folder, report, sample_rate)
    return tfds.builder_from_directory(folder), report


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file of examples, and beside it, until all are there, what is in it."""

    path: pathlib.Path
    split: str
    rows: list
    digest: str

    @property
    def _index(self):
        return self.path.with_name(f"{self.path.name}.json")

    def is_written(self):
        """Whether it is complete, and of these rows."""
        if not (self.path.exists() and self._index.exists()):
            return False
        return self.read_index()["digest"] == self.digest

    def read_index(self):
        return json.loads(self._index.read_text())

    def remove_index(self):
        self._index.unlink(missing_ok=True)

    def write(self, features, sample_rate):
        import tensorflow as tf

        report = Report()
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        octets = 0
        try:
            with tf.io.TFRecordWriter(str(part)) as writer:
                for row, samples in read_sounds(self.rows, sample_rate, report):
                    record = features.serialize_example(
                        _example(row, samples, sample_rate)
                    )
                    octets += len(record)
                    writer.write(record)
            index = {
                "digest": self.digest,
                "octets": octets,
                **dataclasses.asdict(report),
            }
            # Without its index, a shard counts as not written.
            self.remove_index()
            os.replace(part, self.path)
            part.write_text(json.dumps(index))
            os.replace(part, self._index)
        finally:
            part.unlink(missing_ok=True)


def _shards(rows, name, folder, shard_size, sample_rate):
    splits = collections.defaultdict(list)
    for row in rows:
        splits[row.split].append(row)
    classes = class_names(rows)
    shards = []
    for split in sorted(splits):
        count = -(-len(splits[split]) // shard_size)
        parts = np.array_split(np.arange(len(splits[split])), count)
        for number, part in enumerate(parts):
            own = [splits[split][index] for index in part]
            content = [[str(row.path), labels_of(row)] for row in own]
            digest = json.dumps([sample_rate, classes, content])
            shards.append(
                _Shard(
                    folder / f"{name}-{split}.tfrecord-{number:05d}-of-"
                    f"{count:05d}",
                    split,
                    own,
                    hashlib.sha1(digest.encode()).hexdigest(),
                )
            )
    return shards


def _features(rows):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=class_names(rows))
    if not isinstance(rows[0].label, str):
        label = tfds.features.Sequence(label)
    return tfds.features.FeaturesDict(
        {
            # The Audio feature stores a list of 64-bit integers, which takes
            # three times the space.
            "audio": tfds.features.Tensor(
                shape=(None,),
                dtype=np.int16,
                encoding=tfds.features.Encoding.BYTES,
            ),
            "sample_rate": tfds.features.Scalar(dtype=np.int32),
            "label": label,
            "file": tfds.features.Text(),
        }
    )


def _example(row, samples, sample_rate):
    label = row.label if isinstance(row.label, str) else list(row.label)
    return {
        "audio": samples,
        "sample_rate": sample_rate,
        "label": label,
        "file": str(row.path),
    }


def _complete(shards, features, folder, report, sample_rate):
    """Writes what makes a data set of the shards, and the report."""
    import tensorflow_datasets as tfds

    lengths, octets = collections.defaultdict(list), collections.Counter()
    for shard in shards:
        index = shard.read_index()
        lengths[shard.split].append(index["read"])
        octets[shard.split] += index["octets"]
        report.read += index["read"]
        report.bad += map(tuple, index["bad"])
        report.remarks += map(tuple, index["remarks"])
    report.write(folder / "problems.csv")
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        dataset_name=folder.parent.name,
        filetype_suffix="tfrecord",
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths[split],
                num_bytes=octets[split],
                filename_template=template.replace(split=split),
            )
            for split in lengths
        ],
        version=folder.name,
        filename_template=template,
        description=f"{report.read} sound files at {sample_rate} Hz.",
        check_data=False,
    )
    for shard in shards:
        shard.remove_index()


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
