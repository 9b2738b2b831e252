"""The data of the 2022 release under their old names, made as they were then.

New configurations bind `images.tfds_images`, which has more options.
"""

import inspect

from absl import logging

from diffstride.data.images import tfds_images

_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2023, 0.1994, 0.2010)
_SHUFFLE_BUFFER = 1000
# What the release mixed with, whatever positive `mixup_alpha` it was given.
_MIXUP_ALPHA = 0.2


def augment(pad_size=2):
    """Random crops out of a margin, and random flips: for `augment_fn`.

    Args:
        pad_size: number of zero pixels on each side.

    Returns:
        The same as arguments of `tfds_images`.
    """
    return {"crop_padding": pad_size, "flip": True}


def load_datasets(
    name,
    batch_size=32,
    augment_fn=None,
    mixup_alpha=0.0,
    data_dir=None,
    seed=0,
    process_index=0,
    process_count=1,
):
    """A set of TFDS as the 2022 release prepared it.

    Args:
        name: `"cifar10"`, `"cifar100"` or another set of images.
        batch_size: number of examples in a batch.
        augment_fn: None, or `augment`.
        mixup_alpha: if positive, neighbours of the shuffled images are mixed
            two by two, with weights of the beta distribution of 0.2.
        data_dir: folder of the prepared sets, as for `tfds_images`.
        seed: seed of the order and of the augmentation.
        process_index: number of this process.
        process_count: number of processes.

    Returns:
        A `diffstride.data.dataset.Dataset`.
    """
    if augment_fn is None:
        options = {"crop_padding": 0, "flip": False}
    elif inspect.unwrap(augment_fn) is augment:
        options = augment_fn()
    else:
        raise ValueError(
            "`augment_fn` must be None or `@data.augment`. Options beyond it "
            "are those of `images.tfds_images`: bind `train.train.dataset = "
            f"@images.tfds_images`. Received: augment_fn={augment_fn}"
        )
    if mixup_alpha not in (0, _MIXUP_ALPHA):
        logging.warning(
            "`data.load_datasets` mixes images with an alpha of %s, as the "
            "release did, in place of %s. Another alpha needs "
            "`images.tfds_images.mixup_alpha`.",
            _MIXUP_ALPHA,
            mixup_alpha,
        )
    return tfds_images(
        name,
        batch_size=batch_size,
        seed=seed,
        data_dir=data_dir,
        shuffle_buffer=_SHUFFLE_BUFFER,
        normalize=(_MEAN, _STD),
        mixup_alpha=_MIXUP_ALPHA if mixup_alpha > 0 else 0.0,
        mixup_pairs=True,
        process_index=process_index,
        process_count=process_count,
        **options,
    )
