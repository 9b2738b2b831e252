"""The binary of the 2022 release: `diffstride.train` with its defaults.

    python -m diffstride.examples.main --gin_config=cifar10.gin \
        --gin_bindings="train.workdir = '/tmp/resnet18'"

Gin files are looked for in this folder first, and the seed is 1.
"""

import pathlib

from absl import app, flags

from diffstride import train

if __name__ == "__main__":
    folder = pathlib.Path(__file__).parent
    flags.FLAGS.set_default("configs_folder", str(folder))
    flags.FLAGS.set_default("seed", 1)
    app.run(train.main)
