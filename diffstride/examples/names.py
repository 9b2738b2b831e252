"""Names in gin files of the 2022 release, and what they are called today."""

import re

_MODULES = {
    "tf.keras.optimizers.schedules": "schedules",
    "tf.keras.optimizers": "optimizers",
    "tf.keras.losses": "losses",
}
_PARAMETERS_OF_TRAIN = {
    "load_data_fn": "dataset",
    "model_cls": "model",
    "optimizer_cls": "optimizer",
}
# A block of bindings, `train.train:` and its indented lines; or a single one.
_TRAIN = re.compile(
    r"^(train\.)?train(:[^\n]*\n([ \t]+[^\n]*(\n|\Z)|\n)*|\.\w+[ \t]*=)",
    re.MULTILINE,
)

# What has no counterpart of the same form.
EQUIVALENTS = {
    "resnet.ResidualLayer": "the same parameter of `resnet.Resnet`",
    "resnet.ResnetBlock": "the same parameter of `resnet.Resnet`",
    "pooling.LearnableSpectralPooling": "`pooling.DiffStride`",
    "train.lr_schedule": "`train.train.learning_rate = @schedules.piecewise`, "
    "its `boundaries` in epochs, and its `values`",
    "schedules.CosineDecay": "`train.train.learning_rate = @schedules.cosine`",
    "tfa.optimizers.MovingAverage": "`train.train.eval_checkpoint = 'average'`",
    "tf.keras.layers": "parameters of the model, such as those of "
    "`resnet.Resnet`",
    "tf.keras.regularizers": "`resnet.Resnet.weight_decay`",
    "tf.keras.initializers": "parameters of the model, such as those of "
    "`resnet.Resnet`",
}
# Bindings that the release accepted although nothing used them.
WITHOUT_EFFECT = {
    "losses.CategoricalCrossentropy.label_smoothing": "bind "
    "`images.tfds_images.label_smoothing` to smooth labels",
}


def translate(text):
    """Gin bindings of 2022 in names of today; others stay as they are.

    Example:

    >>> translate("train.train.model_cls = @resnet.resnet18")
    'train.train.model = @resnet.resnet18'
    >>> translate("tf.keras.optimizers.SGD.momentum = 0.9")
    'optimizers.SGD.momentum = 0.9'
    """

    def rename(match):
        names = "|".join(_PARAMETERS_OF_TRAIN)
        return re.sub(
            rf"\b({names})\b(?=[ \t]*=)",
            lambda name: _PARAMETERS_OF_TRAIN[name[1]],
            match[0],
        )

    text = _TRAIN.sub(rename, text)
    # Where names are those of Python modules, TensorFlow's are right.
    if "dynamic_registration" not in text:
        for old, new in _MODULES.items():
            text = re.sub(rf"\b{re.escape(old)}\.", f"{new}.", text)
    return text


def batch_norm(momentum=0.9, epsilon=1e-5):
    """Lets gin read these two numbers, which cannot be chosen today."""
    return {"momentum": momentum, "epsilon": epsilon}


def check_batch_norm(bindings):
    """Complains about what was bound to `batch_norm`, but for the defaults."""
    for name, value in bindings.items():
        if value != batch_norm()[name]:
            raise ValueError(
                f"`batch_norm.{name}` must be {batch_norm()[name]}, which all "
                f"models have. Received: batch_norm.{name}={value}"
            )


def equivalent(name):
    """What to bind in place of a name that only the release has, or None."""
    name = translate(name)
    for old, new in EQUIVALENTS.items():
        if f"{name}.".startswith(f"{old}."):
            return new
    return None
