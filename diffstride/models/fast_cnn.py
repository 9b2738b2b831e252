"""The convolutional network of CIFAR-10's speed records.

It reaches 94 % in about ten epochs, and has three downsampling steps. So it
compares ways of downsampling where accuracy is high, on a machine where a
ResNet-18 would take days.

Reference:
    Jordan, [94% on CIFAR-10 in 3.29 seconds on a single GPU](
    https://arxiv.org/abs/2404.00498), 2024, sections 3.1 to 3.3.
"""

from collections.abc import Sequence

import keras
from keras import ops

from diffstride.layers.bias import Bias
from diffstride.layers.whitening import Whitening
from diffstride.models import pooling_slot
from diffstride.types import Activation, Shape, StagePooling, StageStrides
from diffstride.validation import check_data_format


def fast_cnn(
    num_output_classes: int = 10,
    filters: Sequence[int] = (64, 256, 256),
    strides: StageStrides = (2, 2, 2),
    pooling_cls: StagePooling = None,
    output_activation: Activation = None,
    input_shape: Shape | None = None,
    *,
    pooling_order: str | Sequence[str] = "after",
    bias_rate: float = 64.0,
    whitening_bias_steps: int | None = None,
    logit_scale: float = 1 / 9,
    momentum: float = 0.6,
    data_format: str | None = None,
    name: str = "fast_cnn",
) -> keras.Model:
    """Builds the network of CIFAR-10's speed records.

    A whitening layer, which has to be given images (see `Whitening`; the
    trainer does so), stands before the blocks. A block is

        convolution, slot, normalization, GELU,
        convolution,       normalization, GELU

    of 3x3 points each. The maximum of the last map goes to a classifier without
    a bias. A convolution starts as the identity: its first filters hand on one
    channel each. Normalizations have a bias that learns faster than the
    kernels (see `Bias`), and no scale.

    Args:
        num_output_classes: integer. Defaults to 10.
        filters: tuple of integers. Channels of each block.
        strides: tuple with one entry for each block: a number, or a tuple of
            two. Integers where `pooling_cls` is None.
        pooling_cls: None for strided convolutions, or a class, a function or a
            config dict that makes a pooling layer (see
            `diffstride.models.pooling_slot`); or a list with one of these for
            each block. The original has max pooling:
            `functools.partial(SpatialPooling, pool_size=None,
            pool_mode="max", padding="valid")`.
        output_activation: activation of the classifier. None, the default,
            gives logits.
        input_shape: shape of one image. Height and width may be None. Defaults
            to 32x32 pixels in three channels.
        pooling_order: `"after"`, the default, as in the original: a pooling
            layer follows the first convolution of its block. `"before"`: it
            stands in front of it. Or a list with one of these for each block.
        bias_rate: number. Factor of the learning rate for the biases of
            normalizations. Defaults to 64.
        whitening_bias_steps: integer or None. After so many steps the bias of
            the whitening layer has no gradient (see `Whitening`). Defaults to
            None: it is learned to the end.
        logit_scale: number. Factor of what enters the classifier. Defaults to
            1 / 9.
        momentum: float. Momentum of the moving averages of batch
            normalization. Defaults to 0.6.
        data_format: `"channels_last"`, `"channels_first"` or None. Of the
            images too. Defaults to `keras.config.image_data_format()`.
        name: string. Name of the model.

    Returns:
        A Functional Keras model.

    Example:

    >>> model = fast_cnn(filters=(8, 8, 8), pooling_cls=DiffStride)
    >>> tuple(model(np.ones((1, 32, 32, 3))).shape)
    (1, 10)
    """
    strides = pooling_slot.stage_strides(strides)
    if len(filters) != len(strides):
        raise ValueError(
            "`filters` and `strides` must have one entry for each block. "
            f"Received: filters={filters}, strides={strides}"
        )
    pooling_cls = pooling_slot.per_stage(
        pooling_cls, "pooling_cls", len(strides)
    )
    orders = pooling_slot.pooling_orders(pooling_order, len(strides))
    data_format = check_data_format(data_format)
    axis = 1 if data_format == "channels_first" else -1
    if input_shape is None:
        input_shape = (3, 32, 32) if axis == 1 else (32, 32, 3)

    def convolution(filters, name, strides=1):
        return keras.layers.Conv2D(
            filters,
            3,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=IdentityFirst(),
            data_format=data_format,
            name=f"{name}_convolution",
        )

    def activation(x, name):
        x = keras.layers.BatchNormalization(
            axis=axis,
            momentum=momentum,
            epsilon=1e-12,
            center=False,
            scale=False,
            name=f"{name}_normalization",
        )(x)
        x = Bias(bias_rate, data_format=data_format, name=f"{name}_bias")(x)
        return keras.layers.Activation("gelu", name=f"{name}_activation")(x)

    inputs = keras.Input(input_shape, name="images")
    x = Whitening(
        bias_steps=whitening_bias_steps,
        data_format=data_format,
        name="whitening",
    )(inputs)
    x = keras.layers.Activation("gelu", name="whitening_activation")(x)
    for i, width in enumerate(filters):
        block = f"block{i + 1}"
        slot = f"{block}_pooling"
        first = convolution(
            width,
            f"{block}_1",
            pooling_slot.convolution_strides(strides[i], pooling_cls[i], slot),
        )
        pooling = pooling_slot.make_pooling(
            pooling_cls[i], strides[i], data_format, slot
        )
        for layer in pooling_slot.in_order(orders[i], first, pooling):
            x = layer(x)
        x = activation(x, f"{block}_1")
        x = convolution(width, f"{block}_2")(x)
        x = activation(x, f"{block}_2")
    x = keras.layers.GlobalMaxPooling2D(
        data_format=data_format, name="maximum"
    )(x)
    x = keras.layers.Rescaling(logit_scale, name="scale")(x)
    outputs = keras.layers.Dense(
        num_output_classes,
        activation=output_activation,
        use_bias=False,
        kernel_initializer=_uniform(),
        name="predictions",
        # Losses and probabilities in full precision.
        dtype="float32",
    )(x)
    return keras.Model(inputs, outputs, name=name)


def _uniform():
    """Uniform, with a variance of a third over the number of inputs."""
    return keras.initializers.VarianceScaling(
        1 / 3, mode="fan_in", distribution="uniform"
    )


@keras.saving.register_keras_serializable(package="diffstride")
class IdentityFirst(keras.initializers.Initializer):
    """Kernels whose first filters hand on one channel each.

    As many filters as there are input channels are the identity. The others are
    uniform.

    Example:

    >>> kernel = IdentityFirst()((3, 3, 2, 4))
    >>> keras.ops.convert_to_numpy(kernel)[1, 1, :, :2].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def __call__(self, shape, dtype=None):
        *size, channels, filters = shape
        count = min(channels, filters)
        identity = ops.eye(channels, count, dtype=dtype)[None, None]
        borders = [(length // 2, (length - 1) // 2) for length in size]
        identity = ops.pad(identity, [*borders, (0, 0), (0, 0)])
        others = _uniform()((*size, channels, filters), dtype)
        return ops.concatenate([identity, others[..., count:]], axis=-1)
