#!/usr/bin/env python3
"""How near to a budget the strides of three kinds of networks end.

    python scripts/study_targets.py
    KERAS_BACKEND=jax python scripts/study_targets.py

Trains each network for some epochs on noise. The table says what it costs at
the end, by `count_macs`, beside what it should.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from diffstride import DiffStride, MacsBudget, RefreshSizes, set_stride_rate
from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import count_macs
from diffstride.models.audio_cnn import audio_cnn
from diffstride.models.efficientnet import efficientnet
from diffstride.models.resnet import resnet18


def learned(strides, data_format, name):
    return DiffStride(
        strides,
        data_format=data_format,
        norm="forward",
        ramp="inside",
        name=name,
    )


def resnet(order):
    shape = (32, 32, 3)
    pooling_cls = [None, learned, learned, learned]
    return shape, resnet18(
        [1, 1, 2, 2, 2],
        filters=8,
        pooling_cls=pooling_cls,
        input_shape=shape,
        stem_slot=False,
        downsample_identity=True,
        pooling_order=order,
    )


def efficientnet_b0(order):
    shape = (64, 64, 3)
    return shape, efficientnet(
        "b0", pooling_cls=learned, input_shape=shape, pooling_order=order
    )


def sounds(order):
    shape = (16000,)
    return shape, audio_cnn(
        10,
        shape,
        channels=(16, 16, 32, 32, 64, 64),
        pooling_cls=learned,
        pooling_order=order,
    )


NETWORKS = {
    "ResNet-18": resnet,
    "EfficientNet-B0": efficientnet_b0,
    "audio CNN": sounds,
}
# Ratios to the operations of the first strides, and the order of the layers.
TARGETS = [(0.6, "after"), (1.0, "before"), (1.4, "before")]


def train(make, target, order, args):
    """Trains a network. Returns operations wanted and found, and strides."""
    keras.utils.set_random_seed(args.seed)
    shape, model = make(order)
    x = np.random.default_rng(args.seed).normal(size=(64, *shape))
    y = np.arange(64) % 10
    budget = MacsBudget(target, input_shape=shape)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(
        set_stride_rate(optimizer, args.stride_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        x.astype("float32"),
        y,
        batch_size=16,
        epochs=args.epochs,
        callbacks=[budget, RefreshSizes()],
        verbose=0,
    )
    strides = [
        keras.ops.convert_to_numpy(layer.strides)
        for layer in learned_layers(model)
    ]
    return budget.target, count_macs(model, shape), np.concatenate(strides)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--stride_rate", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    args = parser.parse_args()
    print(f"Backend: {keras.backend.backend()}")
    print(
        "| network | order | ratio | target | at the end | off by | strides |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in args.networks:
        for ratio, order in TARGETS:
            target, macs, strides = train(NETWORKS[name], ratio, order, args)
            print(
                f"| {name} | {order} | {ratio} | {target / 1e6:.2f} M | "
                f"{macs / 1e6:.2f} M | {100 * (macs / target - 1):+.1f} % | "
                f"{', '.join(f'{stride:.2f}' for stride in strides)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
