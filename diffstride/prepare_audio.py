r"""Decodes sound files once, into a prepared data set of TFDS.

    python -m diffstride.prepare_audio --manifest=sounds.csv --name=my_sounds
    python -m diffstride.prepare_audio --folder=sounds --name=my_sounds

A manifest is a CSV file with the columns `path`, `label`, and `split` or
`fold`; a folder has a folder for each class. Where a sound may have several
labels, `--label_separator=,` tells what is between them.

ESC-50, FSD50K, AudioSet and TUT Urban Acoustic Scenes 2018, in the folders that
they are published in (see `diffstride.data.published`):

    python -m diffstride.prepare_audio --esc50=ESC-50-master --name=esc50
    python -m diffstride.prepare_audio --fsd50k=FSD50K --name=fsd50k
    python -m diffstride.prepare_audio --audioset=audioset --name=audioset
    python -m diffstride.prepare_audio --acoustic_scenes=FOLDER \
        --name=acoustic_scenes

Of the acoustic scenes a tenth is tested, as in the paper. With `--fold1` the
published split is taken, whose places are trained on or tested.

The 35 words of Speech Commands with its official splits, of which TFDS itself
keeps ten:

    python -m diffstride.prepare_audio --folder=speech_commands_v0.02 \
        --list=test=speech_commands_v0.02/testing_list.txt \
        --list=validation=speech_commands_v0.02/validation_list.txt \
        --name=speech_words

The data are written in shards, by `--workers` processes. After an interruption
the same command goes on with the shards that are missing, and for a set that is
complete it changes nothing. Several machines with a common folder share the
work when each runs the same command. If the file system has no locks, add
`--process_count=N --process_index=0` to N - 1.

Sound files of any sample rate, any number of channels and bits become 16-bit
samples of one channel at `--sample_rate`. Files that are empty, corrupt, cut
short or missing are skipped, counted, and named here and in `problems.csv`
beside the data. If they are more than `--max_bad_share` of all files, the
preparation ends with an error. What was prepared is trained on with

    audio.tfds_audio.name = "my_sounds"

in a gin file, and `audio.tfds_audio.data_dir` if `--data_dir` was given.
"""

import os

from absl import app, flags

from diffstride.data import (
    audio,
    clip_windows,
    manifest,
    prepare,
    published,
    tfds_source,
)

FLAGS = flags.FLAGS

flags.DEFINE_string("manifest", None, "CSV file that lists the sound files.")
flags.DEFINE_string("root", None, "Folder that its paths are relative to.")
flags.DEFINE_string("path_column", "path", "Column of the paths.")
flags.DEFINE_string("label_column", "label", "Column of the classes.")
flags.DEFINE_string("split_column", None, "Column of the splits or folds.")
flags.DEFINE_string("folder", None, "Folder with a folder for each class.")
flags.DEFINE_integer("test_percent", 20, "How much of a folder to test on.")
flags.DEFINE_multi_string(
    "list", [], "SPLIT=FILE, a list of the files of a folder in that split."
)
flags.DEFINE_string("label_separator", None, "What is between labels.")
flags.DEFINE_string("esc50", None, "Folder of ESC-50.")
flags.DEFINE_bool("esc10", False, "Whether to take of it what is ESC-10.")
flags.DEFINE_string("fsd50k", None, "Folder of FSD50K.")
flags.DEFINE_string("audioset", None, "Folder of AudioSet.")
flags.DEFINE_string("acoustic_scenes", None, "Folder of acoustic scenes.")
flags.DEFINE_bool("fold1", False, "Whether to take their published split.")
flags.DEFINE_string("name", None, "Name of the data set.", required=True)
flags.DEFINE_string("version", "1.0.0", "Version of the data set.")
flags.DEFINE_string("data_dir", None, "Folder of prepared data sets.")
flags.DEFINE_integer("sample_rate", 16000, "Samples per second.")
flags.DEFINE_integer("batch_size", 256, "Batch size of the time it takes.")
flags.DEFINE_integer("shard_size", 1000, "Number of files in a shard.")
flags.DEFINE_integer(
    "workers", os.cpu_count(), "Number of processes that decode and write."
)
flags.DEFINE_float(
    "max_bad_share",
    manifest.MAX_BAD_SHARE,
    "Share of the sound files that may be unusable.",
)
flags.DEFINE_integer("process_index", 0, "Number of this process.")
flags.DEFINE_integer("process_count", 1, "Number of processes.")
flags.mark_flags_as_mutual_exclusive(
    ["manifest", "folder", "esc50", "fsd50k", "audioset", "acoustic_scenes"],
    required=True,
)


def read_rows():
    if FLAGS.manifest:
        return manifest.read_manifest(
            FLAGS.manifest,
            FLAGS.root,
            FLAGS.path_column,
            FLAGS.label_column,
            FLAGS.split_column,
            FLAGS.label_separator,
        )
    if FLAGS.esc50:
        return published.esc50(FLAGS.esc50, FLAGS.esc10)
    if FLAGS.fsd50k:
        return published.fsd50k(FLAGS.fsd50k)
    if FLAGS.audioset:
        return published.audioset(FLAGS.audioset)
    if FLAGS.acoustic_scenes:
        return published.acoustic_scenes(FLAGS.acoustic_scenes, FLAGS.fold1)
    lists = dict(item.split("=", 1) for item in FLAGS.list)
    return manifest.read_folder(FLAGS.folder, FLAGS.test_percent, lists)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    try:
        builder, report = prepare.prepare(
            read_rows(),
            FLAGS.name,
            FLAGS.data_dir,
            FLAGS.sample_rate,
            FLAGS.version,
            FLAGS.shard_size,
            FLAGS.process_index,
            FLAGS.process_count,
            FLAGS.workers,
            FLAGS.max_bad_share,
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"Error: {error}") from error
    if builder is None:
        print("Other processes have shards to write.")
        return
    print(report)
    splits = builder.info.splits
    for split in splits:
        print(f"{split}: {splits[split].num_examples} clips")
    print(f"Prepared in {builder.data_dir}")
    split = "train" if "train" in splits else next(iter(splits))
    # This reads one split only: what it would log about the other is wrong.
    with tfds_source.quiet():
        dataset = audio.tfds_audio(
            FLAGS.name,
            data_dir=FLAGS.data_dir,
            train_split=split,
            test_split=split,
            sample_rate=FLAGS.sample_rate,
            batch_size=FLAGS.batch_size,
            train_steps=20,
        )
    rate = clip_windows.throughput(dataset)
    print(
        f"From there to batches: {rate:,.0f} windows per second in one thread, "
        f"{1000 * FLAGS.batch_size / rate:.1f} ms for {FLAGS.batch_size}"
    )


if __name__ == "__main__":
    app.run(main)
