"""Several data sets at once, each with a head of its own."""

import functools
from collections.abc import Callable, Mapping

import numpy as np

from diffstride.data.clip_windows import vary_early
from diffstride.data.dataset import Batches, Dataset, batch_shapes


def multi_task(
    datasets: Mapping[str, Dataset | Callable[..., Dataset]],
    seed: int = 0,
    train_steps: int | None = None,
) -> Dataset:
    """Trains on several tasks at once: each batch has examples of all tasks.

    A model has a head for each task. The labels and the weights of examples are
    dicts with an array for each head. For the heads of other tasks, an example
    has the weight 0: they get no gradient from it, and their metrics must not
    count it, so compile the model with `weighted_metrics`. The other weights
    make the loss of a head the average over the examples of its task. The loss
    of the model is the sum over heads. (On TensorFlow, Keras shows the loss of
    a single head as an average over batches and ignores their weights.)

    Each task keeps the batch size of its own data set, and runs through its
    clips at its own pace.

    Args:
        datasets: Dict from the name of a task to its data set, or to a function
            of `seed` that loads it.
        seed: Seed that the functions get, a different one for each.
        train_steps: Batches in an epoch. By default an epoch has one window of
            each clip of the largest data set.

    Returns:
        A `diffstride.data.dataset.Dataset`.

    Example:

    ```python
    dataset = multi_task(
        {
            "word": tfds_audio("speech_commands", batch_size=128),
            "pitch": tfds_audio("nsynth", label="pitch", batch_size=128),
        }
    )
    ```
    """
    if not datasets:
        raise ValueError(
            "`datasets` must have a task or more. "
            f"Received: datasets={datasets}"
        )
    tasks = {
        task: dataset(seed=seed * len(datasets) + index)
        if callable(dataset)
        else dataset
        for index, (task, dataset) in enumerate(datasets.items())
    }
    shapes = {task: dataset.input_shape for task, dataset in tasks.items()}
    rates = {task: dataset.sample_rate for task, dataset in tasks.items()}
    for what, values in [("shape", shapes), ("sample rate", rates)]:
        if len(set(values.values())) > 1:
            raise ValueError(
                f"`datasets` must have examples of one {what}. "
                f"Received: {values}"
            )
    for task, dataset in tasks.items():
        for what, found in [
            ("a validation split", dataset.validation is not None),
            ("class weights", dataset.class_weights is not None),
            ("labels that are maps", bool(dataset.label_shape)),
        ]:
            if found:
                raise ValueError(
                    f"`datasets` must not have {what}: several tasks at once "
                    f"do not use them. Received: {what} in task '{task}'"
                )
    if train_steps is None:
        train_steps = max(dataset.train_steps for dataset in tasks.values())

    @functools.cache
    def of_no_class(task):
        """The label that examples of other tasks have for this head."""
        _, y = tasks[task].test().make_batch(0)
        return np.zeros_like(y[:1])

    def blank(task, y, count):
        """Such labels, of the same form as `y` or as those of test batches."""
        like = of_no_class(task) if y is None else np.zeros_like(y[:1])
        return np.repeat(like, count, axis=0)

    def merge(batches, weights):
        """Joins the batches of one or more tasks in one."""
        labels = {task: [] for task in tasks}
        masks = {task: [] for task in tasks}
        for batch_task, (_, y) in batches.items():
            for task in tasks:
                own = task == batch_task
                _, own_y = batches.get(task, (None, None))
                labels[task].append(y if own else blank(task, own_y, len(y)))
                weight = weights[task] if own else 0
                masks[task].append(np.full(len(y), weight, "float32"))
        return (
            np.concatenate([x for x, _ in batches.values()]),
            {task: np.concatenate(parts) for task, parts in labels.items()},
            {task: np.concatenate(parts) for task, parts in masks.items()},
        )

    def train_batches(epoch, start_step=0):
        def make_batch(step):
            batches = {}
            for task, dataset in tasks.items():
                own_epoch, own_step = divmod(
                    epoch * train_steps + step, dataset.train_steps
                )
                batches[task] = dataset.train(own_epoch).make_batch(own_step)
            sizes = {task: len(y) for task, (_, y) in batches.items()}
            return merge(batches, _weights(sizes))

        return Batches(make_batch, train_steps, start_step)

    @functools.cache
    def plan_test():
        """The task and the step of each test batch; the weights of tasks."""
        plan, sizes = [], {}
        for task, dataset in tasks.items():
            shapes = batch_shapes(dataset.test())
            plan += [(task, step, shape) for step, shape in enumerate(shapes)]
            sizes[task] = sum(rows for rows, *_ in shapes)
        plan = vary_early(plan, length=lambda place: place[-1][1:])
        return plan, _weights(sizes)

    def test_batches():
        tests = {task: dataset.test() for task, dataset in tasks.items()}
        plan, weights = plan_test()

        def make_batch(step):
            task, own_step, _ = plan[step]
            batch = tests[task].make_batch(own_step)
            return merge({task: batch}, weights)

        return Batches(
            make_batch, len(plan), shapes=[shape for _, _, shape in plan]
        )

    return Dataset(
        train=train_batches,
        test=test_batches,
        train_steps=train_steps,
        input_shape=next(iter(shapes.values())),
        num_classes={
            task: dataset.num_classes for task, dataset in tasks.items()
        },
        name="+".join(tasks),
        class_names={
            task: dataset.class_names for task, dataset in tasks.items()
        },
        is_multi_label=any(
            dataset.is_multi_label for dataset in tasks.values()
        ),
        sample_rate=next(iter(rates.values())),
    )


def _weights(sizes):
    """Weights that make the mean over all examples the mean over one task."""
    total = sum(sizes.values())
    return {task: total / size for task, size in sizes.items()}
