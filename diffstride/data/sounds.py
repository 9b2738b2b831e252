"""Decodes sound files to one channel of 16-bit samples, and checks them."""

import dataclasses
import math
import os
import wave

import numpy as np

# Programs that do not know the length of a sound in advance write a length at
# or above this one into the 32 bits of the header.
_UNKNOWN_LENGTH = 0x7FFF0000
# The Fourier transform treats a sound as periodic. This number of zeros is
# added, so that the end of the sound does not leak into its beginning.
_RESAMPLING_MARGIN = 1024
# The filter begins to fall at this share of the lower Nyquist frequency.
_PASS_BAND = 0.95
_FULL_SCALE = 2**15
# A rate outside this range comes from a corrupt header. Resampling from it
# could fill the memory.
_SAMPLE_RATES = 1000, 768000


class SoundError(ValueError):
    """Says why a sound file cannot be used."""


@dataclasses.dataclass(frozen=True)
class Sound:
    """A decoded sound.

    Args:
        samples: int16 array `(samples,)`.
        remarks: What was unusual about the file, though it could be used.
    """

    samples: np.ndarray
    remarks: tuple = ()


def read_sound(path, sample_rate):
    """Reads a sound file as one channel of 16-bit samples.

    The package `soundfile` reads WAV, FLAC, Ogg and other formats. Without that
    package, only WAV files of integers can be read. Channels are averaged,
    other sample rates are resampled (see `resample`), and a sound beyond full
    scale is divided by its peak.

    Args:
        path: Path of the file.
        sample_rate: Samples per second of the result.

    Returns:
        A `Sound`.

    Raises:
        SoundError: if the file is missing, empty, corrupt, cut short, of an
            unknown format, or cannot be decoded for any other reason.
    """
    try:
        return _read_sound(path, sample_rate)
    except SoundError:
        raise
    except Exception as error:
        # Catch every error, because one corrupt file must not end a preparation
        # of many hours.
        raise SoundError(
            f"the file cannot be decoded: {type(error).__name__}: {error}"
        ) from error


def _read_sound(path, sample_rate):
    expected = _check_file(path)
    samples, rate = _decode(path)
    if not _SAMPLE_RATES[0] <= rate <= _SAMPLE_RATES[1]:
        raise SoundError(f"a sample rate of {rate} Hz is not that of a sound")
    if not len(samples):
        raise SoundError("the file holds no samples")
    if len(samples) < expected:
        raise SoundError(
            f"the file is corrupt: {len(samples)} of {expected} samples"
        )
    if not np.all(np.isfinite(samples)):
        raise SoundError("samples are not finite")
    remarks = []
    # Adding up the channels is fifteen times as fast as `samples.mean(axis=1)`.
    samples = sum(samples.T) / np.float32(samples.shape[1])
    peak = np.abs(samples).max()
    if peak > 1:
        remarks.append("beyond full scale")
        samples = samples / peak
    if rate != sample_rate:
        samples = resample(samples, rate, sample_rate)
    samples = to_int16(samples)
    if not samples.any():
        remarks.append("silent")
    return Sound(samples, tuple(remarks))


def to_int16(samples):
    """Rounds samples between -1 and 1 to 16 bits."""
    rounded = np.rint(samples * _FULL_SCALE)
    return rounded.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype("int16")


def to_float(samples):
    """Converts 16-bit samples to float32 between -1 and 1."""
    return samples.astype("float32") / np.float32(_FULL_SCALE)


