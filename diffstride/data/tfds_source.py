"""Finding, preparing, reading and writing a set of images of TFDS.

TensorFlow and TFDS are imported when a set is opened, not before.
"""

import contextlib
import os
import pathlib

import keras
import numpy as np
from absl import logging

# Names of the image in sets that do not say what the input is.
_IMAGE_KEYS = ("image", "image_left")


class TFDSSource:
    """A prepared set of images of TFDS, with a class or a label map for each.

    A set that is not there yet is downloaded and prepared, with a warning that
    says so.

    Args:
        name: Name of the set, with its config and version if need be.
        data_dir: Folder of the prepared sets. Defaults to that of TFDS.
        label_key: Name of the feature that is the label. Defaults to the target
            that the set has.
    """

    def __init__(self, name, data_dir=None, label_key=None):
        self.name = name
        self.builder = open_builder(name, data_dir)
        features = self.builder.info.features
        image_key, target_key = self.builder.info.supervised_keys or (
            next((key for key in _IMAGE_KEYS if key in features), None),
            None,
        )
        if label_key is not None and label_key not in features:
            raise ValueError(
                f"`label_key` must be a feature of {name!r}, one of "
                f"{list(features)}. Received: label_key={label_key!r}"
            )
        self.keys = image_key, label_key or target_key
        image, label = (
            features[key] if isinstance(key, str) and key in features else None
            for key in self.keys
        )
        self.has_maps = (
            len(getattr(label, "shape", None) or ()) == 3
            and label.shape[-1] == 1
            and np.dtype(label.np_dtype) == np.uint8
        )
        is_labeled = self.has_maps or hasattr(label, "num_classes")
        if not is_labeled or len(image.shape or ()) != 3:
            raise ValueError(
                "`name` must be a set of images with one label each, or with "
                "one `uint8` label map each, which may need `label_key`. "
                f"Received: name={name!r} with the features {list(features)}, "
                f"of which the input and the target are {self.keys}"
            )
        if np.dtype(image.np_dtype) != np.uint8:
            raise ValueError(
                "`name` must be a set of `uint8` images. Received: "
                f"name={name!r} with images of {image.np_dtype}"
            )
        self.image_shape = image.shape
        # Label maps may say neither.
        self.num_classes = getattr(label, "num_classes", None)
        self.class_names = tuple(getattr(label, "names", None) or ()) or None

    def num_examples(self, split, argument):
        """Number of examples of a split, given as an argument of this name."""
        try:
            parts = self.builder.info.splits[split].file_instructions
        except ValueError:
            parts = ()
        if not parts:
            raise ValueError(
                f"`{argument}` must be a split of {self.name!r}, one of "
                f"{list(self.builder.info.splits)}, or a slice that is not "
                f"empty. Received: {argument}={split!r}"
            )
        return sum(part.take for part in parts)


def write_tfds(
    data_dir,
    name,
    splits,
    num_classes,
    encoding="png",
    shard_size=1000,
    file_format="tfrecord",
):
    """Writes images as a set of TFDS, for `tfds_images` or `tfds.load`.

    Args:
        data_dir: Folder of the prepared sets.
        name: Name of the set.
        splits: Dict from the name of a split to its images and labels. Images
            are `uint8` arrays `(height, width, channels)` of any sizes. Labels
            are integers or, for segmentation, `uint8` arrays `(height, width)`.
        num_classes: Number of classes.
        encoding: `"png"` or `"jpeg"`.
        shard_size: Number of examples in a file.
        file_format: `"tfrecord"` or `"array_record"`.

    Example:

    ```python
    splits = {
        "train": textures(4096, seed=0),
        "test": textures(1024, seed=1),
    }
    write_tfds("data", "textures", splits, num_classes=8)
    dataset = tfds_images("textures", data_dir="data")
    ```
    """
    import tensorflow_datasets as tfds

    folder = pathlib.Path(data_dir).expanduser() / name / "1.0.0"
    folder.mkdir(parents=True)
    shapes = {
        np.shape(image) for images, _ in splits.values() for image in images
    }
    height, width, channels = (
        sizes.pop() if len(sizes) == 1 else None
        for sizes in map(set, zip(*shapes, strict=True))
    )
    has_maps = any(np.ndim(labels[0]) for _, labels in splits.values())
    if has_maps:
        key = "segmentation_mask"
        sizes = {np.shape(each) for _, maps in splits.values() for each in maps}
        size = sizes.pop() if len(sizes) == 1 else (None, None)
        label = tfds.features.Image(shape=(*size, 1), encoding_format="png")
    else:
        key, label = "label", tfds.features.ClassLabel(num_classes=num_classes)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=name,
            version=tfds.core.Version("1.0.0"),
            data_dir=str(folder),
            module_name=__name__,
        ),
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(
                    shape=(height, width, channels), encoding_format=encoding
                ),
                key: label,
            }
        ),
        supervised_keys=("image", key),
    )
    with quiet():
        info.set_file_format(file_format)
        writer = tfds.core.SequentialWriter(
            info, shard_size, file_format=info.file_format
        )
        writer.initialize_splits(list(splits))
        writer.add_examples(
            {
                split: (
                    {
                        "image": image,
                        key: np.expand_dims(label, -1)
                        if has_maps
                        else int(label),
                    }
                    for image, label in zip(*examples, strict=True)
                )
                for split, examples in splits.items()
            }
        )
        writer.close_all()


