"""Sound files: decoded, mono, at one sample rate, checked."""

import dataclasses
import math
import os
import wave

import numpy as np

# What writers that do not know a length yet put into a header of 32 bits.
_UNKNOWN_LENGTH = 0x7FFF0000
# Samples of silence that keep the end of a resampled sound from its beginning.
_RESAMPLING_MARGIN = 1024
# Where the filter begins to fall, as a part of the lower Nyquist frequency.
_PASS_BAND = 0.95
_FULL_SCALE = 2**15
# Other rates come from headers that are corrupt, and would fill the memory.
_SAMPLE_RATES = 1000, 768000


class SoundError(ValueError):
    """A sound file that cannot be used, with the reason."""


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

    WAV, FLAC, Ogg and whatever else the package `soundfile` reads; without that
    package, WAV files of integers. Channels are averaged, other sample rates
    are resampled, and a sound beyond full scale is divided by its peak.

    Args:
        path: Path of the file.
        sample_rate: Samples per second of the result.

    Returns:
        A `Sound`.

    Raises:
        SoundError: where the file is missing, empty, corrupt, cut short, or
            of an unknown format.
    """
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
    samples = samples.mean(axis=1)
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
    """The float32 samples, between -1 and 1, that 16-bit ones stand for."""
    return samples.astype("float32") / np.float32(_FULL_SCALE)


def resample(samples, rate, new_rate):
    """Changes the sample rate, with a low-pass filter in the Fourier domain.

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
    """The next integer without prime factors over 5, fast to transform."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def _check_file(path):
    """Finds what decoders pass over: they return what is left of a sound.

    Returns:
        The number of samples that the file is known to have had at least.
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
        # Some writers count a last byte of padding that they leave out.
        if size < length + 7 and length < _UNKNOWN_LENGTH:
            raise SoundError(
                f"the file is cut short: {size} of {length + 8} bytes"
            )
    if head[:4] != b"OggS":
        return 0
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 14 or not page[5] & 4:  # The flag of a last page.
        raise SoundError("the file is cut short: its last page is missing")
    # The last page says where it ends; what the unit is, the codec decides.
    return int.from_bytes(page[6:14], "little") if b"\1vorbis" in head else 0


def _decode(path):
    """Floating-point samples `(samples, channels)`, and the sample rate."""
    try:
        import soundfile
    except (ImportError, OSError):  # Or the library behind it is missing.
        return _decode_wave(path)
    try:
        with soundfile.SoundFile(path) as file:
            samples = file.read(dtype="float32", always_2d=True)
            if len(samples) < file.frames:
                raise SoundError(
                    "the file is corrupt: "
                    f"{len(samples)} of {file.frames} samples"
                )
            return samples, file.samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
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
    if width == 1:  # Unsigned, by convention.
        octets = octets ^ np.uint8(128)
    # The octets of a sample are the upper ones of 32 bits.
    samples = np.zeros((len(octets), channels, 4), "uint8")
    samples[..., 4 - width :] = octets
    return samples.view("<i4")[..., 0].astype("float32") / 2**31, rate
