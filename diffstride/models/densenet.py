"""DenseNets whose transitions downsample in a pooling slot.

In a dense block every layer reads the outputs of all layers before it. The
transition between two blocks halves the channels by a 1x1 convolution and
downsamples in the slot.

References:
    - Huang et al., [Densely connected convolutional networks](
      https://arxiv.org/abs/1608.06993), 2017.
    - Riad et al., [Learning strides in convolutional neural networks](
      https://arxiv.org/abs/2202.01653), 2022: Tables A.3 and A.4.
"""

import functools
from collections.abc import Sequence

import keras

from diffstride.models import pooling_slot
from diffstride.types import Activation, Shape, StagePooling, StageStrides
from diffstride.validation import check_data_format


def densenet(
    blocks: Sequence[int] = (6, 12, 24, 16),
    growth: int = 32,
    strides: StageStrides = (2, 2, 2),
    pooling_cls: StagePooling = None,
    num_output_classes: int = 10,
    output_activation: Activation = None,
    input_shape: Shape | None = None,
    imagenet_stem: bool = False,
    include_top: bool = True,
    compression: float = 0.5,
    weight_decay: float = 0.0,
    data_format: str | None = None,
    name: str = "densenet",
    *,
    pooling_order: str | Sequence[str] = "after",
) -> keras.Model:
    """Builds a DenseNet-BC, by default the one of 121 layers.

    Its layers are named as in `keras.applications`, whose weights
    `load_keras_applications_weights` of `diffstride.models.pretrained` carries
    over where `imagenet_stem=True`.

    Args:
        blocks: tuple of integers. Layers in each dense block.
        growth: integer. Channels that a layer adds. Defaults to 32.
        strides: tuple with one entry for each transition between two blocks: a
            number, a tuple of two, or None for a transition that does not
            downsample and has no slot. Integers where `pooling_cls` is None.
            `(2, 2, None)` gives the 121 layers with two downsampling steps of
            the paper's experiments on CIFAR.
        pooling_cls: None for average pooling, the original, or a class, a
            function or a config dict that makes the pooling layer of each
            transition (see `diffstride.models.pooling_slot`); or a list with
            one of these for each transition.
        num_output_classes: integer. Defaults to 10.
        output_activation: activation of the classifier. None, the default,
            gives logits.
        input_shape: shape of one image. Height and width may be None. Defaults
            to 32x32 pixels in three channels.
        imagenet_stem: whether the stem is a 7x7 convolution and max pooling, by
            2 each. Defaults to False: a 3x3 convolution.
        include_top: whether the model classifies. Otherwise it returns its last
            feature map. Defaults to True.
        compression: float. Share of the channels that a transition keeps.
            Defaults to 0.5.
        weight_decay: float. Factor of the L2 penalty on the kernels. Defaults
            to 0.
        data_format: `"channels_last"`, `"channels_first"` or None. Of the
            images too. Defaults to `keras.config.image_data_format()`.
        name: string. Name of the model.
        pooling_order: `"after"`, the default: the pooling layer of a transition
            follows its 1x1 convolution. `"before"`: it stands between the
            rectification and this convolution. Pooling acts on space and the
            convolution on channels, so that with average and spectral pooling
            and with subsampling both orders compute the same numbers; weights
            of one can be used in the other. The convolution has fewer
            operations in front of a small map, and pooling has more, because
            the convolution halves the channels. Or a list with one of these for
            each transition.

    Returns:
        A Functional Keras model.

    Example:

    >>> model = densenet(blocks=(2, 2), growth=8, strides=(2,))
    >>> tuple(model(np.ones((1, 32, 32, 3))).shape)
    (1, 10)
    """
    data_format = check_data_format(data_format)
    strides = pooling_slot.stage_strides(strides)
    if len(strides) != len(blocks) - 1:
        raise ValueError(
            "`strides` must have one entry for each transition between two "
            f"blocks. Received: strides={strides}, blocks={blocks}"
        )
    pooling_cls = pooling_slot.per_stage(
        pooling_cls, "pooling_cls", len(strides)
    )
    orders = pooling_slot.pooling_orders(pooling_order, len(strides))
    axis = 1 if data_format == "channels_first" else -1
    if input_shape is None:
        input_shape = (3, 32, 32) if axis == 1 else (32, 32, 3)
    regularizer = keras.regularizers.L2(weight_decay) if weight_decay else None
    convolution = functools.partial(
        keras.layers.Conv2D,
        use_bias=False,
        kernel_regularizer=regularizer,
        data_format=data_format,
    )

    inputs = x = keras.Input(input_shape, name="images")
    if imagenet_stem:
        x = keras.layers.ZeroPadding2D(
            3, data_format=data_format, name="conv1_padding"
        )(x)
        x = convolution(2 * growth, 7, strides=2, name="conv1_conv")(x)
        x = _rectify(x, "conv1", axis)
        # Zeros never win the maximum, because no rectified pixel is below zero.
        x = keras.layers.ZeroPadding2D(
            1, data_format=data_format, name="pool1_padding"
        )(x)
        x = keras.layers.MaxPooling2D(
            3, strides=2, data_format=data_format, name="pool1"
        )(x)
    else:
        x = convolution(2 * growth, 3, padding="same", name="conv1_conv")(x)

    for i, layers in enumerate(blocks):
        for j in range(layers):
            x = _dense_layer(
                x, growth, convolution, axis, f"conv{i + 2}_block{j + 1}"
            )
        if i < len(strides):
            name_ = f"pool{i + 2}"
            x = _rectify(x, name_, axis)
            transition = convolution(
                int(x.shape[axis] * compression), 1, name=f"{name_}_conv"
            )
            pooling = _pooling(
                pooling_cls[i], strides[i], data_format, f"{name_}_pooling"
            )
            for layer in pooling_slot.in_order(orders[i], transition, pooling):
                x = layer(x)
    x = _rectify(x, None, axis)
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(
            data_format=data_format, name="avg_pool"
        )(x)
        x = keras.layers.Dense(
            num_output_classes,
            activation=output_activation,
            kernel_regularizer=regularizer,
            name="predictions",
            # Losses and probabilities in full precision.
            dtype="float32",
        )(x)
    return keras.Model(inputs, x, name=name)


def _dense_layer(inputs, growth, convolution, axis, name):
    x = _rectify(inputs, f"{name}_0", axis)
    x = convolution(4 * growth, 1, name=f"{name}_1_conv")(x)
    x = _rectify(x, f"{name}_1", axis)
    x = convolution(growth, 3, padding="same", name=f"{name}_2_conv")(x)
    return keras.layers.Concatenate(axis=axis, name=f"{name}_concat")(
        [inputs, x]
    )


def _pooling(pooling_cls, strides, data_format, name):
    if strides is None:
        return None
    if pooling_cls is None:
        return keras.layers.AveragePooling2D(
            pooling_slot.convolution_strides(strides, stage=name),
            data_format=data_format,
            name=name,
        )
    return pooling_slot.make_pooling(pooling_cls, strides, data_format, name)


def _rectify(x, name, axis):
    prefix = f"{name}_" if name else ""
    x = keras.layers.BatchNormalization(
        axis=axis, epsilon=1.001e-5, name=f"{prefix}bn"
    )(x)
    return keras.layers.ReLU(name=f"{prefix}relu")(x)
