"""Sets of images of TensorFlow Datasets (TFDS), with classes or label maps.

A set whose images have one size and fit into memory is decoded once, and
`diffstride.data.arrays` makes its batches. The images of other sets stay
encoded in their files. The images of a batch are read, decoded, cropped and
resized in parallel; `diffstride.data.augment` does the rest, as it does for
arrays.
"""

import dataclasses
import math
import os
from collections.abc import Sequence

from diffstride.data import augment, label_maps
from diffstride.data.array_checks import check_crop_padding
from diffstride.data.arrays import (
    channel_statistics,
    from_arrays,
    training_size,
)
from diffstride.data.dataset import Dataset, validate_batching
from diffstride.data.image_arrays import read_splits
from diffstride.data.image_stream import ImageStream
from diffstride.data.records import Records
from diffstride.data.sampling import check_shuffle_buffer
from diffstride.data.tfds_source import TFDSSource, warn_of_overlap
from diffstride.types import FilePath

_STATISTICS = {
    "cifar10": augment.CIFAR10_STATISTICS,
    "cifar100": augment.CIFAR100_STATISTICS,
    "imagenet2012": augment.IMAGENET_STATISTICS,
    "imagenette": augment.IMAGENET_STATISTICS,
}
# The test images of ImageNet have no labels; Imagenette has no test images.
_TEST_SPLITS = {"imagenet2012": "validation", "imagenette": "validation"}
_CACHED_BYTES = 2**31
_STREAM_SHUFFLE_BUFFER = 10_000
# Few workers are enough, because the images of each batch are decoded in
# parallel already.
_MOST_WORKERS = 4


