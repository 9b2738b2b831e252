"""Batches of images that lie in memory."""

import dataclasses
import functools

import numpy as np

from diffstride.data import sampling
from diffstride.data.augment import Augmentation, Draws
from diffstride.data.dataset import Batches, process_rows, random_generator


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBatches:
    """Images that lie in memory, and how they become batches.

    Args:
        splits: Dict from the name of a split, `"train"` among them, to its
            images and labels.
        augmentation: What becomes of the images of a batch.
        batch_size: Number of examples in a batch, of all processes together.
        seed: Seed of the order and of the augmentation.
        shuffle_buffer: Size of the buffer from which the next image is drawn.
            None for all of them.
        workers: Number of threads that each make a batch.
        process_index: Number of this process.
        process_count: Number of processes that make rows of each batch.
    """

    splits: dict
    augmentation: Augmentation
    batch_size: int
    seed: int = 0
    shuffle_buffer: int | None = None
    workers: int = 1
    process_index: int = 0
    process_count: int = 1

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.splits["train"][0])

    @property
    def train_steps(self) -> int:
        """Number of training batches in an epoch."""
        return self.num_train // self._images_per_batch

    @property
    def _images_per_batch(self):
        return self.batch_size * self.augmentation.images_per_example

    def _rows(self, size):
        return process_rows(size, self.process_index, self.process_count)

    @functools.cached_property
    def _first_flips(self):
        """Which images are mirrored in the first epoch, if flips alternate."""
        generator = np.random.default_rng([self.seed, 0, 0, 1])
        return generator.random(self.num_train) < 0.5

    def order(self, epoch: int) -> np.ndarray:
        """The numbers of the training images, in the order of an epoch."""
        generator = random_generator(self.seed, epoch)
        return sampling.shuffle(generator, self.num_train, self.shuffle_buffer)

    def draw(
        self, order: np.ndarray, epoch: int, step: int
    ) -> tuple[np.ndarray, Draws]:
        """The images of a training batch, and its random numbers.

        Args:
            order: What `order` returned for the epoch.
            epoch: Number of the epoch.
            step: Number of the batch.

        Returns:
            The numbers of the images, and the `Draws` of the batch.
        """
        draws = self.augmentation.draw(
            random_generator(self.seed, epoch, step), self.batch_size
        )
        size = self._images_per_batch
        chosen = order[step * size : (step + 1) * size]
        flips = self._first_flips[chosen]
        return chosen, self.augmentation.alternate(draws, flips, epoch)

    def train(self, epoch: int, start_step: int = 0) -> Batches:
        """The training batches of an epoch, from a step on."""
        images, labels = self.splits["train"]
        rows, order = self._rows(self.batch_size), self.order(epoch)

        def make_batch(step):
            chosen, draws = self.draw(order, epoch, step)
            needed = self.augmentation.needed(draws, rows)
            examples = chosen[needed]
            return self.augmentation(
                images[examples], labels[examples], draws, needed, rows
            )

        return Batches(make_batch, self.train_steps, start_step, self.workers)

    def evaluation(self, split: str) -> Batches:
        """All batches of a split in its own order, without random changes."""
        images, labels = self.splits[split]

        def examples(step):
            start = step * self.batch_size
            return start + self._rows(min(self.batch_size, len(images) - start))

        def make_batch(step):
            chosen = examples(step)
            return self.augmentation.evaluate(images[chosen], labels[chosen])

        steps = -(-len(images) // self.batch_size)
        shape = (*self.augmentation.image_size, images.shape[-1])
        shapes = [(len(examples(step)), *shape) for step in range(steps)]
        return Batches(make_batch, steps, workers=self.workers, shapes=shapes)
