"""EfficientNets whose stages downsample in a pooling slot.

A stage is a row of inverted residual blocks, the first of which downsamples in
a slot (see `diffstride.models.inverted_residual`): one slot for each of seven
stages.

References:
    - Tan and Le, [EfficientNet: rethinking model scaling for convolutional
      neural networks](https://arxiv.org/abs/1905.11946), 2019.
    - Riad et al., [Learning strides in convolutional neural networks](
      https://arxiv.org/abs/2202.01653), 2022: Tables A.5 and A.6.
"""

import dataclasses
import math
import string
from collections.abc import Sequence

import keras

from diffstride.models import inverted_residual, pooling_slot
from diffstride.types import Activation, Shape, StagePooling, StageStrides
from diffstride.validation import check_choice, check_data_format


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Compound scaling of one variant, and dropout before its classifier."""

    width: float
    depth: float
    dropout_rate: float


VARIANTS = {
    "b0": Scaling(1.0, 1.0, 0.2),
    "b1": Scaling(1.0, 1.1, 0.2),
    "b2": Scaling(1.1, 1.2, 0.3),
    "b3": Scaling(1.2, 1.4, 0.3),
    "b4": Scaling(1.4, 1.8, 0.4),
    "b5": Scaling(1.6, 2.2, 0.4),
    "b6": Scaling(1.8, 2.6, 0.5),
    "b7": Scaling(2.0, 3.1, 0.5),
}

# The statistics of ImageNet, for pixels between 0 and 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_VARIANCE = (58.395**2, 57.12**2, 57.375**2)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of Table 1 of the EfficientNet paper."""

    filters: int
    repeats: int
    kernel_size: int
    expansion: int


STAGES = (
    Stage(filters=16, repeats=1, kernel_size=3, expansion=1),
    Stage(filters=24, repeats=2, kernel_size=3, expansion=6),
    Stage(filters=40, repeats=2, kernel_size=5, expansion=6),
    Stage(filters=80, repeats=3, kernel_size=3, expansion=6),
    Stage(filters=112, repeats=3, kernel_size=5, expansion=6),
    Stage(filters=192, repeats=4, kernel_size=5, expansion=6),
    Stage(filters=320, repeats=1, kernel_size=3, expansion=6),
)
STEM_FILTERS = 32
HEAD_FILTERS = 1280


