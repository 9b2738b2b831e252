"""Batches of images that are read, decoded and resized as they are needed."""

import dataclasses
import functools

import numpy as np

from diffstride.data import sampling
from diffstride.data.dataset import Batches, process_rows, random_generator
from diffstride.data.label_maps import number_classes

# Blocks of 16 records are read from 16 files in turn. So neighbours in an epoch
# come from several files, and yet each file is read nearly from its beginning
# to its end, which is fast on a disk.
_FILES = _BLOCK = 16
# Number of images that are decoded at a time. Arrays of about 10 MB can use the
# same memory again and again.
_CHUNK = 64


class ImageStream:
    """Batches of a set whose images stay encoded in their files.

    Args:
        train: The `Records` to train on.
        augmentation: The `Augmentation`.
        shuffle_buffer: Size of the buffer from which the next image is drawn.
        workers: Number of batches to make at a time.
        batch_size: Number of images in a batch, of all processes together.
        seed: Seed of the order and of the augmentation.
        process_index: Number of this process.
        process_count: Number of processes.
        label_values: The values in label maps that stand for the classes.
        ignore_label: The value of pixels that do not count.
    """

    def __init__(
        self,
        train,
        augmentation,
        shuffle_buffer,
        workers,
        batch_size,
        seed,
        process_index,
        process_count,
        label_values=None,
        ignore_label=None,
    ):
        self._train = train
        self._label_values = label_values
        self._ignore_label = ignore_label
        has_maps = train.source.has_maps
        self.label_shape = augmentation.image_size if has_maps else ()
        channels = train.source.image_shape[-1]
        self.input_shape = (*augmentation.image_size, channels)
        self._augmentation = augmentation
        # What is left to do for images whose boxes are cropped and resized.
        self._finish = dataclasses.replace(augmentation, inception_crop=False)
        self._shuffle_buffer = shuffle_buffer
        self._workers = workers
        self._batch_size = batch_size
        self._seed = seed
        self._process = process_index, process_count
        images = batch_size * augmentation.images_per_example
        self.train_steps = len(train) // images
        # Keep the orders of this epoch and of the one before it.
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def train(self, epoch, start_step=0):
        """The training batches of an epoch, for `Dataset.train`."""
        augmentation, batch_size = self._augmentation, self._batch_size
        rows = process_rows(batch_size, *self._process)
        per_step = batch_size * augmentation.images_per_example

        def make_batch(step):
            draws = augmentation.draw(
                random_generator(self._seed, epoch, step), batch_size
            )
            needed = augmentation.needed(draws, rows)
            images, labels = self._read(
                self._train,
                self._order(epoch)[step * per_step + needed],
                draws,
                needed,
            )
            return self._finish.mix(images, labels, draws, needed, rows)

        return Batches(
            make_batch, self.train_steps, start_step, workers=self._workers
        )

    def evaluation(self, records):
        """The batches of these `Records`, for `Dataset.test`."""
        total = len(records)

        def examples(step):
            start = step * self._batch_size
            size = min(self._batch_size, total - start)
            return start + process_rows(size, *self._process)

        def make_batch(step):
            images, labels = self._read(records, examples(step))
            return images, self._finish.targets(labels)

        steps = -(-total // self._batch_size)
        shapes = [
            (len(examples(step)), *self.input_shape) for step in range(steps)
        ]
        return Batches(make_batch, steps, workers=self._workers, shapes=shapes)

    def _draw_order(self, epoch):
        """The training records of an epoch in order."""
        files = self._train.files
        generator = random_generator(self._seed, epoch)
        rank = generator.permutation(files.max() + 1)[files]
        place = np.arange(len(files)) - np.searchsorted(files, files)
        order = np.lexsort((place, rank, place // _BLOCK, rank // _FILES))
        return order[
            sampling.shuffle(generator, len(files), self._shuffle_buffer)
        ]

    def training_labels(self):
        """Yields the labels of all training examples, part by part."""
        for start in range(0, len(self._train), _CHUNK):
            part = np.arange(start, min(start + _CHUNK, len(self._train)))
            yield self._read(self._train, part)[1]

    def _read(self, records, indices, draws=None, needed=None):
        """Reads images, and changes those that are ready while others follow.

        Args:
            records: The `Records`.
            indices: Numbers of the records.
            draws: The `Draws` of a training batch. Defaults to none: then they
                are made into test images.
            needed: Numbers of the images in that batch.

        Returns:
            Float32 images and their labels.
        """
        images = np.empty((len(indices), *self.input_shape), "float32")
        labels = np.empty((len(indices), *self.label_shape), "int32")
        for start in range(0, len(indices), _CHUNK):
            part = slice(start, start + _CHUNK)
            own = ... if needed is None else needed[part]
            decoded, found = records.decode(
                indices[part],
                self.input_shape,
                lambda sizes, own=own: self._augmentation.boxes(
                    *sizes.T, draws, own
                ),
            )
            images[part] = self._finish.change(decoded, draws, own)
            if self.label_shape:
                found = self._finish.change_maps(
                    number_classes(
                        found,
                        f"{records.source.keys[1]} of {records.split}",
                        self._label_values,
                        self._ignore_label,
                    ),
                    draws,
                    own,
                )
            labels[part] = found
        if not self.label_shape and np.any(labels < 0):
            raise ValueError(
                f"The split {records.split!r} of {records.source.name!r} has "
                "no labels."
            )
        return images, labels
