"""Balanced sampling, mixup, whole clips, several labels for a clip."""

import keras
import numpy as np
import pytest
from data_audio_test import NAMES, WINDOW, clips, dataset, integers, same

from diffstride.data import sampling
from diffstride.data.clip_windows import from_clips
from diffstride.data.clips import collect

pytestmark = pytest.mark.once


def tagged(labels, names=NAMES, length=WINDOW):
    """Clips with several labels; each sample of clip `i` is `i + 1`."""
    examples = [
        (np.full(length, index + 1), tags) for index, tags in enumerate(labels)
    ]
    return collect(examples, names)


class TestShuffle:
    """Against what `tf.data.Dataset.shuffle` promises."""

    def test_a_buffer_bounds_how_early_an_example_comes(self):
        count, size = 20_000, 100
        order = sampling.shuffle(np.random.default_rng(0), count, size)
        assert sorted(order) == list(range(count))
        places = np.empty(count, int)
        places[order] = np.arange(count)
        assert np.all(places > np.arange(count) - size)
        # An example that enters the buffer leaves it with a chance of 1 / size
        # at each step: it stays for `size` steps on average.
        middle = np.arange(size, count - 10 * size)
        waits = places[middle] - (middle - size)
        assert abs(waits.mean() - size) < 0.03 * size
        assert abs(waits.std() - size) < 0.05 * size

    @pytest.mark.parametrize("size", [None, 50, 60])
    def test_all_examples_by_default(self, size):
        order = sampling.shuffle(np.random.default_rng(1), 50, size)
        expected = np.random.default_rng(1).permutation(50)
        np.testing.assert_array_equal(order, expected)

    def test_as_tensorflow_does(self):
        tf = pytest.importorskip("tensorflow")
        runs = range(400)
        examples = tf.data.Dataset.range(12).shuffle(4).batch(12)
        theirs = list(examples.repeat(len(runs)).as_numpy_iterator())
        ours = [
            sampling.shuffle(np.random.default_rng(run), 12, 4) for run in runs
        ]
        # The mean of the example at each place, to five standard errors.
        means = np.mean(theirs, 0), np.mean(ours, 0)
        errors = np.std(theirs, 0) / np.sqrt(len(runs) / 2)
        assert np.all(np.abs(means[0] - means[1]) < 5 * errors)


class TestBalance:
    def test_chances_of_classes(self):
        labels = np.array([0] * 6 + [1] * 3 + [2])
        chances = sampling.balanced_chances(labels)
        np.testing.assert_allclose(np.bincount(labels, chances), 1 / 3)

    def test_chances_of_tags(self):
        tags = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
        # Weights 1/3, 1/3 + 1, 1/3 and nothing; no clip has the third tag.
        np.testing.assert_allclose(
            sampling.balanced_chances(tags), [1 / 6, 4 / 6, 1 / 6, 0]
        )

    def test_rare_classes_come_as_often_as_frequent_ones(self):
        examples = [(np.full(WINDOW, i), int(i >= 190)) for i in range(200)]
        store = collect(examples, NAMES[:2])
        for balance, share in [(False, 0.05), (True, 0.5)]:
            data = from_clips(
                store, store, "x", WINDOW, batch_size=50, balance=balance
            )
            found = np.mean(
                [y for epoch in range(5) for _, y in data.train(epoch)]
            )
            # 1,000 draws: three standard deviations.
            np.testing.assert_allclose(found, share, atol=0.05 * balance)


class TestMixup:
    def test_none_leaves_the_batches_as_they_were(self):
        same(dataset(mixup=0.0).train(1), dataset().train(1))

    def test_waveforms_and_labels_alike(self):
        """Constant clips: the level and the target tell the same share."""
        store = tagged([[0], [1], [2]] * 20, length=3 * WINDOW)
        names = {"name": "x", "window": WINDOW, "batch_size": 20}
        data = from_clips(store, store, mixup=0.5, mixup_alpha=1.0, **names)
        plain = from_clips(store, store, **names)
        mixed = 0
        for epoch in range(4):
            for (x, y), (own_x, own_y) in zip(
                data.train(epoch), plain.train(epoch), strict=True
            ):
                assert x.dtype == y.dtype == np.float32
                np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
                levels, own = x[:, 0] * 2**15, integers(own_x)[:, 0]
                np.testing.assert_allclose(x, x[:, :1] + 0 * x, rtol=1e-6)
                share = (y * own_y).sum(axis=1)
                is_mixed = np.abs(levels - own) > 1e-3
                mixed += is_mixed.sum()
                # Not mixed: as it was. Mixed: between it and another clip.
                np.testing.assert_array_equal(y[~is_mixed], own_y[~is_mixed])
                other = (levels - share * own) / np.maximum(1 - share, 1e-9)
                sure = is_mixed & (share < 0.9)
                np.testing.assert_allclose(
                    other[sure], np.rint(other[sure]), atol=0.05
                )
                tag = np.rint(other[sure]).astype(int) - 1
                np.testing.assert_array_equal(
                    np.argmax(np.where(own_y > 0, -1, y)[sure], axis=1), tag % 3
                )
        # 240 examples, of which half are mixed, a sixtieth with themselves.
        assert 90 < mixed < 150

    def test_shares_follow_the_beta_distribution(self):
        generator = np.random.default_rng(0)
        mixup = sampling.Mixup.draw(generator, 20000, 7, 0.5, 10.0)
        mixed = mixup.shares[mixup.shares < 1]
        assert abs(len(mixed) - 10000) < 300
        # Of Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
        np.testing.assert_allclose(mixed.mean(), 0.5, atol=0.005)
        np.testing.assert_allclose(mixed.var(), 1 / 84, rtol=0.06)
        assert set(mixup.clips) == set(range(7))

    def test_single_labels_become_one_hot(self):
        ((x, y), *_) = dataset(mixup=1.0).train(0)
        assert y.shape == (4, 3) and y.dtype == np.float32
        (x, y), *_ = dataset(mixup=1.0).test()
        assert y.ndim == 1

    @pytest.mark.parametrize("options", [{"mixup": 0.5}, {"balance": True}])
    def test_seed_epoch_and_step_say_it_all(self, options):
        same(
            dataset(**options).train(1, 2),
            list(dataset(**options).train(1))[2:],
        )
        parts = [
            dataset(process_index=index, process_count=2, **options).train(1)
            for index in (0, 1)
        ]
        joined = [
            tuple(map(np.concatenate, zip(*pair, strict=True)))
            for pair in zip(*parts, strict=True)
        ]
        same(joined, dataset(**options).train(1))


