"""Residual networks whose downsampling is a pooling slot.

Three variants of the ResNet-18 for images of 32x32 pixels differ in where the
strides are:

- The 2022 release, the default. The stem has a slot, right after its
  convolution, and so have the last three blocks; the first block has identity
  layers only. Each of the four slots holds two strides, which makes 11,172,178
  trainable parameters on CIFAR-10, against 11,172,170 without.
- The paper, which learns the strides of the three shortcut blocks on CIFAR:
  `stem_slot=False`, in `configs/papers/diffstride/cifar10.gin` and
  `cifar100.gin`.
- Ours, in `configs/modern.gin`, `configs/quickstart.gin` and
  `configs/studies/`: `stem_slot=False` and `downsample_identity=True`, so that
  the first block has a slot in place of the stem, and
  `activated_shortcut=True`.

`resnet18_imagenet` has a slot in each of its four blocks, as the paper says.

References:
    - He et al., [Deep residual learning for image recognition](
      https://arxiv.org/abs/1512.03385), 2016.
    - He et al., [Identity mappings in deep residual networks](
      https://arxiv.org/abs/1603.05027), 2016.
    - Riad et al., [Learning strides in convolutional neural networks](
      https://arxiv.org/abs/2202.01653), 2022: section 3.2.
    - Rafif et al., [Hybrid of DiffStride and spectral pooling in convolutional
      neural networks](https://arxiv.org/abs/2401.09008), 2024.
"""

import inspect
import numbers
from collections.abc import Sequence

import keras

from diffstride.models import pooling_slot, residual_layer
from diffstride.models.residual_layer import ResidualLayer
from diffstride.models.resnet_block import ResnetBlock
from diffstride.types import (
    Activation,
    Pooling,
    Shape,
    StagePooling,
    StageStrides,
    Strides,
)

__all__ = [
    "ResidualLayer",
    "Resnet",
    "ResnetBlock",
    "resnet18",
    "resnet18_imagenet",
    "resnet56",
]


