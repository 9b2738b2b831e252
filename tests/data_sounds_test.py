"""Sound files of every kind, good and bad, and the manifests that list them."""

import csv
import sys

import numpy as np
import pytest
import scipy.signal
import soundfile

from diffstride.data import manifest, sounds

pytestmark = pytest.mark.once

RATE = 1000


@pytest.fixture(params=["soxr", "fourier"])
def resampler(request, monkeypatch):
    """Resamples with the package `soxr`, then without it."""
    if request.param == "fourier":
        monkeypatch.setitem(sys.modules, "soxr", None)


def tone(samples=RATE, rate=RATE, frequency=50.0, amplitude=0.5):
    time = np.arange(samples) / rate
    return amplitude * np.sin(2 * np.pi * frequency * time)


def damaged(path, octets, keep=0.5):
    """Replaces octets in the middle of a file, or cuts it short."""
    data = bytearray(path.read_bytes())
    middle = int(len(data) * keep)
    if octets is None:
        del data[middle:]
    else:
        data[middle : middle + len(octets)] = octets
    path.write_bytes(data)
    return path


BAD = {
    "missing.wav": "cannot be read: No such file",
    "empty.wav": "the file is empty",
    "garbage.wav": "cannot be decoded",
    "no_samples.wav": "holds no samples",
    "not_finite.wav": "not finite",
    "cut.wav": "cut short: 1022 of 2044 bytes",
    "cut.flac": "cannot be decoded|corrupt",
    "cut.ogg": "cut short: its last page is missing",
    "corrupt.ogg": "corrupt: .* of 20000 samples",
    "corrupt.flac": "cannot be decoded",
    "a_folder.wav": "cannot be read: Is a directory",
}


def write_bad_files(folder):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20000)
    (folder / "empty.wav").touch()
    (folder / "garbage.wav").write_bytes(b"no sound at all " * 50)
    soundfile.write(folder / "no_samples.wav", np.zeros(0), RATE)
    samples = tone()
    samples[7] = np.nan
    soundfile.write(folder / "not_finite.wav", samples, RATE, subtype="FLOAT")
    for name in ("cut.wav", "cut.flac", "cut.ogg"):
        samples = tone() if name == "cut.wav" else noise
        soundfile.write(folder / name, samples, RATE)
        damaged(folder / name, None)
    for name in ("corrupt.ogg", "corrupt.flac"):
        soundfile.write(folder / name, noise, RATE)
        damaged(folder / name, np.arange(199, dtype="uint8").tobytes())
    (folder / "a_folder.wav").mkdir()


def write_good_files(folder):
    """Names and the samples that are to be read."""
    expected = {}
    for name, subtype, error in [
        ("8.wav", "PCM_U8", 1 / 128),
        ("16.wav", "PCM_16", 1 / 32768),
        ("24.wav", "PCM_24", 1 / 32768),
        ("32.wav", "PCM_32", 1 / 32768),
        ("float.wav", "FLOAT", 1 / 32768),
        ("double.wav", "DOUBLE", 1 / 32768),
        ("16.flac", "PCM_16", 1 / 32768),
        ("24.flac", "PCM_24", 1 / 32768),
        ("vorbis.ogg", "VORBIS", 0.05),
    ]:
        soundfile.write(folder / name, tone(), RATE, subtype=subtype)
        expected[name] = (tone(), error)
    return expected


def test_formats(tmp_path):
    for name, (expected, error) in write_good_files(tmp_path).items():
        sound = sounds.read_sound(tmp_path / name, RATE)
        assert sound.samples.dtype == np.int16 and not sound.remarks, name
        actual = sounds.to_float(sound.samples)
        assert actual.shape == expected.shape, name
        np.testing.assert_allclose(actual, expected, atol=error, err_msg=name)


def test_16_bits_are_kept_as_they_are(tmp_path):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, RATE, "int16")
    samples[:2] = -(2**15), 2**15 - 1
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    sound = sounds.read_sound(tmp_path / "a.wav", RATE)
    np.testing.assert_array_equal(sound.samples, samples)


