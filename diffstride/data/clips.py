"""Clips of any length, in memory or in files that are read as needed."""

import dataclasses
import functools
import io

import numpy as np
from absl import logging

from diffstride.data import shards, sounds


@dataclasses.dataclass(frozen=True)
class Clips:
    """Labelled clips of 16-bit samples in memory.

    Args:
        samples: int16 array of all clips, one after the other.
        lengths: int64 array, the number of samples of each clip.
        labels: int32 array, the class of each clip; or, where a clip may have
            several, boolean array `(clips, classes)`.
        class_names: Names of the classes.
    """

    samples: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    class_names: tuple

    def __len__(self):
        return len(self.labels)

    def read(self, clips, length, positions=None):
        """Reads `length` samples of each of some clips, as float32.

        Args:
            clips: Numbers of the clips.
            length: Samples to read. A clip that is shorter is followed by
                zeros.
            positions: For each clip a number in [0, 1) that says where to
                begin, between its first sample and the last place where it
                still has `length` samples. Defaults to its first sample.

        Returns:
            A float32 array `(clips, length)` between -1 and 1.
        """
        starts = np.zeros(len(clips), "int64")
        if positions is not None:
            places = np.maximum(0, self.lengths[clips] - length) + 1
            starts = (positions * places).astype("int64")
        windows = np.zeros((len(clips), length), "int16")
        for row, samples in self.whole(clips):
            samples = samples[starts[row] : starts[row] + length]
            windows[row, : len(samples)] = samples
        return sounds.to_float(windows)

    @functools.cached_property
    def _stops(self):
        return np.cumsum(self.lengths)

    def whole(self, clips):
        """Yields the place in `clips` and the int16 samples of each clip.

        The order may be another one than that of `clips`.
        """
        for row, stop in enumerate(self._stops[clips]):
            yield row, self.samples[stop - self.lengths[clips[row]] : stop]


@dataclasses.dataclass(frozen=True)
class StoredClips:
    """Labelled clips in the files that `diffstride.data.shards` writes.

    A clip that cannot be read is replaced by silence, and named in the log.

    Args:
        paths: Paths of the files.
        files: Integer array, the file of each clip.
        places: Integer array, the place of each clip in its file.
        lengths: As for `Clips`, like the arguments after it.
        max_bad_share: Share of the clips that may be unreadable.
    """

    paths: tuple
    files: np.ndarray
    places: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    class_names: tuple
    max_bad_share: float = 0.01

    __len__ = Clips.__len__
    read = Clips.read

    def whole(self, clips):
        """As for `Clips`; each file is read once."""
        files = self.files[clips]
        for file in np.unique(files):
            rows = np.flatnonzero(files == file)
            yield from zip(rows, self._records(file, clips[rows]), strict=True)

    def in_memory(self):
        """The same clips, as `Clips`."""
        order = np.lexsort((self.places, self.files))
        stops = np.cumsum(self.lengths)
        samples = np.zeros(self.lengths.sum(), "int16")
        for row, part in self.whole(order):
            start = stops[order[row]] - self.lengths[order[row]]
            samples[start : start + len(part)] = part
        return Clips(samples, self.lengths, self.labels, self.class_names)

    def _records(self, file, clips):
        places = self.places[clips].tolist()
        try:
            records = self._open(file).read(places)
        except (RuntimeError, IndexError, ValueError):
            records = [self._record(file, clip) for clip in clips]
        return [shards.samples_of(record) for record in records]

    def _record(self, file, clip):
        """The record of a clip, or None if it cannot be read."""
        place = int(self.places[clip])
        try:
            return self._open(file).read([place])[0]
        except (RuntimeError, IndexError, ValueError) as error:
            problem = f"{self.paths[file]}, clip {place}: {error}"
        if clip not in self._bad:
            self._bad.add(clip)
            logging.warning("A clip is replaced by silence. %s", problem)
        if len(self._bad) > self.max_bad_share * len(self):
            raise ValueError(
                f"At most {self.max_bad_share:.1%} of the {len(self)} clips "
                f"may be unreadable, but {len(self._bad)} are. Delete the "
                "files that are named here and in the log, and write them "
                f"again with the command that wrote them. The last one: "
                f"{problem}"
            )
        return None

    @functools.cached_property
    def _bad(self):
        return set()

    @functools.cached_property
    def _open(self):
        @functools.lru_cache(maxsize=256)  # Each keeps a file open.
        def open_file(file):
            return shards.array_record().ArrayRecordReader(
                str(self.paths[file]), "readahead_buffer_size:0"
            )

        return open_file


def collect(examples, class_names, name="the data"):
    """Stores clips in memory.

    Args:
        examples: Iterable of pairs of int16 samples and a label, or a list of
            labels, which may be empty.
        class_names: Names of the classes.
        name: Name of the data set, for messages.

    Returns:
        The `Clips`. Clips without a sample are left out.
    """
    buffer, lengths, labels, empty = io.BytesIO(), [], [], 0
    for samples, label in examples:
        if not len(samples):
            empty += 1
            continue
        buffer.write(np.ascontiguousarray(samples, "<i2").data)
        lengths.append(len(samples))
        labels.append(label)
    _warn_of_empty(empty, name)
    return Clips(
        np.frombuffer(buffer.getbuffer(), "<i2"),
        np.array(lengths, "int64"),
        to_array(labels, len(class_names)),
        tuple(class_names),
    )


def _warn_of_empty(count, name):
    if count:
        logging.warning("Skipped %d empty clips of %s.", count, name)


def to_array(labels, num_classes):
    """The `labels` of `Clips`, from a class or a list of classes for each."""
    if not labels or np.ndim(labels[0]) == 0:
        return np.array(labels, "int32")
    tags = np.zeros((len(labels), num_classes), bool)
    for row, classes in zip(tags, labels, strict=True):
        row[np.asarray(classes, "int64")] = True
    return tags


def open_stored(parts, label, class_names, name):
    """Opens clips in files, all of them or some of each file.

    Args:
        parts: List of a path, the number of the first clip in that file, and
            the number of clips.
        label: Name of the feature to predict.
        class_names: Names of the classes.
        name: Name of the data set, for messages.

    Returns:
        The `StoredClips`. Clips without a sample are left out.
    """
    paths = list(dict.fromkeys(path for path, _, _ in parts))
    numbers = {path: number for number, path in enumerate(paths)}
    indices = {path: shards.load_index(path) for path in paths}
    files, places, lengths, labels = [], [], [], []
    for path, first, count in parts:
        index = indices[path]
        chosen = range(first, first + count)
        files += [numbers[path]] * count
        places += chosen
        lengths += [index["lengths"][place] for place in chosen]
        labels += [index["labels"][label][place] for place in chosen]
    lengths = np.array(lengths, "int64")
    (kept,) = lengths.nonzero()
    _warn_of_empty(len(lengths) - len(kept), name)
    return StoredClips(
        tuple(paths),
        np.array(files, "int32")[kept],
        np.array(places, "int64")[kept],
        lengths[kept],
        to_array(labels, len(class_names))[kept],
        tuple(class_names),
    )
