"""Residual layers whose downsampling is a pooling slot.

In a residual layer with a slot, one pooling layer serves the main path and the
shortcut, so that both shrink alike even while their strides are learned:

    main:      convolution -> pooling -> convolution
    shortcut:  pooling -> 1x1 convolution, or nothing

Pooling and a 1x1 convolution commute, one acting on space and the other on
channels; pooling first leaves fewer operations to the convolution.

References:
    - He et al., [Deep residual learning for image recognition](
      https://arxiv.org/abs/1512.03385), 2016: `pre_activation=False`.
    - He et al., [Identity mappings in deep residual networks](
      https://arxiv.org/abs/1603.05027), 2016: `pre_activation=True`.
    - Riad et al., [Learning strides in convolutional neural networks](
      https://arxiv.org/abs/2202.01653), 2022: section 2.4.1 and Figure 2.
"""

import functools

import keras
from keras import ops

from diffstride.models import pooling_slot


def normalization(data_format, **kwargs):
    return keras.layers.BatchNormalization(
        axis=1 if data_format == "channels_first" else -1,
        momentum=0.9,
        epsilon=1e-5,
        **kwargs,
    )


def convolution(filters, kernel_size, *, weight_decay, data_format, **kwargs):
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        use_bias=False,
        data_format=data_format,
        kernel_initializer="he_normal",
        kernel_regularizer=decay(weight_decay),
        **kwargs,
    )


def decay(weight_decay):
    return keras.regularizers.L2(weight_decay) if weight_decay else None


