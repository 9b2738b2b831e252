"""What gin files can name: the only module that registers with gin.

A class is injected where gin itself hands it over, as in
`resnet.resnet18.pooling_cls = @pooling.DiffStride`.
"""

import contextlib
import io
import os
import re

import gin
import keras
from absl import logging

from diffstride.bindings import messages, reading
from diffstride.bindings.configuration import GinConfiguration
from diffstride.configs import SEARCH_PATHS
from diffstride.data import arrays, audio, images, multi_task, synthetic
from diffstride.examples import data as examples_data
from diffstride.examples import names
from diffstride.layers import (
    blur_pool,
    diffres,
    frame_pooling,
    local_importance_pooling,
    polyphase,
    pooling,
    space_to_depth,
    spec_augment,
)
from diffstride.layers.leaf import LEAF
from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.layers.pcen import PCEN
from diffstride.layers.sinc_filterbank import SincFilterbank
from diffstride.layers.time_domain_filterbank import TimeDomainFilterbank
from diffstride.models import (
    audio_cnn,
    audio_tagger,
    densenet,
    efficientnet,
    fast_cnn,
    resnet,
    unet,
)
from diffstride.training import (
    draw_reduction_rate,
    losses_and_metrics,
    refresh_sizes,
    schedules,
    trainer,
)
from diffstride.training.average_precision import MeanAveragePrecision
from diffstride.validation import ConfigError, is_number

_CONFIGURABLES = {
    "train": [trainer.train],
    "callbacks": [
        draw_reduction_rate.DrawReductionRate,
        refresh_sizes.RefreshSizes,
        keras.callbacks.CSVLogger,
        keras.callbacks.EarlyStopping,
        keras.callbacks.ModelCheckpoint,
        keras.callbacks.ReduceLROnPlateau,
        keras.callbacks.SwapEMAWeights,
    ],
    "schedules": [
        schedules.piecewise,
        schedules.step_decay,
        schedules.cosine,
        schedules.one_cycle,
        keras.optimizers.schedules.PiecewiseConstantDecay,
    ],
    "optimizers": [
        keras.optimizers.SGD,
        keras.optimizers.Adam,
        keras.optimizers.AdamW,
        keras.optimizers.RMSprop,
    ],
    "objectives": [
        losses_and_metrics.CrossEntropy,
        losses_and_metrics.TopAccuracy,
        losses_and_metrics.MeanIoU,
    ],
    "losses": [
        keras.losses.BinaryCrossentropy,
        keras.losses.CategoricalCrossentropy,
    ],
    "metrics": [keras.metrics.AUC, MeanAveragePrecision],
    "synthetic": [synthetic.synthetic],
    "arrays": [arrays.from_arrays],
    "images": [images.tfds_images],
    "data": [examples_data.load_datasets, examples_data.augment],
    "audio": [audio.tfds_audio, audio.manifest_audio, audio.folder_audio],
    "multi_task": [multi_task.multi_task],
    "frontend": [
        LEAF,
        PCEN,
        LogMelSpectrogram,
        SincFilterbank,
        TimeDomainFilterbank,
    ],
    "pooling": [
        pooling.SpatialPooling,
        pooling.FixedSpectralPooling,
        pooling.DiffStride,
        blur_pool.BlurPool,
        local_importance_pooling.LocalImportancePooling,
        polyphase.PolyphasePooling,
        space_to_depth.SpaceToDepth,
    ],
    "resnet": [
        resnet.Resnet,
        resnet.resnet18,
        resnet.resnet18_imagenet,
        resnet.resnet56,
        names.batch_norm,
    ],
    "efficientnet": [efficientnet.efficientnet],
    "densenet": [densenet.densenet],
    "fast_cnn": [fast_cnn.fast_cnn],
    "unet": [unet.unet],
    "audio_cnn": [audio_cnn.audio_cnn],
    "spec_augment": [spec_augment.SpecAugment],
    "audio_tagger": [audio_tagger.audio_tagger],
    "diffres": [
        diffres.DiffRes,
        diffres.ChangeHopSize,
        diffres.AvgPool,
        diffres.AvgMaxPool,
        diffres.ConvAvgPool,
        frame_pooling.all_frames,
    ],
}


