import numpy as np
import pytest

from diffstride.data.synthetic import synthetic, textures


def power(images):
    """The power spectra, one quadrant and its mirror image side by side."""
    spectra = np.abs(np.fft.fft2(images.mean(-1) - 127.5)) ** 2
    spectra = spectra[:, :, :16]
    rising, falling = spectra[:, 1:16], spectra[:, :16:-1]
    return np.stack([rising, falling], 1)


def test_width_is_needed_and_height_is_not():
    train, train_labels = textures(2048, seed=0)
    test, test_labels = textures(512, seed=1)
    train, test = np.log(power(train) + 1), np.log(power(test) + 1)
    means = np.stack([train[train_labels == k].mean(0) for k in range(8)])
    errors = np.square(test[:, np.newaxis] - means)

    def accuracy(rows, columns):
        """Of the nearest class mean, in what survives two strides."""
        distances = errors[..., :rows, :columns].sum((2, 3, 4))
        return np.mean(distances.argmin(1) == test_labels)

    whole = accuracy(rows=16, columns=16)
    assert whole > 0.9
    assert accuracy(rows=5, columns=16) > whole
    assert accuracy(rows=16, columns=8) < 0.7
    assert accuracy(rows=16, columns=4) < 0.45


def test_textures():
    images, labels = textures(33, image_size=20, num_classes=4, seed=3)
    assert images.shape == (33, 20, 20, 3) and images.dtype == "uint8"
    assert sorted(np.bincount(labels)) == [8, 8, 8, 9]
    assert 120 < images.mean() < 135 and 20 < images.std() < 80
    again, _ = textures(33, image_size=20, num_classes=4, seed=3)
    np.testing.assert_array_equal(images, again)
    other, _ = textures(33, image_size=20, num_classes=4, seed=4)
    assert np.any(images != other)


def test_neighbouring_frequencies_alias_at_stride_two():
    """Every second column does not tell a class from its mirror image."""
    images, labels = textures(512, noise=0.0)
    spectra = np.abs(np.fft.rfft(images[:, :, ::2].mean(-1) - 127.5))
    peaks = spectra.mean(1).argmax(-1)
    medians = [np.median(peaks[labels // 2 == band]) for band in range(4)]
    assert medians[0] == medians[3] and medians[1] == medians[2]


def test_synthetic_is_a_dataset():
    dataset = synthetic(
        num_train=70, num_test=20, image_size=16, batch_size=16, seed=1
    )
    assert dataset.train_steps == 4
    assert dataset.input_shape == (16, 16, 3)
    assert dataset.num_classes == 8
    (x, y), *_ = dataset.train(0)
    assert x.shape == (16, 16, 16, 3) and y.shape == (16,)
    assert sum(len(y) for _, y in dataset.test()) == 20
    # A seed for the order, another one for the images.
    options = dict(num_train=70, num_test=20, image_size=16, batch_size=16)
    other, _ = synthetic(**options, seed=2).test()[0]
    np.testing.assert_array_equal(other, dataset.test()[0][0])
    other, _ = synthetic(**options, data_seed=2).test()[0]
    assert np.any(other != dataset.test()[0][0])
    train, test = (run[0][0] for run in (dataset.train(0), dataset.test()))
    assert np.any(train != test)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 7}, "`num_classes` must be even.*num_classes=7"),
        ({"num_classes": 0}, "`num_classes` must be even.*num_classes=0"),
        ({"image_size": 8}, "`image_size` must be at least 16.*image_size=8"),
        ({"num_test": 5}, "`num_test` must be at least.*num_test=5"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic(**options)
