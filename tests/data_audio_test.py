"""Windows, whole clips, several tasks; loaders of folders, manifests, TFDS."""

import dataclasses
import io

import keras
import numpy as np
import pytest
import soundfile
from absl import logging

from diffstride.data import audio, manifest, prepare
from diffstride.data.clip_windows import from_clips, throughput
from diffstride.data.clips import collect
from diffstride.data.multi_task import multi_task
from diffstride.models.audio_cnn import audio_cnn

pytestmark = pytest.mark.once

WINDOW = 10
NAMES = ("a", "b", "c")


def clips(lengths, seed=0, names=NAMES):
    """Clips whose samples tell where they come from: 100 * clip + place."""
    examples = [
        (100 * index + np.arange(length), index % len(names))
        for index, length in enumerate(lengths)
    ]
    return collect(examples, names)


def dataset(train=(25,) * 12, test=(25, 10, 7, 31, 25), names=NAMES, **kwargs):
    arguments = {"name": "clips", "window": WINDOW, "batch_size": 4, **kwargs}
    return from_clips(
        clips(train, names=names), clips(test, names=names), **arguments
    )


def integers(x):
    """The samples that `clips` wrote."""
    return np.rint(x * 2**15).astype(int)


def same(batches, others):
    batches, others = list(batches), list(others)
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        for part, other_part in zip(batch, other, strict=True):
            np.testing.assert_array_equal(part, other_part)


@pytest.fixture
def log():
    """What is logged, as a function that returns it."""
    stream = io.StringIO()
    handler = logging.logging.StreamHandler(stream)
    logger = logging.get_absl_logger()
    logger.addHandler(handler)
    yield stream.getvalue
    logger.removeHandler(handler)


class TestClips:
    def test_read(self):
        store = clips((4, 20, 3))
        assert len(store) == 3 and store.lengths.tolist() == [4, 20, 3]
        x = store.read(np.array([1, 2, 0]), 5)
        assert x.dtype == np.float32 and np.abs(x).max() <= 1
        assert integers(x).tolist() == [
            [100, 101, 102, 103, 104],
            [200, 201, 202, 0, 0],
            [0, 1, 2, 3, 0],
        ]

    def test_positions(self):
        store = clips((4, 20))
        first = [
            integers(store.read(np.array([1]), 18, np.array([position])))[0, 0]
            for position in (0, 0.33, 0.34, 0.66, 0.67, 1 - 1e-9)
        ]
        assert first == [100, 100, 101, 101, 102, 102]
        exact = store.read(np.array([0]), 4, np.array([0.99]))
        assert integers(exact).tolist() == [[0, 1, 2, 3]]


