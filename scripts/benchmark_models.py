#!/usr/bin/env python3
"""Times whole models with each way of downsampling, side by side.

    python scripts/benchmark_models.py
    python scripts/benchmark_models.py --models resnet18 --batch_size 256
    KERAS_BACKEND=jax python scripts/benchmark_models.py --models resnet18 \
        --batch_size 512 --dtype_policy mixed_bfloat16 --steps 20   # on a GPU

For every model: milliseconds of a training step and of inference, the peak
memory that training adds, operations, each with its ratio to the model with
strided convolutions (as in Table A.2 of Riad et al., 2022), and the sizes of
the maps after each downsampling layer. The variants of a model take turns
within each of `--repeats` rounds; figures are medians over the rounds. Rows
that end with "before" are networks with `pooling_order="before"`. "rfft2d" is
DiffStride by two-dimensional Fourier transforms, as in benchmark_layers.py.

Under JAX the `--steps` training steps of a round follow one another on the
device, and the host waits for the last one only.
"""

import argparse
import functools
import pathlib

import keras
import measure
import numpy as np
from benchmark_layers import Rfft2dPooling

from diffstride import (
    DiffStride,
    FixedSpectralPooling,
)
from diffstride.analysis.operations import layer_costs
from diffstride.models.audio_cnn import audio_cnn
from diffstride.models.densenet import densenet
from diffstride.models.efficientnet import efficientnet
from diffstride.models.resnet import resnet18, resnet18_imagenet
from diffstride.training.on_device import state_of


def resnet18_study(pooling_cls, **kwargs):
    """The network of configs/studies/cifar10_small.gin."""
    return resnet18(
        [1, 1, 2, 2, 2],
        filters=8,
        num_layers=1,
        pooling_cls=[None, pooling_cls, pooling_cls, pooling_cls],
        stem_slot=False,
        downsample_identity=True,
        activated_shortcut=True,
        weight_decay=5e-4,
        **kwargs,
    )


# The shape of an input, and what builds the model for it.
MODELS = {
    "resnet18": ((32, 32, 3), resnet18),
    "resnet18_study": ((32, 32, 3), resnet18_study),
    "resnet18_imagenet": ((224, 224, 3), resnet18_imagenet),
    "efficientnet_b0": ((128, 128, 3), efficientnet),
    "densenet121": ((32, 32, 3), densenet),
    "audio_cnn": ((16000,), audio_cnn),
}

_INSIDE = functools.partial(DiffStride, ramp="inside")
# What makes the pooling layers, and their order.
POOLINGS = {
    "strided": (None, "after"),
    "spectral": (FixedSpectralPooling, "after"),
    "spectral before": (FixedSpectralPooling, "before"),
    "DiffStride": (DiffStride, "after"),
    "DiffStride symmetric": (
        functools.partial(DiffStride, symmetric=True),
        "after",
    ),
    "DiffStride inside": (_INSIDE, "after"),
    "DiffStride inside before": (_INSIDE, "before"),
    "rfft2d": (
        lambda strides, name, **_: Rfft2dPooling(strides[0], name=name),
        "after",
    ),
}


def build(model, pooling):
    shape, builder = MODELS[model]
    pooling_cls, pooling_order = POOLINGS[pooling]
    keras.utils.set_random_seed(0)
    return builder(
        num_output_classes=35 if model == "audio_cnn" else 10,
        input_shape=shape,
        pooling_cls=pooling_cls,
        pooling_order=pooling_order,
    )


