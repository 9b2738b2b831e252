"""What a run leaves behind: evaluations, the trained model, a plot."""

import json

from diffstride.analysis.resolution import learned_strides
from diffstride.training import distribution, plots
from diffstride.training.averaging import average_checkpoints
from diffstride.training.checkpoints import restore_model, write_atomically


def evaluate(run, which):
    """Evaluates checkpoints of a run on the test split.

    Args:
        run: a `diffstride.training.run.Run`.
        which: `"latest"`, `"best"` or `"average"`.

    Returns:
        A dict of metrics.
    """
    loaded = run.load()
    if loaded is None:
        raise FileNotFoundError(
            f"There is no checkpoint to evaluate in {run.checkpoints.directory}"
        )
    arrays, state = loaded
    if which == "best" and state["best"]:
        arrays, state = run.checkpoints.load(state["best"]["step"])
    if which == "average":
        arrays, state = average_checkpoints(run.checkpoints)
    restore_model(run.model, arrays, groups=("model",))
    result = run.model.evaluate(
        run.data.test(), verbose=run.verbose, return_dict=True
    )
    result = {"epoch": state["epoch"], **result}
    if distribution.is_first():
        text = json.dumps(result)
        path = run.workdir / "evaluation.json"
        write_atomically(path, lambda file: file.write(text.encode()))
        print(text)
    return result


def report(run):
    """Saves the model, and says where it is and how strides moved."""
    path = run.workdir / "model.keras"
    run.model.save(path)
    print(f"Trained for {run.progress.epoch} epochs. The model: {path}")
    if run.data.class_names:
        names = json.dumps(run.data.class_names)
        (run.workdir / "classes.json").write_text(names)
    first = run.progress.initial_strides
    if not first:
        return
    last = learned_strides(run.model)
    print("Strides, from the first to the last:")
    for name in first:
        before, after = (
            ", ".join(f"{stride:.3f}" for stride in strides[name])
            for strides in (first, last)
        )
        print(f"  {name}: ({before}) -> ({after})")
    path = run.workdir / "strides.png"
    by_epoch = [first, *(row["strides"] for row in run.progress.history)]
    is_image = run.data.sample_rate is None
    axes = plots.IMAGE_AXES if is_image else plots.SPECTROGRAM_AXES
    if plots.plot_strides(by_epoch, path, axes):
        print(f"Strides by epoch: {path}")
