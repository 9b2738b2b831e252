#!/usr/bin/env python3
"""Draws test images, their label maps, and what trained models predict.

    python scripts/draw_label_maps.py RUN_1 RUN_2 --output maps.png

Each RUN is the work directory of a run with label maps. The data set is that
of the first one; `--data` names another `.npz` file, if the data moved. Four
images are drawn, from all parts of the test split. Each run has a column, with
the name of its directory.
"""

import argparse
import pathlib

import gin
import keras

from diffstride import configurables
from diffstride.layers import pooling, resize  # noqa: F401
from diffstride.models import unet  # noqa: F401
from diffstride.training import distribution
from diffstride.training.label_map_pictures import draw_predictions


def load_data(run, path=None):
    """The data set of a run, from its configuration."""
    bindings = [f"arrays.from_arrays.data = {path!r}"] if path else []
    configurables.parse([str(run / "config.gin")], bindings)
    loader = gin.query_parameter("train.train.dataset")
    return distribution.load(loader.scoped_configurable_fn, seed=0)


def draw(runs, output, data=None):
    dataset = load_data(runs[0], data)
    if not dataset.label_shape:
        raise SystemExit(f"The labels of {runs[0]} must be maps.")
    models = {
        run.name: keras.saving.load_model(run / "model.keras", compile=False)
        for run in runs
    }
    if not draw_predictions(models, dataset, output):
        raise SystemExit("Pictures need matplotlib: pip install matplotlib")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=pathlib.Path, nargs="+")
    parser.add_argument("--data", help="an .npz file in place of that of RUN_1")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    draw([run.resolve() for run in args.runs], args.output, args.data)


if __name__ == "__main__":
    main()
