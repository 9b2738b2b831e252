"""The spectral layers again, in NumPy: transform, weigh, crop, transform back.

Written from the definitions (Algorithm 1 and Eqs. 3 and 4 of Riad et al., 2022,
and the masks of their release) in float64, with NumPy's Fourier transforms and
the spectrum spelled out: nothing here is taken from the layers under test.
Inputs are `(batch, *sizes, channels)`.
"""

import numpy as np


def stride_in_effect(size, stride, smoothness_factor, ramp="outside"):
    """The ramp stays inside a map that is larger than it.

    A stride ends where the first frequency is the last of the pass band.
    """
    least, largest = 1, size / 2
    if ramp == "outside" and size > smoothness_factor:
        least = size / (size - smoothness_factor)
    return max(min(max(stride, least), largest), 1)


def mask(positions, size, stride, smoothness_factor, ramp="outside"):
    """One in the pass band, zero beyond the ramp. A hard step if R is zero."""
    if ramp == "outside":
        passband = max(size / stride, 2) / 2
        end, ramp_length = passband + smoothness_factor, smoothness_factor
    else:
        end = size / (2 * stride)
        ramp_length = min(smoothness_factor, end)
    if ramp_length == 0:
        return (positions < end).astype(float)
    return np.clip((end - positions) / ramp_length, 0, 1)


def frequencies(size):
    """k for row k below the middle, negative from the middle on."""
    return np.rint(np.fft.fftfreq(size) * size)


def release_positions(size):
    """Of +k: k. Of -k: k - 1 on an even size; on an odd one k as well."""
    k = frequencies(size)
    return np.where(k < 0, -k - (1 - size % 2), k)


