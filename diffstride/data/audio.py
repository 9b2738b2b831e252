"""Sounds to classify: sets of TFDS, manifests, folders."""

from absl import logging

from diffstride.data.clip_windows import from_clips
from diffstride.data.clips import collect
from diffstride.data.dataset import Dataset
from diffstride.data.manifest import (
    MAX_BAD_SHARE,
    Report,
    class_names,
    read_folder,
    read_manifest,
    read_sounds,
)
from diffstride.data.tfds_clips import TFDSClips
from diffstride.types import FilePath

_LABELS = {"nsynth": "instrument/family"}
# The spoken digits have one split only. It can be cut anywhere, because TFDS
# stores it in a random order.
_SPLITS = {"spoken_digit": ("train[:90%]", "train[90%:]")}


def tfds_audio(
    name: str = "speech_commands",
    label: str | None = None,
    audio: str = "audio",
    batch_size: int = 256,
    seed: int = 0,
    data_dir: FilePath | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    test_fold: int | None = None,
    sample_rate: int = 16000,
    window_seconds: float | None = 1.0,
    train_steps: int | None = None,
    mixup: float = 0.0,
    balance: bool = False,
    cache_dir: FilePath | None = None,
    workers: int = 1,
    process_index: int = 0,
    process_count: int = 1,
) -> Dataset:
    """Sounds of TFDS, or of a folder that `python -m diffstride.prepare_audio`
    wrote.

    The samples are decoded once, as 16-bit integers, into memory or into files
    under `cache_dir`. A folder that `python -m diffstride.prepare_audio` wrote
    at this sample rate is never copied to `cache_dir`. If it has at most 2 GiB
    and no `cache_dir` is given, it is read into memory. Otherwise its clips are
    read from its own files when they are needed.

    Args:
        name: Name of the set, with its config and version if need be:
            `"speech_commands"`, `"nsynth"`, `"spoken_digit"`.
        label: Name of the feature to predict. Defaults to `"label"`, and for
            NSynth to `"instrument/family"`; NSynth also has `"pitch"`. If the
            feature is a sequence of classes, the targets are one or zero for
            each class: train with binary cross-entropy.
        audio: Name of the feature that holds the samples.
        batch_size: Number of windows in a batch, of all processes together.
        seed: Seed of the order and of the windows.
        data_dir: Folder of the prepared sets. Defaults to that of TFDS,
            `~/tensorflow_datasets` or the variable `TFDS_DATA_DIR`.
        train_split: Split to train on. Defaults to `"train"`, and for
            `spoken_digit` to its first nine tenths.
        test_split: Split to test on. Defaults to `"test"`, and for
            `spoken_digit` to its last tenth. The 12,678 test examples of
            NSynth in Table A.1 are its split `"valid"`.
        test_fold: Number of the fold to test on, if the splits are `fold1`,
            `fold2`, ...; the others are trained on. Takes the place of
            `train_split` and `test_split`.
        sample_rate: Samples per second. Other rates are resampled.
        window_seconds: Length of a window, or None for whole clips, in batches
            of similar length.
        train_steps: Batches in an epoch. By default an epoch has one window of
            each clip.
        mixup: Chance that a waveform is mixed with another one, and its label.
        balance: Whether clips of rare classes are drawn more often.
        cache_dir: Folder for files of decoded samples, for sets that do not
            fit into memory. They are written once for all runs, processes and
            labels. Defaults to none.
        workers: Number of processes that write these files.
        process_index: Number of this process.
        process_count: Number of processes that each make their own rows of
            every batch.

    Returns:
        A `diffstride.data.dataset.Dataset`.

    Example:

    ```python
    dataset = tfds_audio("speech_commands", batch_size=256, seed=1)
    model.fit(dataset.train(epoch=0), validation_data=dataset.test())
    ```
    """
    base_name = name.split("/")[0].split(":")[0]
    source = TFDSClips(
        name,
        data_dir,
        audio=audio,
        label=label or _LABELS.get(base_name, "label"),
        sample_rate=sample_rate,
        cache_dir=cache_dir,
        workers=workers,
    )
    if test_fold is not None:
        train_folds, test_split = _folds(source.splits, test_fold)
        train_split = "+".join(train_folds)
    train_default, test_default = _SPLITS.get(base_name, ("train", "test"))
    train_split = train_split or train_default
    test_split = test_split or test_default
    train, test = source.read(train_split), source.read(test_split)
    source.warn_of_overlap(train_split, test_split)
    return from_clips(
        train,
        test,
        name=name,
        window=_window(window_seconds, sample_rate),
        sample_rate=sample_rate,
        batch_size=batch_size,
        seed=seed,
        train_steps=train_steps,
        mixup=mixup,
        balance=balance,
        process_index=process_index,
        process_count=process_count,
    )


