"""The inverted residual block of EfficientNet, with a pooling slot.

The block downsamples in its depthwise convolution. The slot sits there:

    1x1 convolution -> depthwise convolution -> pooling -> squeeze-and-excite
    -> 1x1 convolution

With `pooling_order="before"` it sits in front of the block:

    pooling -> 1x1 convolution -> depthwise convolution -> squeeze-and-excite
    -> 1x1 convolution

It does not sit between the first two convolutions, because there it would pool
six times as many channels, and the 1x1 convolution, which has more operations
than the depthwise one, would still run on the large map.

References:
    - Tan and Le, [EfficientNet: rethinking model scaling for convolutional
      neural networks](https://arxiv.org/abs/1905.11946), 2019.
"""

import keras

from diffstride.models import pooling_slot

SQUEEZE_RATIO = 0.25


def inverted_residual(
    inputs,
    filters,
    kernel_size,
    expansion,
    strides,
    pooling_cls,
    pooling_order,
    drop_rate,
    regularizer,
    data_format,
    name,
):
    """A block that is wide inside and narrow at both ends (MBConv)."""
    in_filters = inputs.shape[channel_axis(data_format)]
    slot = f"{name}pooling"
    pooling = pooling_slot.make_pooling(pooling_cls, strides, data_format, slot)
    if pooling is not None and pooling_order == "before":
        inputs, pooling = pooling(inputs), None
    x = inputs
    if expansion != 1:
        x = convolution(
            expansion * in_filters,
            1,
            regularizer,
            data_format,
            name=f"{name}expand_conv",
        )(x)
        x = normalize(x, data_format, f"{name}expand", activation=True)
    x = keras.layers.DepthwiseConv2D(
        kernel_size,
        strides=pooling_slot.convolution_strides(strides, pooling_cls, slot),
        padding="same",
        use_bias=False,
        data_format=data_format,
        depthwise_initializer=_initializer(),
        depthwise_regularizer=regularizer,
        name=f"{name}dwconv",
    )(x)
    shortcut = inputs
    has_shortcut = filters == in_filters and pooling_slot.strides_of_axes(
        strides
    ) == (1, 1)
    if pooling is not None and has_shortcut:
        second = pooling_slot.make_shortcut_pooling(
            pooling,
            pooling_cls,
            strides,
            data_format,
            f"{name}shortcut_pooling",
        )
        x, shortcut = pooling_slot.pool_both(x, inputs, pooling, second)
    elif pooling is not None:
        x = pooling(x)
    x = normalize(x, data_format, name, activation=True)
    x = _squeeze_and_excite(
        x,
        max(1, int(in_filters * SQUEEZE_RATIO)),
        regularizer,
        data_format,
        name,
    )
    x = convolution(
        filters, 1, regularizer, data_format, name=f"{name}project_conv"
    )(x)
    x = normalize(x, data_format, f"{name}project")
    if has_shortcut:
        if drop_rate:
            x = keras.layers.Dropout(
                drop_rate, noise_shape=(None, 1, 1, 1), name=f"{name}drop"
            )(x)
        x = keras.layers.Add(name=f"{name}add")([x, shortcut])
    return x


def _squeeze_and_excite(inputs, filters, regularizer, data_format, name):
    """Multiplies each channel by a weight, computed from all averages."""
    x = keras.layers.GlobalAveragePooling2D(
        keepdims=True, data_format=data_format, name=f"{name}se_squeeze"
    )(inputs)
    x = convolution(
        filters,
        1,
        regularizer,
        data_format,
        use_bias=True,
        activation="silu",
        name=f"{name}se_reduce",
    )(x)
    x = convolution(
        inputs.shape[channel_axis(data_format)],
        1,
        regularizer,
        data_format,
        use_bias=True,
        activation="sigmoid",
        name=f"{name}se_expand",
    )(x)
    return keras.layers.Multiply(name=f"{name}se_excite")([inputs, x])


def convolution(
    filters, kernel_size, regularizer, data_format, use_bias=False, **kwargs
):
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        use_bias=use_bias,
        data_format=data_format,
        kernel_initializer=_initializer(),
        kernel_regularizer=regularizer,
        **kwargs,
    )


def normalize(x, data_format, name, activation=False):
    separator = "" if name.endswith("_") else "_"
    x = keras.layers.BatchNormalization(
        axis=channel_axis(data_format), name=f"{name}{separator}bn"
    )(x)
    if activation:
        x = keras.layers.Activation(
            "silu", name=f"{name}{separator}activation"
        )(x)
    return x


def channel_axis(data_format):
    return 1 if data_format == "channels_first" else -1


def _initializer():
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="truncated_normal"
    )
