"""Preparation shard by shard, and the folders of published sets."""

import csv
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from diffstride.data import audio, manifest, prepare, published
from diffstride.data.tfds_clips import TFDSClips

pytestmark = pytest.mark.once

RATE = 1000
LABELS = [("a",), ("b", "c, d"), ("b",)]


def write(path, level=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(100, level / 64), RATE)


def rows(folder, count=7, split=lambda index: "train"):
    for index in range(count):
        write(folder / f"{index}.wav", index + 1)
    return [
        manifest.Row(folder / f"{index}.wav", LABELS[index % 3], split(index))
        for index in range(count)
    ]


def load(folder, name="sounds", **kwargs):
    return audio.tfds_audio(
        name,
        data_dir=folder,
        train_split="train",
        test_split="train",
        sample_rate=RATE,
        window_seconds=0.1,
        batch_size=3,
        **kwargs,
    )


def tags(batches):
    """The targets of each clip, by its level."""
    return {
        int(np.rint(row[0] * 64)): target.tolist()
        for x, y in batches
        for row, target in zip(x, y, strict=True)
    }


class TestShards:
    def test_several_labels_of_a_clip(self, tmp_path):
        builder, report = prepare.prepare(
            rows(tmp_path), "sounds", tmp_path, RATE, shard_size=3
        )
        assert report.read == 7
        split = builder.info.splits["train"]
        assert split.shard_lengths == [3, 2, 2]
        assert builder.info.features["label"].feature.names == [
            "a",
            "b",
            "c, d",
        ]
        expected = {1: [1, 0, 0], 2: [0, 1, 1], 3: [0, 1, 0], 4: [1, 0, 0]}
        found = tags(load(tmp_path, cache_dir=tmp_path / "cache").test())
        assert {level: found[level] for level in expected} == expected
        assert len(found) == 7
        assert tags(load(tmp_path).test()) == found

    def test_goes_on_where_it_was_interrupted(self, tmp_path, monkeypatch):
        listed = rows(tmp_path)
        read, decoded = prepare.read_sounds, []

        def interrupted(some, *arguments):
            for row, samples in read(some, *arguments):
                if row.path.name == "4.wav":
                    raise KeyboardInterrupt
                yield row, samples

        def counted(some, *arguments):
            for row, samples in read(some, *arguments):
                decoded.append(row.path.name)
                yield row, samples

        monkeypatch.setattr(prepare, "read_sounds", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(listed, "sounds", tmp_path, RATE, shard_size=2)
        folder = tmp_path / "sounds" / "1.0.0"
        indices = sorted(folder.glob("sounds-train.index-*"))
        assert [path.name[:24] for path in indices] == [
            f"sounds-train.index-0000{number}" for number in (0, 1)
        ]
        assert len(list(folder.glob("sounds-train.array_record-*"))) == 2
        indices[1].unlink()  # As by a kill between two files.
        monkeypatch.setattr(prepare, "read_sounds", counted)
        prepare.prepare(listed, "sounds", tmp_path, RATE, shard_size=2)
        assert decoded == [f"{index}.wav" for index in range(2, 7)]
        assert sorted(tags(load(tmp_path).test())) == list(range(1, 8))

    def test_shards_of_another_manifest_are_made_again(self, tmp_path):
        listed = rows(tmp_path)
        both = {"shard_size": 4, "process_count": 2}
        prepare.prepare(listed, "sounds", tmp_path, RATE, **both)
        listed[0] = manifest.Row(listed[0].path, ("e",), "train")
        builder, _ = prepare.prepare(
            listed, "sounds", tmp_path, RATE, shard_size=4
        )
        assert builder.info.splits["train"].num_examples == 7
        assert tags(load(tmp_path).test())[1] == [0, 0, 0, 1]

    def test_finished_preparation_run_again(self, tmp_path, caplog):
        listed = rows(tmp_path)
        write(tmp_path / "6.wav", 0)
        _, report = prepare.prepare(listed, "sounds", tmp_path, RATE)
        folder = tmp_path / "sounds" / "1.0.0"
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        for index in range(7):  # The sound files are no longer needed.
            (tmp_path / f"{index}.wav").unlink()
        with caplog.at_level("INFO", logger="absl"):
            builder, again = prepare.prepare(listed, "sounds", tmp_path, RATE)
        assert f"{folder} is already there" in caplog.text
        assert builder.info.splits["train"].num_examples == 7
        assert again == report and len(report.remarks) == 1
        after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert after == before
        listed[0] = manifest.Row(listed[0].path, ("e",), "train")
        for options in ({}, {"shard_size": 2}):
            with pytest.raises(ValueError, match="`version` must be new"):
                prepare.prepare(listed, "sounds", tmp_path, RATE, **options)

    def test_read_by_tfds(self, tmp_path):
        import tensorflow_datasets as tfds

        prepare.prepare(rows(tmp_path), "sounds", tmp_path, RATE)
        source = tfds.data_source("sounds", data_dir=tmp_path, split="train")
        example = source[3]
        assert (
            example["audio"].dtype == np.int16
            and example["sample_rate"] == RATE
        )
        assert example["file"].decode() == f"{tmp_path}/3.wav"

    @pytest.mark.slow
    def test_workers(self, tmp_path):
        listed = rows(tmp_path, 10)
        for name, workers in (("one", 1), ("two", 2)):
            _, report = prepare.prepare(
                listed, name, tmp_path, RATE, shard_size=2, workers=workers
            )
            assert report.read == 10
        assert tags(load(tmp_path, "one").test()) == tags(
            load(tmp_path, "two").test()
        )

    def test_too_many_bad_files(self, tmp_path, monkeypatch):
        listed = rows(tmp_path, 8)
        (tmp_path / "0.wav").write_bytes(b"")
        (tmp_path / "1.wav").write_bytes(b"RIFF")
        options = {"shard_size": 2, "max_bad_share": 0.2}
        with pytest.raises(ValueError, match="with 2 of 8 unusable.*0.wav"):
            prepare.prepare(listed, "sounds", tmp_path, RATE, **options)
        # It ends with the first shard that holds too many.
        folder = tmp_path / "sounds" / "1.0.0"
        assert len(list(folder.glob("*.array_record-*"))) == 1
        options["max_bad_share"] = 0.25
        _, report = prepare.prepare(listed, "sounds", tmp_path, RATE, **options)
        assert report.read == 6
        # Files that are missing are counted before any is decoded.
        monkeypatch.setattr(prepare, "read_sounds", None)
        with pytest.raises(ValueError, match="8 of 8 unusable.*No such file"):
            prepare.prepare(
                [manifest.Row(r.path / "no", "a", "train") for r in listed],
                "others",
                tmp_path,
                RATE,
            )

    def test_processes_share_the_work(self, tmp_path):
        listed = rows(tmp_path, 10, lambda index: ("train", "test")[index % 2])
        listed += [
            manifest.Row(tmp_path / f"gone{index}.wav", ("a",), "train")
            for index in range(2)
        ]
        shares = {"shard_size": 2, "process_count": 2}
        builder, _ = prepare.prepare(listed, "sounds", tmp_path, RATE, **shares)
        assert builder is None
        builder, report = prepare.prepare(
            listed, "sounds", tmp_path, RATE, process_index=1, **shares
        )
        assert report.read == 10
        assert "10 sound files read, 2 skipped (2 missing):" in str(report)
        # A shard without a sound is a shard.
        lengths = builder.info.splits["train"].shard_lengths
        assert sum(lengths) == 5 and 0 in lengths
        assert sorted(tags(load(tmp_path).test())) == [1, 3, 5, 7, 9]
        with open(tmp_path / "sounds/1.0.0/problems.csv") as file:
            assert len(list(csv.DictReader(file))) == 2

    def test_errors(self, tmp_path):
        for options, message in [
            ({"shard_size": 0}, "`shard_size` must be .* shard_size=0"),
            ({"process_index": 1}, "`process_index` .* process_index=1"),
        ]:
            with pytest.raises(ValueError, match=message):
                prepare.prepare(
                    rows(tmp_path), "sounds", tmp_path, RATE, **options
                )


def test_manifest_of_several_labels(tmp_path):
    path = tmp_path / "sounds.csv"
    path.write_text('path,label,split\na.wav,"dog, cat,dog,",train\nb,cat,x\n')
    found = manifest.read_manifest(path, label_separator=",")
    assert [row.label for row in found] == [("dog", "cat"), ("cat",)]
    assert manifest.class_names(found) == ["cat", "dog"]
    for index in range(6):
        write(tmp_path / f"{index}.wav", index + 1)
    lines = [
        f"{i}.wav,{'a;b' if i % 2 else 'a'},{i // 3 + 1}" for i in range(6)
    ]
    path.write_text("\n".join(["path,label,fold", *lines]))
    data = audio.manifest_audio(
        path,
        label_separator=";",
        test_fold=1,
        sample_rate=RATE,
        window_seconds=0.1,
        batch_size=3,
    )
    assert tags(data.test()) == {1: [1, 0], 2: [1, 1], 3: [1, 0]}
    assert sorted(tags(data.train(0))) == [4, 5, 6]


def test_report_of_many_bad_files():
    report = manifest.Report(bad=[(f"{i}.wav", "empty") for i in range(200)])
    assert "0.wav" in str(report) and "199.wav" not in str(report)
    assert "and 150 more" in str(report)


def test_esc50(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-1-A-0.wav,1,0,dog,True,1,A\n5-2-B-7.wav,5,7,crow,False,2,B\n"
    )
    dog, crow = published.esc50(tmp_path)
    audio_folder = tmp_path / "audio"
    assert dog == manifest.Row(audio_folder / "1-1-A-0.wav", "dog", "fold1")
    assert crow == manifest.Row(audio_folder / "5-2-B-7.wav", "crow", "fold5")
    assert published.esc50(tmp_path, esc10=True) == [dog]


def test_acoustic_scenes(tmp_path):
    audio_folder = tmp_path / "audio"
    audio_folder.mkdir()
    names = [
        f"{place}-milan-{index // 2}-{index}-a.wav"
        for place in ("street_traffic", "airport")
        for index in range(40)
    ]
    for name in names:
        (audio_folder / name).touch()
    found = published.acoustic_scenes(tmp_path)
    assert sorted(row.path.name for row in found) == sorted(names)
    assert all(row.path.name.startswith(f"{row.label}-") for row in found)
    tests = [row.label for row in found if row.split == "test"]
    assert sorted(tests) == 4 * ["airport"] + 4 * ["street_traffic"]
    assert published.acoustic_scenes(tmp_path) == found
    setup = tmp_path / "evaluation_setup"
    setup.mkdir()
    (setup / "fold1_train.txt").write_text(
        f"audio/{names[0]}\tstreet_traffic\n"
    )
    (setup / "fold1_evaluate.txt").write_text(f"audio/{names[50]}\tairport\n\n")
    assert published.acoustic_scenes(tmp_path, fold1=True) == [
        manifest.Row(audio_folder / names[0], "street_traffic", "train"),
        manifest.Row(audio_folder / names[50], "airport", "test"),
    ]


def test_fsd50k(tmp_path):
    folder = tmp_path / "FSD50K.ground_truth"
    folder.mkdir()
    (folder / "dev.csv").write_text(
        'fname,labels,mids,split\n64760,"Guitar,Music","/m/1,/m/2",train\n'
        "16399,Guitar,/m/1,val\n"
    )
    (folder / "eval.csv").write_text('fname,labels,mids\n37199,"Music",/m/2\n')
    dev, eval_ = (tmp_path / f"FSD50K.{part}_audio" for part in ("dev", "eval"))
    assert published.fsd50k(tmp_path) == [
        manifest.Row(dev / "64760.wav", ("Guitar", "Music"), "train"),
        manifest.Row(dev / "16399.wav", ("Guitar",), "val"),
        manifest.Row(eval_ / "37199.wav", ("Music",), "test"),
    ]


def test_audioset(tmp_path):
    (tmp_path / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/0,Speech\n1,/m/1,"Wind, noise"\n'
    )
    head = "# Segments csv created\n# num_ytids=3\n# YTID, start, end, labels\n"
    (tmp_path / "eval_segments.csv").write_text(
        head + '--4gqARaEJE, 0.000, 10.000, "/m/0,/m/1"\n'
        '--BfvyPmVMo, 20.000, 30.000, "/m/1"\n'
    )
    (tmp_path / "balanced_train_segments.csv").write_text(
        head + 'a_B-4567890, 5.000, 15.000, "/m/0"\n'
    )
    write(tmp_path / "audio" / "eval" / "Y--4gqARaEJE.wav")
    write(tmp_path / "audio" / "train" / "a_B-4567890_5.000_15.000.flac")
    assert published.audioset(tmp_path) == [
        manifest.Row(
            tmp_path / "audio" / "train" / "a_B-4567890_5.000_15.000.flac",
            ("Speech",),
            "balanced_train",
        ),
        manifest.Row(
            tmp_path / "audio" / "eval" / "Y--4gqARaEJE.wav",
            ("Speech", "Wind, noise"),
            "eval",
        ),
        manifest.Row(
            tmp_path / "eval" / "--BfvyPmVMo.wav", ("Wind, noise",), "eval"
        ),
    ]


@pytest.mark.slow
def test_the_script_counts_the_clips_of_each_split(tmp_path):
    for index in range(20):
        write(tmp_path / "sounds" / "ab"[index % 2] / f"{index}.wav", index + 1)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "diffstride.prepare_audio",
            f"--folder={tmp_path / 'sounds'}",
            "--name=my_sounds",
            f"--data_dir={tmp_path / 'tfds'}",
            "--batch_size=4",
        ],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "test: 4 clips\ntrain: 16 clips\n" in result.stdout
    # The measurement reads the training split alone, and counts no other.
    assert "to test on" not in result.stderr


