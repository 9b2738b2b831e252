"""The clips of a sound set of TFDS, in memory or in files."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np
from absl import logging

from diffstride.data import shards, sounds
from diffstride.data.clips import collect, open_stored
from diffstride.data.decoding import reason
from diffstride.data.tfds_source import (
    check_files,
    fingerprint,
    leave_gpus_alone,
    open_builder,
    quiet,
    warn_of_overlap,
)

# The feature with the sample rate of a set that `prepare` wrote.
_RATE = "sample_rate"
# Prepared sets up to this size are read into memory.
_IN_MEMORY_BYTES = 2**31


class TFDSClips:
    """The clips of a set of TFDS, or of a folder that `prepare` wrote.

    Args:
        name: Name of the set, with its config and version if need be.
        data_dir: Folder of the prepared sets. Defaults to that of TFDS.
        audio: Name of the feature that holds the samples. If it does not know
            their rate, the feature `sample_rate` does.
        label: Name of the feature that holds the class, or a sequence of
            classes; `"instrument/family"` for `family` within `instrument`.
        sample_rate: Samples per second. A set of another rate is resampled.
        cache_dir: Folder for files of decoded samples. They are written once
            for all runs, processes and labels that use the set. A folder that
            `prepare` wrote at this sample rate needs none, because its own
            files are read. Without `cache_dir` clips are kept in memory, unless
            they are in such a folder and take more than 2 GiB.
        workers: Number of processes that write these files.
    """

    def __init__(
        self,
        name,
        data_dir=None,
        audio="audio",
        label="label",
        sample_rate=16000,
        cache_dir=None,
        workers=1,
    ):
        self.name = name
        self.builder = open_builder(name, data_dir)
        self.splits = tuple(self.builder.info.splits)
        self.audio = audio
        self.label = label
        self.sample_rate = sample_rate
        self.cache_dir = cache_dir
        self.workers = workers
        features = self.builder.info.features
        class_features = _class_features(features)
        if label not in class_features:
            raise ValueError(
                "`label` must be a feature of classes, one of "
                f"{list(class_features)}. Received: label={label!r}"
            )
        self.class_names = tuple(class_features[label].names)
        self._rate = getattr(_value(features, audio), "sample_rate", None)
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
            The `Clips` or `StoredClips`.
        """
        try:
            instructions = self.builder.info.splits[split].file_instructions
        except ValueError as error:
            raise ValueError(
                f"`split` must be a split of {self.name!r}, one of "
                f"{list(self.splits)} or a slice. Received: split={split!r}"
            ) from error
        check_files(self.builder, [part.filename for part in instructions])
        parts = [
            (pathlib.Path(part.filename), part.skip, part.take)
            for part in instructions
        ]
        arguments = self.label, self.class_names, f"{self.name}, split {split}"
        if self._is_prepared(parts):
            clips = open_stored(parts, *arguments)
            is_small = 2 * clips.lengths.sum() <= _IN_MEMORY_BYTES
            if self.cache_dir is None and is_small:
                return clips.in_memory()
            return clips
        if self.cache_dir is not None:
            return open_stored(self._cached(parts), *arguments)
        examples = (
            (samples, classes[self.label])
            for samples, classes in _read_clips(self, split, [self.label])
        )
        return collect(examples, *arguments[1:])

    def warn_of_overlap(self, train_split, test_split):
        """Warns of test clips that are training clips, too."""
        warn_of_overlap(self.builder, train_split, test_split)

    def _is_prepared(self, parts):
        """Whether `prepare` wrote all files, at the wanted rate."""
        indices = [shards.load_index(path) for path, _, _ in parts]
        return self.audio == "audio" and all(
            index
            and index["sample_rate"] == self.sample_rate
            and self.label in index["labels"]
            for index in indices
        )

    def _cached(self, parts):
        """Writes the samples of files that are not cached yet.

        Returns:
            The parts of the files in the cache, one for each of `parts`.
        """
        content = [fingerprint(self.builder), self.audio, self.sample_rate]
        digest = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        name = self.builder.info.full_name.replace("/", "_")
        folder = pathlib.Path(self.cache_dir).expanduser()
        folder = folder / f"{name}-{digest[:16]}"
        serialize = shards.features().serialize_example
        by_path = {}
        for split, info in self.builder.info.splits.items():
            stops = np.cumsum(info.shard_lengths)
            for number, path in enumerate(map(pathlib.Path, info.filepaths)):
                start = stops[number] - info.shard_lengths[number]
                by_path[path] = shards.Shard(
                    folder / f"{split}.array_record-{number:05d}-of-"
                    f"{len(stops):05d}",
                    len(by_path),
                    digest,
                    self.sample_rate,
                    _Convert(self, f"{split}[{start}:{stops[number]}]"),
                    serialize,
                )
        wanted = [by_path[path] for path in {path: 0 for path, _, _ in parts}]
        for shard in shards.write_shards(wanted, self.workers):
            logging.info("Wrote the samples of %s to %s.", name, shard.path)
        return [(by_path[path].path, skip, take) for path, skip, take in parts]


