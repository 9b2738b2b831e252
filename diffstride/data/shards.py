"""Writes clips to files that many processes may write at the same time.

A shard is an ArrayRecord file of examples, as TFDS writes it and reads it with
`tfds.data_source`. Any clip in it can be read alone. Beside it lies its index,
a JSON file with the length and the labels of every clip. A shard counts as
written once its index is there, so an interrupted run goes on with the shards
that are missing.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import json
import multiprocessing
import os
import pathlib
import threading
import time
from collections.abc import Callable

import numpy as np
from absl import logging

from diffstride.data.manifest import Report

# `group_size:1` lets any clip be read alone. The files are not compressed,
# because 16-bit sounds would shrink by less than a tenth and take twice as long
# to read.
_OPTIONS = "group_size:1,uncompressed"
_SECONDS_TO_WAIT = 0.5


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of clips, and how to make it.

    Args:
        path: Path of the file.
        number: Number of the shard, which no other shard of the folder has.
        digest: Digest of all that the clips depend on. A file with another
            digest is written again.
        sample_rate: Samples per second.
        make: Function of a `Report` that yields the example, the number of
            samples and the labels of each clip: a dict from the name of a
            feature to a class or a list of classes. It must be picklable if
            several workers write.
        serialize: Function from an example to bytes, picklable too.
    """

    path: pathlib.Path
    number: int
    digest: str
    sample_rate: int
    make: Callable
    serialize: Callable

    def read_index(self):
        """The index, or None if the shard has not been written yet."""
        index = load_index(self.path)
        return index if index and index["digest"] == self.digest else None

    def write(self):
        """Writes the file, then its index. Each gets its name once complete."""
        module = array_record()
        for old in self.path.parent.glob(f".{self.path.name}.*"):
            # A process that was killed left it behind.
            old.unlink(missing_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        report, lengths, labels, octets = Report(), [], {}, 0
        try:
            writer = module.ArrayRecordWriter(str(part), _OPTIONS)
            try:
                for example, length, classes in self.make(report):
                    record = self.serialize(example)
                    octets += len(record)
                    writer.write(record)
                    lengths.append(length)
                    for name, value in classes.items():
                        labels.setdefault(name, []).append(value)
            finally:
                writer.close()
            index = {
                "digest": self.digest,
                "sample_rate": self.sample_rate,
                "octets": octets,
                "lengths": lengths,
                "labels": labels,
                **dataclasses.asdict(report),
            }
            _index_path(self.path).unlink(missing_ok=True)
            os.replace(part, self.path)
            part.write_text(json.dumps(index))
            os.replace(part, _index_path(self.path))
        finally:
            part.unlink(missing_ok=True)


def _index_path(path):
    name = path.name.replace("array_record", "index")
    return path.with_name(f"{name}.json")


def load_index(path):
    """The index of a shard, or None if the shard or its index is missing.

    Args:
        path: Path of the shard.

    Returns:
        A dict: the `digest` of the shard, its `sample_rate`, its size in
        `octets`, the `lengths` and `labels` of its clips, and the fields of a
        `Report`.
    """
    try:
        text = _index_path(path).read_text()
    except OSError:
        return None
    return json.loads(text) if path.exists() else None


def features(**others):
    """The features of an example: `audio`, its int16 samples, and others."""
    import tensorflow_datasets as tfds

    # The Audio feature of TFDS stores a list of 64-bit integers, which takes
    # three times the space.
    audio = tfds.features.Tensor(
        shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
    )
    return tfds.features.FeaturesDict({"audio": audio, **others})


_audio_alone = functools.cache(features)


def samples_of(record):
    """The int16 samples in a serialized example; none if that is None."""
    if record is None:
        return np.zeros(0, "int16")
    return _audio_alone().deserialize_example_np(record)["audio"]


def array_record():
    """The module that reads and writes ArrayRecord files."""
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise ImportError(
            "Clips in files need the package `array_record`: install it with "
            "`pip install array_record`."
        ) from error
    return array_record_module


def write_shards(shards, workers=1, wait=True):
    """Writes the shards that are not there yet.

    Several calls may run at the same time, in processes of one or of several
    machines with a common folder: each shard is written by one of them. If one
    is killed, another one writes its shards.

    Args:
        shards: List of `Shard`, all in one folder.
        workers: Number of processes that write.
        wait: Whether to wait for shards that others are writing.

    Yields:
        Each shard that this call wrote.
    """
    missing = [shard for shard in shards if shard.read_index() is None]
    if not missing:
        return
    missing[0].path.parent.mkdir(parents=True, exist_ok=True)
    with _engine(min(workers, len(missing))) as write_all:
        while missing:
            written = 0
            for shard, is_written in write_all(_write_unclaimed, missing):
                if is_written:
                    written += 1
                    yield shard
            missing = [shard for shard in missing if shard.read_index() is None]
            if missing and not written:
                if not wait:
                    return
                time.sleep(_SECONDS_TO_WAIT)


def _write_unclaimed(shard):
    """Writes a shard, unless it is there or another process is writing it."""
    with _claimed(shard) as is_ours:
        if not is_ours or shard.read_index() is not None:
            return False
        shard.write()
        return True


@contextlib.contextmanager
def _claimed(shard):
    """Locks a shard. The lock ends when the process ends, even if killed."""
    with open(shard.path.with_name(".lock"), "a") as file:
        try:
            # One byte of the file stands for each shard.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, shard.number)
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError as error:
            logging.warning("%s cannot be locked: %s", file.name, error)
        yield True


@contextlib.contextmanager
def _engine(workers):
    """A function that maps over shards, in this process or in `workers` others.

    It yields pairs of a shard and a result, in the order they are ready.
    """
    if workers < 2:
        yield lambda function, shards: (
            (shard, function(shard)) for shard in shards
        )
        return
    # Do not fork, because a fork of a process with threads, such as those of
    # TensorFlow, may hang.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _end_with_parent
    )

    def write_all(function, shards):
        futures = {pool.submit(function, shard): shard for shard in shards}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()

    try:
        yield write_all
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent():
    """Ends this worker when the process that started it is killed."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