def kept(positions, size, stride, smoothness_factor, ramp="outside"):
    """Indices of the frequencies that the crop leaves, in order."""
    if ramp == "inside":
        # As many as size / stride, those nearest to zero.
        count = int(np.floor(np.float32(size) / np.float32(stride) + 0.5))
        count = max(count, 1)
        k = frequencies(size)
        return np.flatnonzero((k >= -(count // 2)) & (k <= (count - 1) // 2))
    return np.flatnonzero(
        mask(positions, size, stride, smoothness_factor, ramp) > 0
    )


def _image_adjoint(gradient, spectrum_mask, rows, columns, sizes, norm):
    """Gradient to the input of what `_image` computes."""
    height, width = sizes
    out_height, out_width = gradient.shape[1:3]
    # The real transform back counts a frequency twice, for itself and for its
    # negative, except zero and the Nyquist bin.
    count = np.full(len(columns), 2.0)
    count[0] = 1
    if out_width % 2 == 0:
        count[-1] = 1
    cropped = np.fft.fft(np.fft.rfft(gradient, axis=2), axis=1)
    cropped *= count[None, None, :, None] / (out_height * out_width)
    spectrum = np.zeros(
        (len(gradient), height, width, gradient.shape[-1]), complex
    )
    spectrum[:, rows[:, None], columns] = (
        cropped * spectrum_mask[rows][:, columns][None, ..., None]
    )
    full = np.fft.ifft2(spectrum, axes=(1, 2)).real * height * width
    points = out_height * out_width / (height * width)
    return full * {"backward": 1, "ortho": points**0.5, "forward": points}[norm]


def _image(x, spectrum_mask, rows, columns, out_width, norm):
    """irfft2(crop(rfft2(x) * mask))."""
    spectrum = np.fft.rfft2(x, axes=(1, 2), norm=norm)
    spectrum = spectrum * spectrum_mask[None, ..., None]
    spectrum = spectrum[:, rows][:, :, columns]
    return np.fft.irfft2(
        spectrum, s=(len(rows), out_width), axes=(1, 2), norm=norm
    )


def _axis_matrix(axis_mask, keep, size, out_size, half, norm):
    """A real operator along one axis: its columns are images of impulses."""
    impulses = np.eye(size)
    if half:
        spectrum = np.fft.rfft(impulses, norm=norm) * axis_mask
        return np.fft.irfft(spectrum[:, keep], n=out_size, norm=norm).T
    spectrum = np.fft.fft(impulses, norm=norm) * axis_mask
    return np.fft.ifft(spectrum[:, keep], norm=norm).real.T


def samples(size, out_size):
    """Values of the trigonometric interpolant at equal distances."""
    places = np.arange(out_size) * size / out_size
    distances = places[:, None] - np.arange(size)
    k = np.arange(1, (size + 1) // 2)
    total = 1 + 2 * np.cos(2 * np.pi * k * distances[..., None] / size).sum(-1)
    if size % 2 == 0:
        # The Nyquist frequency as a cosine of the points of the input.
        total += np.cos(np.pi * places)[:, None] * np.cos(
            np.pi * np.arange(size)
        )
    return total / size


class Reference:
    """A linear map from `(batch, *sizes, channels)`; calling it applies it."""

    def __init__(self, sizes, masks, keeps, out_sizes, halves, norm):
        self.sizes, self.out_sizes = sizes, out_sizes
        self.norm = norm
        self.image = len(sizes) == 2 and halves == (False, True)
        if self.image:
            self.parts = np.outer(*masks), *keeps
            return
        self.matrices = [
            _axis_matrix(*arguments, norm)
            for arguments in zip(
                masks, keeps, sizes, out_sizes, halves, strict=True
            )
        ]

    def __call__(self, x):
        if self.image:
            return _image(x, *self.parts, self.out_sizes[1], self.norm)
        return self._multiply(x, self.matrices)

    def adjoint(self, gradient):
        """Gradient to the input from the one to the output."""
        if self.image:
            return _image_adjoint(gradient, *self.parts, self.sizes, self.norm)
        return self._multiply(gradient, [m.T for m in self.matrices])

    @staticmethod
    def _multiply(x, matrices):
        for axis, matrix in enumerate(matrices, start=1):
            x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
        return x


def diffstride(
    sizes,
    strides,
    smoothness_factor=4.0,
    cropping=True,
    symmetric=False,
    norm="backward",
    ramp="outside",
    crop_strides=None,
    aliasing=0.0,
):
    """DiffStride at fixed sizes; `crop_strides` holds the crop of others."""
    rank = len(sizes)
    if crop_strides is None:
        crop_strides = strides
    all_symmetric = symmetric or ramp == "inside"
    masks, keeps, out_sizes, halves = [], [], [], []
    for axis, (size, stride, crop_stride) in enumerate(
        zip(sizes, strides, crop_strides, strict=True)
    ):
        shape = size, stride, smoothness_factor, ramp
        crop_shape = size, crop_stride, smoothness_factor, ramp
        half = axis == rank - 1 and not all_symmetric
        if half:
            # Eq. 4: the bins of a real transform, one more than Eq. 3 keeps.
            positions = np.arange(size // 2 + 1) - 1
            axis_mask = mask(positions, *shape)
            keep = kept(positions, *crop_shape)
            out_size = max(2 * (len(keep) - 1), 1)
        else:
            # The crop is that of the release, whatever the mask.
            positions = release_positions(size)
            keep = kept(positions, *crop_shape)
            out_size = len(keep)
            if rank != 2 or all_symmetric:
                positions = abs(frequencies(size))
            axis_mask = mask(positions, *shape)
        if not cropping:
            keep, out_size = np.arange(len(axis_mask)), size
        masks.append(axis_mask)
        keeps.append(keep)
        out_sizes.append(out_size)
        halves.append(half)
    reference = Reference(
        tuple(sizes), masks, keeps, tuple(out_sizes), tuple(halves), norm
    )
    if aliasing:
        reference.matrices = [
            aliasing * gain(*axis, norm) * samples(*axis)
            + (1 - aliasing) * matrix
            for axis, matrix in zip(
                zip(sizes, out_sizes, strict=True),
                reference.matrices,
                strict=True,
            )
        ]
    return reference


def gain(size, out_size, norm):
    """What a norm makes of a constant."""
    factor = size / out_size
    return {"backward": factor, "ortho": factor**0.5, "forward": 1}[norm]


def fixed(sizes, strides, norm="backward"):
    """Spectral pooling: a hard crop at size / stride, at least 2.

    All axes but the last are made even. The release divides in float32.
    """
    masks, keeps, out_sizes, halves = [], [], [], []
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        half = axis == len(sizes) - 1
        out_size = int(np.float32(size) / np.float32(stride))
        if not half:
            out_size -= out_size % 2
        out_size = min(max(out_size, 2), size)
        if half:
            keep = np.arange(out_size // 2 + 1)
        else:
            # The first half of the rows, and as many from the end.
            above = (out_size + 1) // 2
            below = out_size - above
            keep = np.r_[0:above, size - below : size]
        masks.append(np.ones(size // 2 + 1 if half else size))
        keeps.append(keep)
        out_sizes.append(out_size)
        halves.append(half)
    return Reference(
        tuple(sizes), masks, keeps, tuple(out_sizes), tuple(halves), norm
    )


def one_sided_slopes(x, sizes, strides, step=1e-6, **options):
    """How the output moves with each stride, from below and from above it.

    The crop is held still. Both sides agree, except where the window has a
    kink right at a frequency.
    """

    def output(changed):
        return diffstride(sizes, changed, crop_strides=strides, **options)(x)

    strides = np.asarray(strides, "float64")
    middle = output(strides)
    for change in step * np.eye(len(strides)):
        yield (
            (middle - output(strides - change)) / step,
            (output(strides + change) - middle) / step,
        )