class TestTraining:
    def test_each_clip_once_an_epoch_in_another_order(self):
        data = dataset()
        assert data.train_steps == 3
        assert data.input_shape == (WINDOW,) and data.num_classes == 3
        orders = []
        for epoch in range(3):
            batches = list(data.train(epoch))
            assert [x.shape for x, _ in batches] == [(4, WINDOW)] * 3
            x = integers(np.concatenate([x for x, _ in batches]))
            y = np.concatenate([y for _, y in batches])
            order = x[:, 0] // 100
            assert sorted(order) == list(range(12))
            np.testing.assert_array_equal(y, order % 3)
            orders.append(order.tolist())
        assert orders[0] != orders[1] != orders[2] != orders[0]

    def test_windows_begin_anywhere_in_a_clip(self):
        data = dataset(train=(12,) * 4)
        starts = []
        for epoch in range(100):
            ((x, _),) = data.train(epoch)
            x = integers(x) % 100
            assert np.all(np.diff(x, axis=1) == 1)
            starts += x[:, 0].tolist()
        counts = np.bincount(starts)
        assert len(counts) == 3
        assert np.all(np.abs(counts - 400 / 3) < 40)  # 4 standard deviations.

    def test_short_clips_are_followed_by_zeros(self):
        data = dataset(train=(6,) * 4)
        ((x, _),) = data.train(0)
        x = integers(x)
        assert np.all(x[:, 6:] == 0)
        assert np.all(x[:, :6] % 100 == np.arange(6))

    def test_seed_epoch_and_step_say_it_all(self):
        same(dataset(seed=1).train(2), dataset(seed=1).train(2))
        same(dataset().train(1, 2), list(dataset().train(1))[2:])
        data = dataset()
        list(data.train(0)), list(data.train(1)), list(data.train(2))
        same(data.train(0), dataset().train(0))
        (x, _), (other, _) = (dataset(seed=seed).train(0)[0] for seed in (0, 1))
        assert not np.array_equal(x, other)

    def test_the_same_in_every_process_and_version(self):
        x, y = dataset(seed=3).train(7, 1)[0]
        assert integers(x)[:, 0].tolist() == [412, 112, 1107, 604]
        assert y.tolist() == [1, 1, 2, 0]

    def test_epochs_of_any_number_of_steps(self):
        data = dataset(train=(25,) * 3, train_steps=4)
        x = np.concatenate([x for x, _ in data.train(0)])
        clip = integers(x)[:, 0] // 100
        # Rounds through all three clips, one after the other.
        assert [sorted(clip[i : i + 3]) for i in (0, 3, 6, 9)] == 4 * [
            [0, 1, 2]
        ]

    def test_processes_share_a_batch(self):
        parts = [
            dataset(process_index=index, process_count=2) for index in (0, 1)
        ]
        for whole, first, second in zip(
            dataset().train(1), *(p.train(1) for p in parts), strict=True
        ):
            for index in (0, 1):
                joined = np.concatenate([first[index], second[index]])
                np.testing.assert_array_equal(joined, whole[index])


