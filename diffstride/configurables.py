"""What gin files can name: the only module that registers with gin.

A class is injected where gin itself hands it over, as in
`resnet.resnet18.pooling_cls = @pooling.DiffStride`.
"""

import difflib
import inspect
import io
import os
import pathlib
import re

import gin
import keras
from absl import logging

from diffstride.configs import SEARCH_PATHS
from diffstride.data import arrays, audio, images, multi_task, synthetic
from diffstride.examples import data as examples_data
from diffstride.examples import names
from diffstride.layers import (
    diffres,
    log_mel,
    pooling,
    spec_augment,
)
from diffstride.models import (
    audio_cnn,
    audio_tagger,
    densenet,
    efficientnet,
    resnet,
)
from diffstride.training import (
    objectives,
    refresh_sizes,
    schedules,
    trainer,
)
from diffstride.training.average_precision import MeanAveragePrecision
from diffstride.training.workdir import Configuration
from diffstride.validation import ConfigError

_CONFIGURABLES = {
    "train": [trainer.train],
    "callbacks": [
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
    "objectives": [objectives.CrossEntropy, objectives.TopAccuracy],
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
    "frontend": [log_mel.LogMelSpectrogram],
    "pooling": [
        pooling.SpatialPooling,
        pooling.FixedSpectralPooling,
        pooling.DiffStride,
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
    "audio_cnn": [audio_cnn.audio_cnn],
    "spec_augment": [spec_augment.SpecAugment],
    "audio_tagger": [audio_tagger.audio_tagger],
    "diffres": [
        diffres.DiffRes,
        diffres.ChangeHopSize,
        diffres.AvgPool,
        diffres.AvgMaxPool,
        diffres.ConvAvgPool,
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


def parse(files=(), bindings=(), folder=None):
    """Reads gin files, then single bindings, in place of what was read before.

    Args:
        files: paths, looked for in the working directory, beside the package
            and in its `configs/`.
        bindings: strings like `"train.train.num_epochs = 10"`.
        folder: where files are looked for first.
    """
    gin.clear_config()
    _search(folder)
    try:
        gin.parse_config_files_and_bindings(
            files, [names.translate(binding) for binding in bindings]
        )
        _check_class_parameters()
        _adopt_bindings_of_2022()
        _pass_on_resnet_bindings()
    except (ValueError, OSError, SyntaxError, RuntimeError) as error:
        raise ConfigError(_explain(str(error))) from error


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


def useless(bindings):
    """Those of the bindings that were read that no run could use.

    They are of what nothing refers to, beginning with `train.train`.
    """
    reached, config = {"train.train"}, gin.config._CONFIG
    todo = list(reached)
    while todo:
        node = todo.pop()
        for key, parameters in config.items():
            if _node(*key) != node:
                continue
            for reference in gin.config.iterate_references(parameters):
                selector = reference.configurable.selector
                found = _node("/".join(reference.scopes), selector)
                if found not in reached:
                    reached.add(found)
                    todo.append(found)
    unreached = {
        _name(*key, parameter)
        for key, parameters in config.items()
        if _node(*key) not in reached
        for parameter in parameters
    }
    return [b for b in bindings if _bound_name(b) in unreached]


def _node(scope, selector):
    """What a reference leads to: a macro, or a configurable in any scope."""
    return scope if selector == "gin.macro" else selector


def _bound_name(binding):
    """The name that messages use for what a single binding binds."""
    key = names.translate(binding).partition("=")[0].strip()
    if "." not in key.rpartition("/")[2]:
        return key  # A macro.
    parsed = gin.config.ParsedBindingKey.parse(key)
    return _name(parsed.scope, parsed.complete_selector, parsed.arg_name)


def operative_config():
    """The configuration in effect, complaining about what had none.

    Returns:
        A `Configuration`. Its text is a gin file with all parameters of all
        that was called, one on a line.
    """
    unused = []
    for name in unused_bindings():
        if name in names.WITHOUT_EFFECT:
            logging.warning(
                "`%s` has no effect, as in the 2022 release: %s.",
                name,
                names.WITHOUT_EFFECT[name],
            )
        else:
            unused.append(name)
    if unused:
        raise ConfigError(
            "Nothing in this run asks for: "
            + ", ".join(f"`{name}`" for name in unused)
            + ". Remove what is bound to no purpose, or bind what would use it."
        )
    text = gin.operative_config_str(max_line_length=10**6)
    # Gin underlines its headings over the whole length of a line.
    return Configuration(re.sub(r"={80,}", 78 * "=", text))


def unused_bindings():
    """Names of what was bound, but read by nothing called so far."""
    config, operative = gin.config._CONFIG, gin.config._OPERATIVE_CONFIG
    unused = []
    for (scope, selector), parameters in config.items():
        for parameter in parameters:
            used = any(
                called == selector
                and parameter in values
                and scope == _binding_scope(selector, parameter, called_scope)
                for (called_scope, called), values in operative.items()
            )
            if not used:
                unused.append(_name(scope, selector, parameter))
    return sorted(unused)


def _binding_scope(selector, parameter, called_scope):
    """The scope whose binding a call in `called_scope` reads: the innermost."""
    parts = called_scope.split("/") if called_scope else []
    for length in range(len(parts), -1, -1):
        scope = "/".join(parts[:length])
        if parameter in gin.config._CONFIG.get((scope, selector), {}):
            return scope
    return None


def _name(scope, selector, parameter):
    if selector == "gin.macro":
        return scope
    return f"{scope}/{selector}.{parameter}".removeprefix("/")


def _check_class_parameters():
    """Names typos that gin lets a class with `**kwargs` have."""
    for (_, selector), parameters in gin.config._CONFIG.items():
        configurable = gin.config._REGISTRY[selector].wrapped
        if inspect.isclass(configurable):
            known = _parameters(configurable)
            for parameter in parameters:
                if parameter not in known:
                    raise ValueError(
                        f"Configurable '{selector}' doesn't have a parameter "
                        f"named '{parameter}'."
                    )


def _parameters(configurable):
    """Names of parameters, for a class those of its base classes too."""
    if not inspect.isclass(configurable):
        return list(inspect.signature(configurable).parameters)
    return [
        name
        for base in inspect.getmro(configurable)
        if "__init__" in vars(base) and base is not object
        for name in inspect.signature(base.__init__).parameters
        if name not in ("self", "args", "kwargs")
    ]


def _adopt_bindings_of_2022():
    """Binds here what the 2022 release bound elsewhere."""
    config = gin.config._CONFIG
    names.check_batch_norm(config.pop(("", "resnet.batch_norm"), {}))
    # Its optimizer had the learning rate, which the trainer gives it today.
    train = config.get(("", "train.train"), {})
    optimizer = config.get(("", _resolve(train.get("optimizer"))), {})
    if "learning_rate" in optimizer and "learning_rate" not in train:
        train["learning_rate"] = optimizer.pop("learning_rate")


def _pass_on_resnet_bindings():
    """Lets the model of the run have what is bound to `resnet.Resnet`.

    In the 2022 release the variants were calls of that class.
    """
    config = gin.config._CONFIG
    inherited = config.get(("", "resnet.Resnet"))
    model = _resolve(config.get(("", "train.train"), {}).get("model"))
    if not inherited or model is None or model == "resnet.Resnet":
        return
    if model.startswith("resnet."):
        with gin.unlock_config():
            for parameter, value in inherited.items():
                if parameter not in config.get(("", model), {}):
                    gin.bind_parameter(f"{model}.{parameter}", value)
        del config["", "resnet.Resnet"]


def _resolve(value):
    """The full name of what a reference refers to, through macros."""
    while isinstance(value, gin.config.ConfigurableReference):
        if value.configurable.selector != "gin.macro":
            return value.configurable.selector
        macro = gin.config._CONFIG.get(("/".join(value.scopes), "gin.macro"))
        value = (macro or {}).get("value")
    return None


def _explain(message):
    """Adds to a message of gin what may have been meant."""
    if match := re.search(r"Unable to open file: (.+?)\. Searched", message):
        places = ", ".join(
            path or str(pathlib.Path.cwd())
            for path in dict.fromkeys(gin.config._LOCATION_PREFIXES)
        )
        start, end = match.span()
        rest = message[end:].partition("\n")[2]
        message = f"There is no gin file {match[1]} in {places}.\n{rest}"
        return message.strip()
    if match := re.search(
        r"No bindings specified for '(.+?)/gin.macro'", message
    ):
        macros = [
            scope
            for scope, selector in gin.config._CONFIG
            if selector == "gin.macro"
        ]
        return f"The macro %{match[1]} has no value.{_near(match[1], macros)}"
    registered = {
        f"{module}.{configurable.__name__}": configurable
        for module, configurables in _CONFIGURABLES.items()
        for configurable in configurables
    }
    if match := re.search(r"No configurable matching .*?'@?([\w./]+)", message):
        name = match[1].split("/")[-1]
        if equivalent := names.equivalent(name):
            return f"{message}\n  In place of `{name}` bind {equivalent}."
        return message + _near(name, registered)
    match = re.search(
        r"'(.+?)' doesn't have a parameter named '(.+?)'", message
    )
    if match:
        parameters = [
            parameter
            for name, configurable in registered.items()
            if name.split(".")[-1] == match[1].split(".")[-1]
            for parameter in _parameters(configurable)
        ]
        return message + _near(match[2], parameters)
    return message


def _near(name, names):
    """Names like the given one, by their last part too."""
    by_last_part = {n.split(".")[-1]: n for n in names}
    near = difflib.get_close_matches(name, list(names), n=3)
    near += [
        by_last_part[n]
        for n in difflib.get_close_matches(
            name.split(".")[-1], list(by_last_part), n=2
        )
    ]
    near = list(dict.fromkeys(near))
    return f"\n  Did you mean: {', '.join(near)}?" if near else ""
