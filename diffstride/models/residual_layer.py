"""A residual layer whose downsampling is a pooling slot.

One pooling layer serves the main path and the shortcut, so that both have one
size even while their strides are learned. A layer with weights for the channels
of its input cannot do so: the shortcut then has a second one.

With `pooling_order="after"`:

    main:      convolution -> pooling -> convolution
    shortcut:  pooling -> 1x1 convolution, or nothing

With `pooling_order="before"`:

    main:      pooling -> convolution -> convolution
    shortcut:  pooling -> 1x1 convolution, or nothing

The 2022 release pools the shortcut after its convolution. Pooling acts on space
and a 1x1 convolution on channels, so the order does not change the numbers;
pooling first leaves fewer operations to the convolution.

References:
    - He et al., [Deep residual learning for image recognition](
      https://arxiv.org/abs/1512.03385), 2016: `pre_activation=False`.
    - He et al., [Identity mappings in deep residual networks](
      https://arxiv.org/abs/1603.05027), 2016: `activated_shortcut=True`.
    - Riad et al., [Learning strides in convolutional neural networks](
      https://arxiv.org/abs/2202.01653), 2022: section 2.4.1 and Figure 2.
"""

import functools
from collections.abc import Sequence

import keras
from keras import ops

from diffstride.models import pooling_slot
from diffstride.types import Pooling, Strides

# The behaviour of version 0.1, for configs saved before these were arguments.
VERSION_0_1 = {"activated_shortcut": True, "downsample_identity": True}


def normalization(
    data_format: str, **kwargs
) -> keras.layers.BatchNormalization:
    return keras.layers.BatchNormalization(
        axis=1 if data_format == "channels_first" else -1,
        momentum=0.9,
        epsilon=1e-5,
        **kwargs,
    )


def convolution(
    filters: int,
    kernel_size: int | Sequence[int],
    *,
    weight_decay: float,
    data_format: str,
    **kwargs,
) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        use_bias=False,
        data_format=data_format,
        kernel_initializer="he_normal",
        kernel_regularizer=decay(weight_decay),
        **{"padding": "same", **kwargs},
    )


def decay(weight_decay: float) -> keras.regularizers.Regularizer | None:
    return keras.regularizers.L2(weight_decay) if weight_decay else None


