#!/usr/bin/env python3
"""Draws test images, their label maps, and what trained models predict.

    python scripts/draw_label_maps.py RUN_1 RUN_2 --output maps.png \\
        --classes sky building road

Each RUN is the work directory of a run with label maps. The data set is that
of the first one; `--data` names another `.npz` file, if the data moved. Four
images are drawn, from all parts of the test split. Each run has a column, with
the name of its directory. `--classes` names the classes, of which an `.npz`
file knows only the numbers.
"""

import argparse
import dataclasses
import pathlib

import gin
import keras

from diffstride import configurables
from diffstride.layers import pooling, resize  # noqa: F401
from diffstride.models import unet  # noqa: F401
from diffstride.training import distribution
from diffstride.training.label_map_pictures import draw_predictions

_COLORS = 128


def load_data(run, path=None):
    """The data set of a run, from its configuration."""
    bindings = [f"arrays.from_arrays.data = {path!r}"] if path else []
    configurables.parse([str(run / "config.gin")], bindings)
    loader = gin.query_parameter("train.train.dataset")
    return distribution.load(loader.scoped_configurable_fn, seed=0)


def draw(runs, output, data=None, classes=None):
    dataset = load_data(runs[0], data)
    if not dataset.label_shape:
        raise SystemExit(f"The labels of {runs[0]} must be maps.")
    if classes:
        if len(classes) != dataset.num_classes:
            raise SystemExit(
                f"--classes must name {dataset.num_classes} classes. "
                f"Received: {' '.join(classes)}"
            )
        dataset = dataclasses.replace(dataset, class_names=tuple(classes))
    models = {
        run.name: keras.saving.load_model(run / "model.keras", compile=False)
        for run in runs
    }
    if not draw_predictions(models, dataset, output):
        raise SystemExit("Pictures need matplotlib: pip install matplotlib")
    # Matplotlib needs Pillow. A palette takes half as many bytes.
    from PIL import Image

    picture = Image.open(output).convert("RGB")
    picture.quantize(_COLORS).save(output, optimize=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=pathlib.Path, nargs="+")
    parser.add_argument("--data", help="an .npz file in place of that of RUN_1")
    parser.add_argument("--classes", nargs="+", help="names of the classes")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    runs = [run.resolve() for run in args.runs]
    draw(runs, args.output, args.data, args.classes)


if __name__ == "__main__":
    main()