def efficientnet(
    variant: str = "b0",
    strides: StageStrides = (1, 2, 2, 2, 1, 2, 1),
    pooling_cls: StagePooling = None,
    num_output_classes: int = 10,
    output_activation: Activation = None,
    input_shape: Shape | None = None,
    resize_to: int | Sequence[int] | None = None,
    include_preprocessing: bool = False,
    include_top: bool = True,
    stem_strides: int | Sequence[int] = 2,
    width_coefficient: float | None = None,
    depth_coefficient: float | None = None,
    stages: Sequence[Stage] = STAGES,
    dropout_rate: float | None = None,
    drop_connect_rate: float = 0.2,
    weight_decay: float = 0.0,
    data_format: str | None = None,
    name: str | None = None,
    *,
    pooling_order: str | Sequence[str] = "after",
) -> keras.Model:
    """Builds an EfficientNet.

    Its layers are named as in `keras.applications`, whose weights
    `load_keras_applications_weights` of `diffstride.models.pretrained` carries
    over.

    Args:
        variant: `"b0"` to `"b7"`. The compound scaling of width and depth.
        strides: tuple with one entry for each of the seven stages: a number or
            a tuple of two. Integers where `pooling_cls` is None.
        pooling_cls: None for strided depthwise convolutions, or a class, a
            function or a config dict that makes the pooling layer of each
            stage (see `diffstride.models.pooling_slot`); or a list with one of
            these for each stage.
        num_output_classes: integer. Defaults to 10.
        output_activation: activation of the classifier. None, the default,
            gives logits.
        input_shape: shape of one image. Height and width may be None. Defaults
            to 32x32 pixels in three channels.
        resize_to: integer or tuple of two. Images are resized to that height
            and width first: 128 in the paper's experiments on CIFAR. Defaults
            to None: as they are.
        include_preprocessing: whether images are pixels between 0 and 255,
            which the model normalises by the statistics of ImageNet, or of
            weights that are carried over. Defaults to False: they come
            normalised.
        include_top: whether the model classifies. Otherwise it returns its
            last feature map. Defaults to True.
        stem_strides: integer or tuple of two. Strides of the first convolution.
        width_coefficient: float. Takes the place of the variant's.
        depth_coefficient: float. Takes the place of the variant's.
        stages: tuple of `Stage`. The rows of blocks, before scaling. Defaults
            to the seven of the paper.
        dropout_rate: float. Dropout in front of the classifier. Takes the place
            of the variant's.
        drop_connect_rate: float. Chance of dropping the last residual branch of
            an example in training; it grows linearly with depth.
        weight_decay: float. Factor of the L2 penalty on the kernels. Defaults
            to 0.
        data_format: `"channels_last"`, `"channels_first"` or None. Of the
            images too. Defaults to `keras.config.image_data_format()`.
        name: string. Name of the model.
        pooling_order: `"after"`, the default: pooling layers follow the
            depthwise convolution of the first block of a stage. `"before"`:
            they pool the input of this block, also for its shortcut, so that
            all its convolutions run on the small map. (In the strided network
            the first 1x1 convolution of the block runs on the large one.) Or a
            list with one of these for each stage.

    Returns:
        A Functional Keras model.

    Example:

    >>> model = efficientnet("b0", resize_to=128, width_coefficient=0.25)
    >>> tuple(model(np.ones((1, 32, 32, 3))).shape)
    (1, 10)
    """
    check_choice(variant, "variant", tuple(VARIANTS))
    data_format = check_data_format(data_format)
    strides = pooling_slot.stage_strides(strides)
    if len(strides) != len(stages):
        raise ValueError(
            f"`strides` must have {len(stages)} entries, one for each stage. "
            f"Received: strides={strides}"
        )
    pooling_cls = pooling_slot.per_stage(
        pooling_cls, "pooling_cls", len(stages)
    )
    orders = pooling_slot.pooling_orders(pooling_order, len(stages))
    scaling = VARIANTS[variant]
    if width_coefficient is None:
        width_coefficient = scaling.width
    if depth_coefficient is None:
        depth_coefficient = scaling.depth
    if dropout_rate is None:
        dropout_rate = scaling.dropout_rate
    if input_shape is None:
        input_shape = (32, 32, 3)
        if data_format == "channels_first":
            input_shape = (3, 32, 32)
    regularizer = keras.regularizers.L2(weight_decay) if weight_decay else None

    inputs = x = keras.Input(input_shape, name="images")
    if resize_to is not None:
        size = (resize_to,) * 2 if isinstance(resize_to, int) else resize_to
        x = keras.layers.Resizing(
            *size, data_format=data_format, name="resizing"
        )(x)
    if include_preprocessing:
        x = _imagenet_normalization(x, data_format)
    x = inverted_residual.convolution(
        _scaled_filters(STEM_FILTERS, width_coefficient),
        3,
        regularizer,
        data_format,
        strides=pooling_slot.convolution_strides(stem_strides, stage="stem"),
        name="stem_conv",
    )(x)
    x = inverted_residual.normalize(x, data_format, "stem", activation=True)

    repeats = [math.ceil(depth_coefficient * s.repeats) for s in stages]
    for i, stage in enumerate(stages):
        for j in range(repeats[i]):
            x = inverted_residual.inverted_residual(
                x,
                _scaled_filters(stage.filters, width_coefficient),
                stage.kernel_size,
                stage.expansion,
                strides[i] if j == 0 else 1,
                pooling_cls[i] if j == 0 else None,
                orders[i],
                drop_rate=drop_connect_rate
                * (sum(repeats[:i]) + j)
                / sum(repeats),
                regularizer=regularizer,
                data_format=data_format,
                name=f"block{i + 1}{string.ascii_lowercase[j]}_",
            )
    x = inverted_residual.convolution(
        _scaled_filters(HEAD_FILTERS, width_coefficient),
        1,
        regularizer,
        data_format,
        name="top_conv",
    )(x)
    x = inverted_residual.normalize(x, data_format, "top", activation=True)
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(
            data_format=data_format, name="avg_pool"
        )(x)
        x = keras.layers.Dropout(dropout_rate, name="top_dropout")(x)
        x = keras.layers.Dense(
            num_output_classes,
            activation=output_activation,
            kernel_initializer=keras.initializers.VarianceScaling(
                1 / 3, mode="fan_out", distribution="uniform"
            ),
            kernel_regularizer=regularizer,
            name="predictions",
            # Losses and probabilities in full precision.
            dtype="float32",
        )(x)
    return keras.Model(inputs, x, name=name or f"efficientnet{variant}")


def _imagenet_normalization(x, data_format):
    axis = inverted_residual.channel_axis(data_format)
    if x.shape[axis] != len(IMAGENET_MEAN):
        raise ValueError(
            "`input_shape` must have three channels when "
            "`include_preprocessing=True`. "
            f"Received: input_shape={tuple(x.shape[1:])}"
        )
    layer = keras.layers.Normalization(axis=axis, name="normalization")
    x = layer(x)
    # Weights rather than constants, so that others can be carried over.
    layer.adapt_mean.assign(IMAGENET_MEAN)
    layer.adapt_variance.assign(IMAGENET_VARIANCE)
    layer.finalize_state()
    return x


def _scaled_filters(filters, width_coefficient, divisor=8):
    """Multiple of eight close to the product, at least nine tenths of it."""
    product = filters * width_coefficient
    scaled = max(divisor, int(product + divisor / 2) // divisor * divisor)
    return scaled + divisor if scaled < 0.9 * product else scaled