def test_without_soundfile(tmp_path, monkeypatch):
    write_good_files(tmp_path)
    readable = ["8.wav", "16.wav", "24.wav", "32.wav"]
    with_soundfile = {
        name: sounds.read_sound(tmp_path / name, RATE).samples
        for name in readable
    }
    stereo = np.stack([tone(), tone(frequency=70)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, RATE, subtype="PCM_24")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for name in readable:
        sound = sounds.read_sound(tmp_path / name, RATE)
        np.testing.assert_array_equal(sound.samples, with_soundfile[name], name)
    sound = sounds.read_sound(tmp_path / "stereo.wav", RATE)
    np.testing.assert_allclose(
        sounds.to_float(sound.samples), stereo.mean(axis=1), atol=1 / 32768
    )
    for name in ("float.wav", "16.flac", "vorbis.ogg"):
        with pytest.raises(sounds.SoundError, match="`soundfile` reads more"):
            sounds.read_sound(tmp_path / name, RATE)


def test_channels_are_averaged(tmp_path):
    channels = np.stack([tone(), tone(frequency=70), 0 * tone()], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, RATE, subtype="FLOAT")
    sound = sounds.read_sound(tmp_path / "a.wav", RATE)
    np.testing.assert_allclose(
        sounds.to_float(sound.samples), channels.mean(axis=1), atol=1 / 32768
    )


@pytest.mark.parametrize(
    "rate, new_rate", [(44100, 16000), (8000, 16000), (48000, 16000), (7, 5)]
)
@pytest.mark.usefixtures("resampler")
def test_resampling(rate, new_rate):
    seconds = 2000 / new_rate
    count, new_count = round(rate * seconds), 2000
    top = 0.4 * min(rate, new_rate)  # Below both Nyquist frequencies.

    def sweep(rate, count):
        time = np.arange(count) / rate
        fade = np.sin(np.pi * np.arange(count) / count) ** 2
        return fade * scipy.signal.chirp(time, top / 9, seconds, top)

    resampled = sounds.resample(sweep(rate, count), rate, new_rate)
    assert resampled.shape == (new_count,)
    np.testing.assert_allclose(resampled, sweep(new_rate, new_count), atol=1e-3)
    # The polyphase filter of SciPy, to its own precision.
    polyphase = scipy.signal.resample_poly(
        sweep(rate, count), new_rate, rate, window=("kaiser", 8.0)
    )
    np.testing.assert_allclose(resampled, polyphase[:new_count], atol=2e-2)


@pytest.mark.usefixtures("resampler")
def test_resampling_does_not_alias_or_wrap():
    high = tone(44100, 44100, frequency=9000, amplitude=1.0)
    inside = sounds.resample(high, 44100, 16000)[1000:-1000]
    assert np.abs(inside).max() < 1e-3
    click = np.zeros(44100)
    click[-1] = 1
    resampled = sounds.resample(click, 44100, 16000)
    assert np.abs(resampled[:8000]).max() < 1e-4
    assert np.abs(resampled[-3:]).max() > 0.1


def test_resamplers_agree(monkeypatch):
    for rate, new_rate in [(44100, 16000), (11025, 16000), (768000, 1000)]:
        for count in (1, 9, 44101):
            noise = np.random.default_rng(0).uniform(-1, 1, count)
            with_soxr = sounds.resample(noise.astype("float32"), rate, new_rate)
            with monkeypatch.context() as without:
                without.setitem(sys.modules, "soxr", None)
                fourier = sounds.resample(noise, rate, new_rate)
            assert with_soxr.shape == fourier.shape
    # They differ where their filters begin to fall, not below.
    low = np.convolve(noise, np.hanning(512) / 256, "same")
    with_soxr = sounds.resample(low, 44100, 16000)
    monkeypatch.setitem(sys.modules, "soxr", None)
    fourier = sounds.resample(low, 44100, 16000)
    np.testing.assert_allclose(
        with_soxr[200:-200], fourier[200:-200], atol=1e-4
    )


def test_files_of_another_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(8000, 8000), 8000)
    sound = sounds.read_sound(tmp_path / "a.wav", RATE)
    actual = sounds.to_float(sound.samples)
    np.testing.assert_allclose(actual[50:-50], tone()[50:-50], atol=1e-3)


def test_formats_that_cannot_seek(tmp_path):
    """GSM 6.10, as telephones record it."""
    path = tmp_path / "gsm.wav"
    soundfile.write(path, tone(8000, 8000, 300), 8000, subtype="GSM610")
    samples = sounds.to_float(sounds.read_sound(path, 8000).samples)
    assert 8000 <= len(samples) <= 8320  # Whole blocks of 320 samples.
    error = samples[400:7600] - tone(8000, 8000, 300)[400:7600]
    assert np.sqrt(np.mean(error**2)) < 0.05


