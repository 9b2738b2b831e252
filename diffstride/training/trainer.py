"""Training and evaluation: compile, fit, resume, report."""

import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import keras

from diffstride.analysis.complexity import add_complexity_loss
from diffstride.analysis.keras_graph import sublayers
from diffstride.data.dataset import Dataset
from diffstride.layers.filterbank import FILTER_WEIGHTS
from diffstride.layers.graph_sizes import sizes_can_follow
from diffstride.training import (
    distribution,
    environment,
    losses_and_metrics,
    processes,
    results,
    termination,
)
from diffstride.training.adaptation import adapt
from diffstride.training.arguments import check
from diffstride.training.draw_reduction_rate import (
    DrawReductionRate,
    ranges_to_draw_from,
)
from diffstride.training.label_map_pictures import PredictionPictures
from diffstride.training.macs_budget import MacsBudget
from diffstride.training.on_device import DeviceRun, OnDevice
from diffstride.training.refresh_sizes import RefreshSizes
from diffstride.training.run import Run
from diffstride.training.shift_consistency import (
    ShiftConsistency,
    check_shifts,
)
from diffstride.training.stride_rate import set_weight_rates
from diffstride.training.test_flips import MirrorAverage, check_test_flips
from diffstride.training.workdir import (
    Configuration,
    check_configuration,
    claimed,
)
from diffstride.types import FilePath, Loss
from diffstride.validation import ConfigError


