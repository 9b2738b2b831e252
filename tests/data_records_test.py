"""Streams of images with records and files that are broken."""

import numpy as np
import pytest

from diffstride.data import decoding
from diffstride.data.images import tfds_images
from diffstride.data.records import Records
from diffstride.data.shards import array_record
from diffstride.data.tfds_source import TFDSSource, write_tfds

pytestmark = pytest.mark.once

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

COUNT, SHARD = 24, 6


def write(folder, encoding="jpeg", file_format="tfrecord"):
    """Grey images, which tell their number and their class."""
    images = [
        np.full((20 + index % 3, 24, 3), 10 * index, "uint8")
        for index in range(COUNT)
    ]
    splits = {split: (images, range(COUNT)) for split in ("train", "test")}
    write_tfds(folder, "greys", splits, COUNT, encoding, SHARD, file_format)
    return sorted((folder / "greys" / "1.0.0").glob("greys-train.*-0*"))


def load(folder, **options):
    options = {
        "batch_size": 4,
        "image_size": 16,
        "crop_padding": 0,
        "flip": False,
        "normalize": None,
        "max_bad_share": 0.3,
        **options,
    }
    return tfds_images("greys", data_dir=str(folder), **options)


def contents(batches):
    """The number that the pixels tell, and the label, of each example."""
    numbers = []
    for x, y in batches:
        grey = np.asarray(x).mean((1, 2, 3)) * 255 / 10
        numbers += zip(
            np.rint(grey).astype(int).tolist(), y.tolist(), strict=True
        )
    return numbers


def labels(batches):
    return [label for _, label in contents(batches)]


def records_of(path):
    """The bytes of the records of a TFRecord file, with what is around them."""
    content, records = path.read_bytes(), []
    while content:
        size = 16 + int.from_bytes(content[:8], "little")
        records.append(content[:size])
        content = content[size:]
    return records


def flip_a_byte(path, number, place=60):
    records = records_of(path)
    broken = bytearray(records[number])
    broken[place] ^= 1
    records[number] = bytes(broken)
    path.write_bytes(b"".join(records))


def break_jpeg(path, number):
    """A record that is intact, of an image that is not."""
    records = records_of(path)
    example = tf.train.Example.FromString(records[number][12:-4])
    image = example.features.feature["image"].bytes_list
    # The header tells the size; the tables behind it are gone.
    image.value[0] = image.value[0][:200] + bytes(100)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index, record in enumerate(records):
            data = record[12:-4]
            if index == number:
                data = example.SerializeToString()
            writer.write(data)


def break_array_record(path, number):
    """Looks for a byte of which this record needs each bit."""
    content = path.read_bytes()
    for place in np.flatnonzero(np.frombuffer(content, "uint8")):
        broken = bytearray(content)
        broken[place] ^= 1
        path.write_bytes(broken)
        reader = array_record().ArrayRecordReader(str(path))
        if reader.num_records() == SHARD and not can_read(reader, number):
            if all(can_read(reader, other) for other in range(number)):
                return
    raise AssertionError("no byte belongs to this record alone")


def can_read(reader, number):
    try:
        return bool(reader.read([number]))
    except RuntimeError:
        return False


def order(folder):
    """The labels of each file in the order of the records."""
    source = TFDSSource("greys", str(folder))
    records = Records(source, "train")
    return np.array(
        [label for _, _, label in records.read(np.arange(COUNT))]
    ).reshape(4, SHARD)


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_pixels_and_labels_belong_together(tmp_path, encoding):
    write(tmp_path, encoding)
    dataset = load(tmp_path)
    for batches in (dataset.train(0), dataset.train(1), dataset.test()):
        found = contents(batches)
        assert sorted(found) == [(index, index) for index in range(COUNT)]


@pytest.mark.parametrize("damage", [flip_a_byte, break_jpeg])
def test_bad_record_is_replaced_by_the_next_one(tmp_path, caplog, damage):
    paths = write(tmp_path)
    before = [labels(load(tmp_path).train(epoch)) for epoch in range(3)]
    names = order(tmp_path)
    damage(paths[1], 2)
    bad, substitute = names[1, 2], names[1, 3]
    dataset = load(tmp_path, workers=3)
    for epoch in range(3):
        expected = [substitute if y == bad else y for y in before[epoch]]
        found = contents(dataset.train(epoch))
        assert [label for _, label in found] == expected
        assert all(number == label for number, label in found)
    messages = [text for text in caplog.messages if "replaced" in text]
    assert len(messages) == 1
    assert f"{paths[1]}, record 2 of those in the split 'train'" in messages[0]
    # A run that goes on later, in another process, makes the same batches.
    again = load(tmp_path, process_index=1, process_count=2)
    rows = np.array(before[2]).reshape(-1, 4)[2:, 2:].ravel()
    expected = [substitute if y == bad else y for y in rows]
    assert labels(again.train(2, 2)) == expected


