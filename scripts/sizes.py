#!/usr/bin/env python3
"""Which map sizes come out of which strides, and what that costs.

    python scripts/sizes.py map --size 32
    python scripts/sizes.py model --model resnet18 --strides 1 1 2 2 2
    python scripts/sizes.py model --model resnet18 --pooling_order before

The first prints the size of a map after one layer, by stride and smoothness
factor R. The second prints the maps of a network after each block that
downsamples, and its multiply-accumulate operations for one example, at initial
strides. Both are Markdown, as in docs/sizing.md.
"""

import argparse
import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmark_models import MODELS

from diffstride import (
    DiffStride,
    FixedSpectralPooling,
)
from diffstride.analysis.operations import layer_costs


def poolings(smoothness_factors):
    """Ways of downsampling, by the name of a row or column."""
    diffstride = functools.partial(DiffStride, static_sizes=True)
    ways = {
        "spectral pooling": FixedSpectralPooling,
        # R makes no difference to the size.
        "inside": functools.partial(diffstride, ramp="inside"),
    }
    for factor in smoothness_factors:
        ways[f"outside, R = {factor:g}"] = functools.partial(
            diffstride, smoothness_factor=factor
        )
    return ways


def print_map(size, strides, smoothness_factors):
    ways = poolings(smoothness_factors)
    print(f"| stride on {size} points | {' | '.join(ways)} |")
    print("|---" * (len(ways) + 1) + "|")
    for stride in strides:
        sizes = [
            way(stride).compute_output_shape((1, size, size, 1))[1]
            for way in ways.values()
        ]
        print(f"| {stride:g} | {' | '.join(map(str, sizes))} |")


def print_model(name, strides, smoothness_factors, pooling_order):
    shape, builder = MODELS[name]
    ways = {"strided convolution": None, **poolings(smoothness_factors)}
    print(f"| {name} | maps after its blocks | million MACs | ratio |")
    print("|---|---|---|---|")
    reference = None
    for way, pooling in ways.items():
        arguments = {"strides": strides} if strides else {}
        try:
            model = builder(
                num_output_classes=10,
                input_shape=shape,
                pooling_cls=pooling,
                pooling_order=pooling_order,
                **arguments,
            )
        except ValueError:
            if pooling is not None:
                raise
            continue  # Fractional strides.
        costs = layer_costs(model, shape)
        macs = sum(cost.macs for cost in costs)
        reference = reference or macs
        sizes = ", ".join(maps(costs, pooling is not None))
        print(
            f"| {way} | {sizes} | {macs / 1e6:.1f} | {macs / reference:.2f} |"
        )


def maps(costs, has_layers):
    """Sizes after each layer of the pooling slot, or where they change."""
    sizes = []
    for cost in costs:
        if len(cost.output_shape) != 3:
            continue
        size = "x".join(map(str, dict.fromkeys(cost.output_shape[:2])))
        if has_layers and "pooling" in cost.name or not has_layers:
            sizes.append(size)
    # A layer serves main path and shortcut.
    return [s for i, s in enumerate(sizes) if i == 0 or s != sizes[i - 1]]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    of_map = commands.add_parser("map", help="one layer on one map")
    of_map.add_argument("--size", type=int, default=32)
    of_map.add_argument(
        "--strides", type=float, nargs="+", default=[1, 1.5, 2, 3, 4, 8]
    )
    of_model = commands.add_parser("model", help="a whole network")
    of_model.add_argument("--model", choices=list(MODELS), default="resnet18")
    of_model.add_argument("--strides", type=number, nargs="+")
    of_model.add_argument(
        "--pooling_order", choices=("after", "before"), default="after"
    )
    for command in (of_map, of_model):
        command.add_argument(
            "--smoothness_factors", type=float, nargs="+", default=[1, 2, 4]
        )
    args = parser.parse_args()
    if args.command == "map":
        if args.size < 1:
            parser.error(f"--size must be 1 or more, not {args.size}")
        print_map(args.size, args.strides, args.smoothness_factors)
    else:
        print_model(
            args.model,
            args.strides,
            args.smoothness_factors,
            args.pooling_order,
        )


def number(text):
    return int(text) if text.isdigit() else float(text)


if __name__ == "__main__":
    main()