@dataclasses.dataclass(frozen=True)
class _Convert:
    """Converts a file of a set; a class, because it must be pickled."""

    source: TFDSClips
    split: str

    def __call__(self, report):
        names = list(_class_features(self.source.builder.info.features))
        for samples, classes in _read_clips(self.source, self.split, names):
            report.read += 1
            labels = {name: classes[name].tolist() for name in names}
            yield {"audio": samples}, len(samples), labels


def _read_clips(source, split, names):
    """Yields the converted samples of each clip, and a dict of its labels."""
    import tensorflow_datasets as tfds

    builder = source.builder
    wanted = {source.audio: True}
    if not source._rate:
        wanted[_RATE] = True
    for name in names:
        *outer, last = _steps(name, builder.info.features)
        inner = wanted
        for step in outer:
            inner = inner.setdefault(step, {})
        inner[last] = True
    with quiet():
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            examples = builder.as_data_source(split=split)
        else:
            leave_gpus_alone()
            examples = builder.as_dataset(
                split=split, decoders=tfds.decode.PartialDecoding(wanted)
            ).as_numpy_iterator()
    for example in _named(examples, builder, split):
        samples = np.asarray(example[source.audio])
        rate = int(source._rate or example[_RATE])
        labels = {
            name: np.asarray(_value(example, name), "int64") for name in names
        }
        yield _convert(source, samples, rate, split), labels


def _named(examples, builder, split):
    """Yields the same examples; errors get the name of the split."""
    try:
        yield from examples
    except Exception as error:
        raise ValueError(
            f"The split {split!r} of {builder.info.full_name!r} must be "
            f"intact. Delete {builder.data_path} and prepare the set again. "
            "Received: "
            f"{reason(error)}"
        ) from error


def _convert(source, samples, rate, split):
    """Makes one channel of 16-bit samples at the wanted rate."""
    if not samples.size:
        return np.zeros(0, "int16")
    one_channel = samples.ndim == 1
    if np.issubdtype(samples.dtype, np.integer):
        if one_channel and rate == source.sample_rate:
            converted = samples.astype("int16")
            if np.array_equal(converted, samples):
                return converted
        samples = samples / 2**15
    if not one_channel:
        samples = samples.mean(axis=-1)
    # Lossy codecs exceed 1 a little, so the limit is 2.
    if not np.abs(samples).max() <= 2:
        raise ValueError(
            f"The samples of {source.name!r} must be floating-point numbers "
            "between -1 and 1 or integers of 16 bits. Received: a clip of "
            f"the split {split!r} from {samples.min()} to {samples.max()}"
        )
    if rate != source.sample_rate:
        samples = sounds.resample(samples, rate, source.sample_rate)
    return sounds.to_int16(samples)


def _class_features(features, prefix=""):
    """All features of classes, or of sequences of them, by their names."""
    found = {}
    for key, feature in features.items():
        name = prefix + key
        # If it is a sequence, take the feature of its entries.
        feature = getattr(feature, "feature", feature)
        if hasattr(feature, "num_classes"):
            found[name] = feature
        elif hasattr(feature, "items"):
            found.update(_class_features(feature, f"{name}/"))
    return found


def _steps(name, features):
    """Splits a name like `instrument/family` into keys of nested features."""
    return [name] if name in features else name.split("/")


def _value(features, name):
    """The feature of this name, or its value in an example, or None."""
    for step in _steps(name, features):
        if not hasattr(features, "keys") or step not in features:
            return None
        features = features[step]
    return features