def leave_gpus_alone():
    """Keeps TensorFlow off the GPUs if it only reads the data."""
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def quiet():
    """Keeps the progress messages of TFDS out of the log."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def check_files(builder, paths):
    """Names the files of a set that are missing."""
    import tensorflow_datasets as tfds

    missing = [path for path in paths if not tfds.core.Path(path).exists()]
    if missing:
        raise FileNotFoundError(
            f"Every file of the set {builder.info.full_name} must be there, "
            f"but {missing[0]} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ". Run the command again that prepared the set."
        )


def warn_of_overlap(builder, train_split, test_split):
    """Warns of test examples that are training examples, too."""
    if not builder.info.splits:  # So it is for the mock data of TFDS.
        return
    train, test = (
        builder.info.splits[split].file_instructions
        for split in (train_split, test_split)
    )
    shared = sum(
        max(
            0,
            min(one.skip + one.take, other.skip + other.take)
            - max(one.skip, other.skip),
        )
        for one in train
        for other in test
        if one.filename == other.filename
    )
    if shared:
        logging.warning(
            "%d of the %d test examples of %s are training examples, too: the "
            "split to train on is %s, that to test on %s.",
            shared,
            sum(part.take for part in test),
            builder.info.full_name,
            train_split,
            test_split,
        )


def fingerprint(builder):
    """Values that change if a set is prepared again in the same place.

    Args:
        builder: The TFDS builder of the set.

    Returns:
        A list, ready for JSON, of the name, size and time of change of each
        file of the set. The size alone is not enough, because it stays the same
        if a label is corrected.
    """
    return [
        [file.name, *_size_and_time(file)]
        for file in sorted(builder.data_path.iterdir())
    ]


def _size_and_time(file):
    try:
        stat = os.stat(file)
    except OSError:  # The file is in the cloud. Its time has whole seconds.
        stat = file.stat()
        return stat.length, stat.mtime
    return stat.st_size, stat.st_mtime_ns


def open_builder(name, data_dir=None):
    """The builder of a set, which is prepared first if need be."""
    import tensorflow_datasets as tfds

    try:
        with quiet():
            folder = data_dir and pathlib.Path(data_dir).expanduser()
            builder = tfds.builder(name, data_dir=folder)
            prepared = builder.is_prepared()
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            "`name` must be a data set that TFDS knows or that lies prepared "
            f"in `data_dir`. Received: name={name!r}, data_dir={data_dir!r}"
        ) from error
    if not prepared:
        logging.warning(
            "The data set %s is not in %s. Downloading and preparing it.",
            name,
            builder.data_dir,
        )
        try:
            leave_gpus_alone()
            builder.download_and_prepare()
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise FileNotFoundError(
                f"The data set {name!r} is not in {builder.data_dir}, and TFDS "
                f"could not prepare it ({type(error).__name__}: {reason}). "
                f"Run `tfds build {name} --data_dir=FOLDER` where there is a "
                "network, and give that folder as `data_dir`. Received: "
                f"name={name!r}, data_dir={data_dir!r}"
            ) from error
    return builder
