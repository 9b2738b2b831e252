#!/usr/bin/env python3
"""Times the downsampling layers side by side and measures their memory.

    python scripts/benchmark_layers.py
    KERAS_BACKEND=jax python scripts/benchmark_layers.py --shapes 56x56x64

Every layer takes the same input. The layers take turns within each of
`--repeats` rounds, and the medians over the rounds are compared, so that a busy
machine slows all of them alike. "forward" is the layer, "training" the layer
and its gradient to input and weights. Memory is what a process that trains the
layer takes at its peak, beyond what it took with the data at hand.

`rfft2d` is an implementation as in the release of 2022: two-dimensional
transforms of channels-first data, in between a product with the window and two
gathers; `rfft2d channels_first` leaves out the transpositions on the way there
and back.
"""

import argparse
import pathlib
import statistics

import keras
import measure
import numpy as np
from keras import ops

from diffstride import (
    DiffStride,
    FixedSpectralPooling,
    SpatialPooling,
)

SHAPES = [(32, 32, 128), (16, 16, 256), (56, 56, 64), (100, 64, 64)]


class Rfft2dPooling(keras.layers.Layer):
    """DiffStride by two-dimensional Fourier transforms, on even sizes."""

    def __init__(self, stride=2, channels_first=False, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride
        self.channels_first = channels_first

    def build(self, input_shape):
        self.strides = self.add_weight(
            shape=(2,), initializer=keras.initializers.Constant(self.stride)
        )

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        if not self.channels_first:
            x = ops.transpose(x, (0, 3, 1, 2))
        height, width = x.shape[2:]
        rows = np.arange(height // 2)
        rows = np.concatenate([rows, rows[::-1]]).astype("float32")
        columns = np.arange(width // 2 + 1, dtype="float32") - 1
        row_mask, column_mask = (
            ops.clip((4.0 + size / self.strides[i] / 2 - positions) / 4.0, 0, 1)
            for i, (size, positions) in enumerate(
                [(height, rows), (width, columns)]
            )
        )
        x = filter_and_crop(x, row_mask, column_mask, self.stride)
        x = ops.cast(x, inputs.dtype)
        return x if self.channels_first else ops.transpose(x, (0, 2, 3, 1))

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        for axis in (2, 3) if self.channels_first else (1, 2):
            shape[axis] = 2 * bins(shape[axis], self.stride)
        return tuple(shape)


def bins(size, stride):
    """Half of the size that a map has after strides."""
    return min(size // (2 * stride) + 4, size // 2)


def filter_and_crop(x, row_mask, column_mask, stride):
    """rfft2, product with the mask, gathers, irfft2 of the backend."""
    # The sizes are those of the first strides, which stay as they are here.
    height, width = (bins(size, stride) for size in x.shape[2:])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        mask = row_mask[:, None] * column_mask[None, :]
        y = tf.signal.rfft2d(x) * tf.cast(mask, tf.complex64)
        y = tf.gather(y, tf.where(row_mask > 0)[:, 0], axis=2)
        y = tf.gather(y, tf.where(column_mask > 0)[:, 0], axis=3)
        shape = (*x.shape[:2], 2 * height, 2 * width)
        return tf.ensure_shape(tf.signal.irfft2d(y), shape)
    import jax.numpy as jnp

    y = jnp.fft.rfft2(x) * (row_mask[:, None] * column_mask[None, :])
    y = y[:, :, np.r_[:height, -height:0], : width + 1]
    return jnp.fft.irfft2(y)


def cases(channels):
    """The layers by name, each made when it is needed."""
    return {
        "DiffStride": lambda: DiffStride(2),
        "DiffStride symmetric": lambda: DiffStride(2, symmetric=True),
        "DiffStride inside": lambda: DiffStride(2, ramp="inside"),
        "FixedSpectralPooling": lambda: FixedSpectralPooling(2),
        "average pooling": lambda: SpatialPooling(2),
        "conv 3x3": lambda: keras.layers.Conv2D(channels, 3, padding="same"),
        "conv 3x3 stride 2": lambda: keras.layers.Conv2D(
            channels, 3, strides=2, padding="same"
        ),
        "rfft2d": lambda: Rfft2dPooling(),
        "rfft2d channels_first": lambda: Rfft2dPooling(channels_first=True),
    }


def make_steps(layer, x):
    """Functions that run the layer, and the layer with its gradients."""
    layer.build(x.shape)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(reduce_retracing=True)
        def forward(x):
            return layer(x)

        @tf.function(reduce_retracing=True)
        def training(x):
            weights = [w.value for w in layer.trainable_weights]
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.square(layer(x)))
            return tape.gradient(loss, [x, *weights])

        def wait(tensors):
            # The functions are synchronous on a CPU; a GPU has to be asked.
            [tf.reshape(t, -1)[0].numpy() for t in tensors]

    else:
        import jax

        state = [w.value for w in layer.non_trainable_variables]

        def call(x, weights):
            return layer.stateless_call(weights, state, x)[0]

        weights = [w.value for w in layer.trainable_variables]
        jitted_call = jax.jit(call)
        gradient = jax.jit(
            jax.grad(lambda x, w: ops.sum(ops.square(call(x, w))), (0, 1))
        )

        def forward(x):
            return jitted_call(x, weights)

        def training(x):
            return gradient(x, weights)

        wait = jax.block_until_ready
    return (
        lambda: wait([forward(x)]),
        lambda: wait(training(x)),
    )


def data(shape, name):
    x = np.random.default_rng(0).standard_normal(shape, "float32")
    if name == "rfft2d channels_first":
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return ops.convert_to_tensor(x)


def time_layers(shape, repeats):
    """Median milliseconds of each layer, forward and in training."""
    steps = {
        name: make_steps(make(), data(shape, name))
        for name, make in cases(shape[-1]).items()
    }
    forward, training = measure.median_of_pairs(steps, repeats)
    return {
        name: {"forward_ms": forward[name], "training_ms": training[name]}
        for name in steps
    }


def added_memory(shape, name):
    """Peak memory in MiB that training the layer adds, in this process."""
    # What starting to compute costs, whatever the layer, is paid beforehand.
    make_steps(cases(shape[-1])[name](), data((1, *shape[1:]), name))[1]()
    _, training = make_steps(cases(shape[-1])[name](), data(shape, name))
    return measure.added_memory(training)


def measure_memory(shape, name):
    sizes = "x".join(map(str, shape[1:]))
    return measure.number_from_process(
        "--memory_of", name, "--shapes", sizes, "--batch_size", shape[0]
    )


def parse_shape(text):
    sizes = tuple(int(size) for size in text.split("x"))
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(
            f"a shape is HEIGHTxWIDTHxCHANNELS, not {text}"
        )
    return sizes


def print_table(shape, results):
    print(f"\n{shape[0]} examples of {'x'.join(map(str, shape[1:]))}")
    columns = list(next(iter(results.values())))
    print(f"{'layer':24}" + "".join(f"{c:>14}" for c in columns))
    for name, row in results.items():
        print(f"{name:24}" + "".join(f"{row[c]:14.1f}" for c in columns))


RATIOS = {
    "rfft2d / DiffStride": ("training_ms", "rfft2d", "DiffStride"),
    "rfft2d / DiffStride symmetric": (
        "training_ms",
        "rfft2d",
        "DiffStride symmetric",
    ),
    "rfft2d / DiffStride inside": (
        "training_ms",
        "rfft2d",
        "DiffStride inside",
    ),
    "rfft2d channels_first / DiffStride": (
        "training_ms",
        "rfft2d channels_first",
        "DiffStride",
    ),
    "conv 3x3 / DiffStride symmetric": (
        "training_ms",
        "conv 3x3",
        "DiffStride symmetric",
    ),
    "memory, DiffStride / rfft2d": ("memory_mib", "DiffStride", "rfft2d"),
    "memory, symmetric / rfft2d": (
        "memory_mib",
        "DiffStride symmetric",
        "rfft2d",
    ),
    "memory, inside / rfft2d": ("memory_mib", "DiffStride inside", "rfft2d"),
}


def summarize(results):
    """The ratios that matter, for each shape and as geometric means.

    Args:
        results: dict from the name of a shape to a dict from the name of a
            layer to what was measured.
    """
    summary = {}
    for name, (column, above, below) in RATIOS.items():
        ratios = {
            shape: max(rows[above][column], 1e-3)
            / max(rows[below][column], 1e-3)
            for shape, rows in results.items()
            if column in rows[above]
        }
        if ratios:
            mean = statistics.geometric_mean(ratios.values())
            summary[name] = {**ratios, "mean": mean}
    return summary


def print_summary(summary):
    print("\nRatios in training, and their geometric means over the shapes")
    columns = list(next(iter(summary.values())))
    print(f"{'':36}" + "".join(f"{c:>15}" for c in columns))
    for name, row in summary.items():
        print(f"{name:36}" + "".join(f"{row[c]:15.2f}" for c in columns))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=SHAPES)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    shapes = [(args.batch_size, *shape) for shape in args.shapes]
    if args.memory_of:
        print(added_memory(shapes[0], args.memory_of))
        return
    results = {}
    for shape in shapes:
        rows = time_layers(shape, args.repeats)
        if not args.no_memory:
            for name, row in rows.items():
                row["memory_mib"] = measure_memory(shape, name)
        print_table(shape, rows)
        results["x".join(map(str, shape))] = rows
    summary = summarize(results)
    print_summary(summary)
    if args.json:
        measure.write_json(
            args.json,
            repeats=args.repeats,
            results=results,
            summary=summary,
        )


if __name__ == "__main__":
    main()
