#!/usr/bin/env python3
"""Times front ends against the log-mel spectrogram, and measures their memory.

    python scripts/benchmark_frontends.py
    KERAS_BACKEND=jax python scripts/benchmark_frontends.py --bands 40 80

All front ends take the same `--batch_size` waveforms of `--seconds`. They take
turns within each of `--repeats` rounds, and the medians over the rounds are
compared, so that a busy machine slows all of them alike. "forward" is the front
end, "training" the front end and the gradient to its weights, as it stands at
the beginning of a model. Memory is what a process that trains the front end
takes at its peak, beyond what it took with the data at hand. Operations are
multiply-accumulates of the filters for a second; the transform and the bands of
a mel spectrogram count as none.
"""

import argparse
import pathlib

import keras
import measure
import numpy as np
from keras import ops

from diffstride import (
    LEAF,
    PCEN,
    LogMelSpectrogram,
    SincFilterbank,
    TimeDomainFilterbank,
)
from diffstride.analysis.operations import count_macs

SAMPLE_RATE = 16_000
BASELINE = "mel"


def cases(bands):
    """The layers of each front end, by name."""
    mel = {"num_mels": bands, "fft_length": 1024}
    return {
        BASELINE: [LogMelSpectrogram(**mel)],
        "mel PCEN": [LogMelSpectrogram(**mel, log_offset=None), PCEN()],
        "LEAF": [LEAF(num_filters=bands)],
        "LEAF 8 groups": [LEAF(num_filters=bands, num_groups=8)],
        "SincNet": [SincFilterbank(num_filters=bands)],
        "SincNet stride 4": [
            SincFilterbank(num_filters=bands, filter_stride=4)
        ],
        "TD-fbanks": [TimeDomainFilterbank(num_filters=bands)],
        "TD-fbanks stride 8": [
            TimeDomainFilterbank(num_filters=bands, filter_stride=8)
        ],
    }


def make_model(name, bands, samples):
    return keras.Sequential([keras.Input((samples,)), *cases(bands)[name]])


def make_steps(name, bands, waveforms):
    """Functions that run a front end, and it with the gradient to its weights;
    for a front end without weights the two are the same."""
    model = make_model(name, bands, waveforms.shape[1])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        forward = tf.function(lambda x: model(x))

        @tf.function
        def training(x):
            weights = [w.value for w in model.trainable_weights]
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(model(x, training=True)))
            return [loss, *tape.gradient(loss, weights)]

        def wait(tensors):
            # The functions are synchronous on a CPU; a GPU has to be asked.
            [tf.reshape(t, -1)[0].numpy() for t in tensors]

        return (
            lambda: wait([forward(waveforms)]),
            lambda: wait(training(waveforms)),
        )

    import jax

    weights = [w.value for w in model.trainable_variables]
    state = [w.value for w in model.non_trainable_variables]

    def call(weights, x):
        return model.stateless_call(weights, state, x)[0]

    forward = jax.jit(call)
    training = jax.jit(
        jax.value_and_grad(lambda w, x: ops.sum(ops.square(call(w, x))))
    )
    return (
        lambda: jax.block_until_ready(forward(weights, waveforms)),
        lambda: jax.block_until_ready(training(weights, waveforms)),
    )


def noise(batch_size, seconds):
    shape = (batch_size, round(seconds * SAMPLE_RATE))
    x = np.random.default_rng(0).normal(0, 0.1, shape)
    return ops.convert_to_tensor(x.astype("float32"))


def time_frontends(bands, batch_size, seconds, repeats):
    """Milliseconds and operations of each front end, by name."""
    waveforms = noise(batch_size, seconds)
    steps = {name: make_steps(name, bands, waveforms) for name in cases(bands)}
    forward, training = measure.median_of_pairs(steps, repeats)
    return {
        name: {
            "million_macs": count_macs(make_model(name, bands, SAMPLE_RATE))
            / 1e6,
            "forward_ms": forward[name],
            "training_ms": training[name],
        }
        for name in steps
    }


def added_memory(name, bands, batch_size, seconds):
    """Peak memory in MiB that training a front end adds, in this process."""
    # What starting to compute costs, whatever the layer, is paid beforehand.
    make_steps(BASELINE, bands, noise(1, 0.1))[1]()
    waveforms = noise(batch_size, seconds)
    return measure.added_memory(make_steps(name, bands, waveforms)[1])


def add_ratios(rows):
    """Adds to each row its ratios to the row of the log-mel spectrogram."""
    for column in ("forward_ms", "training_ms", "memory_mib"):
        if column in rows[BASELINE]:
            # A small memory is not measured exactly.
            base = max(rows[BASELINE][column], 1e-3)
            for row in rows.values():
                name = column.rsplit("_", 1)[0]
                row[f"{name}_ratio"] = row[column] / base
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bands", nargs="+", type=int, default=[40])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    clips = (args.batch_size, args.seconds)
    if args.memory_of:
        print(added_memory(args.memory_of, args.bands[0], *clips))
        return
    results = {}
    for bands in args.bands:
        rows = time_frontends(bands, *clips, args.repeats)
        if not args.no_memory:
            for name, row in rows.items():
                row["memory_mib"] = measure.number_from_process(
                    *("--memory_of", name, "--bands", bands),
                    *("--batch_size", args.batch_size),
                    *("--seconds", args.seconds),
                )
        results[bands] = add_ratios(rows)
        print(f"\n{bands} bands, {clips[0]} clips of {clips[1]} seconds")
        print(f"{'front end':20}" + "".join(f"{c:>16}" for c in rows[BASELINE]))
        for name, row in rows.items():
            print(f"{name:20}" + "".join(f"{v:16.2f}" for v in row.values()))
        for column in ("forward_ms", "training_ms"):
            ratio = rows["LEAF"][column] / rows["LEAF 8 groups"][column]
            print(f"{column}, LEAF / LEAF 8 groups: {ratio:.1f}")
    if args.json:
        measure.write_json(
            args.json,
            batch_size=args.batch_size,
            seconds=args.seconds,
            repeats=args.repeats,
            results=results,
        )


if __name__ == "__main__":
    main()
