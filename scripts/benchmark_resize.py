#!/usr/bin/env python3
"""Times layers that enlarge maps side by side.

    python scripts/benchmark_resize.py
    KERAS_BACKEND=jax python scripts/benchmark_resize.py --shapes 16x16x256

The layers take turns as in `benchmark_layers.py`, and their medians are
compared with that of bilinear upsampling. `SpectralResize` goes by `--factor`,
the layers of Keras by the next integer.
"""

import argparse
import math
import pathlib

import benchmark_layers
import keras
import measure

from diffstride import SpectralResize

BASELINE = "bilinear"


def cases(factor, channels):
    whole = math.ceil(factor)
    return {
        "SpectralResize": SpectralResize(factor),
        BASELINE: keras.layers.UpSampling2D(whole, interpolation="bilinear"),
        "nearest": keras.layers.UpSampling2D(whole),
        "transposed conv 3x3": keras.layers.Conv2DTranspose(
            channels, 3, strides=whole, padding="same"
        ),
    }


def time_layers(shape, factor, repeats):
    """For each layer milliseconds, and their ratios to those of bilinear."""
    steps = {
        name: benchmark_layers.make_steps(
            layer, benchmark_layers.data(shape, name)
        )
        for name, layer in cases(factor, shape[-1]).items()
    }
    forward, training = measure.median_of_pairs(steps, repeats)
    return {
        name: {
            "forward_ms": forward[name],
            "training_ms": training[name],
            "forward_ratio": forward[name] / forward[BASELINE],
            "training_ratio": training[name] / training[BASELINE],
        }
        for name in steps
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=benchmark_layers.parse_shape,
        default=[(32, 32, 128), (16, 16, 256), (64, 64, 32)],
    )
    parser.add_argument("--factor", type=float, default=2)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    args = parser.parse_args()
    results = {}
    for sizes in args.shapes:
        shape = (args.batch_size, *sizes)
        rows = time_layers(shape, args.factor, args.repeats)
        print(f"\n{shape[0]} examples of {'x'.join(map(str, sizes))}")
        print(" " * 20 + "".join(f"{c:>15}" for c in rows[BASELINE]))
        for name, row in rows.items():
            print(f"{name:20}" + "".join(f"{x:15.2f}" for x in row.values()))
        results["x".join(map(str, sizes))] = rows
    if args.json:
        measure.write_json(args.json, repeats=args.repeats, results=results)


if __name__ == "__main__":
    main()