def test_any_error_of_a_decoder_is_of_the_file(tmp_path, monkeypatch):
    """Whatever is wrong with one file, the others are read."""
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    soundfile.write(tmp_path / "b.wav", tone(), RATE)
    decode = sounds._decode

    def failing(path):
        if path.name == "a.wav":
            raise TypeError("frames must be specified")
        return decode(path)

    monkeypatch.setattr(sounds, "_decode", failing)
    rows = [
        manifest.Row(tmp_path / name, "x", "s") for name in ("a.wav", "b.wav")
    ]
    report = manifest.Report()
    (good,) = manifest.read_sounds(rows, RATE, report)
    assert good[0] == rows[1]
    assert report.bad == [
        (
            f"{tmp_path}/a.wav",
            "the file cannot be decoded: TypeError: frames must be specified",
        )
    ]


def test_share_of_bad_files():
    report = manifest.Report(3, [("a.wav", "the file is empty")])
    report.check(4, 0.25)
    with pytest.raises(
        ValueError,
        match="At most 20% .* `max_bad_share` .*=0.2, with 1 of 4 unusable, "
        "such as a.wav: the file is empty",
    ):
        report.check(4, 0.2)


def test_remarks(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(9), RATE)
    silent = sounds.read_sound(tmp_path / "silent.wav", RATE)
    assert silent.remarks == ("silent",) and not silent.samples.any()
    soundfile.write(
        tmp_path / "loud.wav", tone(amplitude=500.0), RATE, subtype="FLOAT"
    )
    loud = sounds.read_sound(tmp_path / "loud.wav", RATE)
    assert loud.remarks == ("beyond full scale",)
    expected = tone() / np.abs(tone()).max()
    np.testing.assert_allclose(
        sounds.to_float(loud.samples), expected, atol=1 / 32768
    )