def make_steps(model, pooling, args, batch_size=None):
    """Functions that train on a batch, `args.steps` times, and predict it."""
    network = build(model, pooling)
    network.compile(
        # So slow that strides, and with them sizes, stay where they are.
        keras.optimizers.SGD(1e-9, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=args.jit_compile,
    )
    batch_size = batch_size or args.batch_size
    generator = np.random.default_rng(0)
    x = generator.standard_normal((batch_size, *MODELS[model][0]), "float32")
    y = generator.integers(0, 10, batch_size)
    train_step = functools.partial(network.train_on_batch, x, y)
    if keras.backend.backend() == "jax":
        train_step = step_on_device(network, x, y)

    def train():
        results = [train_step() for _ in range(args.steps)]
        keras.tree.map_structure(np.asarray, results[-1])

    return train, lambda: network.predict_on_batch(x)


def step_on_device(network, x, y):
    """A training step of JAX that leaves all results on the device."""
    import jax

    network.optimizer.build(network.trainable_variables)
    network.compute_loss(y=y[:1], y_pred=np.zeros((1, 10)))  # Makes metrics.
    # Copies, because a step takes the memory of the state that it is given.
    state = tuple(
        [v.value.copy() for v in group] for group in state_of(network)
    )
    batch = jax.device_put((x, y))
    compiled = jax.jit(network.train_step, donate_argnums=0)

    def step():
        nonlocal state
        logs, state = compiled(state, batch)
        return logs

    return step


def describe(model, pooling):
    """Operations of a model in millions, and the sizes of its maps."""
    network = build(model, pooling)
    costs = layer_costs(network, MODELS[model][0])
    sizes = []
    for cost in costs:
        size = "x".join(map(str, cost.output_shape[:-1]))
        if len(cost.output_shape) == 3 and size not in sizes[-1:]:
            sizes.append(size)
    return sum(cost.macs for cost in costs) / 1e6, sizes


def measure_model(model, poolings, args):
    steps = {pooling: make_steps(model, pooling, args) for pooling in poolings}
    first, second = (
        {pooling: pair[i] for pooling, pair in steps.items()} for i in (0, 1)
    )
    training = measure.median_milliseconds(first, args.repeats)
    if not args.no_inference:
        inference = measure.median_milliseconds(second, args.repeats)
    rows = {}
    for pooling in poolings:
        macs, sizes = describe(model, pooling)
        row = rows[pooling] = {"training_ms": training[pooling] / args.steps}
        if not args.no_inference:
            row["inference_ms"] = inference[pooling]
        row |= {"million_macs": macs, "sizes": sizes}
        if not args.no_memory:
            row["memory_mib"] = measure.number_from_process(
                "--memory_of",
                pooling,
                "--models",
                model,
                "--batch_size",
                args.batch_size,
                "--dtype_policy",
                args.dtype_policy,
            )
    return rows


def print_table(model, batch_size, rows):
    print(f"\n{model}, {batch_size} examples a step")
    columns = [name for name in next(iter(rows.values())) if name != "sizes"]
    print(f"{'':26}" + "".join(f"{name:>20}" for name in columns))
    reference = rows.get("strided")
    for pooling, row in rows.items():
        cells = [
            f"{row[name]:11.1f} "
            + (f"({row[name] / reference[name]:5.2f}x)" if reference else "")
            for name in columns
        ]
        print(f"{pooling:26}" + "".join(f"{cell:>20}" for cell in cells))
    for pooling, row in rows.items():
        print(f"  maps, {pooling}: {', '.join(row['sizes'])}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models", nargs="+", choices=list(MODELS), default=list(MODELS)
    )
    parser.add_argument(
        "--poolings", nargs="+", choices=list(POOLINGS), default=list(POOLINGS)
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=1, help="training steps in a round"
    )
    parser.add_argument("--dtype_policy", default="float32")
    parser.add_argument("--jit_compile", action="store_true", help="use XLA")
    parser.add_argument("--no_inference", action="store_true")
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    keras.config.set_dtype_policy(args.dtype_policy)
    if args.memory_of:
        (model,) = args.models
        if not measure.jax_memory():
            # What starting to compute costs, whatever the model.
            make_steps(model, args.memory_of, args, batch_size=1)[0]()
        training, _ = make_steps(model, args.memory_of, args)
        print(measure.added_memory(training))
        return
    results = {}
    for model in args.models:
        results[model] = measure_model(model, args.poolings, args)
        print_table(model, args.batch_size, results[model])
    if args.json:
        measure.write_json(
            args.json,
            batch_size=args.batch_size,
            repeats=args.repeats,
            steps=args.steps,
            dtype_policy=args.dtype_policy,
            results=results,
        )


if __name__ == "__main__":
    main()
