"""Draws what DiffRes does to a clip, how it learned, and filters that learned.

    python -m diffstride.plot clip RUN/model.keras clip.wav --output a.png
    python -m diffstride.plot curves RUN_1 RUN_2 --output b.png
    python -m diffstride.plot filters RUN/model.keras --output c.png

The first draws the importance scores, the spectrogram before and after, the
resolution encoding and the warp matrix (Figures 4, 12 and 13 of the paper). The
clip is a sound file or, as an array in a .npy file, one input of the model. The
second draws activeness, guide loss and test score by epoch, a line for each run
(Figures 6, 7 and 8). The third draws the filters of a front end such as `LEAF`
before and after training: the power with which each band passes each frequency;
and how far the maximum of each band moved, and how much wider it became.
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffstride.data import sounds

# Models are loaded that consist of these layers.
from diffstride.layers import (  # noqa: F401
    leaf,
    log_mel,
    pcen,
    pooling,
    sinc_filterbank,
    time_domain_filterbank,
)
from diffstride.layers.diffres import DiffRes
from diffstride.layers.frontend import BaseFrontend
from diffstride.models import (  # noqa: F401
    audio_cnn,
    audio_tagger,
)
from diffstride.ops.filterbanks import BREAK_FREQUENCY

SCORES = ("val_mean_average_precision", "val_accuracy")


def draw_clip(layer, spectrogram, path):
    """Draws what a layer does to one clip.

    Args:
        layer: a `DiffRes`.
        spectrogram: array (time, mel) or (time, mel, 1), its input.
        path: the file to write.
    """
    analysis = {
        name: keras.ops.convert_to_numpy(value)[0]
        for name, value in layer.analyze(spectrogram[None]).items()
    }
    frames = len(analysis["scores"])
    panels = [
        ("importance score", analysis["scores"]),
        ("input", analysis["spectrogram"].T),
        ("mean of merged frames", analysis["mean"].T),
        ("maximum of weighted frames", analysis["max"].T),
        ("resolution encoding", analysis["encoding"].T),
        ("warp matrix", analysis["warp_matrix"]),
    ]
    figure = Figure(figsize=(8, 11), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [1] + [1.5] * 4 + [2]
    axes = figure.subplots(len(panels), height_ratios=ratios)
    vmin, vmax = np.percentile(analysis["spectrogram"], (1, 99.9))
    for axis, (title, values) in zip(axes, panels, strict=True):
        axis.set_title(title, fontsize="medium")
        if values.ndim == 1:
            axis.fill_between(np.arange(frames), values, step="mid")
            axis.set_xlim(-0.5, frames - 0.5)
            axis.set_ylim(0, 1)
            continue
        is_spectrogram = title not in ("resolution encoding", "warp matrix")
        image = axis.imshow(
            values,
            aspect="auto",
            origin="upper" if title == "warp matrix" else "lower",
            interpolation="nearest",
            cmap="magma",
            vmin=vmin if is_spectrogram else None,
            vmax=vmax if is_spectrogram else None,
        )
        figure.colorbar(image, ax=axis, pad=0.01)
        axis.set_ylabel("output frame" if title == "warp matrix" else "mel")
    axes[-1].set_xlabel("input frame")
    figure.suptitle(
        f"{frames} frames to {len(analysis['mean'])}, "
        f"activeness {analysis['activeness']:.2f}, "
        f"guide loss {analysis['guide_loss']:.2f}"
    )
    figure.savefig(path, dpi=150)


def draw_curves(histories, path):
    """Draws activeness, guide loss and test score by epoch.

    Args:
        histories: dict from the name of a run to its rows, dicts that hold
            `activeness` and `guide_loss`.
        path: the file to write.
    """
    names = ["activeness", "guide_loss"]
    for run, rows in histories.items():
        if not rows or not set(names) <= set(rows[0]):
            raise ValueError(
                f"The history of '{run}' has no epoch with {names}: no epoch "
                "is over, or its model has no DiffRes. "
                f"Received: {sorted(rows[0]) if rows else 'no epoch'}"
            )
    first = next(iter(histories.values()))[0]
    names += [name for name in SCORES if name in first][:1]
    figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for run, rows in histories.items():
            epochs = np.arange(1, len(rows) + 1)
            axis.plot(epochs, [row.get(name) for row in rows], label=run)
        axis.set_title(name.replace("_", " "))
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def draw_filters(layer, path):
    """Draws the filters of a front end before and after its training.

    Args:
        layer: a front end with weights. Those that it began with follow from
            its arguments.
        path: the file to write.
    """
    first = type(layer).from_config(layer.get_config())
    first.build((None, None))
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    *panels, changes = figure.subplots(1, 3)
    shapes = []
    for panel, title, each in zip(
        panels,
        ("before training", "after training"),
        (first, layer),
        strict=True,
    ):
        frequencies, responses = each.frequency_responses()
        decibels = 10 * np.log10(responses.T + 1e-12)
        panel.plot(frequencies, decibels, linewidth=0.7)
        top = decibels.max()
        panel.set(title=title, xlabel="Hz", ylabel="dB", ylim=(top - 50, top))
        # A mel scale, but for a factor.
        panel.set_xscale(
            "function",
            functions=(
                lambda hertz: np.log1p(hertz / BREAK_FREQUENCY),
                lambda mels: BREAK_FREQUENCY * np.expm1(mels),
            ),
        )
        panel.set_xlim(0, frequencies[-1])
        octaves = 125 * 2 ** np.arange(1, 10)
        panel.set_xticks(octaves[octaves <= frequencies[-1]])
        panel.tick_params("x", rotation=60)
        peaks, lower, upper = peaks_and_edges(frequencies, responses)
        step = frequencies[1]
        shapes.append((np.maximum(peaks, step), upper - lower + step))
    moves = [100 * (new / old - 1) for old, new in zip(*shapes, strict=True)]
    for name, move in zip(("maximum", "width at half"), moves, strict=True):
        changes.plot(move, ".-", label=f"{name}: {np.median(abs(move)):.1f} %")
    changes.set(title="change by training, %", xlabel="band")
    changes.legend(fontsize="small", title="median of the size")
    changes.grid(alpha=0.3)
    figure.suptitle(f"{type(layer).__name__}, {len(peaks)} bands")
    figure.savefig(path, dpi=150)


def peaks_and_edges(frequencies, responses):
    """Where each band passes most, and the stretch with half of that or more.

    Args:
        frequencies: array (frequencies,).
        responses: array (bands, frequencies) of powers.

    Returns:
        Three arrays (bands,): the maximum and both ends of the stretch.
    """
    found = []
    for response in responses:
        peak = response.argmax()
        below = np.flatnonzero(response < response[peak] / 2)
        before, after = below[below < peak], below[below > peak]
        lower = before[-1] + 1 if before.size else 0
        upper = after[0] - 1 if after.size else len(response) - 1
        found.append(frequencies[[peak, lower, upper]])
    return np.transpose(found)


def learned_frontend(model):
    """The front end of a model, whose weights were trained."""
    for layer in model.layers:
        if isinstance(layer, BaseFrontend) and layer.weights:
            return layer
    raise ValueError(
        "The model must have a front end with weights, such as LEAF, among its "
        f"own layers. Received: {[layer.name for layer in model.layers]}"
    )


def diffres_and_input(model, clip):
    """The DiffRes of a model, and what it receives of one input."""
    for layer in model.layers:
        if isinstance(layer, DiffRes):
            before = keras.Model(model.inputs[0], layer.input)
            return layer, keras.ops.convert_to_numpy(before(clip[None]))[0]
    raise ValueError(
        "The model must have a DiffRes among its own layers. Received: "
        f"{[layer.name for layer in model.layers]}"
    )


def read_clip(path, model):
    """One input of the model, from a sound file or an array."""
    if path.suffix == ".npy":
        return np.load(path)
    rates = [
        layer.sample_rate
        for layer in model.layers
        if isinstance(layer, BaseFrontend)
    ]
    if not rates:
        raise ValueError(
            "A model without a front end takes spectrograms, not sounds. "
            f"Received: {path}"
        )
    try:
        sound = sounds.read_sound(path, rates[0])
    except sounds.SoundError as error:
        raise ValueError(f"{path}: {error}") from error
    samples = sounds.to_float(sound.samples)
    length = model.input_shape[1]
    if length is None:
        return samples
    return np.pad(samples, (0, max(0, length - len(samples))))[:length]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    clip = commands.add_parser("clip", help="one clip through a trained model")
    clip.add_argument("model", type=pathlib.Path)
    clip.add_argument("clip", type=pathlib.Path)
    curves = commands.add_parser("curves", help="learning curves of runs")
    curves.add_argument("runs", type=pathlib.Path, nargs="+")
    filters = commands.add_parser("filters", help="filters that were trained")
    filters.add_argument("model", type=pathlib.Path)
    for command in (clip, curves, filters):
        command.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    try:
        draw(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"Error: {error}") from error


def draw(args):
    if args.command == "clip":
        model = keras.saving.load_model(args.model, compile=False)
        sample = read_clip(args.clip, model)
        draw_clip(*diffres_and_input(model, sample), args.output)
    elif args.command == "filters":
        model = keras.saving.load_model(args.model, compile=False)
        draw_filters(learned_frontend(model), args.output)
    else:
        histories = {
            run.name: [
                json.loads(line)
                for line in (run / "history.jsonl").read_text().splitlines()
            ]
            for run in args.runs
        }
        draw_curves(histories, args.output)


if __name__ == "__main__":
    main()
