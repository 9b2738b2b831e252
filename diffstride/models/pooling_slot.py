"""The pooling slot: how a builder downsamples.

Every builder takes `pooling_cls`. None stands for a strided convolution. Any
other value makes a pooling layer, beside a convolution without strides:

    convolution(..., strides=convolution_strides(strides, pooling_cls))
    pooling = make_pooling(pooling_cls, strides)  # None for None

Every builder also takes `pooling_order`, the place of the pooling layer:

    "after"   The pooling layer follows the convolution, as published. The
              convolution runs on the large map.
    "before"  The pooling layer comes first. The convolution, and what belongs
              to it, run on the small map, which costs fewer operations.

What "before" means in a network with blocks is in the docstring of its builder.
A strided convolution has no order. Without a pooling layer, both values make
the same network, so that a sweep may combine each pooling with each order.

Both arguments may be lists with one value for each slot of the network.

A residual block pools two maps, of the main path and of the shortcut, by one
layer. A layer that cannot do this has one of these attributes:

    serves_one_map = True   It has weights for the channels of its input. The
                            shortcut gets a second layer.
    pools_together = True   It must see both maps to treat them alike. It is
                            called with a list of both, and returns a list.
"""

import ast
import contextlib
import typing
from collections.abc import Mapping, Sequence

import keras

# Config dicts and saved models name the layers of this module.
import diffstride.layers.pooling  # noqa: F401
from diffstride.types import Pooling, StageStrides, Strides
from diffstride.validation import (
    check_choice,
    check_data_format,
    check_strides,
)

ORDERS = ("after", "before")


def make_pooling(
    pooling_cls: Pooling,
    strides: Strides,
    data_format: str | None = None,
    name: str | None = None,
    dtype_policy: typing.Any = None,
    rank: int = 2,
) -> keras.layers.Layer | None:
    """Makes the pooling layer of one slot.

    Args:
        pooling_cls: None, class, function or config dict. A class or function
            is called as `pooling_cls(strides=..., data_format=..., name=...)`.
            A dict is what `keras.saving.serialize_keras_object(layer)` returns;
            for the layers of this package `{"class_name": "DiffStride",
            "config": {"smoothness_factor": 2.0}}` is enough.
        strides: number, or a tuple of two for height and width. It takes the
            place of strides in the config dict.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.
        name: string. Name of the layer, and of the slot in errors.
        dtype_policy: the dtype policy of the layer, unless `pooling_cls` names
            one. Defaults to `keras.config.dtype_policy()`.
        rank: integer. Number of axes: 2 for images, 1 for signals, which have
            one stride, 3 for volumes. Defaults to 2.

    Returns:
        A Keras layer, or None if `pooling_cls` is None.

    Example:

    >>> make_pooling({"class_name": "DiffStride"}, 1.5, name="pooling")
    <DiffStride name=pooling, built=False>
    """
    if pooling_cls is None:
        return None
    arguments = {
        "strides": strides_of_axes(strides, name, rank),
        "data_format": check_data_format(data_format),
        "name": name,
    }
    layer = None
    with _default_dtype_policy(dtype_policy):
        if isinstance(pooling_cls, Mapping):
            layer = _from_config(pooling_cls, arguments)
        elif callable(pooling_cls) and not isinstance(
            pooling_cls, keras.layers.Layer
        ):
            layer = pooling_cls(**arguments)
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            "`pooling_cls` must be None, or a class, a function or a config "
            "dict that makes a Keras layer. "
            f"Received: pooling_cls={pooling_cls}"
        )
    return layer


def make_shortcut_pooling(
    pooling: keras.layers.Layer | None, *arguments: typing.Any
) -> keras.layers.Layer | None:
    """A second layer, for the shortcut, if the first one serves one map alone.

    Args:
        pooling: what `make_pooling` returned.
        *arguments: as for `make_pooling`.

    Returns:
        A Keras layer, or None.
    """
    if not getattr(pooling, "serves_one_map", False):
        return None
    return make_pooling(*arguments)


def pool_both(
    main: typing.Any,
    shortcut: typing.Any,
    pooling: keras.layers.Layer,
    shortcut_pooling: keras.layers.Layer | None,
) -> tuple[typing.Any, typing.Any]:
    """Pools the maps of main path and shortcut, so that they fit together.

    Args:
        main: tensor. The map of the main path.
        shortcut: tensor. That of the shortcut, with the same height and width.
        pooling: what `make_pooling` returned.
        shortcut_pooling: what `make_shortcut_pooling` returned.
    """
    if getattr(pooling, "pools_together", False):
        main, shortcut = pooling([main, shortcut])
        return main, shortcut
    return pooling(main), (shortcut_pooling or pooling)(shortcut)