def Resnet(
    filters: int | Sequence[int],
    strides: StageStrides,
    num_output_classes: int = 10,
    output_activation: Activation = None,
    id_only: Sequence[int] = (),
    channels_first: bool = False,
    pooling_cls: StagePooling = None,
    weight_decay: float = 5e-3,
    *,
    input_shape: Shape | None = None,
    kernel_size: int | Sequence[int] = 3,
    num_layers: int | Sequence[int] = 2,
    stem_slot: bool = True,
    imagenet_stem: bool = False,
    pre_activation: bool = True,
    activated_shortcut: bool = False,
    downsample_identity: bool = False,
    head_pooling: Pooling = None,
    head_strides: Strides = 2,
    pooling_order: str | Sequence[str] = "after",
    name: str = "resnet",
) -> keras.Sequential:
    """Builds a residual network: stem, blocks of residual layers, classifier.

    By default it is the network of the 2022 release, with these differences: it
    computes in `channels_last`, its batch normalisation has the momentum of 0.9
    and the epsilon of 1e-5 that the config of the release bound (from Python it
    had 0.99 and 1e-3), the moving variance is that of Keras 3, `training` is
    False in a plain call (it was True), and bad arguments are errors.

    Args:
        filters: tuple of integers, the channels of the stem and of each block;
            or one integer, which the stem and the first block have and every
            further block doubles.
        strides: tuple with one entry for the stem and one for each block, each
            a number or a tuple of two; or a string of such a list. Integers
            where there is no pooling layer.
        num_output_classes: integer. Defaults to 10.
        output_activation: activation of the classifier. None, the default,
            gives logits.
        id_only: tuple with the indices, from 0, of the blocks whose layers are
            all identity layers. The first layer of any other block has a 1x1
            convolution on its shortcut, with equal channels too. Defaults to
            none.
        channels_first: whether to compute in `(batch, channels, height,
            width)`; the model transposes its images first. Defaults to False.
        pooling_cls: None for strided convolutions, or a class, a function or a
            config dict that makes the pooling layer of each slot (see
            `diffstride.models.pooling_slot`); or a list with one of these for
            the stem, if `stem_slot`, and one for each block.
        weight_decay: float. Factor of the L2 penalty on all kernels and on the
            bias of the classifier. Defaults to 5e-3.
        input_shape: shape of one image, `(height, width, channels)`. Height and
            width may be None. If None, the default, the model is built by its
            first call, or by `model.build((None, height, width, channels))`.
        kernel_size: integer or tuple of two. Size of the convolutions in the
            blocks. Defaults to 3.
        num_layers: integer, or one for each block. Residual layers in a block.
        stem_slot: whether `pooling_cls` also makes a pooling layer for the
            convolution of the stem. If False, this convolution has the strides,
            which must then be integers. Defaults to True.
        imagenet_stem: whether the stem is a 7x7 convolution and max pooling by
            2. Defaults to False: a 3x3 convolution.
        pre_activation: whether batch normalisation and rectification precede
            each convolution or follow it. Defaults to True.
        activated_shortcut: whether projections read the normalised and
            rectified input of their layer. Defaults to False.
        downsample_identity: whether the first layer of a block in `id_only`
            has strides and a slot. Defaults to False: such a block keeps the
            size of its input, whatever `strides` says.
        head_pooling: None, class, function or config dict. A pooling layer in
            front of the global average (Rafif et al., 2024, put spectral
            pooling there). The average of a map is its frequency zero, which
            spectral pooling keeps: it scales the features by the gain of its
            `norm`, height times width before over after with the default
            `"backward"`, and changes nothing with `"forward"`.
        head_strides: number or tuple of two. Strides of `head_pooling`.
            Defaults to 2.
        pooling_order: `"after"`, the default: pooling layers follow the
            convolution of the stem, and the first convolution of a block, as
            published. `"before"`: they stand directly before these
            convolutions. In the stem they pool the images, in a block what the
            convolution reads, and its shortcut (see `ResidualLayer`). Or a list
            with one of these for the stem, if `stem_slot`, and one for each
            block: the first as `"after"` lets the stem see all pixels.
        name: string. Name of the model.

    Returns:
        A Sequential Keras model for images `(batch, height, width, channels)`.

    Example:

    >>> model = Resnet(filters=8, strides=(1, 1, 2), num_layers=1)
    >>> tuple(model(np.ones((2, 32, 32, 3))).shape)
    (2, 10)
    """
    strides = pooling_slot.stage_strides(strides)
    blocks = len(strides) - 1
    if isinstance(filters, numbers.Integral):
        filters = [filters * 2 ** max(i - 1, 0) for i in range(blocks + 1)]
    if blocks < 1 or len(filters) != blocks + 1:
        raise ValueError(
            "`strides` and `filters` must have one entry for the stem and one "
            f"for each block. Received: strides={strides}, filters={filters}"
        )
    _check_id_only(id_only, blocks)
    num_layers = pooling_slot.per_stage(num_layers, "num_layers", blocks)
    slots = blocks + 1 if stem_slot else blocks
    pooling_cls = pooling_slot.per_stage(pooling_cls, "pooling_cls", slots)
    orders = pooling_slot.pooling_orders(pooling_order, slots)
    if not stem_slot:
        pooling_cls.insert(0, None)
        orders.insert(0, "after")
    data_format = "channels_first" if channels_first else "channels_last"

    stem = residual_layer.convolution(
        filters[0],
        7 if imagenet_stem else 3,
        weight_decay=weight_decay,
        data_format=data_format,
        strides=pooling_slot.convolution_strides(
            strides[0], pooling_cls[0], "stem"
        ),
        name="stem_convolution",
    )
    stem_pooling = pooling_slot.make_pooling(
        pooling_cls[0], strides[0], data_format, "stem_pooling"
    )
    layers = [
        keras.layers.Permute((3, 1, 2), name="to_channels_first")
        if channels_first
        else None,
        *pooling_slot.in_order(orders[0], stem, stem_pooling),
    ]
    if not pre_activation:
        layers += [
            residual_layer.normalization(
                data_format, name="stem_normalization"
            ),
            keras.layers.ReLU(name="stem_activation"),
        ]
    if imagenet_stem:
        layers.append(
            keras.layers.MaxPooling2D(
                3,
                strides=2,
                padding="same",
                data_format=data_format,
                name="stem_max_pooling",
            )
        )
    layers += [
        ResnetBlock(
            filters[i + 1],
            strides[i + 1],
            num_layers=num_layers[i],
            project_first=i not in id_only,
            kernel_size=kernel_size,
            pooling_cls=pooling_cls[i + 1],
            channels_first=channels_first,
            weight_decay=weight_decay,
            pre_activation=pre_activation,
            activated_shortcut=activated_shortcut,
            downsample_identity=downsample_identity,
            pooling_order=orders[i + 1],
            name=f"block{i + 1}",
        )
        for i in range(blocks)
    ]
    if pre_activation:
        layers += [
            residual_layer.normalization(
                data_format, name="head_normalization"
            ),
            keras.layers.ReLU(name="head_activation"),
        ]
    layers += [
        pooling_slot.make_pooling(
            head_pooling, head_strides, data_format, "head_pooling"
        ),
        keras.layers.GlobalAveragePooling2D(
            data_format=data_format, name="global_pooling"
        ),
        keras.layers.Dense(
            num_output_classes,
            activation=output_activation,
            kernel_initializer="he_normal",
            kernel_regularizer=residual_layer.decay(weight_decay),
            bias_regularizer=residual_layer.decay(weight_decay),
            name="predictions",
            # Losses and probabilities in full precision.
            dtype="float32",
        ),
    ]
    if input_shape is not None:
        layers.insert(0, keras.Input(input_shape, name="images"))
    return keras.Sequential(
        [layer for layer in layers if layer is not None], name=name
    )