def test_length_that_the_writer_did_not_know(tmp_path):
    soundfile.write(tmp_path / "stream.wav", tone(), RATE)
    data = bytearray((tmp_path / "stream.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    (tmp_path / "stream.wav").write_bytes(data)
    sound = sounds.read_sound(tmp_path / "stream.wav", RATE)
    np.testing.assert_allclose(
        sounds.to_float(sound.samples), tone(), atol=1 / 32768
    )


def test_bad_files(tmp_path):
    write_bad_files(tmp_path)
    for name, message in BAD.items():
        with pytest.raises(sounds.SoundError, match=message):
            sounds.read_sound(tmp_path / name, RATE)


@pytest.mark.parametrize("with_soundfile", [True, False])
def test_rates_that_no_sound_has(tmp_path, monkeypatch, with_soundfile):
    if not with_soundfile:
        monkeypatch.setitem(sys.modules, "soundfile", None)
    path = tmp_path / "sound.wav"
    soundfile.write(path, tone(), RATE)
    header = bytearray(path.read_bytes())
    header[24:28] = (1).to_bytes(4, "little")
    path.write_bytes(header)
    with pytest.raises(sounds.SoundError, match="a sample rate of 1 Hz"):
        sounds.read_sound(path, RATE)


def test_padding_that_the_writer_left_out(tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, tone(), RATE)
    data = bytearray(path.read_bytes())
    data[4:8] = (len(data) - 8 + 1).to_bytes(4, "little")
    path.write_bytes(data)
    assert len(sounds.read_sound(path, RATE).samples) == RATE
    data[4:8] = (len(data) - 8 + 2).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(sounds.SoundError, match="cut short"):
        sounds.read_sound(path, RATE)


def test_bad_files_of_a_manifest_are_named_and_counted(tmp_path):
    write_bad_files(tmp_path)
    good = write_good_files(tmp_path)
    soundfile.write(tmp_path / "silent.wav", np.zeros(9), RATE)
    names = [name for pair in zip(good, BAD, strict=False) for name in pair]
    names += [name for name in [*good, *BAD, "silent.wav"] if name not in names]
    rows = [manifest.Row(tmp_path / name, "x", "train") for name in names]
    report = manifest.Report()
    read = [
        (row.path.name, len(samples))
        for row, samples in manifest.read_sounds(rows, RATE, report, workers=2)
    ]
    expected = [name for name in names if name not in BAD]
    assert read == [
        (name, 9 if name == "silent.wav" else RATE) for name in expected
    ]
    assert report.read == len(good) + 1
    assert [path for path, _ in report.bad] == [
        str(tmp_path / name) for name in names if name in BAD
    ]
    assert report.remarks == [(str(tmp_path / "silent.wav"), "silent")]
    text = str(report)
    assert "10 sound files read (1 silent), 11 skipped (1 missing):" in text
    assert f"{tmp_path / 'empty.wav'}: the file is empty" in text
    report.write(tmp_path / "problems.csv")
    with open(tmp_path / "problems.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["used"] for line in lines] == ["no"] * 11 + ["yes"]
    assert lines[-1]["problem"] == "silent"


def test_many_files_keep_their_order(tmp_path):
    rows = []
    for index in range(150):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, np.full(4, index / 256), RATE)
        rows.append(manifest.Row(path, "x", "train"))
    read = manifest.read_sounds(rows, RATE, manifest.Report(), workers=4)
    values = [int(samples[0]) for _, samples in read]
    assert values == [128 * index for index in range(150)]


def test_manifest(tmp_path):
    path = tmp_path / "sounds.csv"
    path.write_text(
        "path,label,split\na.wav,dog,train\nsub/b.wav, cat ,test\n",
        encoding="utf-8-sig",
    )
    assert manifest.read_manifest(path) == [
        manifest.Row(tmp_path / "a.wav", "dog", "train"),
        manifest.Row(tmp_path / "sub" / "b.wav", "cat", "test"),
    ]
    path.write_text("fold,file,what\n1,a.wav,10\n2,b.wav,9\n1,c.wav,10\n")
    rows = manifest.read_manifest(
        path, root="elsewhere", path_column="file", label_column="what"
    )
    assert [row.split for row in rows] == ["fold1", "fold2", "fold1"]
    assert rows[0].path.as_posix() == "elsewhere/a.wav"
    assert manifest.class_names(rows) == ["9", "10"]


def test_manifest_errors(tmp_path):
    path = tmp_path / "sounds.csv"
    for text, message in [
        ("file,label,split\na,b,c\n", "`path_column` must be a column"),
        ("path,class,split\na,b,c\n", "`label_column` must be .*'label'"),
        ("path,label\na,b\n", "must have a column `split` or `fold`"),
        ("path,label,split\na,b,c\nd,,c\n", "line 3"),
        ("path,label,split\na,b,train\na,b,test\n", "once. Received: .* twice"),
        ("path,label,split\n", "Found none"),
        ("path,label,split\nb\u00e9.wav,b,c\n", "must be text in UTF-8"),
    ]:
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=message):
            manifest.read_manifest(path)
    path.write_text("path,label,split\na,b,c\n")
    with pytest.raises(ValueError, match="`split_column` must be a column"):
        manifest.read_manifest(path, split_column="part")


def test_folder(tmp_path):
    for label in ("dog", "cat", "_noise_", ".hidden"):
        (tmp_path / label).mkdir()
        for index in range(10):
            (tmp_path / label / f"{index}.wav").touch()
        (tmp_path / label / "notes.txt").touch()
    rows = manifest.read_folder(tmp_path, test_percent=30)
    assert manifest.class_names(rows) == ["cat", "dog"]
    assert len(rows) == 20
    tests = {row.path for row in rows if row.split == "test"}
    assert [p.parent.name for p in sorted(tests)] == ["cat"] * 3 + ["dog"] * 3
    # From names alone: wherever the folder lies.
    again = manifest.read_folder(tmp_path, test_percent=40)
    assert tests < {row.path for row in again if row.split == "test"}
    (tmp_path / "list.txt").write_text("dog/3.wav\ncat/1.wav\n")
    rows = manifest.read_folder(tmp_path, lists={"test": tmp_path / "list.txt"})
    tests = [row.path.name for row in rows if row.split == "test"]
    assert sorted(tests) == ["1.wav", "3.wav"] and len(rows) == 20


def test_classes_without_a_sound_do_not_disappear(tmp_path, caplog):
    for name in ("dog/1.wav", "dog/2.M4A", "_notes/read.me"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert len(manifest.read_folder(tmp_path)) == 1
    assert (
        "formats that cannot be read, which are left out: 1 .m4a" in caplog.text
    )
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="begin its name .*: 'cat' is empty$"):
        manifest.read_folder(tmp_path)
    (tmp_path / "cat" / "1.m4a").touch()
    (tmp_path / "cat" / "1.txt").touch()
    (tmp_path / "ape").mkdir()
    with pytest.raises(
        ValueError, match="'ape' is empty; 'cat' has only .m4a, .txt$"
    ):
        manifest.read_folder(tmp_path)


def test_folder_errors(tmp_path):
    with pytest.raises(ValueError, match="Found none"):
        manifest.read_folder(tmp_path)
    with pytest.raises(ValueError, match="`folder` must be a folder"):
        manifest.read_folder(tmp_path / "nothing")
    with pytest.raises(ValueError, match="`test_percent` must lie between"):
        manifest.read_folder(tmp_path, test_percent=101)
    (tmp_path / "list.txt").write_text("dog/3.wav\n")
    with pytest.raises(ValueError, match="`lists` must name .*dog/3.wav"):
        manifest.read_folder(tmp_path, lists={"test": tmp_path / "list.txt"})