@pytest.mark.slow
def test_ten_thousand_clips_on_two_workers_killed_and_gone_on(
    tmp_path, monkeypatch
):
    # The processes need no TensorFlow, whose import takes longer than the work.
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    generator = np.random.default_rng(0)
    (tmp_path / "wav").mkdir()
    lines = ["path,label,split"]
    for index in range(10_000):
        noise = generator.integers(-9999, 9999, 800, "int16")
        noise[0] = index
        soundfile.write(tmp_path / "wav" / f"{index}.wav", noise, 8000)
        lines.append(f"{index}.wav,{index % 3},train")
    (tmp_path / "wav" / "list.csv").write_text("\n".join(lines))
    command = [
        sys.executable,
        "-m",
        "diffstride.prepare_audio",
        f"--manifest={tmp_path}/wav/list.csv",
        f"--data_dir={tmp_path}",
        "--name=many",
        "--sample_rate=8000",
        "--shard_size=500",
        "--workers=2",
    ]
    folder = tmp_path / "many" / "1.0.0"

    def indices():
        return {
            path: path.stat().st_mtime_ns
            for path in folder.glob("many-train.index-*")
        }

    root = pathlib.Path(__file__).parents[1]
    process = subprocess.Popen(command, cwd=root)
    while len(indices()) < 5:
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    before = indices()
    assert 5 <= len(before) < 20
    for expected in ("Prepared in", "already there"):
        result = subprocess.run(
            command, cwd=root, capture_output=True, text=True
        )
        assert "train: 10000 clips" in result.stdout
        assert expected in result.stdout + result.stderr
        # What was complete before stays as it is.
        assert before.items() <= indices().items()
    clips = TFDSClips("many", tmp_path, sample_rate=8000).read("train")
    first = clips.read(np.arange(10_000), 1)[:, 0] * 2**15
    np.testing.assert_array_equal(np.sort(first), np.arange(10_000))
    np.testing.assert_array_equal(first % 3, clips.labels)
