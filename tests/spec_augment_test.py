"""SpecAugment: what it masks, how often, with what, and when."""

import keras
import numpy as np
import pytest
from keras import ops

from diffstride.layers.spec_augment import SpecAugment


def augment(x, seed=0, **kwargs):
    return ops.convert_to_numpy(
        SpecAugment(seed=seed, **kwargs)(x, training=True)
    )


def spectrograms(batch=3, time=20, mels=12):
    shape = (batch, time, mels)
    return np.random.default_rng(0).normal(-4, 2, shape).astype("float32")


def widths(masked):
    """The length of the only run in each row, which must be one."""
    edges = np.diff(np.pad(masked.astype(int), ((0, 0), (1, 1))), axis=1)
    assert np.all((edges == 1).sum(axis=1) <= 1)
    return masked.sum(axis=1)


def test_nothing_happens_but_in_training():
    x = spectrograms()
    layer = SpecAugment(seed=0)
    for training in (False, None):
        np.testing.assert_array_equal(layer(x, training=training), x)
    assert np.any(np.array(layer(x, training=True)) != x)


def test_one_stretch_of_time_and_one_of_frequency():
    x = spectrograms(batch=2000)
    changed = augment(x) != x
    # Cells outside the mask over frequency tell the mask over time.
    time = changed.mean(axis=2) > 0.99
    frequency = changed.mean(axis=1) > 0.99
    np.testing.assert_array_equal(
        changed, time[:, :, None] | frequency[:, None, :]
    )
    for masked, size, limit in [(time, 20, 10), (frequency, 12, 4)]:
        width = widths(masked)
        # Uniform from 0 to the limit.
        counts = np.bincount(width, minlength=limit + 1)
        assert len(counts) == limit + 1
        expected = 2000 / (limit + 1)
        np.testing.assert_allclose(counts, expected, atol=4.5 * expected**0.5)
        # Every place is reached, the edges less often than the middle.
        reached = masked.mean(axis=0)
        assert reached.min() > 0.02
        assert reached[0] < reached[size // 2]


def test_masked_cells_take_the_mean_of_their_clip():
    x = spectrograms()
    for shaped in (x, x[..., None]):
        y = augment(shaped)
        for before, after in zip(shaped, y, strict=True):
            new = after[after != before]
            np.testing.assert_allclose(new, before.mean(), rtol=1e-5)
    np.testing.assert_array_equal(augment(x), augment(x[..., None])[..., 0])


def test_rates_and_numbers_of_masks():
    x = spectrograms()
    still = {"time_rate": 0, "frequency_rate": 0.0}
    np.testing.assert_array_equal(augment(x, **still), x)
    none = {"time_masks": 0, "frequency_masks": 0}
    np.testing.assert_array_equal(augment(x, **none), x)
    x = spectrograms(batch=300)
    few, many = (
        (augment(x, time_masks=masks, frequency_masks=0) != x).mean()
        for masks in (1, 3)
    )
    assert 0.2 < few < 0.3 and 0.5 < many < 0.65
    whole = augment(x, time_rate=1.0, frequency_masks=0) != x
    assert whole.mean(axis=(1, 2)).max() == 1


def test_seeds():
    x = spectrograms()
    np.testing.assert_array_equal(augment(x, seed=1), augment(x, seed=1))
    assert np.any(augment(x, seed=1) != augment(x, seed=2))
    layer = SpecAugment(seed=1)
    first, second = (np.array(layer(x, training=True)) for _ in range(2))
    assert np.any(first != second)


def test_unknown_sizes_compiled_in_fit():
    model = keras.Sequential(
        [
            keras.Input((None, 12)),
            SpecAugment(),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    history = model.fit(spectrograms(), np.zeros((3, 1)), verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert model.layers[0].compute_output_shape((2, 5, 12)) == (2, 5, 12)


@pytest.mark.filterwarnings("error:Layer")
def test_a_mask_of_padding_goes_on():
    x = spectrograms()
    x[:, 15:] = 0
    model = keras.Sequential(
        [
            keras.layers.Masking(),
            SpecAugment(time_rate=0, frequency_rate=0),
            keras.layers.GlobalAveragePooling1D(),
        ]
    )
    for training in (True, False):
        np.testing.assert_allclose(
            model(x, training=training), x[:, :15].mean(axis=1), rtol=1e-5
        )


def test_mixed_precision_and_config():
    layer = SpecAugment(
        0.2, 0.3, time_masks=2, frequency_masks=3, seed=4, dtype="mixed_float16"
    )
    masked = layer(spectrograms(), training=True)
    assert keras.backend.standardize_dtype(masked.dtype) == "float16"
    copy = SpecAugment.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    np.testing.assert_array_equal(
        copy(spectrograms(), training=True),
        SpecAugment.from_config(layer.get_config())(
            spectrograms(), training=True
        ),
    )


@pytest.mark.parametrize(
    "name,value",
    [
        ("time_rate", 1.5),
        ("frequency_rate", "half"),
        ("time_masks", -1),
        ("frequency_masks", 1.5),
    ],
)
def test_errors(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .* Received: {name}="):
        SpecAugment(**{name: value})
