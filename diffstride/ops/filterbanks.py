"""Filters of learnable front ends, and the mel scale that they begin with.

Frequencies are in cycles per sample, between 0 and 1/2, and durations in
samples, unless a name says otherwise. `steps` are points in time, relative to
the middle of a filter.

References:
    - Zeghidour et al., [LEAF: a learnable frontend for audio classification](
      https://arxiv.org/abs/2101.08596), 2021: section 3.
    - Ravanelli and Bengio, [Speaker recognition from raw waveform with
      SincNet](https://arxiv.org/abs/1808.00158), 2018: section 2.
    - Wang et al., [Trainable frontend for robust and far-field keyword
      spotting](https://arxiv.org/abs/1607.05666), 2017: section 3.
"""

import math

import keras
import numpy as np
from keras import ops

# The mel scale of the Hidden Markov Model Toolkit (HTK).
BREAK_FREQUENCY = 700.0
MELS_PER_LOG = 1127.0

# The product of the standard deviation of a Gaussian in time and the full width
# at half maximum of its Fourier transform.
WIDTH_PRODUCT = math.sqrt(2 * math.log(2)) / math.pi

# Fewest samples that `filter_waveforms` makes channels of. With fewer, XLA on a
# CPU takes a hundred times as long for the gradient to the filters.
CHANNELS = 8

# Frames that `running_mean` smooths by one matrix.
BLOCK = 64


def mel_points(fmin: float, fmax: float, count: int) -> np.ndarray:
    """Frequencies in hertz from `fmin` to `fmax`, equally far apart in mels."""
    lower, upper = (
        MELS_PER_LOG * np.log1p(edge / BREAK_FREQUENCY) for edge in (fmin, fmax)
    )
    mels = np.linspace(lower, upper, count)
    return BREAK_FREQUENCY * np.expm1(mels / MELS_PER_LOG)


