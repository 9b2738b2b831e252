"""Clips of TFDS sets: in memory, in their own files, in a cache of files."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from diffstride.data import audio, manifest, prepare, shards, tfds_clips
from diffstride.data.clips import Clips, StoredClips
from diffstride.data.tfds_clips import TFDSClips

pytestmark = pytest.mark.once

RATE = 1000


def write_notes(folder, count=7, families=("brass", "string"), rate=RATE):
    """A TFRecord set of clips that hold their number, and two kinds of labels.

    Clip 2 is empty.
    """
    import tensorflow_datasets as tfds

    shutil.rmtree(folder / "notes", ignore_errors=True)
    tfds.dataset_builders.store_as_tfds_dataset(
        name="notes",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "audio": tfds.features.Audio(sample_rate=rate),
                "pitch": tfds.features.ClassLabel(num_classes=128),
                "instrument": {
                    "family": tfds.features.ClassLabel(names=families),
                    "tags": tfds.features.Sequence(
                        tfds.features.ClassLabel(names=["loud", "long"])
                    ),
                },
            }
        ),
        split_datasets={
            split: [
                (
                    f"{index}",
                    {
                        "audio": np.full(
                            0 if index == 2 else 10 + index, index
                        ),
                        "pitch": 60 + index,
                        "instrument": {
                            "family": families[index % 2],
                            "tags": ["long"] * (index % 2),
                        },
                    },
                )
                for index in range(count)
            ]
            for split in ("train", "test")
        },
        data_dir=folder,
    )


def opened(folder, label="pitch", cache_dir=None, **kwargs):
    return TFDSClips(
        "notes",
        folder,
        label=label,
        sample_rate=kwargs.pop("sample_rate", RATE),
        cache_dir=cache_dir,
        **kwargs,
    )


def contents(clips):
    """The samples and the label of each clip, in any order."""
    samples = dict(clips.whole(np.arange(len(clips))))
    return sorted(
        (samples[index].tolist(), clips.labels[index].tolist())
        for index in range(len(clips))
    )


@pytest.mark.tensorflow
def test_cache_holds_what_memory_holds(tmp_path):
    write_notes(tmp_path)
    for label in ("pitch", "instrument/family", "instrument/tags"):
        for split in ("train", "train[:3]+test[50%:]"):
            in_memory = opened(tmp_path, label).read(split)
            in_files = opened(tmp_path, label, tmp_path / "cache").read(split)
            assert isinstance(in_memory, Clips)
            assert isinstance(in_files, StoredClips)
            assert contents(in_files) == contents(in_memory)
            assert in_files.class_names == in_memory.class_names
            windows = [
                clips.read(np.arange(len(clips)), 12, np.full(len(clips), 0.9))
                for clips in (in_memory, in_files)
            ]
            np.testing.assert_array_equal(*windows)
    # One copy of the samples for all of these labels and slices.
    (folder,) = (tmp_path / "cache").iterdir()
    names = sorted(path.name for path in folder.glob("*.array_record-*"))
    assert names == [
        f"{split}.array_record-00000-of-00001" for split in ("test", "train")
    ]


@pytest.mark.tensorflow
def test_cache_is_written_once(tmp_path, monkeypatch):
    write_notes(tmp_path)
    first = opened(tmp_path, cache_dir=tmp_path / "cache").read("train")
    monkeypatch.setattr(tfds_clips, "_read_clips", None)
    again = opened(tmp_path, cache_dir=tmp_path / "cache").read("train")
    assert contents(again) == contents(first)


@pytest.mark.tensorflow
def test_cache_of_a_set_that_changed_is_not_used(tmp_path):
    """The label changes, but not the name, version or number of bytes."""
    for families in [("brass", "string"), ("string", "brass")]:
        write_notes(tmp_path, families=families)
        clips = opened(tmp_path, "instrument/family", tmp_path / "cache").read(
            "train"
        )
        assert clips.class_names == families
        write_notes(tmp_path, count=7 + len(families[0]))
        more = opened(tmp_path, cache_dir=tmp_path / "cache").read("train")
        assert len(more) == 6 + len(families[0])


@pytest.mark.tensorflow
@pytest.mark.parametrize("cached", [False, True])
def test_corrupt_record_names_the_set_and_its_part(tmp_path, cached):
    write_notes(tmp_path)
    (path,) = (tmp_path / "notes" / "1.0.0").glob("*train*")
    content = bytearray(path.read_bytes())
    content[len(content) - 8] ^= 1  # The end of the data of the last record.
    path.write_bytes(content)
    source = opened(tmp_path, cache_dir=tmp_path / "cache" if cached else None)
    with pytest.raises(
        ValueError,
        match=f"'train.*' of 'notes/1.0.0'.*{tmp_path}.*corrupted record",
    ):
        source.read("train")


@pytest.mark.tensorflow
def test_rate_of_the_cache(tmp_path):
    write_notes(tmp_path, rate=2 * RATE)
    whole = opened(tmp_path, cache_dir=tmp_path / "c", sample_rate=2 * RATE)
    half = opened(tmp_path, cache_dir=tmp_path / "c")
    assert sorted(whole.read("train").lengths) == [10, 11, 13, 14, 15, 16]
    assert sorted(half.read("train").lengths) == [5, 6, 7, 7, 8, 8]


def write_sounds(folder, labels):
    folder.mkdir(exist_ok=True)
    lines = ["path,label,split"]
    for index, label in enumerate(labels):
        soundfile.write(folder / f"{index}.wav", np.full(9, index / 64), RATE)
        lines.append(f"{index}.wav,{label},{'test' if index > 3 else 'train'}")
    (folder / "list.csv").write_text("\n".join(lines))
    return manifest.read_manifest(folder / "list.csv")


def levels(batches):
    return {
        int(np.rint(64 * row[0])): int(target)
        for x, y in batches
        for row, target in zip(x, y, strict=True)
    }


def load(folder, **kwargs):
    return audio.tfds_audio(
        "sounds",
        data_dir=folder,
        sample_rate=RATE,
        window_seconds=0.005,
        batch_size=2,
        **kwargs,
    )


@pytest.mark.parametrize("cached", [False, True])
def test_corrected_manifest(tmp_path, cached):
    """Prepared again after a correction, no old label is served."""
    cache = {"cache_dir": tmp_path / "cache"} if cached else {}
    for labels in ("aabbab", "bbaaba"):
        rows = write_sounds(tmp_path / "wav", labels)
        shutil.rmtree(tmp_path / "sounds", ignore_errors=True)
        prepare.prepare(rows, "sounds", tmp_path, RATE)
        data = load(tmp_path, **cache)
        found = levels(data.train(0)) | levels(data.test())
        assert "".join("ab"[found[level]] for level in range(6)) == labels


def test_prepared_set_is_not_copied(tmp_path, monkeypatch):
    rows = write_sounds(tmp_path / "wav", "aabbab")
    prepare.prepare(rows, "sounds", tmp_path, RATE)

    def read(**kwargs):
        return TFDSClips("sounds", tmp_path, sample_rate=RATE, **kwargs).read(
            "train"
        )

    small = read()
    assert isinstance(small, Clips)
    cached = read(cache_dir=tmp_path / "cache")
    monkeypatch.setattr(tfds_clips, "_IN_MEMORY_BYTES", 71)
    large = read()
    for clips in (cached, large):
        assert isinstance(clips, StoredClips)
        assert contents(clips) == contents(small)
    assert not (tmp_path / "cache").exists()


def test_clips_that_are_trained_on_and_tested(tmp_path, caplog):
    rows = write_sounds(tmp_path / "wav", "aabbab")
    prepare.prepare(rows, "sounds", tmp_path, RATE)
    load(tmp_path)
    assert "training" not in caplog.text
    load(tmp_path, test_split="train[3:]+test")
    assert (
        "1 of the 3 test examples of sounds/1.0.0 are training examples, too: "
        "the split to train on is train, that to test on train[3:]+test"
    ) in caplog.text
    audio.manifest_audio(
        tmp_path / "wav" / "list.csv",
        test_split="train",
        sample_rate=RATE,
        batch_size=2,
    )
    assert "{'train'} is trained on and tested on" in caplog.text


def flip_a_byte(path, place):
    """Changes a clip of 16-bit samples of this level."""
    data = bytearray(path.read_bytes())
    sample = int(place / 64 * 2**15).to_bytes(2, "little")
    start = data.index(9 * sample)
    data[start] ^= 1
    path.write_bytes(data)


def test_clip_that_cannot_be_read_is_silent(tmp_path, caplog):
    rows = write_sounds(tmp_path / "wav", "abababab")
    prepare.prepare(rows, "sounds", tmp_path, RATE)
    (path,) = (tmp_path / "sounds/1.0.0").glob("sounds-train.array_record-*")
    flip_a_byte(path, 3)
    source = TFDSClips("sounds", tmp_path, sample_rate=RATE, cache_dir="c")
    clips = source.read("train")
    object.__setattr__(clips, "max_bad_share", 0.25)
    for _ in range(2):
        x = clips.read(np.arange(4), 4)
        np.testing.assert_array_equal(64 * x[:, 0], [0, 1, 2, 0])
    named = [r for r in caplog.messages if "replaced by silence" in r]
    assert len(named) == 1 and f"{path}, clip 3" in named[0]
    # Four clips may not lose one.
    with pytest.raises(ValueError, match=f"At most 1.0%.*{path}, clip 3"):
        source.read("train").read(np.arange(4), 4)


def test_prepared_set_needs_no_tensorflow(tmp_path):
    rows = write_sounds(tmp_path / "wav", "abababab")
    prepare.prepare(rows, "sounds", tmp_path, RATE)
    code = f"""