def _register():
    for module, configurables in _CONFIGURABLES.items():
        for configurable in configurables:
            gin.external_configurable(configurable, module=module)
    # Gin's other reader takes `datasets/cifar10.gin` for a file of a Python
    # package `datasets`, and imports that.
    gin.config._FILE_READERS[:] = [(_read, os.path.isfile)]


def _read(path):
    """A gin file whose names are those of today."""
    with open(path, encoding="utf-8") as file:
        text = io.StringIO(names.translate(file.read()))
    text.name = path  # For error messages.
    return text


def _search(folder):
    """Lets gin look for files in a folder, then where it usually does."""
    paths = [*([folder] if folder else []), "", *map(str, SEARCH_PATHS)]
    gin.config._LOCATION_PREFIXES[:] = paths


_register()

# What `parse` has read last.
_last = reading.Reading()


def parse(files=(), bindings=(), folder=None):
    """Reads gin files, then single bindings, in place of what was read before.

    Args:
        files: paths, looked for in the working directory, beside the package
            and in its `configs/`.
        bindings: strings like `"train.train.num_epochs = 10"`.
        folder: where files are looked for first.
    """
    global _last
    gin.clear_config()
    _search(folder)
    files = [os.path.expanduser(path) for path in files]
    bindings = [names.translate(binding) for binding in bindings]
    try:
        gin.parse_config_files_and_bindings(files, bindings)
        _last = reading.Reading(files, bindings)
        _check_parameters()
        _adopt_bindings_of_2022()
        _pass_on_resnet_bindings()
    except (ValueError, OSError, SyntaxError, RuntimeError) as error:
        message = messages.explain(
            str(error), _registered(), gin.config._LOCATION_PREFIXES
        )
        raise ConfigError(message) from error


def check_bindings():
    """Complains about what nothing refers to, before anything is made."""
    values = reading.bound()
    unused = set(values) - reading.used(values)
    useless = _complain_about(unused)
    if useless:
        logging.warning(
            "Without effect in this run, because nothing in it asks for them: "
            "%s",
            ", ".join(map(_with_source, useless)),
        )


def useless(bindings):
    """Those of the bindings that were read that no run could use."""
    values = reading.bound()
    unused = set(values) - reading.used(values)
    return [b for b in bindings if reading.parse_key(b) in unused]


def operative_config():
    """The configuration in effect, complaining about what had none.

    Returns:
        A `Configuration`. Its text is a gin file with all parameters of all
        that was called, one on a line.
    """
    _complain_about(reading.unread())
    text = gin.operative_config_str(max_line_length=10**6)
    # Gin underlines its headings over the whole length of a line.
    return GinConfiguration(re.sub(r"={80,}", 78 * "=", text))


@contextlib.contextmanager
def errors_in_sentences(workdir):
    """Turns errors into the end of the program, with one sentence each.

    Args:
        workdir: path of the work directory, where a traceback is kept; None
            to print it.
    """
    try:
        yield
    except Exception as error:
        kind, rest = type(error).__name__, ""
        if isinstance(error, ConfigError):
            kind = "Configuration error"
        else:
            rest = f"\nThe traceback: {messages.keep_traceback(workdir)}"
        message = messages.sentence(str(error), reading.bound(), _last)
        raise SystemExit(f"{kind}: {message}{rest}") from None


def _complain_about(unused):
    """Raises an error if a binding has no purpose; others are let off.

    What the command line binds must be used. What a file binds may be useless
    because a later file or the command line has replaced what would use it:
    then a part of the files uses it, taken alone.

    Args:
        unused: keys of bindings.

    Returns:
        The keys of those that are let off.
    """
    used = reading.used(reading.bound())
    wrong, let_off = [], []
    for key in sorted(unused):
        name = reading.name(key)
        if name in names.WITHOUT_EFFECT:
            logging.warning(
                "`%s` has no effect, as in the 2022 release: %s.",
                name,
                names.WITHOUT_EFFECT[name],
            )
        elif not _last.is_of_command_line(key) and (
            not reading.was_called(key[1])
            if key in used
            else _last.is_used_in_part(key)
        ):
            let_off.append(key)
        else:
            wrong.append(key)
    if wrong:
        raise ConfigError(
            "Nothing in this run asks for: "
            + ", ".join(map(_with_source, wrong))
            + ". Remove what is bound to no purpose, or bind what would use it."
        )
    return let_off


