# %% [markdown]
# # A sweep of initial strides
#
# Do strides find their place whatever they start from? A sweep file names what
# is varied; each choice and each seed is a run of the training binary.

# %%
import pathlib
import subprocess
import sys

import diffstride.configs

sweep = """
config = ["studies/textures.gin"]
gin_param = [
    "train.train.num_epochs = 2",
    "synthetic.synthetic.num_train = 1024",
    "synthetic.synthetic.num_test = 256",
]
seeds = [1]

[axes.method]
gin_file = ["pooling/strided.gin", "pooling/diffstride.gin"]

[axes.strides]
gin_param = "resnet.resnet18.strides"
values = [[1, 2, 2, 2], [1, 3, 1, 3]]
"""
pathlib.Path("strides.toml").write_text(sweep)
print(diffstride.configs.find("studies/textures.gin").name)

# %% [markdown]
# The commands that it stands for:

# %%


def run(name, *arguments):
    command = [sys.executable, "-m", f"diffstride.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(done.stdout)


run("sweep", "strides.toml", "--dry_run")

# %% [markdown]
# Run it, two at a time. The same command goes on with a sweep that was stopped.

# %%
run("sweep.py", "strides.toml", "--parallel", "2")

# %% [markdown]
# The report is a page of tables and figures, `runs/strides/report/index.html`;
# it prints its tables, too.

# %%
run("report.py", "runs/strides", "--columns", "strides")