class TestEvaluation:
    def test_whole_clips_by_hand(self):
        # One window of 10, 7 and 19; two of 25 and 25; three of 31.
        data = dataset(test=(25, 10, 7, 31, 25, 19), batch_size=4)
        batches = [(integers(x).tolist(), y.tolist()) for x, y in data.test()]

        def clip(index, stop, padding=0):
            return list(range(100 * index, 100 * index + stop)) + padding * [0]

        assert batches == [
            ([clip(1, 10), clip(2, 7, 3), clip(5, 10)], [1, 2, 2]),
            ([clip(0, 20), clip(4, 20)], [0, 1]),
            ([clip(3, 30)], [0]),
        ]

    def test_batches_hold_no_more_windows_than_in_training(self):
        data = dataset(test=(40,) * 5 + (90,), batch_size=8)
        shapes = [x.shape for x, _ in data.test()]
        assert sorted(shapes) == [(1, 40), (1, 90), (2, 40), (2, 40)]
        # Keras holds for fixed what the first two have in common.
        assert shapes[0][1] != shapes[1][1]

    @pytest.mark.parametrize("lengths", [(900, 450), (900, 300, 610)])
    def test_accuracy_is_that_of_averaged_logits(self, lengths):
        """Through `evaluate`, against windows taken and averaged by hand."""
        window = 300
        generator = np.random.default_rng(0)
        examples = [
            (generator.integers(-9999, 9999, lengths[i % len(lengths)]), i % 3)
            for i in range(9)
        ]
        data = from_clips(
            collect(examples, NAMES),
            collect(examples, NAMES),
            name="noise",
            window=window,
            batch_size=2,
        )
        model = audio_cnn(
            3,
            input_shape=data.input_shape,
            channels=(4,),
            strides=((2, 2),),
            frontend=keras.layers.Reshape((20, 15, 1), name="frontend"),
        )
        model.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        trunk = keras.Model(
            model.get_layer("windows").output,
            model.get_layer("predictions").output,
        )
        hits, losses = [], []
        for samples, label in examples:
            count = max(1, len(samples) // window)
            padded = np.zeros(count * window, "float32")
            samples = samples[: count * window] / 2**15
            padded[: len(samples)] = samples
            logits = np.mean(trunk(padded.reshape(count, window)), axis=0)
            hits.append(np.argmax(logits) == label)
            losses.append(np.log(np.exp(logits).sum()) - logits[label])
        result = model.evaluate(data.test(), verbose=0, return_dict=True)
        assert 0 < np.mean(hits) < 1
        np.testing.assert_allclose(result["accuracy"], np.mean(hits), rtol=1e-6)
        np.testing.assert_allclose(result["loss"], np.mean(losses), rtol=1e-4)

    def test_classes_never_trained_are_named(self, log):
        train, test = clips((25, 25)), clips((25, 25, 25))
        from_clips(train, test, "clips", WINDOW, batch_size=2)
        assert "1 test clips are of classes without a training clip: c" in log()


def test_errors():
    for arguments, message in [
        ({"train": ()}, "`train` must hold a clip or more"),
        ({"names": ("a",)}, r"must have two classes or more. Found: \['a'\]"),
        ({"test": ()}, "`test` must hold a clip or more"),
        ({"window": 0}, "must last a sample or more. Received: window=0"),
        ({"batch_size": 13}, "`batch_size` must lie .* 12 training examples"),
        ({"batch_size": 0}, "`batch_size` must lie between"),
        ({"train_steps": 0}, "`train_steps` must be 1 or more"),
        ({"seed": -1}, "`seed` must not be negative"),
        ({"process_index": 2}, "`process_index` must lie"),
    ]:
        with pytest.raises(ValueError, match=message):
            dataset(**arguments)


def test_throughput():
    assert throughput(dataset(), steps=5) > 0


class TestMultiTask:
    def make(self, **kwargs):
        return multi_task(
            {
                "word": dataset(batch_size=4),
                "bird": dataset(train=(25,) * 6, test=(45, 45), batch_size=2),
            },
            **kwargs,
        )

    def test_batches_are_those_of_the_tasks(self):
        data = self.make()
        assert data.num_classes == {"word": 3, "bird": 3}
        assert data.class_names == {"word": NAMES, "bird": NAMES}
        assert data.train_steps == 3 and data.input_shape == (WINDOW,)
        word = dataset(batch_size=4)
        bird = dataset(train=(25,) * 6, batch_size=2)
        for epoch in (0, 1):
            for step, (x, y, weights) in enumerate(data.train(epoch)):
                word_x, word_y = word.train(epoch)[step]
                bird_x, bird_y = bird.train(epoch)[step]
                np.testing.assert_array_equal(x, [*word_x, *bird_x])
                np.testing.assert_array_equal(y["word"][:4], word_y)
                np.testing.assert_array_equal(y["bird"][4:], bird_y)
                assert weights["word"].tolist() == 4 * [1.5] + [0, 0]
                assert weights["bird"].tolist() == 4 * [0] + [3, 3]
        same(
            ([batch[0]] for batch in data.train(1, 2)),
            ([batch[0]] for batch in list(data.train(1))[2:]),
        )

    def test_each_task_goes_through_its_clips_at_its_own_pace(self):
        data = self.make(train_steps=5)
        x = [x for epoch in range(3) for x, _, _ in data.train(epoch)]
        bird = integers(np.concatenate([batch[4:] for batch in x]))[:, 0] // 100
        rounds = bird.reshape(5, 6)
        assert np.all(np.sort(rounds, axis=1) == np.arange(6))
        assert len({tuple(order) for order in rounds}) > 3

    def test_test_batches(self):
        data = self.make()
        clips_of = {"word": 0, "bird": 0}
        lengths = []
        for x, y, weights in data.test():
            (task,) = (name for name in weights if weights[name].all())
            other = "word" if task == "bird" else "bird"
            assert not weights[other].any()
            assert len(x) == len(y[task]) == len(y[other])
            clips_of[task] += len(x)
            lengths.append(x.shape[1])
        assert clips_of == {"word": 5, "bird": 2}
        assert lengths[0] != lengths[1]
        one_length = {
            "word": dataset(test=(10,) * 9),
            "bird": dataset(test=(20,) * 9),
        }
        x, other, *_ = (batch[0] for batch in multi_task(one_length).test())
        assert x.shape[1] != other.shape[1]

    def test_each_task_has_a_seed_of_its_own(self):
        seeds = []

        def load(seed):
            seeds.append(seed)
            return dataset(seed=seed)

        for seed in (0, 1, 2):
            multi_task({"word": load, "bird": load}, seed=seed)
        assert len(set(seeds)) == 6

    def test_loss_and_accuracy_of_each_task(self):
        """As if each task were evaluated on its own data alone."""
        data = self.make()
        inputs = keras.Input((None,))
        x = keras.layers.Reshape((-1, 1))(inputs)
        x = keras.layers.GlobalAveragePooling1D()(x)
        outputs = {
            task: keras.layers.Dense(3, name=task)(x)
            for task in ("word", "bird")
        }
        model = keras.Model(inputs, outputs)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            keras.optimizers.SGD(0.1),
            loss={"word": loss, "bird": loss},
            weighted_metrics={"word": ["accuracy"], "bird": ["accuracy"]},
        )
        model.fit(data.train(0), verbose=0)
        result = model.evaluate(data.test(), verbose=0, return_dict=True)
        tests = {"word": dataset(), "bird": dataset(test=(45, 45))}
        total = 0
        for task, own in tests.items():
            hits, losses = [], []
            for x, y in own.test():
                logits = keras.ops.convert_to_numpy(model(x)[task])
                hits += (logits.argmax(axis=1) == y).tolist()
                losses += [float(loss(y, logits))] * len(y)
            np.testing.assert_allclose(
                result[f"{task}_accuracy"], np.mean(hits), rtol=1e-6
            )
            total += np.mean(losses)
        # Not those of the heads: on TensorFlow, Keras averages them over
        # batches, whatever the size of these.
        np.testing.assert_allclose(result["loss"], total, rtol=1e-4)

    def test_errors(self):
        with pytest.raises(ValueError, match="`datasets` must have a task"):
            multi_task({})
        with pytest.raises(ValueError, match="examples of one shape"):
            multi_task({"a": dataset(), "b": dataset(window=9)})
        with pytest.raises(ValueError, match="of one sample rate"):
            multi_task({"a": dataset(), "b": dataset(sample_rate=9)})
        held_out = dataclasses.replace(dataset(), validation=dataset().test)
        with pytest.raises(ValueError, match="a validation split in task 'b'"):
            multi_task({"a": dataset(), "b": held_out})

    def test_labels_of_several_kinds(self):
        """Each head gets labels of the shape that those of its task have."""
        two = from_clips(
            clips((25,) * 12, names=("a", "b")),
            clips((25, 10), names=("a", "b")),
            name="two",
            window=WINDOW,
            batch_size=2,
            mixup=0.5,
        )
        data = multi_task({"three": dataset(batch_size=4), "two": two})
        _, y, weights = data.train(0)[0]
        assert y["three"].shape == (6,) and y["two"].shape == (6, 2)
        assert weights["two"].tolist() == [0] * 4 + [3] * 2
        assert not y["two"][:4].any() and not y["three"][4:].any()
        shapes = {task: set() for task in y}
        for _, y, _ in data.test():
            for task in y:
                shapes[task].add(y[task].ndim)
        assert shapes == {"three": {1}, "two": {1}}