def train(
    dataset: Dataset | Callable[..., Dataset],
    model: Callable[..., keras.Model],
    workdir: FilePath,
    mode: str = "train",
    seed: int = 0,
    num_epochs: int = 100,
    optimizer: Callable[..., keras.optimizers.Optimizer] = keras.optimizers.SGD,
    learning_rate: float
    | keras.optimizers.schedules.LearningRateSchedule
    | Callable = 0.1,
    loss: Loss | Mapping[str, Loss] | None = None,
    metrics: Sequence[Callable[[], keras.Metric]] | None = None,
    complexity_weight: float = 0.0,
    target_macs: float | None = None,
    stride_rate: float = 1.0,
    filter_rate: float = 1.0,
    dtype_policy: str = "float32",
    jit_compile: bool | str = "auto",
    deterministic: bool = False,
    devices: Sequence[str] | None = None,
    refresh_sizes: str | int = "epoch",
    checkpoint_steps: int | None = None,
    keep_checkpoints: int = 2,
    monitor: str | None = None,
    eval_checkpoint: str = "latest",
    test_flips: bool = False,
    tensorboard: bool = True,
    pictures_every: int | None = None,
    shift_consistency: int | None = None,
    shift_consistency_every: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
    config: Callable[[], Configuration] | None = None,
    on_device: OnDevice | None = None,
) -> list[dict] | dict:
    """Trains a classifier of examples or of pixels, or evaluates one.

    The same call goes on where an interrupted one stopped, and ends as if
    nothing had happened.

    Args:
        dataset: a `diffstride.data.dataset.Dataset`, or a function of `seed`
            that loads one. Of several processes, each loads its own rows: the
            function then takes `process_index` and `process_count` too.
        model: function of `num_output_classes` and `input_shape` that builds a
            Keras model.
        workdir: directory of everything that the run leaves behind:
            `checkpoints/`, `history.jsonl`, `config.gin`, `tensorboard/`,
            `strides.png`, for label maps `predictions.png`, the trained
            `model.keras` and, where the data set has them, the names of its
            classes, `classes.json`, and the figures of the test split,
            `test.json`, if there is a validation split.
        mode: `"train"`, or `"eval"` to evaluate a checkpoint on the test
            split.
        seed: integer. Seed of the weights, of dropout, and of the data set.
        num_epochs: integer.
        optimizer: function of `learning_rate`, like `keras.optimizers.SGD`.
            A weight decay it applies spares strides, biases, the parameters
            of normalisations and the filters of a front end.
        learning_rate: number, a schedule of Keras, which counts steps, or a
            function of `steps_per_epoch` and `num_epochs` (see
            `diffstride.training.schedules`).
        loss: a Keras loss, or a dict of one for each head. Defaults to
            cross-entropy, binary if examples are of several classes at once.
            The layer that makes the output of the model says whether it is
            logits; a loss that expects the other kind is refused.
        metrics: list of functions that make Keras metrics. Defaults to
            accuracy, and top-5 accuracy with more than five classes; of label
            maps, to the accuracy of pixels and the mean intersection over
            union.
        complexity_weight: number. Factor of the complexity in the loss (λ in
            Eq. 6), where there are strides to learn.
        target_macs: number or None. Multiply-accumulates that an example is to
            cost, or, below 100, a ratio to those of the model at its start:
            strides learn under this budget (see `MacsBudget`).
        stride_rate: number. Factor of the learning rate for strides.
        filter_rate: number. Factor of the learning rate for the filters of a
            front end: frequencies and widths of `LEAF` and `SincFilterbank`,
            all of a `TimeDomainFilterbank`.
        dtype_policy: string. `"mixed_bfloat16"` and `"mixed_float16"` train in
            mixed precision, the latter with a loss scale that adapts itself.
        jit_compile: boolean or `"auto"`. Whether XLA compiles the model, as in
            `keras.Model.compile`.
        deterministic: whether TensorFlow's operations are all made
            deterministic, at some cost in speed.
        devices: list of device names. Defaults to all GPUs on TensorFlow, to
            all devices of all processes under JAX; several train in step, each
            on its share of a batch (see `diffstride.training.distribution`).
        refresh_sizes: `"epoch"`, or an integer: after how many steps static
            sizes follow the strides (see `RefreshSizes`).
        checkpoint_steps: integer or None. Also save within an epoch, every so
            many steps.
        keep_checkpoints: integer. How many checkpoints to keep, besides the
            best one. Of those within an epoch, as many more.
        monitor: string. What makes the best checkpoint the best: a name in
            the history. Defaults to `"val_accuracy"` or, of label maps,
            `"val_mean_iou"`, where there is one, else `"val_loss"`. Names with
            `val_` are of the validation split of the data set or, where it has
            none, of the test split.
        eval_checkpoint: `"latest"`, `"best"` or, for the mean of the weights
            of those that are kept, `"average"`. What `mode="eval"` evaluates.
        test_flips: whether `mode="eval"` averages predictions over each image
            and its mirror image. Figures of a training are always without.
        tensorboard: whether to write for TensorBoard, where it is installed
            and the backend is TensorFlow.
        pictures_every: integer or None. Every so many epochs, a picture of
            predictions beside their label maps is drawn in `pictures/`, where
            matplotlib is installed. Only for label maps.
        shift_consistency: integer or None. The largest number of pixels by
            which images move, to measure how often the predicted class stays
            (see `diffstride.training.shift_consistency`). It is in the history
            of the last epoch as `val_shift_consistency`, and in the figures of
            the test split.
        shift_consistency_every: integer or None. After how many epochs it is
            measured besides.
        callbacks: list of Keras callbacks. A run is one `fit` for them, also
            where it goes on after an interruption: what Keras's own ones have
            counted is part of a checkpoint.
        verbose: 0, 1 for a progress bar, 2 for a line per epoch, `"auto"` for
            a progress bar on a terminal.
        config: function without arguments that returns the configuration of
            the run, a `diffstride.training.workdir.Configuration`. It is called
            when all is built. A `workdir` with another configuration is
            refused.
        on_device: an `OnDevice`, or None. With one, images stay on the device,
            and all runs that get the same object, which must differ in their
            seeds only, share what is compiled. There are no checkpoints then:
            an interrupted run starts anew.

    Returns:
        The history, a list of one dict for each epoch; with `mode="eval"` a
        dict of metrics.

    Raises:
        ConfigError: where `workdir` belongs to another configuration, or
            another process is at work there.
        FloatingPointError: at a loss that is not finite.
        SystemExit: with 128 plus the signal's number, after a checkpoint, on
            SIGTERM and Ctrl-C.
    """
    check(locals())
    workdir = pathlib.Path(workdir).expanduser()
    if not processes.is_first():
        verbose = 0
    if verbose == "auto":
        verbose = 1 if sys.stdout.isatty() else 2
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(dtype_policy)
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    scope = distribution.scope(devices)
    if on_device and distribution.count_devices(devices) > 1:
        raise ConfigError(
            "`devices` must name one device for data that stay there. "
            f"Received: devices={devices}"
        )
    data = distribution.load(dataset, seed)
    with scope():
        data = distribution.divide(data)
        network = model(
            num_output_classes=data.num_classes, input_shape=data.input_shape
        )
        _check_match(network, data, loss)
        adapt(network, data)
        rate = learning_rate
        is_schedule = isinstance(
            rate, keras.optimizers.schedules.LearningRateSchedule
        )
        if callable(rate) and not is_schedule:
            rate = rate(steps_per_epoch=data.train_steps, num_epochs=num_epochs)
        built_loss = losses_and_metrics.build_loss(
            network,
            data.num_classes,
            data.is_multi_label,
            loss,
            data.class_weights,
        )

        def compile_(model, **kwargs):
            model.compile(
                loss=built_loss,
                # Of several tasks, each gives the examples of others no weight.
                weighted_metrics=losses_and_metrics.build_metrics(
                    metrics, data.num_classes, bool(data.label_shape)
                ),
                jit_compile=jit_compile,
                **kwargs,
            )

        compile_(
            network,
            optimizer=_build_optimizer(
                optimizer, rate, network, stride_rate, filter_rate
            ),
        )
        _check_compilation(network, jit_compile)
        # Build the optimizer now, so that restoring a checkpoint finds its
        # variables.
        network.optimizer.build(network.trainable_variables)
    if pictures_every and not data.label_shape:
        raise ConfigError(
            "`pictures_every` must be None for labels that are no maps. "
            f"Received: pictures_every={pictures_every}"
        )
    if shift_consistency is not None:
        check_shifts(data, shift_consistency)
    if complexity_weight:
        add_complexity_loss(network, complexity_weight)
    if target_macs is not None:
        callbacks = [MacsBudget(target_macs, data.input_shape), *callbacks]
    for callback in callbacks:
        if isinstance(callback, MacsBudget):
            # A ratio is one of the new model, also in a run that goes on.
            callback.find_target(network)
    draws = any(isinstance(each, DrawReductionRate) for each in callbacks)
    if not draws and not sizes_can_follow() and ranges_to_draw_from(network):
        callbacks = [DrawReductionRate(seed=seed), *callbacks]
    if pictures_every:
        callbacks = [
            *callbacks,
            PredictionPictures(data, workdir / "pictures", pictures_every),
        ]

    run = (functools.partial(DeviceRun, on_device) if on_device else Run)(
        network,
        data,
        num_epochs,
        workdir,
        keep_checkpoints,
        RefreshSizes(refresh_sizes),
        verbose,
        shift_consistency and ShiftConsistency(shift_consistency),
        shift_consistency_every,
    )
    configuration = config() if config else Configuration()
    if mode == "eval":
        check_configuration(workdir, configuration, free=("test_split",))
        with scope():
            if test_flips:
                check_test_flips(data)
                run.evaluated = MirrorAverage(network)
                compile_(run.evaluated)
            return results.evaluate(run, eval_checkpoint)
    is_first = processes.is_first()
    with claimed(workdir, configuration, is_first):
        if is_first:
            about = environment.describe(devices)
            if on_device:
                about["on_device"] = True
            environment.record(workdir, about)
        with (
            scope(),
            distribution.synchronized(network),
            termination.termination() as asked_to_end,
        ):
            run.fit(
                callbacks,
                checkpoint_steps,
                monitor,
                asked_to_end,
                tensorboard and is_first,
            )
            results.test(run)
        if is_first:
            results.report(run)
    return run.progress.history


