"""The encoded images of a prepared set, read one by one in any order."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import logging

from diffstride.data import decoding, shards
from diffstride.data.tfds_source import leave_gpus_alone

# A TFRecord has 12 bytes before its data (length and checksum) and 4 after it.
_AROUND_DATA = 12 + 4
_THREADS = 16
# Number of files that each thread keeps open.
_OPEN_FILES = 32


class Records:
    """The records of a split, read one by one in any order.

    Files that are missing or cut short are named in the log. Their missing
    records are left out.

    Args:
        source: The `TFDSSource` of the set.
        split: A split in the notation of TFDS.
        max_bad_share: Share of the records that may be unusable.
    """

    def __init__(self, source, split, max_bad_share=0.01):
        import tensorflow_datasets as tfds

        self.source = source
        self.split = split
        self.max_bad_share = max_bad_share
        info = source.builder.info
        image, _ = source.keys
        self._features = tfds.features.FeaturesDict(
            {key: info.features[key] for key in source.keys}
        )
        encoded = source.keys if source.has_maps else [image]
        self._decoders = dict.fromkeys(encoded, tfds.decode.SkipDecoding())
        self._is_array_record = (
            info.file_format == tfds.core.FileFormat.ARRAY_RECORD
        )
        self._thread = threading.local()
        self._lock = threading.Lock()
        self._bad = set()
        parts = info.splits[split].file_instructions
        self._paths = [str(part.filename) for part in parts]
        with ThreadPoolExecutor(_THREADS) as pool:
            places = list(pool.map(self._find, parts))
        for part, found in zip(parts, places, strict=True):
            if len(found) < part.take:
                self._name_file(part, len(found))
        self.files = np.repeat(np.arange(len(parts)), list(map(len, places)))
        self._places = np.concatenate(places)
        self._lost = sum(part.take for part in parts) - len(self)
        self._check(f"{self._lost} records of files named in the log")

    def __len__(self):
        return len(self.files)

    @property
    def num_bad(self):
        """Number of records that are missing or were found to be bad."""
        return self._lost + len(self._bad)

    def read(self, indices):
        """Reads records. One that is not usable is replaced by the next one.

        Returns:
            For each the number of the record, its encoded image, and its label
            or encoded label map.
        """
        try:
            records = self._load(indices)
        except Exception:  # One of them is bad. Find out which.
            records = [None] * len(indices)
        return list(map(self._usable, indices, records))

    def decode(self, indices, shape, boxes=None):
        """Reads and decodes images, and their label maps if they have them.

        An image that cannot be decoded is replaced by the next one, like a
        record that cannot be read. The same data and boxes give the same
        replacements.

        Args:
            indices: Numbers of the records.
            shape: Height, width and channels of the images.
            boxes: Function from the sizes of the images, an array `(images,
                2)`, to the boxes `(images, 4)` that are to be resized to this
                shape. Defaults to whole images, which must have the shape.

        Returns:
            `uint8` images `(images, *shape)`, and int32 labels or `uint8` label
            maps `(images, height, width)`.
        """
        resized = boxes is not None
        decode = decoding.decoder(*shape, resized)
        whole = np.tile(
            np.array([[0, 0, *shape[:2]]], "int32"), (len(indices), 1)
        )
        examples = self.read(indices)
        while True:
            numbers, encoded, labels = zip(*examples, strict=True)
            try:
                given = boxes(decoding.sizes(encoded)) if resized else whole
                images = decode(encoded, given)
                if not self.source.has_maps:
                    return images, np.array(labels, "int32")
                decoding.check_sizes(labels, encoded)
                decode_maps = decoding.decoder(*shape[:2], 1, resized, True)
                return images, decode_maps(labels, given)[..., 0]
            except decoding.BadImages as bad:
                for place, problem in bad.problems.items():
                    self.refuse(numbers[place], problem)
                    (examples[place],) = self.read([numbers[place] + 1])

    def _usable(self, index, record):
        while True:
            index = index % len(self)
            try:
                if record is None:
                    (record,) = self._load([index])
                return index, *self._parse(record)
            except Exception as error:  # Whatever a corrupt record causes.
                self.refuse(index, decoding.reason(error))
                index, record = index + 1, None

    def refuse(self, index, problem):
        """Logs and counts a record that cannot be used, each one only once."""
        with self._lock:
            if index in self._bad:
                return
            self._bad.add(index)
            first = np.searchsorted(self.files, self.files[index])
            place = (
                f"{self._paths[self.files[index]]}, record {index - first} of "
                f"those in the split {self.split!r}: {problem}"
            )
            logging.warning("A record is replaced by the next one. %s", place)
            self._check(place)

    def _check(self, last):
        bad, total = self.num_bad, self._lost + len(self)
        if bad > self.max_bad_share * total or bad == total:
            raise ValueError(
                f"At most {self.max_bad_share:.1%} of the examples may be "
                "unusable. Prepare the set again, or raise `max_bad_share` to "
                f"go on without them. Received: split {self.split!r} of "
                f"{self.source.name!r} with {bad} unusable examples of "
                f"{total}, the last: {last}"
            )

    def _find(self, part):
        """The places of the records of a part that its file really has."""
        stop = part.skip + part.take
        if self._is_array_record:
            number = _num_records(part.filename)
            return np.arange(part.skip, min(stop, number))
        return np.array(_offsets(part.filename, stop)[part.skip :], "int64")

    def _name_file(self, part, found):
        logging.warning(
            "%s is missing or cut short: %d of its %d examples are left out.",
            part.filename,
            part.take - found,
            part.take,
        )

    def _load(self, indices):
        paths = [self._paths[file] for file in self.files[indices]]
        places = self._places[indices]
        if not self._is_array_record:
            return _tfrecord_loader()(paths, places).numpy()
        return [
            self._reader(path).read([int(place)])[0]
            for path, place in zip(paths, places, strict=True)
        ]

    def _parse(self, record):
        example = self._features.deserialize_example_np(
            record, decoders=self._decoders
        )
        image, label = self.source.keys
        if self.source.has_maps:
            return example[image], example[label]
        return example[image], int(example[label])

    @property
    def _reader(self):
        """A function that returns an open file; each thread has its own."""
        if not hasattr(self._thread, "reader"):
            self._thread.reader = functools.lru_cache(_OPEN_FILES)(
                lambda path: shards.array_record().ArrayRecordReader(
                    path, "readahead_buffer_size:0"
                )
            )
        return self._thread.reader


@functools.cache
def _tfrecord_loader():
    """A function from paths and places to the TFRecords that are there."""
    import tensorflow as tf

    leave_gpus_alone()

    def load_one(path, place):
        # Use the raw operation, because no other can begin anywhere in a file.
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=[path],
            compression_type="",
            buffer_size=0,
            byte_offsets=[place],
        )
        records = tf.data.experimental.from_variant(
            records, tf.TensorSpec((), tf.string)
        )
        return records.take(1).get_single_element()

    @tf.function(
        input_signature=(
            tf.TensorSpec((None,), tf.string),
            tf.TensorSpec((None,), tf.int64),
        )
    )
    def load(paths, places):
        records = tf.data.Dataset.from_tensor_slices((paths, places)).map(
            load_one, num_parallel_calls=_THREADS, deterministic=True
        )
        count = tf.size(paths, tf.int64)
        return records.batch(count).get_single_element()

    return load


def _num_records(path):
    """How many records an ArrayRecord file has; none if it is missing."""
    try:
        return shards.array_record().ArrayRecordReader(str(path)).num_records()
    except RuntimeError:  # Of array_record 0.5; later ones say zero.
        return 0


def _offsets(path, count):
    """The places of the first records of a TFRecord file, as far as it goes."""
    from etils import epath

    offsets, offset = [], 0
    try:
        with epath.Path(path).open("rb") as file:
            size = file.seek(0, 2) or file.tell()
            while len(offsets) < count and offset + _AROUND_DATA <= size:
                file.seek(offset)
                length = int.from_bytes(file.read(8), "little")
                if offset + _AROUND_DATA + length > size:
                    break
                offsets.append(offset)
                offset += _AROUND_DATA + length
    except OSError:  # The file is missing, or the disk fails.
        pass
    return offsets