def mel_bands(
    fmin: float, fmax: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and widths in hertz of Gabor filters that are like mel triangles.

    The amplitude of a filter is to the power of one half what the triangle is
    to the energy. The square root of a triangle is above one half on three
    quarters of its base: this is the full width at half maximum.
    """
    points = mel_points(fmin, fmax, count + 2)
    return points[1:-1], 0.75 * (points[2:] - points[:-2])


def gabor_filters(frequencies, deviations, length):
    """Real and imaginary parts of Gabor filters, (length, 2 * filters).

    Args:
        frequencies: tensor (filters,). Centre frequencies.
        deviations: tensor (filters,). Standard deviations of the Gaussians.
        length: odd integer. Length of the filters.
    """
    steps = ops.arange(length, dtype="float32")[:, None] - length // 2
    angles = 2 * math.pi * frequencies * steps
    envelope = gaussians(deviations, steps)
    return ops.concatenate(
        [envelope * ops.cos(angles), envelope * ops.sin(angles)], axis=1
    )


def gaussians(deviations, steps):
    """Gaussians at the points `steps` (n, 1), each with an integral of one."""
    return ops.exp(-0.5 * ops.square(steps / deviations)) / (
        math.sqrt(2 * math.pi) * deviations
    )


def sinc_filters(lower, upper, length):
    """Ideal band-pass filters in a Hamming window, (length, filters).

    Args:
        lower: tensor (filters,). Frequencies where the bands begin.
        upper: tensor (filters,). Frequencies where the bands end.
        length: odd integer. Length of the filters.
    """
    steps = np.arange(length, dtype="float32")[:, None] - length // 2
    # A window that is not zero at its ends, symmetric around the middle.
    window = 0.54 + 0.46 * np.cos(2 * np.pi * steps / max(length - 1, 1))
    window = ops.convert_to_tensor(window.astype("float32"))
    band_pass = _low_pass(upper, steps) - _low_pass(lower, steps)
    return band_pass * window


def _low_pass(cutoff, steps):
    """2 f sinc(2 π f n), whose value in the middle is 2 f."""
    is_middle = steps == 0
    away = ops.convert_to_tensor(np.where(is_middle, 1, steps))
    sides = ops.sin(2 * math.pi * cutoff * away) / (math.pi * away)
    return ops.where(ops.convert_to_tensor(is_middle), 2 * cutoff, sides)


def filter_waveforms(waveforms, filters, stride):
    """Outputs of filters at every `stride`-th sample, without padding.

    A convolution of one channel is slow to train on some backends. So a block
    of neighbouring samples becomes the channels of one point, and the outputs
    of one block become the channels of its result: the filters, shifted by as
    many samples as the outputs are, lie side by side in the kernel.

    Args:
        waveforms: tensor (batch, samples).
        filters: tensor (taps, filters).
        stride: integer.

    Returns:
        Tensor (batch, 1 + (samples - taps) // stride, filters).
    """
    taps, count = filters.shape
    batch, samples = ops.shape(waveforms)
    shifts = -(-CHANNELS // stride)  # Outputs of a block.
    block = shifts * stride
    points = -(-(taps + block - stride) // block)
    kernel = ops.stack(
        [
            ops.pad(
                filters,
                [(shift, points * block - taps - shift), (0, 0)],
            )
            for shift in range(0, block, stride)
        ],
        axis=1,
    )
    kernel = ops.reshape(kernel, (points, block, shifts * count))
    outputs = 1 + (samples - taps) // stride
    made = (outputs + shifts - 1) // shifts
    blocks = made + points - 1
    # Pad by a constant and cut, because the number of samples may be a tensor.
    waveforms = ops.pad(waveforms, [(0, 0), (0, points * block - taps)])
    results = ops.conv(
        ops.reshape(waveforms[:, : blocks * block], (batch, blocks, block)),
        kernel,
        padding="valid",
        data_format="channels_last",
    )
    results = ops.reshape(results, (batch, made * shifts, count))
    return results[:, :outputs]


def weighted_sums(inputs, weights, stride):
    """Weighted sums over windows of time, of each band by itself.

    This is a depthwise convolution without padding. Under JAX it is a product
    of matrices, because XLA on a CPU takes a hundred times as long for the
    gradient of such a convolution. TensorFlow is faster with the convolution.

    Args:
        inputs: tensor (batch, samples, bands).
        weights: tensor (window, bands).
        stride: integer. Samples from one window to the next.

    Returns:
        Tensor (batch, 1 + (samples - window) // stride, bands).
    """
    window, bands = weights.shape
    batch, samples, _ = ops.shape(inputs)
    frames = 1 + (samples - window) // stride
    if keras.backend.backend() != "jax":
        sums = ops.depthwise_conv(
            inputs,
            weights[..., None],
            strides=stride,
            padding="valid",
            data_format="channels_last",
        )
        # TensorFlow returns the shape of the inputs for an empty batch.
        return ops.reshape(sums, (batch, frames, bands))
    # A window is a few blocks of `stride` samples.
    parts = -(-window // stride)
    missing = parts * stride - window
    blocks = frames + parts - 1
    inputs = ops.pad(inputs, [(0, 0), (0, missing), (0, 0)])
    inputs = ops.reshape(
        inputs[:, : blocks * stride], (batch, blocks, stride, bands)
    )
    weights = ops.reshape(
        ops.pad(weights, [(0, missing), (0, 0)]), (parts, stride, bands)
    )
    sums = ops.einsum("btqf,pqf->btpf", inputs, weights)
    return sum(sums[:, part : part + frames, part] for part in range(parts))


def running_mean(inputs, smoothing):
    """Running means M(t) = (1 - s) M(t - 1) + s E(t), with M(-1) = E(0).

    The frames are cut into blocks. Within a block, and from block to block, the
    recursion is a product with a matrix of powers of 1 - s. So there is no loop
    over frames, any number of frames will do, and no power is above one.

    As in the recursion, an infinity or a NaN changes only its own frame and
    later ones: a product with a matrix would take it to all frames, because
    zero times infinity is NaN. So it is left out of the products.

    Args:
        inputs: tensor (batch, frames, bands), E, in float32.
        smoothing: tensor (bands,), s, between 0 and 1.

    Returns:
        Tensor of the shape of `inputs`.
    """
    finite = ops.isfinite(inputs)
    energies = ops.where(finite, inputs, 0.0)
    batch, frames, bands = ops.shape(inputs)
    block = max(1, min(BLOCK, frames)) if isinstance(frames, int) else BLOCK
    blocks = (frames + block - 1) // block
    # Pad by a constant and cut, because the number of frames may be a tensor.
    padded = ops.pad(energies, [(0, 0), (0, block - 1), (0, 0)])
    padded = padded[:, : blocks * block]
    padded = ops.reshape(padded, (batch, blocks, block, bands))
    log_keep = ops.log(ops.maximum(1 - smoothing, 1e-7))
    within = ops.arange(block, dtype="float32")
    local = ops.einsum(
        "ijf,bcjf->bcif",
        smoothing * _powers(log_keep, within[:, None] - within),
        padded,
    )
    # What each block begins with: the first frame, and the blocks before it.
    index = ops.arange(blocks, dtype="float32")
    before = ops.einsum(
        "cdf,bdf->bcf",
        _powers(block * log_keep, index[:, None] - index - 1),
        local[:, :, -1],
    )
    before = before + energies[:, :1] * _powers(block * log_keep, index)
    means = local + before[:, :, None] * _powers(log_keep, within + 1)
    means = ops.reshape(means, (batch, blocks * block, bands))[:, :frames]
    # What is not finite, or zero; and the first frame that has it.
    rest = ops.sum(inputs - energies, axis=1, keepdims=True)
    frame = ops.arange(frames)[:, None]
    first = ops.min(
        ops.where(finite, frames, frame), axis=1, keepdims=True, initial=frames
    )
    return ops.where(frame < first, means, rest)


def _powers(logarithms, exponents):
    """exp(logarithms)^exponents along a new last axis; 0 below an exponent 0.

    Args:
        logarithms: tensor (bands,), at most zero.
        exponents: tensor of integers, of any shape.
    """
    exponents = exponents[..., None]
    powers = ops.exp(logarithms * ops.maximum(exponents, 0))
    return ops.where(exponents >= 0, powers, 0.0)