def _build_optimizer(optimizer, rate, model, stride_rate=1.0, filter_rate=1.0):
    optimizer = optimizer(learning_rate=rate)
    factors = {"strides": stride_rate}
    factors |= dict.fromkeys(FILTER_WEIGHTS, filter_rate)
    if set(factors.values()) != {1}:
        set_weight_rates(optimizer, factors)
    if optimizer.weight_decay:
        optimizer.exclude_from_weight_decay(
            var_list=[
                v
                for v in model.trainable_variables
                if len(v.shape) < 2 or v.name in FILTER_WEIGHTS
            ]
        )
    return optimizer


def _check_compilation(model, jit_compile):
    """Refuses that Keras compiles without XLA where it was asked for."""
    if jit_compile is True and not model.jit_compile:
        names = [
            layer.name for layer in sublayers(model) if not layer.supports_jit
        ]
        raise ConfigError(
            "`jit_compile` must be False or 'auto' for layers that XLA cannot "
            f"compile, here {', '.join(names)}. Those of DiffStride can with "
            "`pooling.DiffStride.static_sizes = True`. Received: "
            "jit_compile=True"
        )


def _check_match(model, data, loss):
    """Refuses what would train, but to no good, or fail in the first step."""
    _check_label_shape(model, data, loss)
    for layer in sublayers(model):
        rate = getattr(layer, "sample_rate", data.sample_rate)
        if data.sample_rate is not None and rate != data.sample_rate:
            raise ConfigError(
                f"The data have {data.sample_rate} samples per second, the "
                f"layer '{layer.name}' expects {rate}: bind the same "
                "`sample_rate` to both, as in "
                "`frontend.LogMelSpectrogram.sample_rate`"
            )


def _check_label_shape(model, data, loss):
    """Refuses a classifier for label maps, and the other way round."""
    output = getattr(model, "output_shape", None)
    if isinstance(data.num_classes, dict) or not _is_shape(output):
        return  # There are several outputs, or their shapes are not known.
    size, labels = output[1:-1], data.label_shape
    if len(size) == len(labels) and all(
        one in (None, other) for one, other in zip(size, labels, strict=True)
    ):
        return
    if data.label_shape:
        raise ConfigError(
            "`model` must give classes for each pixel of a label map, in the "
            f"shape {(None, *data.label_shape, data.num_classes)}: bind one "
            "for segmentation. Received: a data set "
            f"of label maps and a model with output_shape={output}"
        )
    if loss is None:
        raise ConfigError(
            "`model` must give classes for each example, in the shape "
            f"{(None, data.num_classes)}, because the labels of "
            f"{data.name!r} are no maps. Received: output_shape={output}"
        )


def _is_shape(value):
    return isinstance(value, tuple) and all(
        size is None or isinstance(size, int) for size in value
    )