def train(workdir, **arguments):
    """Trains, or evaluates, as what was read says.

    Args:
        workdir: path.
        **arguments: of the trainer, in place of what is bound.
    """
    return gin.get_configurable("train.train")(
        workdir=str(workdir), config=operative_config, **arguments
    )


def take(parameter):
    """The value of a binding like `"train.train.workdir"`, which goes; or None.

    For what is not part of the configuration, although it may be bound.
    """
    selector, _, name = parameter.rpartition(".")
    return gin.config._CONFIG.get(("", selector), {}).pop(name, None)


def check_complete():
    """Says in one sentence what a run needs and nothing binds."""
    bound = gin.config._CONFIG.get(("", "train.train"), {})
    for parameter, folder in (("dataset", "datasets"), ("model", "models")):
        if parameter not in bound:
            raise ConfigError(
                f"Nothing binds `train.train.{parameter}`: add an experiment, "
                "such as `--gin_file=configs/quickstart.gin`, or a file of "
                f"`configs/{folder}/`"
            )


def _with_source(key):
    source = _last.sources.get(key)
    in_file = source is not None and source.file
    return f"`{reading.name(key)}`" + (f" ({source})" if in_file else "")


def _check_parameters():
    """Names mistakes that gin lets pass.

    A class with `**kwargs` takes any parameter, and a string is true whatever
    it says.
    """
    for key, value in reading.bound().items():
        _, selector, parameter = key
        if selector == reading.MACRO:
            continue
        configurable = gin.config._REGISTRY[selector].wrapped
        defaults = reading.defaults(configurable)
        if parameter not in defaults:
            raise ValueError(
                f"Configurable '{selector}' doesn't have a parameter "
                f"named '{parameter}'."
            )
        default, value = defaults[parameter], reading.resolve(value)
        if isinstance(value, gin.config.ConfigurableReference):
            continue
        if isinstance(default, bool) and not isinstance(value, bool):
            kind = "True or False"
        elif is_number(default) and isinstance(value, str):
            kind = "a number"
        else:
            continue
        raise ValueError(
            f"{_with_source(key)} must be {kind}. "
            f"Received: {parameter}={value!r}"
        )


def _adopt_bindings_of_2022():
    """Binds here what the 2022 release bound elsewhere."""
    config = gin.config._CONFIG
    names.check_batch_norm(config.pop(("", "resnet.batch_norm"), {}))
    # Its optimizer had the learning rate, which the trainer gives it today.
    train = config.get(("", "train.train"), {})
    optimizer = config.get(
        ("", reading.resolved_name(train.get("optimizer"))), {}
    )
    if "learning_rate" in optimizer and "learning_rate" not in train:
        train["learning_rate"] = optimizer.pop("learning_rate")


def _pass_on_resnet_bindings():
    """Lets the model of the run have what is bound to `resnet.Resnet`.

    In the 2022 release the variants were calls of that class.
    """
    config = gin.config._CONFIG
    inherited = config.get(("", "resnet.Resnet"))
    model = reading.resolved_name(
        config.get(("", "train.train"), {}).get("model")
    )
    if not inherited or model is None or model == "resnet.Resnet":
        return
    if model.startswith("resnet."):
        with gin.unlock_config():
            for parameter, value in inherited.items():
                if parameter not in config.get(("", model), {}):
                    gin.bind_parameter(f"{model}.{parameter}", value)
        del config["", "resnet.Resnet"]


def _registered():
    """Everything with a name in gin files, by that name."""
    return {
        f"{module}.{configurable.__name__}": configurable
        for module, configurables in _CONFIGURABLES.items()
        for configurable in configurables
    }
