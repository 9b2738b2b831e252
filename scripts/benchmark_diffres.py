#!/usr/bin/env python3
"""Times DiffRes against average pooling and a dense implementation.

    python scripts/benchmark_diffres.py
    KERAS_BACKEND=jax python scripts/benchmark_diffres.py --frames 1000 3000

The layers take the same spectrograms of `--frames` frames and leave a quarter
of them. They take turns within each of `--repeats` rounds, and the medians over
the rounds are compared, so that a busy machine slows all of them alike.
"forward" is the layer, "training" the layer and its gradient to input and
weights. Memory is what a process that trains the layer takes at its peak,
beyond what it took with the data at hand.

`dense` computes the warp matrix, output frames times frames, as the released
code of the paper does, from Eq. 5 and the vectorized Algorithm 1 of appendix
A.5. `warp` and `dense warp` leave out the network that scores the frames, which
is common to both.

Throughput is the seconds of sound that one second takes from the waveform to
the label, with the spectrogram of 100 frames per second reduced to `--fps`, and
an EfficientNet with attention heads (Figure 5).
"""

import argparse
import functools
import pathlib

import keras
import measure
import numpy as np
from keras import ops

from diffstride.layers.diffres import AvgPool, DiffRes
from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.models.audio_tagger import audio_tagger
from diffstride.ops import frame_scores, warping

MELS = 128
SAMPLE_RATE = 16_000
REDUCTION_RATE = 0.75


def dense_warp_matrix(scores, output_frames):
    """Eq. 5 and Eqs. 9 to 12 of the paper, (batch, output frames, frames)."""
    sums = ops.cumsum(scores, axis=1)[:, None]
    outputs = ops.arange(output_frames, dtype="float32")[None, :, None]
    is_there = ops.logical_and(sums > outputs, sums <= outputs + 1)
    matrix = ops.where(is_there, scores[:, None], 0.0)
    missing = ops.cumsum(1 - ops.sum(matrix, axis=2), axis=1)[..., None]
    steps = ops.sign(matrix)
    steps = steps[:, :, 1:] - steps[:, :, :-1]
    steps = ops.pad(steps, [[0, 0], [0, 0], [1, 0]])
    added = missing * ops.relu(-steps)
    taken = missing[:, :-1] * ops.relu(steps[:, 1:])
    return added - ops.pad(taken, [[0, 0], [1, 0], [0, 0]]) + matrix


class DenseDiffRes(DiffRes):
    """DiffRes by products with the warp matrix."""

    def _feature(self, name, clips, linear, scores, warp):
        # A maximum over a matrix of output frames, frames and channels would
        # not fit into memory.
        if name == "max":
            return super()._feature(name, clips, linear, scores, warp)
        matrix = dense_warp_matrix(scores, clips.output_frames)
        if name == "encoding":
            encoding = warping.sinusoidal_encoding(*ops.shape(linear)[1:])
            return ops.matmul(matrix, ops.convert_to_tensor(encoding))
        return self._from_linear(ops.matmul(matrix, linear), linear)


def first_channel(spectrogram):
    """Takes the first mel channel for the importance of the frames."""
    return ops.sigmoid(spectrogram[..., 0])


LAYERS = {
    "AvgPool": AvgPool,
    "DiffRes": DiffRes,
    "dense": DenseDiffRes,
    "warp": functools.partial(DiffRes, scorer=first_channel),
    "dense warp": functools.partial(DenseDiffRes, scorer=first_channel),
}


def make_steps(name, batch_size, frames):
    """Functions that run the layer, and the layer with its gradients."""
    x = np.random.default_rng(0).normal(-4, 2, (batch_size, frames, MELS))
    x = ops.convert_to_tensor(x.astype("float32"))
    layer = LAYERS[name](reduction_rate=REDUCTION_RATE)
    layer.build(x.shape)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        forward = tf.function(lambda x: layer(x))

        @tf.function
        def training(x):
            weights = [w.value for w in layer.trainable_weights]
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.square(layer(x, training=True)))
            return tape.gradient(
                loss, [x, *weights], unconnected_gradients="zero"
            )

        def wait(tensors):
            # The functions are synchronous on a CPU; a GPU has to be asked.
            [t[:0].numpy() for t in tensors]

        return lambda: wait([forward(x)]), lambda: wait(training(x))

    import jax

    weights = [w.value for w in layer.trainable_variables]
    state = [w.value for w in layer.non_trainable_variables]

    def call(x, weights, training=False):
        return layer.stateless_call(weights, state, x, training=training)[0]

    forward = jax.jit(call)
    training = jax.jit(
        jax.grad(lambda x, w: ops.sum(ops.square(call(x, w, True))), (0, 1))
    )
    return (
        lambda: jax.block_until_ready(forward(x, weights)),
        lambda: jax.block_until_ready(training(x, weights)),
    )