def tfds_images(
    name: str = "cifar10",
    batch_size: int = 256,
    seed: int = 0,
    data_dir: FilePath | None = None,
    train_split: str = "train",
    test_split: str | None = None,
    validation_split: float | str | None = None,
    cache: bool | str = "auto",
    cache_dir: FilePath | None = None,
    shuffle_buffer: int | None = None,
    num_train_examples: int | None = None,
    stratified: bool = False,
    normalize: str | Sequence[Sequence[float]] | None = "auto",
    image_size: int | Sequence[int] | None = None,
    inception_crop: bool = False,
    crop_padding: int | None = None,
    crop_fill: str = "zeros",
    flip: bool = True,
    alternate_flips: bool = False,
    label_smoothing: float = 0.0,
    mixup_alpha: float = 0.0,
    mixup_pairs: bool = False,
    workers: int | None = None,
    max_bad_share: float = 0.01,
    label_key: str | None = None,
    label_values: Sequence[int] | None = None,
    ignore_label: int | None = None,
    class_weights: str | Sequence[float] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Dataset:
    """A set of images of TFDS, each with a class or a label map.

    The training images come in a new order in every epoch. A last batch that
    would be incomplete is left out, so each epoch leaves out other images.

    A set that is not there yet is downloaded and prepared, with a warning that
    says so.

    Args:
        name: Name of the set, with its config and version if need be:
            `"cifar10"`, `"imagenette/320px-v2"`, `"cifar10:3.0.2"`.
        batch_size: Number of images in a batch, of all processes together.
        seed: Seed of the order and of the augmentation.
        data_dir: Folder of the prepared sets. Defaults to that of TFDS,
            `~/tensorflow_datasets` or the variable `TFDS_DATA_DIR`.
        train_split: Split to train on, slices included: `"train[:80%]"`.
        test_split: Split to test on. Defaults to `"test"`, or to
            `"validation"` for ImageNet and Imagenette.
        validation_split: The images that decide which epoch is the best one and
            when to stop. A share of the training split, like 0.1, takes images
            that are then not trained on: the last ones of each class if the set
            is in memory, else the last ones of the split. A name takes that
            split, like `"train[90%:]"` with `train_split="train[:90%]"`.
            Defaults to None, which means the test split.
        cache: Whether to keep the decoded set in memory, which takes images of
            one size; `"auto"` for those that take up to 2 GiB.
        cache_dir: Folder for files of decoded images, which later runs read in
            a fraction of the time. A set that was prepared again is decoded
            again. Only for sets in memory. Defaults to none.
        shuffle_buffer: Size of the buffer from which the next image is drawn,
            as in `tf.data.Dataset.shuffle`. Defaults to all images of a set in
            memory, and to 10,000 for a streamed set, whose files are shuffled
            too.
        num_train_examples: Number of images to train on, the first ones of the
            training split. Defaults to all of them. Only for sets in memory;
            for others use a slice, like `train_split="train[:10%]"`.
        stratified: Whether to take the first images of each class instead, so
            that each class keeps its share of the training set.
        normalize: Mean and standard deviation of each channel, on a scale of 0
            to 1; None turns the normalization off. `"auto"` takes the known
            ones of CIFAR and ImageNet. For other sets it computes those of the
            training images if they are in memory, and takes those of ImageNet
            for streams of color images.
        image_size: Height and width to resize to, or one number for both.
            Defaults to the size of the images, where they have one.
        inception_crop: Whether to train on random boxes of 8 to 100 % of the
            area, and to test on the central 87.5 %.
        crop_padding: Number of pixels to pad the images with on each side
            before cropping to the same size at random. Images in memory are
            padded before they are resized, images of a stream after it.
            Defaults to 4, or to 0 with `inception_crop`.
        crop_fill: What the images are padded with: `"zeros"`, or `"reflect"`
            for the image mirrored at its border.
        flip: Whether to mirror images at random, half of them on average.
        alternate_flips: Whether to mirror each image in every second epoch
            instead, half of them in the first: two epochs then show each image
            both ways. Only for images in memory.
        label_smoothing: Share of the target that is spread evenly over all
            classes.
        mixup_alpha: Parameter of the beta distribution of the weights with
            which images of a batch are mixed; 0 for no mixup. With mixup or
            label smoothing targets are one-hot, otherwise they are numbers of
            classes.
        mixup_pairs: Whether mixup makes one example of two images that follow
            one another, as the 2022 release did. An epoch then has half as many
            steps. If not, each image is mixed with another one of its batch.
        workers: Number of threads that each make a batch. Defaults to one for a
            set in memory, and to up to four for a streamed one.
        max_bad_share: Share of the images that may be unusable. In a streamed
            set, one that is corrupt is replaced by the next one; files
            that are missing are left out. All of them are named in the log.
        label_key: Name of the feature that is the label: of a class for each
            image or, for segmentation, of a map with a value for each pixel,
            like `"segmentation_mask"`. Defaults to the target that the set has.
        label_values: The values in label maps that stand for the classes 0, 1,
            2 and so on. Defaults to these numbers, if the set says how many.
        ignore_label: The value in label maps of pixels that count neither in
            the loss nor in the metrics. So it is with pixels that a random crop
            takes from beyond the border.
        class_weights: Weight of each class in the loss, or
            `"median_frequency"`: weights that make rare classes of the training
            set count more (see
            `diffstride.data.label_maps.median_frequency_weights`). A streamed
            set is read once for it.
        process_index: Number of this process.
        process_count: Number of processes that each make their own rows of
            every batch, and read and decode only the images of these rows.

    Returns:
        A `diffstride.data.dataset.Dataset`.

    Example:

    ```python
    dataset = tfds_images("cifar10", batch_size=256, seed=1)
    model.fit(
        dataset.train(epoch=0), validation_data=dataset.test(), shuffle=False
    )
    ```
    """
    if cache not in (True, False, "auto"):
        raise ValueError(
            f"`cache` must be True, False or 'auto'. Received: cache={cache!r}"
        )
    check_shuffle_buffer(shuffle_buffer)
    base_name = name.split("/")[0].split(":")[0]
    source = TFDSSource(name, data_dir, label_key)
    if source.has_maps:
        label_maps.check_options(label_smoothing, mixup_alpha, stratified)
        if label_values is None:
            label_values = _numbers(source)
    else:
        label_maps.check_no_options(label_values, ignore_label, source.keys[1])
    num_classes = len(label_values) if source.has_maps else source.num_classes
    if test_split is None:
        test_split = _TEST_SPLITS.get(base_name, "test")
    num_train = source.num_examples(train_split, "train_split")
    num_test = source.num_examples(test_split, "test_split")
    warn_of_overlap(source.builder, train_split, test_split)
    if isinstance(validation_split, str):
        num_test += source.num_examples(validation_split, "validation_split")
        warn_of_overlap(source.builder, train_split, validation_split)
    shape = source.image_shape
    if cache == "auto":
        cache = (
            None not in shape
            and (num_train + num_test) * math.prod(shape) <= _CACHED_BYTES
        )
    if isinstance(normalize, str) and normalize == "auto":
        normalize = _STATISTICS.get(base_name, normalize)
    options = dict(
        image_size=image_size,
        inception_crop=inception_crop,
        crop_padding=crop_padding,
        crop_fill=crop_fill,
        flip=flip,
        alternate_flips=alternate_flips,
        label_smoothing=label_smoothing,
        mixup_alpha=mixup_alpha,
        mixup_pairs=mixup_pairs,
    )
    batching = dict(
        batch_size=batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
    )
    if cache:
        if None in shape:
            raise ValueError(
                "`cache` must be False for images of several sizes. Received: "
                f"name={name!r}, cache={cache}"
            )
        splits = {"train": train_split, "test": test_split}
        if isinstance(validation_split, str):
            splits["validation"], validation_split = (
                validation_split,
                "validation",
            )
        data = from_arrays(
            read_splits(source, splits, max_bad_share, cache_dir),
            name=name,
            num_classes=num_classes,
            validation_split=validation_split,
            num_train_examples=num_train_examples,
            stratified=stratified,
            normalize=normalize,
            shuffle_buffer=shuffle_buffer,
            workers=workers or 1,
            label_values=label_values,
            ignore_label=ignore_label,
            class_weights=class_weights,
            **options,
            **batching,
        )
        return dataclasses.replace(
            data, class_names=source.class_names, test_split=test_split
        )
    if alternate_flips:
        raise ValueError(
            "`alternate_flips` must be False for a streamed set, whose images "
            f"have no numbers. Received: name={name!r}, alternate_flips=True"
        )
    if num_train_examples is not None:
        raise ValueError(
            "`num_train_examples` must be None for a streamed set; take a "
            f"slice of the split, like train_split='train[:"
            f"{num_train_examples}]'. Received: name={name!r}, "
            f"num_train_examples={num_train_examples}"
        )
    if image_size is None:
        if None in shape:
            raise ValueError(
                "`image_size` must be given for images of several sizes. "
                f"Received: name={name!r}, image_size=None"
            )
        options["image_size"] = shape[:2]
    if isinstance(normalize, str) and normalize == "auto":
        normalize = augment.IMAGENET_STATISTICS if shape[-1] == 3 else None
    mean, std = channel_statistics(normalize, shape[-1], unit=255.0)
    augmentation = augment.Augmentation(
        num_classes=num_classes, mean=mean, std=std, **options
    )
    check_crop_padding(augmentation.crop_padding, augmentation.image_size)
    if validation_split is not None and not isinstance(validation_split, str):
        size = training_size(num_train, validation_split)
        if "[" in train_split or "+" in train_split:
            raise ValueError(
                "`validation_split` must be the name of a split for a slice of "
                "a streamed set. Received: "
                f"validation_split={validation_split}, "
                f"train_split={train_split!r}"
            )
        validation_split = f"{train_split}[{size}:]"
        train_split = f"{train_split}[:{size}]"
    train = Records(source, train_split, max_bad_share)
    test = Records(source, test_split, max_bad_share)
    validation = validation_split and Records(
        source, validation_split, max_bad_share
    )
    validate_batching(len(train) // augmentation.images_per_example, **batching)
    if shuffle_buffer is None:
        shuffle_buffer = _STREAM_SHUFFLE_BUFFER
    if workers is None:
        workers = min(_MOST_WORKERS, os.cpu_count())
    stream = ImageStream(
        train,
        augmentation,
        shuffle_buffer,
        workers,
        label_values=label_values,
        ignore_label=ignore_label,
        **batching,
    )
    if source.has_maps:
        # Wrong values are found now, not in the first epoch.
        next(stream.training_labels())
    return Dataset(
        train=stream.train,
        test=lambda: stream.evaluation(test),
        train_steps=stream.train_steps,
        input_shape=stream.input_shape,
        num_classes=num_classes,
        name=name,
        class_names=source.class_names,
        test_split=test_split,
        validation=validation and (lambda: stream.evaluation(validation)),
        label_shape=stream.label_shape,
        class_weights=label_maps.class_weights_of(
            class_weights, stream.training_labels, num_classes
        ),
    )


def _numbers(source):
    """The numbers of all classes, of a set whose label maps hold them."""
    if source.num_classes is None:
        raise ValueError(
            "`label_values` must say which values in the label maps are "
            f"classes, like [0, 1], because {source.name!r} does not say it. "
            "Received: label_values=None"
        )
    return range(source.num_classes)
