#!/usr/bin/env python3
"""Evaluates trained models at several reduction rates of DiffRes.

    python scripts/rate_curve.py runs/study_diffres --output rates

Each argument is the work directory of a run, or a directory of runs such as
that of a sweep. A model whose rate was drawn from a range gives a curve; the
models beside it were trained for one rate, which is marked. Runs that differ in
their seeds or folds only are one line: mean and standard deviation. The axis of
the folds is the one that is named `fold` or sets nothing but `test_fold`. The
data are those of `val_accuracy` in the history of a run. Runs without a
reduction rate are left out.

It prints a table, and writes `OUTPUT.json` and, where matplotlib is installed,
`OUTPUT.png`.
"""

import argparse
import json
import pathlib

import gin
import keras
import numpy as np

from diffstride import configurables
from diffstride.analysis.keras_graph import sublayers
from diffstride.analysis.operations import layer_costs
from diffstride.experiments.run_folder import read_folder
from diffstride.layers.frame_reduction import BaseFrameReduction
from diffstride.training import distribution, losses_and_metrics

RATES = (0.25, 0.375, 0.5, 0.625, 0.75)


def groups_of(path):
    """Dict from a label to directories of runs.

    The runs of a label differ in their seeds and their folds only.
    """
    if (path / "model.keras").exists():
        return {path.resolve().name: [path]}
    folder = read_folder(path)
    axes = [axis for axis in folder.axes if not is_of_folds(folder, axis)]
    groups = {}
    for run in folder.runs:
        label = folder.row(run, axes)
        groups.setdefault(label, []).append(folder.path / run.name)
    return groups


def is_of_folds(folder, axis):
    """Whether the choices of an axis are which fold to test on."""
    if axis == "fold" or folder.sweep is None:
        return axis == "fold"
    return all(
        not choice.files
        and choice.params
        and all(
            param.partition(" = ")[0].endswith(".test_fold")
            for param in choice.params
        )
        for choice in folder.sweep.axes[axis]
    )


def load(run):
    """The model of a run, ready to be evaluated, and its data."""
    configurables.parse([str(run / "config.gin")])
    loader = gin.query_parameter("train.train.dataset")
    data = distribution.load(loader.scoped_configurable_fn, seed=0)
    model = keras.saving.load_model(run / "model.keras", compile=False)
    model.compile(
        loss=losses_and_metrics.build_loss(
            model, data.num_classes, data.is_multi_label, None, None
        ),
        weighted_metrics=losses_and_metrics.build_metrics(
            None, data.num_classes
        ),
    )
    return model, data


def reductions(model):
    """The layers of a model that have a reduction rate."""
    return [
        layer
        for layer in sublayers(model)
        if isinstance(layer, BaseFrameReduction)
        and layer.reduction_rate is not None
    ]


def evaluate(run, rates):
    """The rate of training, and accuracy and operations at each rate.

    Returns:
        A tuple, or None for a model without a reduction rate.
    """
    model, data = load(run)
    layers = reductions(model)
    if not layers:
        return None
    trained = layers[0].reduction_rate
    split = data.validation or data.test
    accuracies, macs = [], []
    for rate in rates:
        for layer in layers:
            layer.reduction_rate = rate
        logs = model.evaluate(split(), verbose=0, return_dict=True)
        accuracies.append(logs["accuracy"])
        costs = layer_costs(model, data.input_shape)
        macs.append(sum(cost.macs for cost in costs))
    return trained, accuracies, macs


def curves(paths, rates):
    """Dict from a label to what its runs give at each rate."""
    found = {}
    for path in paths:
        for label, runs in groups_of(path).items():
            results = [evaluate(run, rates) for run in runs]
            results = [result for result in results if result is not None]
            if results:
                trained, _, macs = results[0]
                check_one_rate(label, [rate for rate, _, _ in results])
                found[label] = {
                    "trained": trained,
                    "rates": list(rates),
                    "macs": macs,
                    "accuracies": [accuracy for _, accuracy, _ in results],
                }
                print(row(label, found[label]), flush=True)
    return found


def check_one_rate(label, trained):
    """Models of several rates have no mean that says anything."""
    if len(set(trained)) > 1:
        raise SystemExit(
            "The runs of a line must be trained with one reduction rate. "
            f"Received: runs of '{label}' with {sorted(set(trained), key=str)}."
            " Give directories whose sweep has an axis for the rate."
        )


def row(label, curve):
    """A row of the table: the rate of training is marked by a star."""
    values = 100 * np.array(curve["accuracies"])
    cells = [
        f"{mean:.1f} ± {sd:.1f}" + ("*" if rate == curve["trained"] else "")
        for rate, mean, sd in zip(
            curve["rates"],
            values.mean(axis=0),
            values.std(axis=0, ddof=min(1, len(values) - 1)),
            strict=True,
        )
    ]
    return f"| {label} | {' | '.join(cells)} |"


def draw(found, path):
    """Accuracy against rate: lines, with points at the rates of training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for label, curve in found.items():
        values = 100 * np.array(curve["accuracies"])
        mean = values.mean(axis=0)
        any_rate = not isinstance(curve["trained"], float)
        (line,) = axis.plot(
            curve["rates"],
            mean,
            linewidth=2.5 if any_rate else 0.8,
            linestyle="-" if any_rate else ":",
            label=label,
        )
        for rate, accuracy in zip(curve["rates"], mean, strict=True):
            if rate == curve["trained"]:
                axis.plot(rate, accuracy, "o", color=line.get_color())
    axis.set_xlabel("reduction rate at call time")
    axis.set_ylabel("accuracy in %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=pathlib.Path, nargs="+")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args(argv)
    titles = " | ".join(f"δ = {rate}" for rate in args.rates)
    print(f"| model | {titles} |\n|{'---|' * (len(args.rates) + 1)}")
    found = curves(args.runs, args.rates)
    if not found:
        raise SystemExit("No run has a model with a reduction rate.")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".json").write_text(json.dumps(found, indent=1))
    try:
        draw(found, args.output.with_suffix(".png"))
    except ImportError:
        print("The picture needs matplotlib: pip install matplotlib")


if __name__ == "__main__":
    main()
