#!/usr/bin/env python3
"""Draws the pictures of the documentation that explain the layers.

    python scripts/draw_pictures.py                 # all, into docs/pictures
    python scripts/draw_pictures.py image gradient  # some
    python scripts/draw_pictures.py --compress docs/study.png

`network` needs the directory of a finished quickstart (`--run`), the others
need nothing but matplotlib. `--compress` makes a picture that another command
drew as small as these. The photograph comes with matplotlib: a portrait of
Grace Hopper, public domain.
"""

import argparse
import functools
import io
import json
import math
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import numpy as np

matplotlib.use("agg")

from matplotlib import cbook, patches, pyplot
from PIL import Image

from diffstride import (
    DiffStride,
    DiffStride1D,
    FixedSpectralPooling,
    LogMelSpectrogram,
)

PICTURES = pathlib.Path(__file__).parents[1] / "docs" / "pictures"


def photograph(size=128):
    """A square grey photograph, values between 0 and 1."""
    path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    grey = pyplot.imread(path).mean(axis=-1)[20:, 40:] / 255
    side = min(grey.shape) // size * size
    blocks = grey[:side, :side].reshape(size, side // size, size, side // size)
    return blocks.mean(axis=(1, 3)).astype("float32")


def window(size, stride, smoothness_factor, ramp):
    """Eq. 3 along one axis, at the frequencies -size/2 .. size/2 - 1."""
    cutoff = size / stride / 2
    end = cutoff if ramp == "inside" else cutoff + smoothness_factor
    frequencies = np.abs(np.arange(size) - size // 2)
    return np.clip((end - frequencies) / smoothness_factor, 0, 1)


def draw_image():
    """What one layer does to an image, at several strides and both ramps."""
    image, smoothness_factor = photograph(), 8
    spectrum = np.log(np.abs(np.fft.fftshift(np.fft.fft2(image))) + 1e-2)
    figure, panels = pyplot.subplots(3, 7, figsize=(12, 5.6))
    for panel in panels.flat:
        panel.axis("off")
    show = functools.partial(pyplot.Axes.imshow, cmap="gray")
    show(panels[0, 0], image, vmin=0, vmax=1)
    panels[0, 0].set_title(f"input, {len(image)} points", fontsize="small")
    show(panels[1, 0], spectrum)
    panels[1, 0].set_title("its spectrum", fontsize="small")
    for row, stride in enumerate((1.5, 2, 3)):
        for group, ramp in enumerate(("inside", "outside")):
            left = 1 + 3 * group
            layer = DiffStride(
                stride,
                smoothness_factor=smoothness_factor,
                ramp=ramp,
                norm="forward",
                symmetric=True,
            )
            output = np.asarray(layer(image[None, :, :, None]))[0, :, :, 0]
            mask = window(len(image), stride, smoothness_factor, ramp)
            panels[row, left].plot(np.arange(len(image)) - 64, mask)
            panels[row, left].axvline(64 / stride, ls=":", c="grey")
            panels[row, left].axvline(-64 / stride, ls=":", c="grey")
            panels[row, left].axis("on")
            panels[row, left].set_yticks([])
            panels[row, left].tick_params(labelsize="x-small")
            panels[row, left].set_title(
                f"stride {stride:g}, ramp {ramp}", fontsize="small"
            )
            show(panels[row, left + 1], spectrum * np.outer(mask, mask))
            show(panels[row, left + 2], output, vmin=0, vmax=1)
            panels[row, left + 2].set_title(
                f"output, {len(output)} points", fontsize="small"
            )
    return figure


def draw_sizes(points=64):
    """The size of a map against its stride: it moves in steps."""
    ways = {
        "size / stride": None,
        "spectral pooling": FixedSpectralPooling,
        'ramp="inside"': functools.partial(DiffStride, ramp="inside"),
        'ramp="outside", R = 2': functools.partial(
            DiffStride, smoothness_factor=2
        ),
        'ramp="outside", R = 4': DiffStride,
    }
    strides = np.linspace(1, 8, 1401)
    figure, panel = pyplot.subplots(figsize=(6.4, 3.6))
    for name, way in ways.items():
        if way is None:
            panel.plot(strides, points / strides, "k:", lw=1, label=name)
            continue
        options = {} if way is FixedSpectralPooling else {"static_sizes": True}
        sizes = [
            way(float(stride), **options).compute_output_shape(
                (1, points, points, 1)
            )[1]
            for stride in strides
        ]
        panel.plot(strides, sizes, label=name, lw=1.3)
    panel.set_xlabel("stride")
    panel.set_ylabel(f"points of the output, of {points}")
    panel.legend(fontsize="small")
    panel.grid(alpha=0.3)
    return figure


def draw_gradient():
    """How a stride follows its gradient to where noise begins."""
    points, highest = 256, 24
    rng = np.random.default_rng(0)
    times = np.arange(points) / points
    signals = []
    for _ in range(32):
        frequencies = np.arange(1, highest + 1)
        amplitudes = rng.normal(size=len(frequencies))
        phases = rng.uniform(0, 2 * np.pi, len(frequencies))
        angles = 2 * np.pi * np.outer(times, frequencies) + phases
        signals.append((np.cos(angles) * amplitudes).sum(axis=1))
    clean = np.stack(signals)[..., None].astype("float32")
    noisy = clean + rng.normal(0, 2, clean.shape).astype("float32")

    def filter_of(stride):
        return DiffStride1D(stride, norm="forward", cropping=False)

    def loss(stride):
        return float(
            np.mean((np.asarray(filter_of(stride)(noisy)) - clean) ** 2)
        )

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    strides = np.linspace(1.1, 12, 120)
    left.plot(strides, [loss(float(stride)) for stride in strides], c="grey")
    left.axvline(points / 2 / highest, ls=":", c="k")
    left.text(points / 2 / highest + 0.1, 1.2, "end of the signal", rotation=90)
    for start in (1.5, 3, 9):
        layer = filter_of(start)
        model = keras.Sequential([keras.Input((points, 1)), layer])
        # Strides far beyond the best one change the loss slowly.
        model.compile(keras.optimizers.Adam(0.15), "mse")
        path = [start]
        for _ in range(50):
            model.train_on_batch(noisy, clean)
            path.append(float(keras.ops.convert_to_numpy(layer.strides)[0]))
        line = left.plot(path, [loss(stride) for stride in path], ".", ms=4)
        right.plot(path, c=line[0].get_color(), label=f"from {start:g}")
    left.set_xlabel("stride")
    left.set_ylabel("mean squared error")
    right.set_xlabel("step")
    right.set_ylabel("stride")
    right.axhline(points / 2 / highest, ls=":", c="k")
    right.legend(fontsize="small")
    return figure


def draw_cutoffs():
    """Cut-offs along time and mel channels, and what they leave of a sound."""
    rate = 16000
    time = np.arange(2 * rate) / rate
    pitch = 220 + 60 * np.sin(2 * np.pi * 3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    sound = sum(np.sin(k * phase) / k for k in range(1, 25))
    sound *= 0.05 * (1 + np.sin(2 * np.pi * 7 * time))
    sound = sound + np.random.default_rng(0).normal(0, 1e-3, len(time))
    mel = np.asarray(LogMelSpectrogram()(sound[None].astype("float32")))
    image = mel[0, :, :, 0].T
    channels, frames = image.shape
    figure, panels = pyplot.subplots(1, 4, figsize=(12.5, 3.2))
    limits = {"vmin": image.min(), "vmax": image.max()}
    panels[0].imshow(image, aspect="auto", origin="lower", **limits)
    panels[0].set_title("log-mel spectrogram", fontsize="small")
    spectrum = np.fft.fftshift(np.abs(np.fft.fft2(image - image.mean())))
    panels[1].imshow(
        np.log(spectrum + 1),
        aspect="auto",
        origin="lower",
        extent=(-50, 50, -0.5, 0.5),
    )
    panels[1].set_title("its modulations, and cut-offs", fontsize="small")
    panels[1].set_xlabel("Hz along time")
    panels[1].set_ylabel("cycles per mel channel")
    for panel, strides, color in (
        (panels[2], (2, 2), "w"),
        (panels[3], (2, 5), "r"),
    ):
        hertz, cycles = 50 / strides[1], 0.5 / strides[0]
        panels[1].add_patch(
            patches.Rectangle(
                (-hertz, -cycles), 2 * hertz, 2 * cycles, fill=False, ec=color
            )
        )
        layer = DiffStride(strides, norm="forward", ramp="inside")
        output = np.asarray(layer(image[None, :, :, None]))[0, :, :, 0]
        panel.imshow(output, aspect="auto", origin="lower", **limits)
        panel.set_title(
            f"strides {strides[0]} along mel, {strides[1]} along time:\n"
            f"up to {cycles:g} cycles per channel, {hertz:g} Hz",
            fontsize="small",
        )
    for panel in (panels[0], *panels[2:]):
        panel.set_xlabel("frames")
        panel.set_ylabel("mel channels")
    return figure


def draw_network(run):
    """The maps of a network before and after it learned its strides."""
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    names = list(last["sizes"])
    figure, panel = pyplot.subplots(figsize=(8.5, 3.6))
    size = 32
    for row, (label, strides, sizes) in enumerate(
        [
            ("initial", {n: (2, 2) for n in names}, None),
            ("learned", last["strides"], last["sizes"]),
        ]
    ):
        if sizes is None:
            halved = [size // 2 ** (i + 1) for i in range(len(names))]
            sizes = {n: (s, s) for n, s in zip(names, halved, strict=True)}
        x, y = 0, -42 * row
        panel.text(-4, y + size / 2, label, ha="right", va="center")
        panel.add_patch(patches.Rectangle((x, y), size, size, fc="0.9", ec="k"))
        panel.text(x + 1, y + 1, f"{size} x {size}", fontsize="small")
        x += size
        for name in names:
            height, width = sizes[name]
            text = "({:.2f}, {:.2f})".format(*strides[name])
            panel.annotate(
                "",
                (x + 22, y + size / 2),
                (x + 2, y + size / 2),
                arrowprops={"arrowstyle": "->"},
            )
            panel.text(x + 12, y + size / 2 + 2, text, ha="center", fontsize=7)
            x += 24
            box = patches.Rectangle(
                (x, y + (size - height) / 2), width, height, fc="0.9", ec="k"
            )
            panel.add_patch(box)
            panel.text(
                x + width / 2,
                y + (size - height) / 2 - 4.5,
                f"{height} x {width}",
                fontsize="small",
                ha="center",
            )
            x += width
    panel.set_xlim(-22, 160)
    panel.set_ylim(-50, 36)
    panel.set_aspect("equal")
    panel.axis("off")
    return figure


def save(figure, path):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, bbox_inches="tight")
    compress(buffer, path, colours=64)
    pyplot.close(figure)


def compress(picture, path, colours=256):
    """Writes a PNG with a palette of few colours, which keeps it small."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB").quantize(colours)
    image.save(path, optimize=True)
    print(f"{path}: {math.ceil(path.stat().st_size / 1000)} kB")


def main():
    drawings = {
        "image": draw_image,
        "sizes": draw_sizes,
        "gradient": draw_gradient,
        "cutoffs": draw_cutoffs,
        "network": draw_network,
    }
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(drawings)}")
    parser.add_argument(
        "--run", type=pathlib.Path, help="a quickstart's workdir"
    )
    parser.add_argument("--compress", type=pathlib.Path, metavar="PNG")
    args = parser.parse_args()
    if args.compress:
        compress(args.compress, args.compress)
        return
    unknown = set(args.names) - set(drawings)
    if unknown:
        parser.error(f"There is no picture {', '.join(sorted(unknown))}")
    PICTURES.mkdir(exist_ok=True)
    pyplot.rcParams["figure.constrained_layout.use"] = True
    for name in args.names or drawings:
        if name == "network" and args.run is None:
            print("network: left out, because there is no --run")
            continue
        figure = drawings[name](*([args.run] if name == "network" else []))
        save(figure, PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
