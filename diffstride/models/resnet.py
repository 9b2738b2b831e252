"""Residual networks whose downsampling is a pooling slot.

The slot sits in the first layer of every block. In the first block of a
ResNet-18 this layer keeps its channels and starts with strides of 1, where
fixed spectral pooling does nothing and DiffStride keeps the size of the map.
Each of the four slots holds two strides, which makes the 11,172,178
trainable parameters of the 2022 release on CIFAR-10, against 11,172,170
without. The paper learns three strides on CIFAR; `id_only=(True, False, False,
False)` takes the slot out of the first block, and two parameters with it.

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

import keras

from diffstride.models import (
    pooling_slot,
    residual,
)
from diffstride.models.residual import ResidualLayer, ResnetBlock

__all__ = [
    "ResidualLayer",
    "Resnet",
    "ResnetBlock",
    "resnet18",
    "resnet18_imagenet",
    "resnet56",
]


def Resnet(
    filters=(64, 64, 128, 256, 512),
    kernel_size=3,
    strides=(1, 1, 2, 2, 2),
    pooling_cls=None,
    num_layers=2,
    project_first=None,
    id_only=False,
    num_output_classes=10,
    output_activation=None,
    input_shape=None,
    imagenet_stem=False,
    pre_activation=True,
    head_pooling=None,
    head_strides=2,
    channels_first=False,
    weight_decay=0.0,
    name="resnet",
):
    """Builds a residual network: stem, blocks of residual layers, classifier.

    Args:
        filters: tuple of integers, the channels of the stem and of each block;
            or one integer, which the stem and the first block have and every
            further block doubles.
        kernel_size: integer or tuple of two. Size of the convolutions, but for
            the stem of ImageNet.
        strides: tuple with one entry for the stem and one for each block, each
            a number or a tuple of two. The stem needs integers, the blocks do
            where `pooling_cls` is None.
        pooling_cls: None for strided convolutions, or a class, a function or a
            config dict that makes the pooling layer of each block (see
            `diffstride.models.pooling_slot`); or a list with one of these for
            each block.
        num_layers: integer, or one for each block. Residual layers in a block.
        project_first: boolean, or one for each block: whether its first
            shortcut is a 1x1 convolution. None, the default, says yes where
            the number of channels changes.
        id_only: boolean, or one for each block: whether the block has identity
            layers only, and no slot. Defaults to False.
        num_output_classes: integer. Defaults to 10.
        output_activation: activation of the classifier. None, the default,
            gives logits.
        input_shape: shape of one image. Height and width may be None. Defaults
            to 32x32 pixels in three channels.
        imagenet_stem: whether the stem is a 7x7 convolution and max pooling by
            2. Defaults to False: a convolution of `kernel_size`.
        pre_activation: whether batch normalisation and rectification precede
            each convolution or follow it. Defaults to True.
        head_pooling: None, class, function or config dict. A pooling layer in
            front of the global average (Rafif et al., 2024, put spectral
            pooling there). The average of a map is its frequency zero, which
            spectral pooling keeps: it scales the features by the gain of its
            `norm`, height times width before over after with the default
            `"backward"`, and changes nothing with `"forward"`.
        head_strides: number or tuple of two. Strides of `head_pooling`.
            Defaults to 2.
        channels_first: whether images are `(channels, height, width)`. Defaults
            to False.
        weight_decay: float. Factor of the L2 penalty on the kernels. Defaults
            to 0.
        name: string. Name of the model.

    Returns:
        A Functional Keras model.

    Example:

    >>> model = Resnet(filters=8, strides=(1, 1, 2), num_layers=1)
    >>> tuple(model(np.ones((2, 32, 32, 3))).shape)
    (2, 10)
    """
    blocks = len(strides) - 1
    if isinstance(filters, int):
        filters = [filters * 2 ** max(i - 1, 0) for i in range(blocks + 1)]
    if blocks < 1 or len(filters) != blocks + 1:
        raise ValueError(
            "`strides` and `filters` must have one entry for the stem and one "
            f"for each block. Received: strides={strides}, filters={filters}"
        )
    if project_first is None:
        project_first = [filters[i] != filters[i + 1] for i in range(blocks)]
    pooling_cls = pooling_slot.per_stage(pooling_cls, "pooling_cls", blocks)
    num_layers = pooling_slot.per_stage(num_layers, "num_layers", blocks)
    project_first = pooling_slot.per_stage(
        project_first, "project_first", blocks
    )
    id_only = pooling_slot.per_stage(id_only, "id_only", blocks)
    data_format = "channels_first" if channels_first else "channels_last"
    if input_shape is None:
        input_shape = (3, 32, 32) if channels_first else (32, 32, 3)

    inputs = x = keras.Input(input_shape, name="images")
    x = residual.convolution(
        filters[0],
        7 if imagenet_stem else kernel_size,
        weight_decay=weight_decay,
        data_format=data_format,
        strides=pooling_slot.integer_strides(strides[0], "stem"),
        name="stem_convolution",
    )(x)
    if not pre_activation:
        x = residual.normalization(data_format, name="stem_normalization")(x)
        x = keras.layers.ReLU(name="stem_activation")(x)
    if imagenet_stem:
        x = keras.layers.MaxPooling2D(
            3,
            strides=2,
            padding="same",
            data_format=data_format,
            name="stem_pooling",
        )(x)
    for i in range(blocks):
        x = ResnetBlock(
            filters[i + 1],
            kernel_size,
            strides[i + 1],
            pooling_cls[i],
            num_layers=num_layers[i],
            project_first=project_first[i],
            id_only=id_only[i],
            channels_first=channels_first,
            weight_decay=weight_decay,
            pre_activation=pre_activation,
            name=f"block{i + 1}",
        )(x)
    if pre_activation:
        x = residual.normalization(data_format, name="head_normalization")(x)
        x = keras.layers.ReLU(name="head_activation")(x)
    if head_pooling is not None:
        x = pooling_slot.make_pooling(
            head_pooling, head_strides, data_format, "head_pooling"
        )(x)
    x = keras.layers.GlobalAveragePooling2D(
        data_format=data_format, name="global_pooling"
    )(x)
    outputs = keras.layers.Dense(
        num_output_classes,
        activation=output_activation,
        kernel_regularizer=residual.decay(weight_decay),
        name="predictions",
        # Losses and probabilities in full precision.
        dtype="float32",
    )(x)
    return keras.Model(inputs, outputs, name=name)


def resnet18(
    filters=64,
    kernel_size=3,
    strides=(1, 1, 2, 2, 2),
    pooling_cls=None,
    num_layers=2,
    project_first=None,
    id_only=False,
    num_output_classes=10,
    output_activation=None,
    input_shape=None,
    pre_activation=True,
    head_pooling=None,
    head_strides=2,
    channels_first=False,
    weight_decay=0.0,
    name="resnet18",
):
    """Builds the ResNet-18 for images of 32x32 pixels.

    Four blocks of two residual layers, 64 to 512 channels. With three input
    channels and 10 classes it has 11,172,170 trainable parameters, and
    11,172,178 with DiffStride. Without pre-activation there are 1,792 more.

    Args: those of `Resnet`. `filters=16` makes a network for a CPU.

    Example:

    >>> model = resnet18(filters=4, strides=(1, 1, 3, 2, 3))
    >>> tuple(model(np.ones((2, 32, 32, 3))).shape)
    (2, 10)
    """
    return Resnet(
        filters=filters,
        kernel_size=kernel_size,
        strides=strides,
        pooling_cls=pooling_cls,
        num_layers=num_layers,
        project_first=project_first,
        id_only=id_only,
        num_output_classes=num_output_classes,
        output_activation=output_activation,
        input_shape=input_shape,
        imagenet_stem=False,
        pre_activation=pre_activation,
        head_pooling=head_pooling,
        head_strides=head_strides,
        channels_first=channels_first,
        weight_decay=weight_decay,
        name=name,
    )


def resnet56(
    filters=16,
    kernel_size=3,
    strides=(1, 1, 2, 2),
    pooling_cls=None,
    num_layers=9,
    project_first=None,
    id_only=False,
    num_output_classes=10,
    output_activation=None,
    input_shape=None,
    pre_activation=True,
    head_pooling=None,
    head_strides=2,
    channels_first=False,
    weight_decay=0.0,
    name="resnet56",
):
    """Builds the ResNet-56 for images of 32x32 pixels.

    Three blocks of nine residual layers, 16 to 64 channels.

    Args: those of `Resnet`.
    """
    return Resnet(
        filters=filters,
        kernel_size=kernel_size,
        strides=strides,
        pooling_cls=pooling_cls,
        num_layers=num_layers,
        project_first=project_first,
        id_only=id_only,
        num_output_classes=num_output_classes,
        output_activation=output_activation,
        input_shape=input_shape,
        imagenet_stem=False,
        pre_activation=pre_activation,
        head_pooling=head_pooling,
        head_strides=head_strides,
        channels_first=channels_first,
        weight_decay=weight_decay,
        name=name,
    )


def resnet18_imagenet(
    filters=64,
    kernel_size=3,
    strides=(2, 1, 2, 2, 2),
    pooling_cls=None,
    num_layers=2,
    project_first=None,
    id_only=False,
    num_output_classes=1000,
    output_activation=None,
    input_shape=(224, 224, 3),
    pre_activation=False,
    head_pooling=None,
    head_strides=2,
    channels_first=False,
    weight_decay=0.0,
    name="resnet18",
):
    """Builds the ResNet-18 for ImageNet.

    A 7x7 convolution and max pooling, by 2 each, then four blocks whose strides
    are all learned with DiffStride, those of the first identity layer among
    them (section 3.2 of the paper). It follows He et al., 2016a: 11,689,512
    trainable parameters, 11,689,520 with DiffStride.

    Args: those of `Resnet`.
    """
    return Resnet(
        filters=filters,
        kernel_size=kernel_size,
        strides=strides,
        pooling_cls=pooling_cls,
        num_layers=num_layers,
        project_first=project_first,
        id_only=id_only,
        num_output_classes=num_output_classes,
        output_activation=output_activation,
        input_shape=input_shape,
        imagenet_stem=True,
        pre_activation=pre_activation,
        head_pooling=head_pooling,
        head_strides=head_strides,
        channels_first=channels_first,
        weight_decay=weight_decay,
        name=name,
    )