def convolution_strides(
    strides: Strides,
    pooling_cls: Pooling = None,
    stage: str | None = None,
    rank: int = 2,
) -> tuple[int, ...]:
    """The strides of the convolution that a slot belongs to.

    Args:
        strides: number, or a tuple of two for height and width.
        pooling_cls: what `make_pooling` takes. The convolution has no strides
            if this makes a layer that has them.
        stage: string or None. What the strides are for, named in errors.
        rank: integer. Number of axes. Defaults to 2.

    Returns:
        A tuple of integers, one for each axis.

    Example:

    >>> convolution_strides(2.0)
    (2, 2)
    """
    values = strides_of_axes(strides, stage, rank)
    if pooling_cls is not None:
        return (1,) * rank
    if not all(isinstance(stride, int) for stride in values):
        place = "" if stage is None else f" for {stage}"
        raise ValueError(
            "`strides` must be integers without a spectral pooling layer: "
            "set `pooling_cls` for fractional ones. "
            f"Received: strides={strides!r}{place}"
        )
    return values


def check_pooling_order(pooling_order: str) -> str:
    return check_choice(pooling_order, "pooling_order", ORDERS)


def pooling_orders(pooling_order: str | Sequence[str], slots: int) -> list[str]:
    """The order of each slot, from one for all or a list with one for each."""
    orders = per_stage(pooling_order, "pooling_order", slots)
    return [check_pooling_order(order) for order in orders]


def in_order(
    pooling_order: str,
    convolution: keras.layers.Layer,
    pooling: keras.layers.Layer | None,
) -> list[keras.layers.Layer]:
    """The layers of one slot in the order in which they are called.

    Args:
        pooling_order: `"after"` or `"before"`.
        convolution: a Keras layer.
        pooling: a Keras layer or None, as `make_pooling` returns it.

    Returns:
        A list of the layers, without None.

    Example:

    >>> convolution = keras.layers.Conv2D(4, 3, name="convolution")
    >>> pooling = make_pooling(DiffStride, 2, name="pooling")
    >>> [x.name for x in in_order("before", convolution, pooling)]
    ['pooling', 'convolution']
    """
    if pooling is None:
        return [convolution]
    if pooling_order == "before":
        return [pooling, convolution]
    return [convolution, pooling]


def strides_of_axes(
    strides: Strides, stage: str | None = None, rank: int = 2
) -> tuple[float, ...]:
    """One stride for each axis; whole numbers become integers.

    Convolutions and the pooling layers of Keras take integers alone.
    """
    return tuple(
        int(stride) if stride.is_integer() else stride
        for stride in check_strides(strides, rank, stage)
    )


def stage_strides(strides: StageStrides) -> list[Strides | None]:
    """A list of the strides of all stages.

    A string is read as the list in it: `"1, 1, 2, 2, 2"` is how the gin files
    of the 2022 release gave strides.
    """
    if not isinstance(strides, str):
        return list(strides)
    try:
        return list(ast.literal_eval(strides))
    except (SyntaxError, TypeError, ValueError):
        raise ValueError(
            "`strides` must be a list of numbers, or of tuples of two, or a "
            "string of such a list, as '1, 1, 2, 2, 2'. "
            f"Received: strides={strides!r}"
        ) from None


def per_stage(value: typing.Any, argument: str, stages: int) -> list:
    """Values of all stages, from one for all or a list with one for each."""
    if not isinstance(value, (list, tuple)):
        return [value] * stages
    if len(value) != stages:
        raise ValueError(
            f"`{argument}` must be one value, or a list with one for each of "
            f"the {stages} stages. Received: {argument}={value}"
        )
    return list(value)


def pooling_config(
    pooling: keras.layers.Layer | None, strides: Strides
) -> dict[str, typing.Any] | None:
    """The config dict of a layer that `make_pooling` made from `strides`.

    It has the strides inside, also if the layer does not tell them.
    """
    config = keras.saving.serialize_keras_object(pooling)
    config["config"] = {"strides": strides, **config["config"]}
    return config


@contextlib.contextmanager
def _default_dtype_policy(policy):
    """Layers made in this context have the policy, unless they name another."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _from_config(config, arguments):
    registered_name = f"diffstride>{config.get('class_name')}"
    if keras.saving.get_registered_object(registered_name) is None:
        registered_name = None
    config = {
        # What a short config leaves out.
        "module": "keras.layers",
        "registered_name": registered_name,
        **config,
        "config": {**config.get("config", {}), **arguments},
    }
    # The layer that owns the slot builds it, for its own shapes.
    config.pop("build_config", None)
    return keras.saving.deserialize_keras_object(config)
