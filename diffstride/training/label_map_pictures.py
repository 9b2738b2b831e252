"""Pictures of label maps and of predictions, beside the images they are of."""

import pathlib
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from absl import logging
from keras import ops

from diffstride.data.dataset import Batches, Dataset
from diffstride.training import processes
from diffstride.types import FilePath

_EXAMPLES = 4
# With more classes, there is no room to name them.
_MOST_NAMES = 20
_IGNORED_COLOR = (0.0, 0.0, 0.0)


class PredictionPictures(keras.callbacks.Callback):
    """Draws predictions of test images every so many epochs.

    Args:
        data: a `diffstride.data.dataset.Dataset` with label maps.
        directory: path of the directory for the pictures.
        every: integer. Number of epochs.
    """

    def __init__(self, data: Dataset, directory: FilePath, every: int):
        super().__init__()
        self.data = data
        self.directory = pathlib.Path(directory)
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self.directory.mkdir(exist_ok=True)
            path = self.directory / f"epoch_{epoch + 1:03d}.png"
            draw_predictions({"prediction": self.model}, self.data, path)


def draw_predictions(
    models: Mapping[str, keras.Model], data: Dataset, path: FilePath
) -> bool:
    """Draws test images, their label maps, and what models predict for them.

    Args:
        models: dict from titles to Keras models.
        data: a `diffstride.data.dataset.Dataset` with label maps.
        path: the file to write; its suffix says which format.

    Returns:
        Whether there is a picture: not without matplotlib, and not where
        several processes train, each of which has a part of the images.
    """
    if processes.process_count() > 1:
        return False
    images, maps = _examples(data)
    columns = {"labels": maps}
    for title, model in models.items():
        scores = ops.convert_to_numpy(model(images, training=False))
        columns[title] = scores.argmax(axis=-1)
    names = data.class_names or tuple(map(str, range(data.num_classes)))
    return draw_label_maps(images, columns, names, path)


def draw_label_maps(
    images: np.ndarray,
    columns: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    path: FilePath,
) -> bool:
    """Draws a row for each image: the image, then its map of each column.

    Args:
        images: array `(examples, height, width, channels)`, of any scale.
        columns: dict from titles to label maps `(examples, height, width)`.
        class_names: names of the classes.
        path: the file to write; its suffix says which format.

    Returns:
        Whether there is a picture: not without matplotlib.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        logging.warning("No picture of the label maps without matplotlib.")
        return False
    count = len(class_names)
    scale = colormaps["tab20" if count <= _MOST_NAMES else "nipy_spectral"]
    places = range(count) if count <= _MOST_NAMES else np.linspace(0, 1, count)
    colors = [scale(place)[:3] for place in places]
    # The last color is that of the label -1.
    table = np.array([*colors, _IGNORED_COLOR])
    height, width = images.shape[1:3]
    size = 2.4
    figure = Figure(
        figsize=(
            size * (1 + len(columns)) * width / max(height, width),
            size * len(images) * height / max(height, width) + 0.8,
        ),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(images), 1 + len(columns), squeeze=False)
    for row, image in enumerate(images):
        pictures = {"image": _to_colors(image)}
        pictures |= {title: table[maps[row]] for title, maps in columns.items()}
        for panel, (title, picture) in zip(
            panels[row], pictures.items(), strict=True
        ):
            panel.imshow(picture, interpolation="nearest")
            panel.set_axis_off()
            if row == 0:
                panel.set_title(title, fontsize="small")
    if count <= _MOST_NAMES:
        figure.legend(
            [Patch(color=color) for color in colors],
            class_names,
            loc="outside lower center",
            ncols=min(count, 8),
            fontsize="x-small",
        )
    figure.savefig(path, dpi=100)
    return True


def _examples(data):
    """Some test images and their maps, of all parts of the split if it can."""
    batches = data.test()
    if isinstance(batches, Batches) and len(batches) >= _EXAMPLES:
        places = np.linspace(0, len(batches) - 1, _EXAMPLES).astype(int)
        chosen = [batches[int(place)][:2] for place in places]
        return tuple(
            np.stack([part[0] for part in parts])
            for parts in zip(*chosen, strict=True)
        )
    images, maps, *_ = next(iter(batches))
    return np.asarray(images)[:_EXAMPLES], np.asarray(maps)[:_EXAMPLES]


def _to_colors(image):
    """An image of any scale, with the contrast of the values it has."""
    low, high = np.percentile(image, (1, 99))
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return image[..., :3] if image.shape[-1] >= 3 else image[..., [0, 0, 0]]