RATE = 1000


def write_sounds(folder, count=5, labels=("cat", "dog"), rate=RATE):
    """Sound files of a constant that tells them apart: (10 * label + i) / 64"""
    for label, name in enumerate(labels):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            level = (10 * label + index) / 64
            path = folder / name / f"{index}.wav"
            soundfile.write(path, np.full(25, level), rate)


FILES = {"sample_rate": RATE, "window_seconds": 0.01, "batch_size": 2}


def test_folder(tmp_path, log):
    write_sounds(tmp_path)
    (tmp_path / "cat" / "broken.wav").write_bytes(b"RIFF")
    data = audio.folder_audio(tmp_path, test_percent=40, **FILES)
    assert data.class_names == ("cat", "dog")
    assert data.input_shape == (10,) and data.num_classes == 2
    seen = set()
    for batches in (data.train(0), data.test()):
        for x, y in batches:
            levels = np.rint(64 * x[:, 0]).astype(int)
            np.testing.assert_array_equal(levels // 10, y)
            seen |= set(levels.tolist())
    assert seen == {*range(5), *range(10, 15)}
    assert f"{tmp_path}/cat/broken.wav: the file is cut short" in log()
    assert "1 skipped" in log()


def write_manifest(folder, column="split", values=("train", "test", "dev")):
    write_sounds(folder)
    lines = [f"path,label,{column}"]
    for label in ("cat", "dog"):
        for index in range(5):
            value = values[index % len(values)]
            lines.append(f"{label}/{index}.wav,{label},{value}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def levels(batches):
    return sorted(
        int(level) for x, _ in batches for level in np.rint(64 * x[:, 0])
    )


def test_manifest(tmp_path):
    path = write_manifest(tmp_path)
    data = audio.manifest_audio(path, **FILES)
    assert levels(data.train(0)) == [0, 3, 10, 13]
    assert levels(data.test()) == [1, 4, 11, 14]
    data = audio.manifest_audio(path, test_split="dev", **FILES)
    assert levels(data.test()) == [2, 12]
    with pytest.raises(ValueError, match=r"\['eval'\].*\['dev', 'test', 'tr"):
        audio.manifest_audio(path, test_split="eval", **FILES)


def test_folds(tmp_path):
    path = write_manifest(tmp_path, "fold", (1, 2, 3))
    data = audio.manifest_audio(path, test_fold=2, **FILES)
    assert levels(data.train(0)) == [0, 2, 3, 10, 12, 13]
    assert levels(data.test()) == [1, 4, 11, 14]
    with pytest.raises(ValueError, match="`test_fold` must be .*test_fold=4"):
        audio.manifest_audio(path, test_fold=4, **FILES)


@pytest.mark.tensorflow
class TestTFDS:
    """With the genuine code of TFDS, on sets that the tests write."""

    def test_prepared_manifest(self, tmp_path):
        import tensorflow_datasets as tfds

        path = write_manifest(tmp_path, "fold", (1, 2, 3))
        (tmp_path / "dog" / "4.wav").write_bytes(b"")
        rows = manifest.read_manifest(path)
        builder, report = prepare.prepare(rows, "sounds", tmp_path, RATE)
        assert report.read == 9 and len(report.bad) == 1
        problems = (tmp_path / "sounds/1.0.0/problems.csv").read_text()
        assert "dog/4.wav,no,the file is empty" in problems
        again = tfds.builder_from_directory(builder.data_dir)
        assert again.info.splits["fold1"].num_examples == 4
        direct = audio.manifest_audio(path, test_fold=2, **FILES)
        for cache_dir in (None, tmp_path / "cache", tmp_path / "cache"):
            prepared = audio.tfds_audio(
                "sounds",
                data_dir=tmp_path,
                test_fold=2,
                cache_dir=cache_dir,
                **FILES,
            )
            assert levels(prepared.train(0)) == levels(direct.train(0))
            same(sorted_batches(prepared), sorted_batches(direct))
        for name, version, message in [
            ("mnist", "1.0.0", "`name` must .* not be that of a data set"),
            ("My-Sounds", "1.0.0", "`name` must consist of lower-case"),
        ]:
            with pytest.raises(ValueError, match=message):
                prepare.prepare(rows, name, tmp_path, RATE, version)
        wrong = [dataclasses.replace(rows[0], split="50 %")]
        with pytest.raises(ValueError, match="names of splits .*50 %"):
            prepare.prepare(wrong, "others", tmp_path, RATE)

    def test_published_sets(self, tmp_path, log):
        import tensorflow_datasets as tfds

        speech = np.arange(-100, 100, dtype="int64")
        self.write_set(
            tmp_path,
            "speech_commands",
            "0.0.3",
            ("train", "test"),
            [{"audio": speech, "label": 3}] * 3
            + [{"audio": speech[:0], "label": 3}],
        )
        data = audio.tfds_audio(data_dir=tmp_path, batch_size=3)
        x, y = data.test()[0]
        assert data.num_classes == 12 and y.tolist() == [3, 3, 3]
        np.testing.assert_array_equal(integers(x[2, :200]), speech)
        assert "Skipped 1 empty clips of speech_commands, split test" in log()

        qualities = tfds.builder("nsynth").info.features["qualities"]
        note = np.linspace(-1, 1, 64000, dtype="float32")
        self.write_set(
            tmp_path,
            "nsynth",
            "2.3.3",
            ("train", "valid", "test"),
            [
                {
                    "id": "note",
                    "audio": note,
                    "pitch": 60,
                    "velocity": 100,
                    "instrument": {"label": 0, "family": 8, "source": 1},
                    "qualities": dict.fromkeys(qualities, False),
                }
            ]
            * 2,
            config="full",
        )
        for label, expected, classes in [
            (None, 8, 11),
            ("pitch", 60, 128),
        ]:
            data = audio.tfds_audio(
                "nsynth", label=label, data_dir=tmp_path, batch_size=2
            )
            assert data.num_classes == classes
            x, y = data.test()[0]
            assert x.shape == (1, 64000) and y.tolist() == [expected]
            np.testing.assert_allclose(x[0], note, atol=1 / 32768)

        self.write_set(
            tmp_path,
            "spoken_digit",
            "1.0.9",
            ("train",),
            [
                {
                    "audio": (3000 * np.sin(np.arange(800) / 9)).astype(int),
                    "audio/filename": "7_x.wav",
                    "label": 7,
                }
            ]
            * 10,
        )
        data = audio.tfds_audio("spoken_digit", data_dir=tmp_path, batch_size=9)
        x, y = data.train(0)[0]
        assert x.shape == (9, 16000) and y.tolist() == [7] * 9
        # At 8 kHz, 800 samples are 1600 at 16 kHz.
        expected = 3000 / 2**15 * np.sin(np.arange(1600) / 18)
        np.testing.assert_allclose(x[0, 99:1500], expected[99:1500], atol=1e-3)
        assert not x[0, 1600:].any()
        assert sum(len(x) for x, _ in data.test()) == 1

    def write_set(self, folder, name, version, splits, examples, config=None):
        import tensorflow_datasets as tfds

        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            config=config,
            features=tfds.builder(name).info.features,
            split_datasets={
                split: list(enumerate(examples)) for split in splits
            },
            data_dir=folder,
        )

    def test_errors(self, tmp_path):
        rows = manifest.read_manifest(write_manifest(tmp_path))
        prepare.prepare(rows, "sounds", tmp_path, RATE)
        for arguments, message in [
            ({"name": "nothing"}, "`name` must be a data set that TFDS knows"),
            ({"label": "file"}, "`label` must be a feature of classes"),
            ({"label": "a/b"}, "`label` must be a feature of classes"),
            ({"audio": "sound"}, "`audio` must be an audio feature"),
            (
                {"test_split": "eval"},
                "`split` must be .*'dev', 'test', 'train'",
            ),
            ({"test_fold": 1}, "`test_fold` must be None for data without"),
            ({"window_seconds": 0.0}, "`window_seconds` must last a sample"),
        ]:
            arguments = {"name": "sounds", **FILES, **arguments}
            with pytest.raises(ValueError, match=message):
                audio.tfds_audio(data_dir=tmp_path, **arguments)


def sorted_batches(data):
    """All test clips in the order of their samples, as one batch."""
    x, y = (np.concatenate(parts) for parts in zip(*data.test(), strict=True))
    order = np.argsort(x[:, 0], kind="stable")
    return [(x[order], y[order])]