def _check_id_only(id_only, blocks):
    valid = isinstance(id_only, (list, tuple, set)) and all(
        isinstance(index, numbers.Integral)
        and not isinstance(index, bool)
        and 0 <= index < blocks
        for index in id_only
    )
    if not valid:
        raise ValueError(
            "`id_only` must be a tuple with indices of blocks, from 0 to "
            f"{blocks - 1}. Received: id_only={id_only}"
        )


def _with_arguments_of_resnet(function):
    """Names the arguments that a function hands to `Resnet` by `**kwargs`.

    Gin and help pages read them from the signature, so that gin can bind each
    of them and refuses any other.
    """
    own = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    others = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(Resnet).parameters.items()
        if name not in own
    ]
    function.__signature__ = inspect.Signature([*own.values(), *others])
    return function


@_with_arguments_of_resnet
def resnet18(
    strides: StageStrides | None = None,
    *,
    filters: int | Sequence[int] = (64, 64, 128, 256, 512),
    id_only: Sequence[int] = (0,),
    name: str = "resnet18",
    **kwargs,
) -> keras.Sequential:
    """Builds the ResNet-18 for images of 32x32 pixels.

    Four blocks of two residual layers, 64 to 512 channels, the first block with
    identity layers only. With three input channels and 10 classes it has
    11,172,170 trainable parameters, and 11,172,178 with DiffStride.

    The arguments are those of `Resnet`. `strides` defaults to
    `(1, 1, 2, 2, 2)`; `filters=16` makes a network for a CPU.

    Example:

    >>> model = resnet18([1, 1, 3, 2, 3], filters=4)
    >>> tuple(model(np.ones((2, 32, 32, 3))).shape)
    (2, 10)
    """
    strides = (1, 1, 2, 2, 2) if strides is None else strides
    return Resnet(filters, strides, id_only=id_only, name=name, **kwargs)


@_with_arguments_of_resnet
def resnet56(
    strides: StageStrides | None = None,
    *,
    filters: int | Sequence[int] = (16, 16, 32, 64),
    num_layers: int | Sequence[int] = 9,
    name: str = "resnet56",
    **kwargs,
) -> keras.Sequential:
    """Builds the ResNet-56 for images of 32x32 pixels.

    Three blocks of nine residual layers, 16 to 64 channels. With three input
    channels and 10 classes it has 855,834 trainable parameters, and 855,842
    with DiffStride.

    The arguments are those of `Resnet`. `strides` defaults to `(1, 1, 2, 2)`.
    """
    strides = (1, 1, 2, 2) if strides is None else strides
    return Resnet(filters, strides, num_layers=num_layers, name=name, **kwargs)


@_with_arguments_of_resnet
def resnet18_imagenet(
    strides: StageStrides | None = None,
    *,
    filters: int | Sequence[int] = (64, 64, 128, 256, 512),
    num_output_classes: int = 1000,
    id_only: Sequence[int] = (0,),
    weight_decay: float = 0.0,
    input_shape: Shape | None = (224, 224, 3),
    stem_slot: bool = False,
    imagenet_stem: bool = True,
    pre_activation: bool = False,
    downsample_identity: bool = True,
    name: str = "resnet18",
    **kwargs,
) -> keras.Sequential:
    """Builds the ResNet-18 for ImageNet, as the paper has it.

    A 7x7 convolution and max pooling, by 2 each, then four blocks whose strides
    are all learned with DiffStride, those of the first identity layer among
    them (section 3.2 of the paper). It follows He et al., 2016a: 11,689,512
    trainable parameters, 11,689,520 with DiffStride. The 2022 release has no
    such network.

    The arguments are those of `Resnet`. `strides` defaults to
    `(2, 1, 2, 2, 2)`.
    """
    return Resnet(
        filters,
        (2, 1, 2, 2, 2) if strides is None else strides,
        num_output_classes=num_output_classes,
        id_only=id_only,
        weight_decay=weight_decay,
        input_shape=input_shape,
        stem_slot=stem_slot,
        imagenet_stem=imagenet_stem,
        pre_activation=pre_activation,
        downsample_identity=downsample_identity,
        name=name,
        **kwargs,
    )
