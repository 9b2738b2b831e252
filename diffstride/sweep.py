"""Expands a sweep into training runs, and makes them.

    python -m diffstride.sweep configs/sweeps/table3_cifar10.toml --dry_run
    python -m diffstride.sweep configs/sweeps/table3_cifar10.toml --workdir=runs
    python -m diffstride.report runs

A sweep is a TOML file: gin files that all runs share, seeds, and any number of
axes. A run takes one choice of each axis and one seed.

    config = ["papers/diffstride/cifar10.gin"]
    gin_param = [                       # may be left out
        "train.train.num_epochs = 200",
        "schedules.piecewise.boundaries = [100, 150]",
    ]
    seeds = [1, 2, 3]

    [axes.method]                       # choices that are gin files
    gin_file = ["pooling/spectral.gin", "pooling/diffstride.gin"]

    [axes.strides]                      # choices that are values of a parameter
    gin_param = "resnet.resnet18.strides"
    values = [[1, 1, 2, 2, 2], [1, 1, 3, 2, 3]]  # "@name" is a reference

    [axes.strides.random]               # or random ones, or both
    template = [1, 1, "?", "?", "?"]    # what is drawn
    between = [1, 3]                    # integers; [1.0, 3.0] draws fractions
    draws = 5
    seed = 0
    per_axis = false                    # true draws height and width apart

    [axes.ramp.choices]                 # choices of several bindings, by name
    inside = ["pooling.DiffStride.ramp = 'inside'", "..."]
    outside = []

For the report, a file may say what was published, and how it is to be laid out:

    [published]                         # strings as printed, column by column;
                                        # [[published]] for several metrics
    metric = "val_accuracy"
    rows = "strides"
    columns = "method"
    [published.values]
    "1-1-2-2-2" = ["92.4 ± 0.1", "92.5 ± 0.1"]

    [report]                            # of the columns; else the last axis
    columns = "method"
    metrics = ["val_accuracy", "macs"]
    title = "Strides on CIFAR-10"       # else the first words of the file
    series = ["diff", "strided"]        # labels that begin alike share a color

Each run has a directory of its own, named after its choices. A run that is
finished is not made again, and one that was interrupted goes on, so that the
same command finishes a sweep, from several machines at once if they share its
directory. A run that fails does not stop the others; it is named at the end.
Ctrl-C lets the runs save a checkpoint. `--gin_param` adds bindings to all runs,
and overrides what the file says.

With KERAS_BACKEND=jax, `--on_device` makes all runs in one process, which is
for short runs on a GPU: the images stay on the device, and runs that differ
only in their seeds share what is compiled. A run keeps no checkpoints then, and
starts anew if it was interrupted.

A sweep that is no file is looked for among those of the package, so that
`python -m diffstride.sweep table3_cifar10` works in any folder.

The configurations of all runs are read before the first one starts. A binding
for all runs that some of them cannot use, such as a parameter of DiffStride
where convolutions are strided, is left out of those, and named.

Seeds, choices and axes' values may be added to a file later: the same command
then makes the runs that are new. A `--workdir` with runs that the sweep does
not have, or has otherwise, is refused, but for those that failed in their first
epoch.
"""

import argparse
import dataclasses
import pathlib
import sys

from diffstride import configs
from diffstride.experiments.checks import check_runs
from diffstride.experiments.run_state import check_workdir
from diffstride.experiments.runner import (
    Local,
    Ray,
    find_gpus,
    make_runs,
    share_out,
)
from diffstride.experiments.runs import shell_command
from diffstride.experiments.sweep_file import (
    SweepError,
    check_files,
    read_sweep,
)


def find(path):
    """The path of a sweep, which may be one of the package."""
    if path.is_file():
        return path
    try:
        return configs.find(path.as_posix())
    except configs.UnknownConfigError as error:
        raise SweepError(f"There is no file {path}. {error}") from None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sweep", type=pathlib.Path, help="sweep file, or its name"
    )
    parser.add_argument(
        "--workdir",
        type=pathlib.Path,
        help="directory of the runs; defaults to runs/ and the sweep's name",
    )
    parser.add_argument(
        "--gin_param", action="append", default=[], help="binding for all runs"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print the commands only"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        help="runs at a time on this machine, which share its GPUs",
    )
    parser.add_argument(
        "--gpus",
        type=lambda names: names.split(","),
        default=[],
        help="GPUs such as 0,1,2,3, of which each run gets one",
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="on the Ray cluster of RAY_ADDRESS, or else on this machine",
    )
    parser.add_argument(
        "--on_device",
        action="store_true",
        help="all runs in this process, with the images on the device (JAX)",
    )
    for name, amount in (("cpus", "1"), ("gpus", "1 where there are any")):
        parser.add_argument(
            f"--{name}_per_run",
            type=float,
            help=f"with --ray; defaults to {amount}",
        )
    args = parser.parse_args()
    if args.parallel is not None and args.parallel < 1:
        parser.error(f"--parallel must be 1 or more, not {args.parallel}")
    if args.ray and (args.parallel or args.gpus):
        parser.error("--parallel and --gpus are for runs without --ray")
    if args.on_device and (args.ray or args.parallel or args.gpus):
        parser.error("--on_device is without --parallel, --gpus and --ray")
    if not args.ray and (args.cpus_per_run, args.gpus_per_run) != (None, None):
        parser.error("--cpus_per_run and --gpus_per_run need --ray")
    workdir = args.workdir or pathlib.Path("runs") / args.sweep.stem
    try:
        sweep = read_sweep(find(args.sweep))
        runs = [
            dataclasses.replace(run, added=tuple(args.gin_param))
            for run in sweep.runs
        ]
        check_files(runs)
        runs, notes = check_runs(runs)
        for note in notes:
            print(f"Note: {note}", file=sys.stderr, flush=True)
        if args.dry_run:
            for run in runs:
                print(shell_command(run.command(workdir)))
            return
        check_workdir(workdir, runs)
        if args.on_device:
            from diffstride.sweep_on_device import InThisProcess, by_choices

            executor = InThisProcess()
            runs = by_choices(runs)
        elif args.ray:
            cpus = 1 if args.cpus_per_run is None else args.cpus_per_run
            executor = Ray(cpus, args.gpus_per_run)
            workdir = workdir.resolve()
        else:
            parallel = args.parallel or len(args.gpus) or 1
            gpus = args.gpus
            if parallel > 1 and not gpus:
                gpus = share_out(find_gpus(), parallel)
            executor = Local(parallel, gpus)
    except SweepError as error:
        raise SystemExit(f"Sweep error: {error}") from None
    workdir.mkdir(parents=True, exist_ok=True)
    # For the report, which needs nothing but this directory.
    (workdir / "sweep.toml").write_text(sweep.text, encoding="utf-8")
    try:
        failed = make_runs(
            runs, workdir, executor, lambda line: print(line, flush=True)
        )
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(f"{len(runs) - len(failed)} of {len(runs)} runs finished: {workdir}")
    if failed:
        raise SystemExit(
            "Failed:\n"
            + "\n".join(f"  {run.name}: {why}" for run, why in failed.items())
        )


if __name__ == "__main__":
    main()