def manifest_audio(
    path: FilePath,
    root: FilePath | None = None,
    path_column: str = "path",
    label_column: str = "label",
    split_column: str | None = None,
    label_separator: str | None = None,
    batch_size: int = 256,
    seed: int = 0,
    train_split: str = "train",
    test_split: str = "test",
    test_fold: int | None = None,
    sample_rate: int = 16000,
    window_seconds: float | None = 1.0,
    train_steps: int | None = None,
    mixup: float = 0.0,
    balance: bool = False,
    max_bad_share: float = MAX_BAD_SHARE,
    process_index: int = 0,
    process_count: int = 1,
) -> Dataset:
    """Sound files that a CSV file lists, decoded into memory.

    Files that cannot be read are skipped, counted and named in the log. For
    many files, or many runs, `python -m diffstride.prepare_audio` decodes them
    once.

    Args:
        path: Path of the CSV file, with the names of its columns on top.
        root: Folder that paths in the file are relative to. Defaults to that
            of the CSV file.
        path_column: Column of the paths.
        label_column: Column of the names of classes.
        split_column: Column of the splits. Defaults to `"split"`, or else
            `"fold"`.
        label_separator: Text between the names of classes, such as `","`, if a
            sound may have several classes. The targets are then one or zero for
            each class: train with binary cross-entropy. Defaults to None: each
            sound has one class.
        batch_size: Number of windows in a batch, of all processes together.
        seed: Seed of the order and of the windows.
        train_split: Split to train on.
        test_split: Split to test on.
        test_fold: Number of the fold to test on; the others are trained on.
            Takes the place of `train_split` and `test_split`.
        sample_rate: Samples per second. Other rates are resampled.
        window_seconds: Length of a window, or None for whole clips, in batches
            of similar length.
        train_steps: Batches in an epoch. By default an epoch has one window of
            each clip.
        mixup: Chance that a waveform is mixed with another one, and its label.
        balance: Whether clips of rare classes are drawn more often.
        max_bad_share: Share of the sound files that may be unusable. With more
            of them, loading ends with an error.
        process_index: Number of this process.
        process_count: Number of processes that each make their own rows of
            every batch.

    Returns:
        A `diffstride.data.dataset.Dataset`.
    """
    rows = read_manifest(
        path, root, path_column, label_column, split_column, label_separator
    )
    train_splits, test_splits = [train_split], [test_split]
    if test_fold is not None:
        train_splits, test_split = _folds(
            {row.split for row in rows}, test_fold
        )
        test_splits = [test_split]
    return _from_rows(
        rows,
        train_splits,
        test_splits,
        str(path),
        sample_rate,
        max_bad_share,
        window=_window(window_seconds, sample_rate),
        batch_size=batch_size,
        seed=seed,
        train_steps=train_steps,
        mixup=mixup,
        balance=balance,
        process_index=process_index,
        process_count=process_count,
    )


def folder_audio(
    folder: FilePath,
    test_percent: float = 20,
    batch_size: int = 256,
    seed: int = 0,
    sample_rate: int = 16000,
    window_seconds: float | None = 1.0,
    train_steps: int | None = None,
    mixup: float = 0.0,
    balance: bool = False,
    max_bad_share: float = MAX_BAD_SHARE,
    process_index: int = 0,
    process_count: int = 1,
) -> Dataset:
    """A folder with a folder of sound files for each class, like `dog/3.wav`.

    Args:
        folder: Path of the folder.
        test_percent: Percentage of the files of each class to test on. The
            names of the files decide which ones these are; `seed` does not.
        batch_size: Number of windows in a batch, of all processes together.
        seed: Seed of the order and of the windows.
        sample_rate: Samples per second. Other rates are resampled.
        window_seconds: Length of a window, or None for whole clips, in batches
            of similar length.
        train_steps: Batches in an epoch. By default an epoch has one window of
            each clip.
        mixup: Chance that a waveform is mixed with another one, and its label.
        balance: Whether clips of rare classes are drawn more often.
        max_bad_share: Share of the sound files that may be unusable. With more
            of them, loading ends with an error.
        process_index: Number of this process.
        process_count: Number of processes that each make their own rows of
            every batch.

    Returns:
        A `diffstride.data.dataset.Dataset`.
    """
    return _from_rows(
        read_folder(folder, test_percent),
        ["train"],
        ["test"],
        str(folder),
        sample_rate,
        max_bad_share,
        window=_window(window_seconds, sample_rate),
        batch_size=batch_size,
        seed=seed,
        train_steps=train_steps,
        mixup=mixup,
        balance=balance,
        process_index=process_index,
        process_count=process_count,
    )


def _window(window_seconds, sample_rate):
    if window_seconds is None:
        return None
    if window_seconds * sample_rate < 1:
        raise ValueError(
            "`window_seconds` must last a sample or more. "
            f"Received: window_seconds={window_seconds}"
        )
    return round(window_seconds * sample_rate)


def _folds(splits, test_fold):
    """The splits to train on, and the one to test on."""
    folds = sorted(split for split in splits if split.startswith("fold"))
    if len(folds) < 2:
        raise ValueError(
            "`test_fold` must be None for data without folds; it has the "
            f"splits {sorted(splits)}. Received: test_fold={test_fold}"
        )
    test_split = f"fold{test_fold}"
    if test_split not in folds:
        raise ValueError(
            f"`test_fold` must be one of the folds, {folds}. "
            f"Received: test_fold={test_fold}"
        )
    return [fold for fold in folds if fold != test_split], test_split


def _from_rows(
    rows, train_splits, test_splits, name, sample_rate, max_bad_share, **options
):
    names = class_names(rows)
    numbers = {name: number for number, name in enumerate(names)}
    report = Report()

    def label(row):
        if isinstance(row.label, str):
            return numbers[row.label]
        return [numbers[name] for name in row.label]

    def read(splits):
        chosen = [row for row in rows if row.split in splits]
        clips = collect(
            (
                (samples, label(row))
                for row, samples in read_sounds(chosen, sample_rate, report)
            ),
            names,
        )
        report.check(report.read + len(report.bad), max_bad_share)
        if not len(clips):
            there = sorted({row.split for row in rows})
            raise ValueError(
                f"{name} must have sound files of the splits {splits} that can "
                f"be read. It has the splits {there}; for folds, choose one "
                f"with `test_fold`. {report}"
            )
        return clips

    train, test = read(train_splits), read(test_splits)
    both = set(train_splits) & set(test_splits)
    if both:
        logging.warning("%s: %s is trained on and tested on.", name, both)
    if report.bad or report.remarks:
        logging.warning("%s: %s", name, report)
    return from_clips(
        train, test, name=name, sample_rate=sample_rate, **options
    )
