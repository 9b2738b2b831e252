"""Frequencies that a stride lets pass (Table 2 of the paper).

Reference:
    Riad et al., [Learning strides in convolutional neural networks](
    https://arxiv.org/abs/2202.01653), ICLR 2022.
"""

import math


def cutoff_frequency(
    stride: float, sampling_rate: float = 1.0, size: int | None = None
) -> float:
    """Highest frequency that a stride lets pass.

    Args:
        stride: number of 1 or more.
        sampling_rate: samples per unit: 100 for frames every 10 ms gives Hz,
            1 for mel channels gives cycles per mel.
        size: number of samples of the axis, or None. With it, the highest
            frequency below the cut-off that a Fourier transform of that size
            knows, as in Table 2.

    Example:

    >>> cutoff_frequency(2, sampling_rate=100)
    25.0
    """
    if size is None:
        return sampling_rate / (2 * stride)
    return math.floor(size / (2 * stride)) * sampling_rate / size