import sys
from diffstride.data.audio import tfds_audio
data = tfds_audio(
    "sounds", data_dir={str(tmp_path)!r}, batch_size=2, sample_rate={RATE}
)
print(len(data.train(0)), *(len(x) for x, y in data.test()))
print("tensorflow" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "2 2 2\nFalse\n", result.stderr


def test_missing_file_of_a_prepared_set(tmp_path):
    """Preparing again mends what is damaged, and only that."""
    rows = write_sounds(tmp_path / "wav", "abababab")
    prepare.prepare(rows, "sounds", tmp_path, RATE)
    before = levels(load(tmp_path).test())
    (path,) = (tmp_path / "sounds/1.0.0").glob("sounds-test.array_record-*")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing"):
        load(tmp_path)
    prepare.prepare(rows, "sounds", tmp_path, RATE)
    assert levels(load(tmp_path).test()) == before


@pytest.mark.tensorflow
def test_samples_of_other_kinds(tmp_path):
    write_notes(tmp_path)
    source = opened(tmp_path)

    def converted(samples):
        return tfds_clips._convert(source, samples, RATE, "train").tolist()

    assert converted(np.array([[100, 300], [-100, 100]])) == [200, 0]
    assert converted(np.array([0.5, -1.0])) == [2**14, -(2**15)]
    # A little over full scale, as lossy codecs return it.
    assert converted(np.array([1.2, 0.0])) == [2**15 - 1, 0]
    for wrong in ([0, 2**17], [0.0, 3.0], [np.nan, 0.0]):
        with pytest.raises(ValueError, match="between -1 and 1 or integers"):
            converted(np.array(wrong))


def test_without_array_record(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(ImportError, match="pip install array_record"):
        shards.array_record()