def resample(samples, rate, new_rate):
    """Changes the sample rate.

    The package `soxr` does it where it is installed. Without it, NumPy does it
    with a low-pass filter in the Fourier domain, which takes about eight times
    as long. Both keep frequencies up to 90 % of the lower Nyquist frequency and
    remove those above it. The results differ by about 1e-3 of the amplitude.

    Args:
        samples: Array `(samples,)`.
        rate: Integer. Its samples per second.
        new_rate: Integer. Samples per second of the result.

    Returns:
        An array of `ceil(samples * new_rate / rate)` samples.

    Example:

    >>> resample(np.ones(44100), 44100, 16000).shape
    (16000,)
    """
    try:
        import soxr
    except ImportError:
        return _resample_by_fourier(samples, rate, new_rate)
    resampled = soxr.resample(samples, rate, new_rate)
    # soxr rounds the number of samples, which may leave out the last one.
    length = -(-len(samples) * new_rate // rate)
    missing = max(0, length - len(resampled))
    return np.pad(resampled[:length], (0, missing))


def _resample_by_fourier(samples, rate, new_rate):
    divisor = math.gcd(rate, new_rate)
    up, down = new_rate // divisor, rate // divisor
    blocks = _fast_length(-(-(len(samples) + _RESAMPLING_MARGIN) // down))
    size, new_size = blocks * down, blocks * up
    spectrum = np.fft.rfft(samples, size)[: min(size, new_size) // 2 + 1]
    frequency = np.linspace(0, 1, len(spectrum), dtype="float32")
    fall = np.clip((frequency - _PASS_BAND) / (1 - _PASS_BAND), 0, 1)
    spectrum = spectrum * (0.5 + 0.5 * np.cos(np.pi * fall))
    resampled = np.fft.irfft(spectrum, new_size) * (new_size / size)
    return resampled[: -(-len(samples) * up // down)]


def _fast_length(length):
    """The next integer without a prime factor above 5: its FFT is fast."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def _check_file(path):
    """Finds files that are cut short.

    Decoders return the part of the sound that is left, without an error.

    Returns:
        The number of samples that the file must hold at least, if its last page
        says so; else 0.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(64)
            file.seek(max(0, size - 2**16))
            tail = file.read()
    except OSError as error:
        raise SoundError(
            f"the file cannot be read: {error.strerror}"
        ) from error
    if not size:
        raise SoundError("the file is empty")
    if head[:4] in (b"RIFF", b"FORM"):
        order = "little" if head[:4] == b"RIFF" else "big"
        length = int.from_bytes(head[4:8], order)
        # Some programs count a last byte of padding, but do not write it.
        if size < length + 7 and length < _UNKNOWN_LENGTH:
            raise SoundError(
                f"the file is cut short: {size} of {length + 8} bytes"
            )
    if head[:4] != b"OggS":
        return 0
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 14 or not page[5] & 4:  # The flag of a last page.
        raise SoundError("the file is cut short: its last page is missing")
    # The last page holds the length of the sound. Only for Vorbis is the unit
    # one sample at the sample rate of the file.
    return int.from_bytes(page[6:14], "little") if b"\1vorbis" in head else 0


def _decode(path):
    """Floating-point samples `(samples, channels)`, and the sample rate."""
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: its library is missing.
        return _decode_wave(path)
    try:
        with soundfile.SoundFile(path) as file:
            # Formats such as GSM 6.10 cannot be read "to the end", because
            # they cannot seek: name the number of samples.
            frames = -1 if file.seekable() else file.frames
            samples = file.read(frames, dtype="float32", always_2d=True)
            if len(samples) < file.frames:
                raise SoundError(
                    "the file is corrupt: "
                    f"{len(samples)} of {file.frames} samples"
                )
            return samples, file.samplerate
    except soundfile.SoundFileError as error:
        raise SoundError(f"the file cannot be decoded: {error}") from error


def _decode_wave(path):
    try:
        with wave.open(str(path), "rb") as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            rate = file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError) as error:
        raise SoundError(
            "the file cannot be decoded as WAV of integers; the package "
            f"`soundfile` reads more formats: {error or 'it ends too early'}"
        ) from error
    if width > 4:
        raise SoundError(f"samples of {8 * width} bits cannot be decoded")
    octets = np.frombuffer(data, "uint8").reshape(-1, channels, width)
    if width == 1:  # In WAV files, samples of 8 bits are unsigned.
        octets = octets ^ np.uint8(128)
    # Put the bytes of each sample into the upper bytes of 32 bits.
    samples = np.zeros((len(octets), channels, 4), "uint8")
    samples[..., 4 - width :] = octets
    return samples.view("<i4")[..., 0].astype("float32") / 2**31, rate
