"""Textures for which there is a best stride, made by NumPy.

Every image is a sum of plane waves in noise. The class says how many horizontal
cycles the waves have, up to nearly the Nyquist frequency, and which way they
are tilted. Therefore a network must keep almost the whole spectrum along the
width: if every second column is dropped, frequencies of different classes alias
onto one another. Along the height the waves are slow, and most of the noise is
fast, so that a larger stride makes the task easier.
"""

from collections.abc import Sequence

import numpy as np

from diffstride.data.arrays import from_arrays
from diffstride.data.dataset import Dataset

# In cycles per pixel; half of them is the Nyquist frequency.
_HORIZONTAL_FREQUENCIES = (3 / 32, 13 / 32)
_VERTICAL_FREQUENCY = 3 / 32
_NOISE_FREQUENCY = 6 / 32
_JITTER = 0.4 / 32
_SLOW_NOISE = 0.5  # amplitude below that vertical frequency
_WAVES = 3


def synthetic(
    num_train: int = 4096,
    num_test: int = 1024,
    image_size: int = 32,
    num_classes: int = 8,
    noise: float = 3.0,
    batch_size: int = 128,
    seed: int = 0,
    data_seed: int = 0,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    validation_split: float | str | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Dataset:
    """A data set of textures that differ in orientation and frequency.

    Args:
        num_train: Number of training images.
        num_test: Number of test images.
        image_size: Height and width of the images.
        num_classes: Number of classes, which must be even. There are half as
            many horizontal frequencies, each tilted in two ways.
        noise: Standard deviation of the fast noise, relative to the waves.
        batch_size: Number of images in a batch, of all processes together.
        seed: Seed of the order of the images.
        data_seed: Seed of the images themselves.
        label_smoothing: Share of the target that is spread evenly over all
            classes.
        mixup_alpha: Parameter of the beta distribution of the weights with
            which images of a batch are mixed; 0 for no mixup.
        validation_split: Share of the training images that decide which epoch
            is the best one and when to stop. Defaults to None: the test images
            decide.
        process_index: Number of this process.
        process_count: Number of processes that each make their own rows of
            every batch.

    Returns:
        A `diffstride.data.dataset.Dataset`.

    Example:

    >>> dataset = synthetic(num_train=256, num_test=64, batch_size=32)
    >>> dataset.input_shape, dataset.num_classes, dataset.train_steps
    ((32, 32, 3), 8, 8)
    """
    if min(num_train, num_test) < num_classes:
        raise ValueError(
            "`num_train` and `num_test` must be at least `num_classes`. "
            f"Received: num_train={num_train}, num_test={num_test}, "
            f"num_classes={num_classes}"
        )
    splits = [
        textures(size, image_size, num_classes, noise, [data_seed, split])
        for split, size in enumerate((num_train, num_test))
    ]
    # Do not flip: a mirrored image belongs to another class.
    return from_arrays(
        splits,
        batch_size=batch_size,
        seed=seed,
        name="synthetic",
        num_classes=num_classes,
        crop_padding=0,
        flip=False,
        label_smoothing=label_smoothing,
        mixup_alpha=mixup_alpha,
        validation_split=validation_split,
        process_index=process_index,
        process_count=process_count,
    )


def textures(
    size: int,
    image_size: int = 32,
    num_classes: int = 8,
    noise: float = 3.0,
    seed: int | Sequence[int] = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Images of the synthetic set and their labels.

    Args:
        size: Number of images; all classes are equally frequent.
        image_size: Height and width.
        num_classes: Number of classes, even.
        noise: Standard deviation of the fast noise, relative to the waves.
        seed: Seed, or a sequence of seeds.

    Returns:
        `uint8` images `(size, image_size, image_size, 3)` and integer labels.
    """
    if num_classes < 2 or num_classes % 2:
        raise ValueError(
            "`num_classes` must be even: each frequency is tilted either way. "
            f"Received: num_classes={num_classes}"
        )
    if image_size < 16:
        raise ValueError(
            "`image_size` must be at least 16, for the frequencies to be told "
            f"apart. Received: image_size={image_size}"
        )
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(size) % num_classes)
    frequencies = np.linspace(*_HORIZONTAL_FREQUENCIES, num_classes // 2)
    horizontal = frequencies[labels // 2, np.newaxis]
    vertical = _VERTICAL_FREQUENCY * (1 - 2 * (labels[:, np.newaxis] % 2))
    jitter = generator.uniform(-_JITTER, _JITTER, (2, size, _WAVES))
    pixels = np.arange(image_size)
    waves = 2j * np.pi * (jitter[0] + horizontal)[..., np.newaxis] * pixels
    columns = np.exp(waves + 2j * np.pi * generator.random((size, _WAVES, 1)))
    rows = np.exp(2j * np.pi * (jitter[1] + vertical)[..., np.newaxis] * pixels)
    # The sum over waves of cos(row phase + column phase).
    signal = (rows.swapaxes(1, 2) @ columns).real * np.sqrt(2 / _WAVES)
    spectrum = np.fft.rfft2(
        generator.standard_normal((size, image_size, image_size), "float32")
    )
    slow = np.abs(np.fft.fftfreq(image_size)) < _NOISE_FREQUENCY
    spectrum[:, slow] *= _SLOW_NOISE
    signal += noise * np.fft.irfft2(spectrum, (image_size, image_size))
    color = generator.uniform(0.5, 1.0, (size, 1, 1, 3))
    contrast = generator.uniform(20, 40, (size, 1, 1, 1))
    images = 127.5 + contrast * color * signal[..., np.newaxis]
    return np.clip(np.rint(images), 0, 255).astype("uint8"), labels