class TestTags:
    def test_targets(self):
        store = tagged([[0, 2], [], [1], [2, 1]])
        assert store.labels.dtype == bool and len(store) == 4
        data = from_clips(store, store, "x", WINDOW, batch_size=2)
        assert data.num_classes == 3
        expected = {1: [1, 0, 1], 2: [0, 0, 0], 3: [0, 1, 0], 4: [0, 1, 1]}
        for batches in (data.train(0), data.test()):
            found = {}
            for x, y in batches:
                assert y.dtype == np.float32
                found |= zip(
                    integers(x)[:, 0], y.astype(int).tolist(), strict=True
                )
            assert found == expected

    def test_file(self, tmp_path):
        examples = [(np.ones(3), [0, 2]), (np.ones(2), [])]
        store = collect(examples, NAMES, tmp_path / "clips")
        assert store.labels.tolist() == [[True, False, True], [False] * 3]


class TestWholeClips:
    lengths = (3, 5, 9, 14, 14, 21, 38, 40) * 3

    def make(self, **kwargs):
        arguments = {"window": None, "length_step": 5, **kwargs}
        return dataset(self.lengths, self.lengths[:7], **arguments)

    def test_no_sample_is_lost(self):
        data = self.make()
        assert data.input_shape == (None,)
        for batches, count in [(data.train(3), 24), (data.test(), 7)]:
            seen = []
            for x, y in batches:
                for row, label in zip(integers(x), y, strict=True):
                    # The first sample tells the clip, but for that of clip 0.
                    clip = int(row[1]) // 100
                    length = self.lengths[clip]
                    assert label == clip % 3
                    np.testing.assert_array_equal(
                        row[:length], 100 * clip + np.arange(length)
                    )
                    assert not row[length:].any()
                    seen.append(clip)
            assert sorted(seen) == list(range(count))

    def test_batches_differ_in_length_but_little_from_their_clips(self):
        data = self.make()
        for batches in (data.train(0), data.train(0, 3), data.test()):
            lengths = [x.shape[1] for x, _ in batches]
            assert all(length % 5 == 0 for length in lengths)
            assert np.all(np.diff(lengths) != 0)
        padded = sum(x.size for x, _ in data.train(1))
        assert padded < 1.7 * sum(self.lengths)

    @pytest.mark.parametrize("start", [0, 1, 2])
    def test_in_compiled_fit(self, start):
        """From any step on: Keras looks at the first two batches."""
        model = keras.Sequential(
            [
                keras.Input((None,)),
                keras.layers.Reshape((-1, 1)),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(3),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
        data = self.make()
        history = model.fit(
            data.train(0, start), validation_data=data.test(), verbose=0
        ).history
        assert np.isfinite([history["loss"], history["val_loss"]]).all()

    def test_mixed_with_clips_of_any_length(self):
        data = self.make(mixup=1.0)
        same(data.train(1, 2), list(self.make(mixup=1.0).train(1))[2:])
        assert all(np.isfinite(x).all() for x, _ in data.train(0))


def test_errors():
    for arguments, message in [
        ({"mixup": 1.1}, "`mixup` must lie between 0 and 1"),
        ({"mixup": 0.5, "mixup_alpha": 0}, "`mixup_alpha` must be positive"),
        ({"window": None, "length_step": 0}, "`length_step` must be positive"),
    ]:
        with pytest.raises(ValueError, match=message + ". Received: "):
            dataset(**arguments)
    assert len(clips((4, 4))) == 2
    with pytest.raises(ValueError, match="`labels` must name .* Received: 3"):
        sampling.balanced_chances(np.zeros((3, 2)))