def time_layers(batch_size, frames, repeats):
    """Median milliseconds of each layer, forward and in training."""
    steps = {name: make_steps(name, batch_size, frames) for name in LAYERS}
    forward, training = measure.median_of_pairs(steps, repeats)
    return {
        name: {"forward_ms": forward[name], "training_ms": training[name]}
        for name in steps
    }


def added_memory(name, batch_size, frames):
    """Peak memory in MiB that training the layer adds, in this process."""
    # What starting to compute costs, whatever the layer, is paid beforehand.
    make_steps(name, 1, 16)[1]()
    _, training = make_steps(name, batch_size, frames)
    return measure.added_memory(training)


def throughput(variant, batch_size, seconds, frame_rates, repeats):
    """Seconds of sound in a second, by frame rate and layer."""
    x = np.random.default_rng(0).normal(
        0, 0.1, (batch_size, seconds * SAMPLE_RATE)
    )
    x = ops.convert_to_tensor(x.astype("float32"))

    def step(cls, frame_rate):
        model = audio_tagger(
            variant,
            input_shape=x.shape[1:],
            frontend=LogMelSpectrogram(
                num_mels=MELS, fft_length=1024, center=True
            ),
            frame_reduction=cls(output_frames=frame_rate * seconds),
        )
        return lambda: model.predict_on_batch(x)

    milliseconds = measure.median_milliseconds(
        {
            (cls.__name__, frame_rate): step(cls, frame_rate)
            for frame_rate in frame_rates
            for cls in (AvgPool, DiffRes)
        },
        repeats,
    )
    table = {}
    for (name, frame_rate), duration in milliseconds.items():
        row = table.setdefault(name, {})
        row[frame_rate] = batch_size * seconds * 1000 / duration
    return table


def print_table(batch_size, frames, rows):
    left = frame_scores.reduced_frames(frames, REDUCTION_RATE)
    print(f"\n{batch_size} clips of {frames} frames to {left}, {MELS} mels")
    columns = list(next(iter(rows.values())))
    print(f"{'layer':12}" + "".join(f"{c:>14}" for c in columns))
    for name, row in rows.items():
        print(f"{name:12}" + "".join(f"{row[c]:14.1f}" for c in columns))


def summarize(results):
    """The ratios that matter, by the number of frames."""
    summary = {}
    for column in next(iter(results.values()))["DiffRes"]:
        for above, below in [
            ("dense", "DiffRes"),
            ("dense warp", "warp"),
            ("DiffRes", "AvgPool"),
        ]:
            summary[f"{column}, {above} / {below}"] = {
                frames: rows[above][column] / max(rows[below][column], 1e-3)
                for frames, rows in results.items()
            }
        for name in ("DiffRes", "dense"):
            summary[f"{column} per 1000 frames, {name}"] = {
                frames: rows[name][column] * 1000 / frames
                for frames, rows in results.items()
            }
    return summary


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--frames", nargs="+", type=int, default=[1000, 3000, 10_000]
    )
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument(
        "--fps",
        nargs="*",
        type=int,
        default=[25, 50, 75, 100],
        help="frame rates of the throughput; none to leave it out",
    )
    parser.add_argument("--variant", default="b2", help="of EfficientNet")
    parser.add_argument("--seconds", type=int, default=10, help="of a clip")
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(added_memory(args.memory_of, args.batch_size, args.frames[0]))
        return
    results = {}
    for frames in args.frames:
        rows = time_layers(args.batch_size, frames, args.repeats)
        if not args.no_memory:
            for name, row in rows.items():
                row["memory_mib"] = measure.number_from_process(
                    *("--memory_of", name, "--frames", frames),
                    *("--batch_size", args.batch_size),
                )
        print_table(args.batch_size, frames, rows)
        results[frames] = rows
    summary = summarize(results)
    print(f"\n{'frames':40}" + "".join(f"{n:>10}" for n in results))
    for name, row in summary.items():
        print(f"{name:40}" + "".join(f"{v:10.2f}" for v in row.values()))
    sound_per_second = {}
    if args.fps:
        sound_per_second = throughput(
            *(args.variant, args.batch_size, args.seconds, args.fps),
            args.repeats,
        )
        print(f"\nSeconds of sound in a second, EfficientNet {args.variant}")
        print(f"{'fps':12}" + "".join(f"{rate:>10}" for rate in args.fps))
        for name, row in sound_per_second.items():
            print(f"{name:12}" + "".join(f"{v:10.1f}" for v in row.values()))
    if args.json:
        measure.write_json(
            args.json,
            batch_size=args.batch_size,
            repeats=args.repeats,
            results=results,
            summary=summary,
            sound_per_second=sound_per_second,
        )


if __name__ == "__main__":
    main()
