"""Clips of any length, one after the other in memory or in a file."""

import dataclasses
import io
import os
import pathlib

import numpy as np
from absl import logging

from diffstride.data import sounds
from diffstride.data.tfds_source import open_builder, quiet

# The feature with the sample rate of a set that `manifest.prepare` wrote.
_RATE = "sample_rate"


@dataclasses.dataclass(frozen=True)
class Clips:
    """Labelled clips of 16-bit samples.

    Args:
        samples: int16 array or memory map of all clips, one after the other.
        bounds: int64 array; clip `i` is `samples[bounds[i]:bounds[i + 1]]`.
        labels: int32 array, the class of each clip; or, where a clip may have
            several, boolean array `(clips, classes)`.
        class_names: Names of the classes.
    """

    samples: np.ndarray
    bounds: np.ndarray
    labels: np.ndarray
    class_names: tuple

    def __len__(self):
        return len(self.labels)

    @property
    def lengths(self):
        """Number of samples of each clip."""
        return np.diff(self.bounds)

    def read(self, clips, length, positions=None):
        """Reads as many samples of each of some clips, as float32.

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
        starts, stops = self.bounds[clips], self.bounds[clips + 1]
        if positions is not None:
            places = np.maximum(0, stops - starts - length) + 1
            starts = starts + (positions * places).astype("int64")
        windows = np.zeros((len(clips), length), "int16")
        for window, start, stop in zip(windows, starts, stops, strict=True):
            samples = self.samples[start : min(start + length, stop)]
            window[: len(samples)] = samples
        return sounds.to_float(windows)


def collect(examples, class_names, path=None):
    """Stores clips in memory, or in a file that is read as it is needed.

    Args:
        examples: Iterable of pairs of int16 samples and a label, or a list of
            labels, which may be empty.
        class_names: Names of the classes.
        path: Path of the file, without a suffix. Defaults to memory.

    Returns:
        The `Clips`.
    """
    bounds, labels = [0], []

    def write(file):
        for samples, label in examples:
            # A memory buffer takes the array as it is.
            file.write(np.ascontiguousarray(samples, "<i2").data)
            bounds.append(bounds[-1] + len(samples))
            labels.append(label)

    def arrays():
        return np.array(bounds, "int64"), _to_array(labels, len(class_names))

    if path is None:
        buffer = io.BytesIO()
        write(buffer)
        samples = np.frombuffer(buffer.getbuffer(), "<i2")
        return Clips(samples, *arrays(), tuple(class_names))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another process may be writing the same file.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write(file)
        os.replace(part, f"{path}.samples")
        bounds_array, labels_array = arrays()
        with open(part, "wb") as file:
            np.savez(file, bounds=bounds_array, labels=labels_array)
        os.replace(part, f"{path}.npz")
    finally:
        part.unlink(missing_ok=True)
    return _open(path, class_names)


def _to_array(labels, num_classes):
    if not labels or np.ndim(labels[0]) == 0:
        return np.array(labels, "int32")
    tags = np.zeros((len(labels), num_classes), bool)
    for row, classes in zip(tags, labels, strict=True):
        row[np.asarray(classes, "int64")] = True
    return tags


def _open(path, class_names):
    with np.load(f"{path}.npz") as index:
        bounds, labels = index["bounds"], index["labels"]
    samples = np.memmap(f"{path}.samples", "<i2", "r")
    if len(samples) != bounds[-1]:
        raise ValueError(
            f"The files {path}.* must belong together. Remove them. "
            f"Received: {len(samples)} samples instead of {bounds[-1]}"
        )
    return Clips(samples, bounds, labels, tuple(class_names))


class TFDSClips:
    """The clips of a set of TFDS, or of a folder prepared from a manifest.

    Args:
        name: Name of the set, with its config and version if need be.
        data_dir: Folder of the prepared sets. Defaults to that of TFDS.
        audio: Name of the feature that holds the samples. Where it does not
            tell their rate, the feature `sample_rate` does.
        label: Name of the feature that holds the class, or a sequence of
            classes; `"instrument/family"` for `family` within `instrument`.
        sample_rate: Samples per second. A set of another rate is resampled.
        cache_dir: Folder for files of decoded samples, which are mapped into
            memory and used again by the next run. Defaults to none: the clips
            are kept in memory.
    """

    def __init__(
        self,
        name,
        data_dir=None,
        audio="audio",
        label="label",
        sample_rate=16000,
        cache_dir=None,
    ):
        self.name = name
        self.builder = open_builder(name, data_dir)
        self.splits = tuple(self.builder.info.splits)
        self.audio = audio
        self.label = label
        self.sample_rate = sample_rate
        self.cache_dir = cache_dir
        features = self.builder.info.features
        labels = _feature(features, label)
        # The feature of each entry, where it is a sequence.
        labels = getattr(labels, "feature", labels)
        if not hasattr(labels, "num_classes"):
            raise ValueError(
                "`label` must be a feature of classes, one of "
                f"{list(features)} or within it. Received: label={label!r}"
            )
        self.class_names = tuple(labels.names)
        self._rate = getattr(_feature(features, audio), "sample_rate", None)
        if audio not in features or not (self._rate or _RATE in features):
            raise ValueError(
                "`audio` must be an audio feature that tells its sample rate, "
                f"one of {list(features)}. Received: audio={audio!r}"
            )

    def read(self, split):
        """Reads a split.

        Args:
            split: A split in the notation of TFDS: `"train[:90%]"`,
                `"fold1+fold2"`.

        Returns:
            The `Clips`.
        """
        if self.cache_dir is None:
            return collect(self._examples(split), self.class_names)
        # Whatever makes another file of samples out of a set.
        identity = [
            self.builder.info.full_name,
            self.builder.info.dataset_size,
            self.audio,
            self.label,
            split,
            self.sample_rate,
        ]
        file_name = "-".join(map(str, identity)).replace("/", "_")
        path = pathlib.Path(self.cache_dir).expanduser() / file_name
        if pathlib.Path(f"{path}.npz").exists():
            return _open(path, self.class_names)
        logging.info("Writing the samples of %s to %s.*", split, path)
        return collect(self._examples(split), self.class_names, path)

    def _examples(self, split):
        import tensorflow_datasets as tfds

        wanted = {self.audio: True}
        if not self._rate:
            wanted[_RATE] = True
        *outer, last = _steps(self.label, self.builder.info.features)
        inner = wanted
        for step in outer:
            inner = inner.setdefault(step, {})
        inner[last] = True
        try:
            with quiet():
                dataset = self.builder.as_dataset(
                    split=split, decoders=tfds.decode.PartialDecoding(wanted)
                )
        except ValueError as error:
            raise ValueError(
                f"`split` must be a split of {self.name!r}, one of "
                f"{list(self.splits)} or a slice. Received: split={split!r}"
            ) from error
        empty = 0
        for example in dataset.as_numpy_iterator():
            samples = example[self.audio]
            if not samples.size:
                empty += 1
                continue
            rate = int(self._rate or example[_RATE])
            label = np.asarray(_feature(example, self.label), "int64")
            yield self._convert(samples, rate, split), label
        if empty:
            logging.warning(
                "Skipped %d empty clips of %s, split %s.",
                empty,
                self.name,
                split,
            )

    def _convert(self, samples, rate, split):
        """Makes one channel of 16-bit samples at the wanted rate."""
        one_channel = samples.ndim == 1
        if np.issubdtype(samples.dtype, np.integer):
            if one_channel and rate == self.sample_rate:
                converted = samples.astype("int16")
                if np.array_equal(converted, samples):
                    return converted
            samples = samples / 2**15
        if not one_channel:
            samples = samples.mean(axis=-1)
        if not np.abs(samples).max() <= 2:  # Lossy codecs go over 1 a little.
            raise ValueError(
                f"The samples of {self.name!r} must be floating-point numbers "
                "between -1 and 1 or integers of 16 bits. Received: a clip of "
                f"the split {split!r} from {samples.min()} to {samples.max()}"
            )
        if rate != self.sample_rate:
            samples = sounds.resample(samples, rate, self.sample_rate)
        return sounds.to_int16(samples)


def _steps(name, features):
    """The keys from the features to one of them, whose name may have a `/`."""
    return [name] if name in features else name.split("/")


def _feature(features, name):
    """A feature, or the value of one in an example; None if there is none."""
    for step in _steps(name, features):
        if not hasattr(features, "keys") or step not in features:
            return None
        features = features[step]
    return features
