"""Types that several signatures share."""

import os
import typing
from collections.abc import Callable, Mapping, Sequence

import keras

FilePath = str | os.PathLike
# The shape of an example. None stands for a size that may differ.
Shape = Sequence[int | None]

# One stride for all axes, or one for each.
Strides = float | Sequence[float]
# The strides of each stage of a network; None for a stage without. The 2022
# release writes the list as a string.
StageStrides = str | Sequence[Strides | None]

# A class or a function that makes a layer, or the config of a layer.
LayerMaker = Callable[..., keras.layers.Layer] | Mapping[str, typing.Any]
LayerArgument = keras.layers.Layer | LayerMaker
# One layer, or several that follow one another.
FrontendArgument = LayerArgument | Sequence[LayerArgument]
# What fills a pooling slot; None for strided convolutions.
Pooling = LayerMaker | None
# The same for all stages of a network, or one for each.
StagePooling = Pooling | Sequence[Pooling]

Activation = str | Callable | None
Loss = keras.losses.Loss | Callable | str
