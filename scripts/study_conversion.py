#!/usr/bin/env python3
"""A network trained with strides that learns them from then on.

    python scripts/study_conversion.py --data_dir=/path/to/tfds --seeds 1 2 3 \
        --picture=docs/pictures/conversion.png

Trains a small ResNet with strided convolutions on a part of CIFAR-10. Then the
network and what `learn_strides` makes of it are trained further, alike. The
table says what each of them knew right after the conversion and at the end, the
picture what they knew after each epoch.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow_datasets as tfds

from diffstride import (
    FadeAliasing,
    MacsBudget,
    RefreshSizes,
    learn_strides,
    recalibrate,
    set_stride_rate,
)
from diffstride.analysis.budget import StrideCosts
from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import count_macs
from diffstride.experiments import drawing
from diffstride.models.resnet import resnet18

layers = keras.layers


def load(data_dir, train_examples):
    """Images around zero, and labels, of training and test."""

    def split(name):
        data = tfds.load(
            "cifar10", split=name, batch_size=-1, data_dir=data_dir
        )
        data = tfds.as_numpy(data)
        return (data["image"].astype("float32") - 120) / 64, data["label"]

    return split(f"train[:{train_examples}]"), split("test")


def strided_network(filters):
    network = resnet18(
        [1, 1, 2, 2, 2],
        filters=filters,
        num_layers=1,
        num_output_classes=10,
        input_shape=(32, 32, 3),
        stem_slot=False,
        downsample_identity=True,
        activated_shortcut=True,
        weight_decay=5e-4,
    )
    inputs = keras.Input((32, 32, 3))
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.RandomTranslation(1 / 8, 1 / 8, "constant")(x)
    return keras.Model(inputs, network(x))


def fit(model, data, peak, epochs, callbacks=()):
    """Trains a model. Returns its test accuracy after each epoch, in %."""
    (x, y), test = data
    steps = epochs * (len(x) // 128)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps * 4 // 5, warmup_target=peak, warmup_steps=steps // 5
    )
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    if learned_layers(model):
        optimizer = set_stride_rate(optimizer, 0.1)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    count = len(x) // 128 * 128
    history = model.fit(
        x[:count],
        y[:count],
        batch_size=128,
        epochs=epochs,
        callbacks=[*callbacks, RefreshSizes()],
        validation_data=test,
        validation_batch_size=500,
        verbose=0,
    )
    return [100 * value for value in history.history["val_accuracy"]]


def accuracy(model, data):
    _, (x, y) = data
    logits = model.predict(x, batch_size=500, verbose=0)
    return 100 * float(np.mean(logits.argmax(-1) == y))


class RandomStrides(keras.callbacks.Callback):
    """Strides of each epoch drawn from 1 to 3, at given operations."""

    def __init__(self, macs, seed):
        super().__init__()
        self.macs = macs
        self.rng = np.random.default_rng(seed)

    def on_epoch_begin(self, epoch, logs=None):
        costs = StrideCosts(self.model)
        costs.assign(self.rng.uniform(1, 3, len(costs.strides)))
        costs.move_to(self.macs)


def conversions(model, data, epochs, seed):
    """Makers of a converted model and its callbacks, by their names."""
    macs, half = count_macs(model), epochs / 2
    x = data[0][0][:2048]

    def lossless():
        return learn_strides(model)

    def low_pass():
        converted = learn_strides(model)
        for layer in learned_layers(converted):
            layer.aliasing.assign(0)
        return converted

    def recalibrated(converted):
        recalibrate(converted, x)
        return converted

    budget = MacsBudget(macs, approach=half)
    return {
        "aliasing fades, no budget": (lossless, [FadeAliasing(half)]),
        "aliasing fades, budget": (lossless, [FadeAliasing(half), budget]),
        "low-pass at once, budget": (
            low_pass,
            [MacsBudget(macs, approach=half)],
        ),
        "low-pass at once, recalibrated, budget": (
            lambda: recalibrated(low_pass()),
            [MacsBudget(macs, approach=half)],
        ),
        "before, recalibrated, budget": (
            lambda: recalibrated(learn_strides(model, pooling_order="before")),
            [MacsBudget(macs, approach=half)],
        ),
        "aliasing fades, random strides": (
            lossless,
            [FadeAliasing(half), RandomStrides(macs, seed)],
        ),
    }


def study(data, args, seed):
    """Accuracy at first and after each epoch, and operations, by name."""
    keras.utils.set_random_seed(seed)
    model = strided_network(args.filters)
    fit(model, data, 0.1, args.epochs)
    weights, found = model.get_weights(), {}

    def note(name, converted, callbacks=()):
        keras.utils.set_random_seed(seed)
        known = [accuracy(converted, data)]
        known += fit(converted, data, args.peak, args.epochs_after, callbacks)
        found[name] = known, count_macs(converted) / 1e6
        strides = [
            keras.ops.convert_to_numpy(layer.strides).round(2).tolist()
            for layer in learned_layers(converted)
        ]
        print(f"seed {seed}, {name}: {found[name]}, {strides}", flush=True)

    makers = conversions(model, data, args.epochs_after, seed)
    for name, (make, callbacks) in makers.items():
        model.set_weights(weights)
        note(name, make(), callbacks)
    note("strides as they are", model)
    return found


def draw(runs):
    """Mean accuracy over the seeds by epoch, a line for each network."""
    figure = drawing.new_figure(6.5, 4.6)
    panel = figure.subplots()
    for name in runs[0]:
        curve = np.mean([run[name][0] for run in runs], axis=0)
        macs = np.mean([run[name][1] for run in runs])
        panel.plot(curve, marker="o", label=f"{name}: {macs:.1f} M")
    drawing.count_epochs(panel)
    panel.set_xlabel("epochs after the conversion")
    panel.set_ylabel("test accuracy in %")
    drawing.legend_above(figure, [panel])
    return figure


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", help="TFDS directory with cifar10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--filters", type=int, default=8)
    parser.add_argument("--train_examples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--epochs_after", type=int, default=6)
    parser.add_argument("--peak", type=float, default=0.05)
    parser.add_argument("--picture", help="PNG file of the curves")
    args = parser.parse_args()
    data = load(args.data_dir, args.train_examples)
    runs = [study(data, args, seed) for seed in args.seeds]
    print("\n| network | right after | at the end | million MACs |")
    print("|---|---|---|---|")
    for name in runs[0]:
        first, last = np.array([run[name][0] for run in runs])[:, [0, -1]].T
        cells = [
            f"{c.mean():.1f} ± {c.std(ddof=1):.1f}"
            if len(runs) > 1
            else f"{c[0]:.1f}"
            for c in (first, last)
        ]
        macs = np.mean([run[name][1] for run in runs])
        print(f"| {name} | {' | '.join(cells)} | {macs:.1f} |")
    if args.picture:
        draw(runs).savefig(args.picture, dpi=110)


if __name__ == "__main__":
    main()