@keras.saving.register_keras_serializable(package="diffstride")
class ResidualLayer(keras.layers.Layer):
    """Two convolutions and a shortcut, with a pooling slot between them.

    Args:
        filters: integer. Number of output channels.
        kernel_size: integer or tuple of two. Size of both convolutions.
            Defaults to 3.
        strides: number or tuple of two. Downsampling factors of height and
            width, integers where `pooling_cls` is None. Defaults to 1.
        pooling_cls: None for a strided convolution, or a class, a function or a
            config dict that makes a pooling layer (see
            `diffstride.models.pooling_slot`), which follows the first
            convolution and is shared with the shortcut.
        project: whether the shortcut is a 1x1 convolution. Without one the
            input must have `filters` channels. Defaults to False.
        channels_first: whether inputs are `(batch, channels, height, width)`.
            Defaults to False.
        weight_decay: float. Factor of the L2 penalty on the kernels. Defaults
            to 0.
        pre_activation: whether batch normalisation and rectification precede
            each convolution (He et al., 2016b) or follow it (He et al., 2016a).
            Defaults to True.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height,
        width)` with `channels_first=True`.

    Output shape:
        As the input, with `filters` channels, and the height and width that a
        strided convolution or the pooling layer leaves.

    Example:

    >>> layer = ResidualLayer(filters=8, strides=2, project=True)
    >>> tuple(layer(np.ones((1, 16, 16, 4))).shape)
    (1, 8, 8, 8)
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        strides=1,
        pooling_cls=None,
        project=False,
        channels_first=False,
        weight_decay=0.0,
        pre_activation=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.project = project
        self.channels_first = channels_first
        self.weight_decay = weight_decay
        self.pre_activation = pre_activation
        self.input_spec = keras.layers.InputSpec(ndim=4)

        data_format = "channels_first" if channels_first else "channels_last"
        convolution_strides, self.pooling = pooling_slot.downsampling(
            pooling_cls, strides, data_format, f"{self.name}_pooling"
        )
        convolve = functools.partial(
            convolution,
            filters,
            weight_decay=weight_decay,
            data_format=data_format,
            dtype=self.dtype_policy,
        )
        normalize = functools.partial(
            normalization, data_format, dtype=self.dtype_policy
        )
        self.convolution1 = convolve(
            kernel_size, strides=convolution_strides, name="convolution1"
        )
        self.convolution2 = convolve(kernel_size, name="convolution2")
        self.normalization1 = normalize(name="normalization1")
        self.normalization2 = normalize(name="normalization2")
        self.shortcut = None
        self.shortcut_normalization = None
        if project:
            self.shortcut = convolve(
                1, strides=convolution_strides, name="shortcut"
            )
            if not pre_activation:
                self.shortcut_normalization = normalize(
                    name="shortcut_normalization"
                )
        elif convolution_strides != (1, 1):
            # Without parameters: the pixels that a 1x1 convolution would read.
            self.shortcut = keras.layers.MaxPooling2D(
                1,
                strides=convolution_strides,
                padding="same",
                data_format=data_format,
                name="shortcut",
            )

    def build(self, input_shape):
        channels = input_shape[1 if self.channels_first else -1]
        if not self.project and channels != self.filters:
            raise ValueError(
                "`filters` must equal the number of input channels when "
                f"`project=False`. Received: filters={self.filters}, "
                f"input_shape={input_shape}"
            )
        hidden_shape = self.convolution1.compute_output_shape(input_shape)
        self.convolution1.build(input_shape)
        shortcut_shape = input_shape
        if self.pooling is not None:
            self.pooling.build(hidden_shape)
            hidden_shape = self.pooling.compute_output_shape(hidden_shape)
            shortcut_shape = self.pooling.compute_output_shape(input_shape)
        self.convolution2.build(hidden_shape)
        self.normalization1.build(
            input_shape if self.pre_activation else hidden_shape
        )
        self.normalization2.build(hidden_shape)
        if self.shortcut is not None:
            self.shortcut.build(shortcut_shape)
        if self.shortcut_normalization is not None:
            self.shortcut_normalization.build(hidden_shape)

    def call(self, inputs, training=None):
        x = shortcut = inputs
        if self.pre_activation:
            x = self._rectify(self.normalization1, x, training)
            # A projection reads what the convolution reads.
            shortcut = x if self.project else inputs
        x = self.convolution1(x)
        if self.pooling is not None:
            x = self.pooling(x)
            shortcut = self.pooling(shortcut)
        if self.pre_activation:
            x = self._rectify(self.normalization2, x, training)
        else:
            x = self._rectify(self.normalization1, x, training)
        x = self.convolution2(x)
        if not self.pre_activation:
            x = self.normalization2(x, training=training)
        if self.shortcut is not None:
            shortcut = self.shortcut(shortcut)
        if self.shortcut_normalization is not None:
            shortcut = self.shortcut_normalization(shortcut, training=training)
        outputs = x + shortcut
        return outputs if self.pre_activation else ops.relu(outputs)

    def _rectify(self, normalization, inputs, training):
        return ops.relu(normalization(inputs, training=training))

    def compute_output_shape(self, input_shape):
        shape = self.convolution1.compute_output_shape(input_shape)
        if self.pooling is not None:
            shape = self.pooling.compute_output_shape(shape)
        return self.convolution2.compute_output_shape(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "pooling_cls": pooling_slot.pooling_config(self.pooling),
            "project": self.project,
            "channels_first": self.channels_first,
            "weight_decay": self.weight_decay,
            "pre_activation": self.pre_activation,
        }


@keras.saving.register_keras_serializable(package="diffstride")
class ResnetBlock(keras.layers.Layer):
    """Residual layers at one resolution; the first of them downsamples.

    Args:
        filters: integer. Number of output channels.
        kernel_size: integer or tuple of two. Size of the convolutions.
            Defaults to 3.
        strides: number or tuple of two. Downsampling factors of the first
            layer. Defaults to 1.
        pooling_cls: None, class, function or config dict. The pooling slot of
            the first layer (see `diffstride.models.pooling_slot`).
        num_layers: integer. Number of residual layers. Defaults to 2.
        project_first: whether the shortcut of the first layer is a 1x1
            convolution. Defaults to True.
        id_only: whether all layers are identity layers: no projection, no slot,
            no downsampling. Defaults to False.
        channels_first: whether inputs are `(batch, channels, height, width)`.
            Defaults to False.
        weight_decay: float. Factor of the L2 penalty on the kernels. Defaults
            to 0.
        pre_activation: whether batch normalisation and rectification precede
            each convolution or follow it. Defaults to True.

    Input and output shape:
        As `ResidualLayer`.

    Example:

    >>> block = ResnetBlock(filters=8, strides=2, num_layers=3)
    >>> tuple(block(np.ones((1, 16, 16, 4))).shape)
    (1, 8, 8, 8)
    """

    def __init__(
        self,
        filters,
        kernel_size=3,
        strides=1,
        pooling_cls=None,
        num_layers=2,
        project_first=True,
        id_only=False,
        channels_first=False,
        weight_decay=0.0,
        pre_activation=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.num_layers = num_layers
        self.project_first = project_first
        self.id_only = id_only
        self.channels_first = channels_first
        self.weight_decay = weight_decay
        self.pre_activation = pre_activation
        self.input_spec = keras.layers.InputSpec(ndim=4)
        if num_layers < 1:
            raise ValueError(
                "`num_layers` must be 1 or more. "
                f"Received: num_layers={num_layers} for {self.name}"
            )
        if id_only and pooling_slot.strides_pair(strides, self.name) != (1, 1):
            raise ValueError(
                "`strides` must be 1 when `id_only=True`. "
                f"Received: strides={strides} for {self.name}"
            )
        first = {
            "strides": strides,
            "pooling_cls": pooling_cls,
            "project": project_first,
        }
        self.residual_layers = [
            ResidualLayer(
                filters,
                kernel_size,
                channels_first=channels_first,
                weight_decay=weight_decay,
                pre_activation=pre_activation,
                dtype=self.dtype_policy,
                name=f"{self.name}_layer{index + 1}",
                **(first if index == 0 and not id_only else {}),
            )
            for index in range(num_layers)
        ]

    def build(self, input_shape):
        for layer in self.residual_layers:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)

    def call(self, inputs, training=None):
        for layer in self.residual_layers:
            inputs = layer(inputs, training=training)
        return inputs

    def compute_output_shape(self, input_shape):
        for layer in self.residual_layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "pooling_cls": pooling_slot.pooling_config(
                self.residual_layers[0].pooling
            ),
            "num_layers": self.num_layers,
            "project_first": self.project_first,
            "id_only": self.id_only,
            "channels_first": self.channels_first,
            "weight_decay": self.weight_decay,
            "pre_activation": self.pre_activation,
        }