def test_last_record_is_replaced_by_the_first(tmp_path):
    paths = write(tmp_path)
    names = order(tmp_path)
    flip_a_byte(paths[-1], SHARD - 1)
    found = labels(load(tmp_path).train(0))
    assert found.count(names[0, 0]) == 2 and names[-1, -1] not in found


def test_missing_file_is_left_out(tmp_path, caplog):
    paths = write(tmp_path)
    names = order(tmp_path)
    paths[2].unlink()
    dataset = load(tmp_path)
    assert dataset.train_steps == 4  # 18 of 24 images.
    left = set(names[[0, 1, 3]].ravel().tolist())
    assert set(labels(dataset.train(0))) < left
    assert f"{paths[2]} is missing or cut short: 6 of its 6" in caplog.text


def test_file_that_is_cut_short(tmp_path, caplog):
    paths = write(tmp_path)
    paths[0].write_bytes(paths[0].read_bytes()[:-20])
    records = Records(TFDSSource("greys", str(tmp_path)), "train", 0.1)
    assert len(records) == COUNT - 1
    assert f"{paths[0]} is missing or cut short: 1 of its 6" in caplog.text
    part = Records(TFDSSource("greys", str(tmp_path)), "train[3:9]", 0.5)
    assert len(part) == 5


def test_too_many_bad_records(tmp_path):
    paths = write(tmp_path)
    for number in range(3):
        flip_a_byte(paths[1], number)
    message = (
        "At most 10.0%.*'train' of 'greys' with 3 unusable examples of 24, the "
        f"last: {paths[1]}, record"
    )
    dataset = load(tmp_path, max_bad_share=0.1)
    with pytest.raises(ValueError, match=message):
        list(dataset.train(0))
    paths[1].unlink()
    with pytest.raises(ValueError, match="6 unusable examples of 24, the last"):
        load(tmp_path, max_bad_share=0.1)


def test_neighbours_come_from_several_files(tmp_path):
    """Even with a small buffer, of which two batches are four files."""
    write(tmp_path)
    names = order(tmp_path)
    found = labels(load(tmp_path, shuffle_buffer=1).train(0))
    file_of = {name: file for file in range(4) for name in names[file].tolist()}
    files = [file_of[label] for label in found]
    # Blocks of 16, so each of these files is read as a whole.
    assert sorted(files[::SHARD]) == [0, 1, 2, 3]
    assert files != sorted(files)


def test_array_record(tmp_path):
    """A set in the other format of TFDS; a record of it is broken."""
    (path, *_) = write(tmp_path, file_format="array_record")
    expected = [(index, index) for index in range(COUNT)]
    assert sorted(contents(load(tmp_path).train(0))) == expected
    assert sorted(contents(load(tmp_path).test())) == expected
    names = order(tmp_path)
    break_array_record(path, 2)
    found = labels(load(tmp_path).train(0))
    assert found.count(names[0, 3]) == 2 and names[0, 2] not in found
    path.unlink()
    assert load(tmp_path).train_steps == 4


class TestDecoding:
    def image(self, height=21, width=34):
        generator = np.random.default_rng(0)
        return generator.integers(0, 256, (height, width, 3), dtype="uint8")

    def test_sizes(self):
        image = self.image()
        encoded = [
            tf.io.encode_png(image).numpy(),
            tf.io.encode_jpeg(image).numpy(),
            tf.io.encode_jpeg(image, progressive=True).numpy(),
            # A comment and a thumbnail come before the size.
            tf.io.encode_jpeg(image, xmp_metadata="x" * 999).numpy(),
            b"\xff\xd8\xff\xff" + tf.io.encode_jpeg(image).numpy()[3:],
            tf.io.encode_jpeg(image[:, :, :1]).numpy(),
        ]
        assert decoding.sizes(encoded).tolist() == 6 * [[21, 34]]
        with pytest.raises(decoding.BadImages) as info:
            decoding.sizes([encoded[0], b"", encoded[1], encoded[2][:50]])
        assert list(info.value.problems) == [1, 3]

    def test_boxes(self):
        image = self.image()
        encoded = 2 * [tf.io.encode_png(image).numpy()]
        boxes = np.array([[0, 0, 21, 34], [3, 5, 14, 10]], "int32")
        whole, part = decoding.decoder(7, 5, 3)(encoded, boxes)
        assert whole.shape == part.shape == (7, 5, 3)
        for result, box in ((whole, image), (part, image[3:17, 5:15])):
            expected = tf.image.resize(box, (7, 5), antialias=True)
            np.testing.assert_allclose(result, expected, atol=0.501)
        with pytest.raises(decoding.BadImages) as info:
            decoding.decoder(7, 5, 3)([encoded[0], b"\x89PNG"], boxes)
        assert list(info.value.problems) == [1]
