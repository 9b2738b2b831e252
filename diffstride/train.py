"""The training binary.

    python -m diffstride.train --gin_file=configs/quickstart.gin \
        --gin_param="train.train.num_epochs = 5" --workdir=/tmp/quickstart

Gin files are looked for in the working directory, in the checkout, and in its
`configs/`. The same command goes on with a run that was interrupted. Without a
gin file, the configuration of `--workdir` is taken.

Several processes train together under JAX: each is given the same command, and
its number (see `diffstride.training.processes.joined`).
"""

import pathlib

from absl import app, flags

from diffstride import configurables
from diffstride.training import environment, processes
from diffstride.validation import ConfigError

FLAGS = flags.FLAGS

flags.DEFINE_multi_string(
    "gin_file", [], "Gin file of the run; later ones override earlier ones."
)
flags.DEFINE_multi_string(
    "gin_param", [], "Single binding, such as 'train.train.num_epochs = 5'."
)
flags.DEFINE_string("configs_folder", None, "Where gin files are first sought.")
# The flags of the 2022 release.
flags.DEFINE_alias("gin_config", "gin_file")
flags.DEFINE_alias("gin_bindings", "gin_param")
flags.DEFINE_string(
    "workdir", None, "Directory of checkpoints, history and plots."
)
flags.DEFINE_integer("seed", None, "Seed of weights, dropout and data.")
flags.DEFINE_enum(
    "mode", "train", ["train", "eval"], "Whether to train, or to evaluate."
)
flags.DEFINE_string(
    "coordinator_address", None, "Host and port of the first process."
)
flags.DEFINE_integer("process_count", None, "Number of processes.")
flags.DEFINE_integer("process_index", None, "Number of this one, from 0.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}")
    with (
        processes.joined(
            FLAGS.coordinator_address, FLAGS.process_count, FLAGS.process_index
        ),
        configurables.errors_in_sentences(FLAGS.workdir),
    ):
        _train()


def _train():
    environment.check_backend()
    files = FLAGS.gin_file
    if not files and FLAGS.workdir:
        saved_config = pathlib.Path(FLAGS.workdir, "config.gin")
        saved_config = saved_config.expanduser().resolve()
        files = [str(saved_config)] if saved_config.exists() else []
    bindings = list(FLAGS.gin_param)
    if FLAGS.seed is not None:
        bindings.append(f"train.train.seed = {FLAGS.seed}")
    configurables.parse(files, bindings, FLAGS.configs_folder)
    configurables.check_complete()
    configurables.check_bindings()
    bound_workdir = configurables.take("train.train.workdir")
    workdir = FLAGS.workdir or bound_workdir
    if not workdir:
        raise ConfigError("Say where to keep the run: `--workdir=/path/to/it`")
    configurables.train(workdir, mode=FLAGS.mode)


if __name__ == "__main__":
    app.run(main)