@keras.saving.register_keras_serializable(package="diffstride")
class ResidualLayer(keras.layers.Layer):
    """Two convolutions and a shortcut, with a pooling slot between them.

    By default it is the layer of the 2022 release: the projection reads the raw
    input of the layer, and a layer without projection keeps the size of its
    input, whatever `strides` and `pooling_cls` say. The data format differs
    (`channels_first` was True), and so does batch normalisation, whose momentum
    of 0.9 and epsilon of 1e-5 are what the config of the release bound.

    Args:
        filters: integer. Number of output channels.
        kernel_size: integer or tuple of two. Size of both convolutions.
            Defaults to 3.
        strides: number or tuple of two. Downsampling factors of height and
            width, integers if `pooling_cls` is None. Defaults to `(1, 1)`.
        pooling_cls: None for a strided convolution, or a class, a function or a
            config dict that makes a pooling layer (see
            `diffstride.models.pooling_slot`), which stands beside the first
            convolution and is shared with the shortcut.
        project: whether the shortcut is a 1x1 convolution. Without one the
            input must have `filters` channels. Defaults to False.
        channels_first: whether inputs are `(batch, channels, height, width)`.
            Defaults to False.
        weight_decay: float. Factor of the L2 penalty on the kernels. Defaults
            to 5e-3.
        pre_activation: whether batch normalisation and rectification precede
            each convolution (He et al., 2016b) or follow it (He et al., 2016a).
            Defaults to True.
        activated_shortcut: whether the projection reads the normalised and
            rectified input, as the first convolution does (He et al., 2016b).
            Only with `pre_activation=True`. Defaults to False.
        downsample_identity: whether a layer without projection downsamples too,
            so that its shortcut is only pooled. Defaults to False.
        pooling_order: `"after"`, the default: the pooling layer follows the
            first convolution. `"before"`: it stands directly before this
            convolution, and so after the normalisation and rectification of
            `pre_activation=True`, which see all points of the input. Where the
            shortcut reads the same map, with a projection and
            `activated_shortcut=True`, or with `pre_activation=False`, this map
            is pooled once for both paths. Without a pooling layer the value
            does not matter.
        border: None, or two tuples of two: `((top, bottom), (left, right))`. So
            many zeros around the input of the first convolution, in place of
            those of `padding="same"`. `diffstride.learn_strides` sets it, so
            that windows start where they started with strides.

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
        filters: int,
        kernel_size: int | Sequence[int] = 3,
        strides: Strides = (1, 1),
        pooling_cls: Pooling = None,
        project: bool = False,
        channels_first: bool = False,
        weight_decay: float = 5e-3,
        *,
        pre_activation: bool = True,
        activated_shortcut: bool = False,
        downsample_identity: bool = False,
        pooling_order: str = "after",
        border: Sequence[Sequence[int]] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = pooling_slot.strides_of_axes(strides, self.name)
        if not project and not downsample_identity:
            self.strides, pooling_cls = (1, 1), None
        self.project = project
        self.channels_first = channels_first
        self.weight_decay = weight_decay
        self.pre_activation = pre_activation
        self.activated_shortcut = activated_shortcut
        self.downsample_identity = downsample_identity
        self.pooling_order = pooling_slot.check_pooling_order(pooling_order)
        self.border = border and tuple(map(tuple, border))
        self.input_spec = keras.layers.InputSpec(ndim=4)

        data_format = "channels_first" if channels_first else "channels_last"
        convolution_strides = pooling_slot.convolution_strides(
            self.strides, pooling_cls, self.name
        )
        slot = (pooling_cls, self.strides, data_format)
        self.pooling = pooling_slot.make_pooling(
            *slot, f"{self.name}_pooling", self.dtype_policy
        )
        self.shortcut_pooling = None
        if not self._pools_one_map():
            self.shortcut_pooling = pooling_slot.make_shortcut_pooling(
                self.pooling,
                *slot,
                f"{self.name}_shortcut_pooling",
                self.dtype_policy,
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
            kernel_size,
            strides=convolution_strides,
            padding="same" if self.border is None else "valid",
            name="convolution1",
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
            # No parameters: it takes the pixels that a strided 1x1 convolution
            # would read.
            self.shortcut = keras.layers.MaxPooling2D(
                1,
                strides=convolution_strides,
                padding="same",
                data_format=data_format,
                name="shortcut",
                dtype=self.dtype_policy,
            )

    def build(self, input_shape):
        channels = input_shape[1 if self.channels_first else -1]
        if self.shortcut_pooling is not None:
            self.shortcut_pooling.build(input_shape)
        if not self.project and channels != self.filters:
            raise ValueError(
                "`filters` must equal the number of input channels when "
                f"`project=False`. Received: filters={self.filters}, "
                f"input_shape={input_shape}"
            )
        if self._pools("before"):
            self.pooling.build(input_shape)
            input_shape = self.pooling.compute_output_shape(input_shape)
        hidden_shape = self._hidden_shape(input_shape)
        self.convolution1.build(input_shape)
        shortcut_shape = input_shape
        if self._pools("after"):
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
            if self.activated_shortcut and self.project:
                shortcut = x
        if self._pools_one_map():
            x = shortcut = self.pooling(x)
        elif self._pools("before"):
            x, shortcut = self._pool_both(x, shortcut)
        x = self._pad(x, self.border)
        shortcut = self._pad(shortcut, self._shortcut_border())
        x = self.convolution1(x)
        if self._pools("after"):
            x, shortcut = self._pool_both(x, shortcut)
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

    def _pool_both(self, main, shortcut):
        return pooling_slot.pool_both(
            main, shortcut, self.pooling, self.shortcut_pooling
        )

    def _pools(self, order):
        """Whether there is a pooling layer, in this order."""
        return self.pooling is not None and self.pooling_order == order

    def _pools_one_map(self):
        """Whether both paths begin with one map, and it is what is pooled."""
        return self._pools("before") and (
            not self.pre_activation
            or (self.activated_shortcut and self.project)
        )

    def _shortcut_border(self):
        """What the shortcut needs to be as large as the main path."""
        if self.border is None:
            return None
        return tuple(
            (0, sum(pair) - (window - 1))
            for pair, window in zip(
                self.border, self.convolution1.kernel_size, strict=True
            )
        )

    def _pad(self, x, border):
        if not border or not any(map(any, border)):
            return x
        ends = ((0, 0),)
        if self.channels_first:
            return ops.pad(x, (*ends, *ends, *border))
        return ops.pad(x, (*ends, *border, *ends))

    def _hidden_shape(self, input_shape):
        """Shape of what the first convolution makes."""
        shape = list(input_shape)
        first = 2 if self.channels_first else 1
        for axis, pair in enumerate(self.border or (), start=first):
            if shape[axis] is not None:
                shape[axis] += sum(pair)
        return self.convolution1.compute_output_shape(shape)

    def _rectify(self, normalization, inputs, training):
        return ops.relu(normalization(inputs, training=training))

    def compute_output_shape(self, input_shape):
        shape = self._hidden_shape(input_shape)
        if self.pooling is not None:
            shape = self.pooling.compute_output_shape(shape)
        return self.convolution2.compute_output_shape(shape)

    def get_config(self):
        if self.pooling is None:
            slot = {"strides": self.strides, "pooling_cls": None}
        else:
            # The config of the pooling layer is the only place of the strides.
            config = pooling_slot.pooling_config(self.pooling, self.strides)
            slot = {"pooling_cls": config}
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            **slot,
            "project": self.project,
            "channels_first": self.channels_first,
            "weight_decay": self.weight_decay,
            "pre_activation": self.pre_activation,
            "activated_shortcut": self.activated_shortcut,
            "downsample_identity": self.downsample_identity,
            "pooling_order": self.pooling_order,
            "border": self.border,
        }

    @classmethod
    def from_config(cls, config):
        return super().from_config(with_strides(VERSION_0_1 | config))


def with_strides(config: dict) -> dict:
    """Takes strides that the config does not name from its pooling layer."""
    if "strides" not in config:
        strides = config["pooling_cls"]["config"]["strides"]
        config = {**config, "strides": strides}
    return config
