"""The images of a prepared set as arrays, which many runs decode only once."""

import contextlib
import hashlib
import json
import os
import pathlib
import zipfile

import numpy as np
from absl import logging

from diffstride.data.records import Records
from diffstride.data.tfds_source import fingerprint

_DECODED_AT_ONCE = 1024


def read_splits(source, splits, max_bad_share, cache_dir=None):
    """Decodes the images of splits, or reads them as another run decoded them.

    Args:
        source: The `TFDSSource` of a set whose images have one size.
        splits: Dict from `"train"`, `"test"` or `"validation"` to a split.
        max_bad_share: Share of the images that may be unusable.
        cache_dir: Folder for files of decoded images. Defaults to none.

    Returns:
        A dict with `x_train`, `y_train` and so on, for `from_arrays`.
    """
    content = fingerprint(source.builder) if cache_dir else None
    arrays = {}
    for key, split in splits.items():
        path = _path(source, split, content, cache_dir)
        found = path and _load(path)
        if not found:
            records = Records(source, split, max_bad_share)
            found = _decode(records)
            # Do not cache a split with bad images, so that each run names them.
            if path and not records.num_bad:
                _save(path, *found)
        arrays[f"x_{key}"], arrays[f"y_{key}"] = found
    return arrays


def _path(source, split, content, cache_dir):
    if cache_dir is None:
        return None
    # The keys too, because the same images may have labels of other kinds.
    identity = [content, split, source.keys]
    digest = hashlib.sha1(json.dumps(identity).encode()).hexdigest()
    name = source.builder.info.full_name.replace("/", "_")
    folder = pathlib.Path(cache_dir).expanduser()
    return folder / f"{name}-{digest[:16]}.npz"


def _load(path):
    try:
        with np.load(path) as file:
            return file["images"], file["labels"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logging.warning("%s is damaged and written anew: %s", path, error)
        return None


def _save(path, images, labels):
    """Writes a file under its name only when it is complete."""
    # Use a name of this process, because others may write the same file.
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, images=images, labels=labels)
        os.replace(part, path)
    except OSError as error:  # The run goes on without the file.
        logging.warning("%s cannot be written: %s", path, error)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _decode(records):
    """The decoded images and the labels of a split."""
    shape = records.source.image_shape
    images = np.empty((len(records), *shape), "uint8")
    if records.source.has_maps:
        labels = np.empty((len(records), *shape[:2]), "uint8")
    else:
        labels = np.empty(len(records), "int32")
    for start in range(0, len(records), _DECODED_AT_ONCE):
        part = np.arange(start, min(start + _DECODED_AT_ONCE, len(records)))
        images[part], labels[part] = records.decode(part, shape)
    return images, labels
