"""A U-Net whose way down is a pooling slot, and whose way up is a resize.

A decoder usually enlarges its maps by the factors by which the encoder has
shrunk them. With learned strides there are no such factors. Here each map is
resized to the size of the skip connection that it meets, whatever the strides
have become, and whatever the size of the image.

Reference:
    Ronneberger et al., [U-Net: convolutional networks for biomedical image
    segmentation](https://arxiv.org/abs/1505.04597), 2015.
"""

from collections.abc import Sequence

import keras

from diffstride.layers.resize import (
    SpectralResize,
    SpectralResize1D,
    SpectralResize3D,
)
from diffstride.models import pooling_slot
from diffstride.types import Activation, Shape, StagePooling, StageStrides
from diffstride.validation import check_data_format, check_positive_integer

# The layers for signals, images and volumes.
_CONVOLUTIONS = {
    1: keras.layers.Conv1D,
    2: keras.layers.Conv2D,
    3: keras.layers.Conv3D,
}
_RESIZES = {1: SpectralResize1D, 2: SpectralResize, 3: SpectralResize3D}


def unet(
    num_output_classes: int,
    filters: Sequence[int] = (16, 32, 64, 128),
    strides: StageStrides = (2, 2, 2),
    pooling_cls: StagePooling = None,
    output_activation: Activation = None,
    input_shape: Shape | None = None,
    weight_decay: float = 0.0,
    *,
    pooling_order: str | Sequence[str] = "before",
    num_layers: int = 2,
    kernel_size: int | Sequence[int] = 3,
    momentum: float = 0.9,
    data_format: str | None = None,
    name: str = "unet",
) -> keras.Model:
    """Builds a U-Net: one prediction for each pixel, at the input's size.

    The encoder has a level for each entry of `filters`. A level is `num_layers`
    convolutions, each followed by batch normalisation and rectification. From
    the second level on, its first convolution has a slot, which downsamples:

        pooling_cls=None:  this convolution is strided
        else:              it has no strides, and a pooling layer beside it

    The decoder goes back level by level. A 1x1 convolution gives the map as
    many channels as the level of the encoder has, `SpectralResize` gives it the
    height and width that this level has, both maps are concatenated, and
    `num_layers` convolutions follow. Resizing acts on space and the 1x1
    convolution on channels, so that it may come first, where it is cheap. A
    last 1x1 convolution predicts the classes.

    Images may have any size, odd ones too. The way up always comes back to it.

    Args:
        num_output_classes: integer.
        filters: tuple of integers. Channels of each level.
        strides: tuple with one entry for each level but the first: a number, or
            a tuple of one for each axis. Integers where `pooling_cls` is None.
        pooling_cls: None for strided convolutions, or a class, a function or a
            config dict that makes a pooling layer (see
            `diffstride.models.pooling_slot`), of as many dimensions as the
            inputs have: `DiffStride1D` for signals; or a list with one of these
            for each level but the first. The original has max pooling:
            `functools.partial(SpatialPooling, pool_size=None,
            pool_mode="max")`.
        output_activation: activation of the predictions. None, the default,
            gives logits; `"softmax"` gives probabilities.
        input_shape: shape of one example: `(height, width, channels)`, or
            `(steps, channels)` for signals, or `(depth, height, width,
            channels)` for volumes; with `data_format="channels_first"` the
            channels come first. All but the channels may be None. Defaults to
            images of any size in three channels.
        weight_decay: float. Factor of the L2 penalty on the kernels. Defaults
            to 0.
        pooling_order: `"before"`, the default: a pooling layer stands between
            two levels, as in the original, and all convolutions of a level run
            on the small map. `"after"`: it follows the first convolution of its
            level, directly, as a stride does. Or a list with one of these for
            each level but the first.
        num_layers: integer. Convolutions of a level, on either way. Defaults to
            2.
        kernel_size: integer, or a tuple of one for each axis. Size of the
            convolutions. Defaults to 3.
        momentum: float. Momentum of the moving averages of batch
            normalisation. Defaults to 0.9.
        data_format: `"channels_last"`, `"channels_first"` or None. Of the
            images too. Defaults to `keras.config.image_data_format()`.
        name: string. Name of the model.

    Returns:
        A Functional Keras model. Its output has the shape of the input, with
        `num_output_classes` channels.

    Example:

    >>> model = unet(5, filters=(4, 8), strides=(1.5,), pooling_cls=DiffStride)
    >>> tuple(model(np.ones((2, 33, 47, 3))).shape)
    (2, 33, 47, 5)
    >>> model = unet(2, filters=(4, 8), strides=(4,), input_shape=(100, 1))
    >>> model.output_shape
    (None, 100, 2)
    """
    strides = pooling_slot.stage_strides(strides)
    if len(filters) != len(strides) + 1:
        raise ValueError(
            "`filters` must have one entry for each level, and `strides` one "
            "for each level but the first. "
            f"Received: filters={filters}, strides={strides}"
        )
    num_layers = check_positive_integer(num_layers, "num_layers")
    pooling_cls = pooling_slot.per_stage(
        pooling_cls, "pooling_cls", len(strides)
    )
    orders = pooling_slot.pooling_orders(pooling_order, len(strides))
    data_format = check_data_format(data_format)
    axis = 1 if data_format == "channels_first" else -1
    if input_shape is None:
        input_shape = (3, None, None) if axis == 1 else (None, None, 3)
    rank = len(input_shape) - 1
    if rank not in _CONVOLUTIONS:
        raise ValueError(
            "`input_shape` must have one, two or three axes besides that of "
            f"the channels. Received: input_shape={input_shape}"
        )
    regularizer = keras.regularizers.L2(weight_decay) if weight_decay else None

    def convolution(filters, kernel_size, name, **kwargs):
        return _CONVOLUTIONS[rank](
            filters,
            kernel_size,
            padding="same",
            data_format=data_format,
            kernel_regularizer=regularizer,
            name=name,
            **kwargs,
        )

    def hidden(filters, name, **kwargs):
        return convolution(
            filters,
            kernel_size,
            f"{name}_convolution",
            use_bias=False,
            kernel_initializer="he_normal",
            **kwargs,
        )

    def level(x, filters, name, first=()):
        """Convolutions of a level. `first` has the layers of the first one."""
        for index in range(1, num_layers + 1):
            step = f"{name}_{index}"
            if index > 1 or not first:
                x = hidden(filters, step)(x)
            else:
                for layer in first:
                    x = layer(x)
            x = keras.layers.BatchNormalization(
                axis=axis, momentum=momentum, name=f"{step}_normalization"
            )(x)
            x = keras.layers.ReLU(name=f"{step}_activation")(x)
        return x

    def downsampling(index, name):
        """The convolution and the slot at the start of a level."""
        slot = f"{name}_pooling"
        first = hidden(
            filters[index + 1],
            f"{name}_1",
            strides=pooling_slot.convolution_strides(
                strides[index], pooling_cls[index], slot, rank
            ),
        )
        pooling = pooling_slot.make_pooling(
            pooling_cls[index], strides[index], data_format, slot, rank=rank
        )
        return pooling_slot.in_order(orders[index], first, pooling)

    inputs = keras.Input(input_shape, name="inputs")
    x = level(inputs, filters[0], "encoder1")
    skips = []
    for i in range(len(strides)):
        skips.append(x)
        block = f"encoder{i + 2}"
        x = level(x, filters[i + 1], block, downsampling(i, block))
    for i, skip in reversed(list(enumerate(skips))):
        block = f"decoder{i + 1}"
        x = convolution(filters[i], 1, f"{block}_projection")(x)
        x = _RESIZES[rank](data_format=data_format, name=f"{block}_resize")(
            [x, skip]
        )
        x = keras.layers.Concatenate(axis=axis, name=f"{block}_concatenation")(
            [skip, x]
        )
        x = level(x, filters[i], block)
    outputs = convolution(
        num_output_classes,
        1,
        "predictions",
        activation=output_activation,
        # Losses and probabilities in full precision.
        dtype="float32",
    )(x)
    return keras.Model(inputs, outputs, name=name)
