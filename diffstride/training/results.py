"""What a run leaves behind: evaluations, the trained model, a plot."""

import json
import os

from absl import logging

from diffstride.analysis.resolution import learned_strides
from diffstride.training import plots, processes, shift_consistency
from diffstride.training.averaging import average_checkpoints
from diffstride.training.checkpoint_files import restore_model, write_atomically
from diffstride.training.label_map_pictures import draw_predictions


def evaluate(run, which):
    """Evaluates checkpoints of a run on the test split.

    Args:
        run: a `diffstride.training.run.Run`.
        which: `"latest"`, `"best"` or `"average"`.

    Returns:
        A dict of metrics.
    """
    result = _evaluate(run, which)
    if processes.is_first():
        text = json.dumps(result)
        print(text)
        path = run.workdir / "evaluation.json"
        try:
            write_atomically(path, lambda file: file.write(text.encode()))
        except OSError as error:
            logging.warning("%s The result is only printed.", error)
    return result


def test(run):
    """Evaluates a run that had a validation split on the test split.

    `test.json` then has the figures of the best checkpoint, by what is
    monitored on the validation split, and of the final weights.
    """
    if run.data.validation is None:
        return
    # The final weights come last: they are those to be saved.
    best, final = (_evaluate(run, which) for which in ("best", "latest"))
    if processes.is_first():
        text = json.dumps({"best": best, "final": final})
        path = run.workdir / "test.json"
        write_atomically(path, lambda file: file.write(text.encode()))
        print(f"On the test split: {text}")


def _evaluate(run, which):
    arrays, state, steps = _load(run, which)
    restore_model(run.model, arrays, ("model",), state.get("paths"))
    metrics = run.evaluated.evaluate(
        run.data.test(),
        # These weights may ask for other sizes than those before.
        callbacks=[run.refresh],
        verbose=run.verbose,
        return_dict=True,
    )
    if run.shift_consistency:
        value = run.shift_consistency(run.model, run.data.test)
        metrics[shift_consistency.NAME] = value
    names = [run.checkpoints.path(step).name for step in steps]
    return {
        "epoch": state["epoch"],
        "step": steps[-1],
        "checkpoint": names if which == "average" else names[0],
        "data": run.data.name,
        "split": run.data.test_split,
        **metrics,
    }


def _load(run, which):
    """Arrays and state of a checkpoint, and the steps it was made from."""
    loaded = run.load()
    if loaded and which == "average":
        loaded = average_checkpoints(run.checkpoints)
    if loaded is None:
        raise FileNotFoundError(
            f"There is no checkpoint to evaluate in {run.checkpoints.directory}"
        )
    if which == "average":
        return loaded
    arrays, state = loaded
    if which == "best" and state["best"]:
        step = state["best"]["step"]
        arrays, state = run.checkpoints.load(step)
        return arrays, state, [step]
    step = state["epoch"] * run.data.train_steps + state["step"]
    return arrays, state, [step]


def report(run):
    """Saves the model, and says where it is and how strides moved."""
    path = run.workdir / "model.keras"
    unfinished = run.workdir / "unfinished.model.keras"
    run.model.save(unfinished)
    os.replace(unfinished, path)
    print(f"Trained for {run.progress.epoch} epochs. The model: {path}")
    if run.data.class_names:
        names = json.dumps(run.data.class_names).encode()
        write_atomically(
            run.workdir / "classes.json", lambda file: file.write(names)
        )
    if run.data.label_shape:
        path = run.workdir / "predictions.png"
        if draw_predictions({"prediction": run.model}, run.data, path):
            print(f"Predictions of test images: {path}")
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
