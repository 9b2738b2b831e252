"""Residual layers in a row, the first of which has a pooling slot."""

from collections.abc import Sequence

import keras

from diffstride.models.residual_layer import (
    VERSION_0_1,
    ResidualLayer,
    with_strides,
)
from diffstride.types import Pooling, Strides
from diffstride.validation import check_positive_integer


@keras.saving.register_keras_serializable(package="diffstride")
class ResnetBlock(keras.layers.Layer):
    """Residual layers of one size; the first of them downsamples.

    By default it is the block of the 2022 release: if `project_first` is False,
    all layers keep the size of their input, whatever `strides` says.

    Args:
        filters: integer. Number of output channels.
        strides: number or tuple of two. Downsampling factors of the first
            layer. Defaults to 1.
        num_layers: integer. Number of residual layers. Defaults to 2.
        project_first: whether the shortcut of the first layer is a 1x1
            convolution. Defaults to True.
        pooling_cls: None, class, function or config dict. The pooling slot of
            the first layer (see `diffstride.models.pooling_slot`).
        border: None, or two tuples of two. That of the first layer.
        **kwargs: the other arguments of `ResidualLayer`, for all layers.

    Attributes:
        layers: the residual layers.

    Input and output shape:
        As `ResidualLayer`.

    Example:

    >>> block = ResnetBlock(filters=8, strides=2, num_layers=3)
    >>> tuple(block(np.ones((1, 16, 16, 4))).shape)
    (1, 8, 8, 8)
    """

    def __init__(
        self,
        filters: int,
        strides: Strides = 1,
        num_layers: int = 2,
        project_first: bool = True,
        *,
        pooling_cls: Pooling = None,
        border: Sequence[Sequence[int]] | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype: str | None = None,
        **kwargs,
    ):
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        check_positive_integer(num_layers, "num_layers")
        self.input_spec = keras.layers.InputSpec(ndim=4)
        first = {
            "strides": strides,
            "pooling_cls": pooling_cls,
            "project": project_first,
            "border": border,
        }
        self.residual_layers = [
            ResidualLayer(
                filters,
                dtype=self.dtype_policy,
                name=f"{self.name}_layer{index + 1}",
                **(first if index == 0 else {}),
                **kwargs,
            )
            for index in range(num_layers)
        ]

    @property
    def layers(self):
        return self.residual_layers

    def __dir__(self):
        # Keras saves weights under the first attribute in `dir` that has them.
        # Hide `layers`, because files of version 0.1 say `residual_layers`.
        return [name for name in super().__dir__() if name != "layers"]

    @property
    def strides(self):
        """Initial downsampling factors of height and width."""
        return self.residual_layers[0].strides

    @property
    def channels_first(self):
        return self.residual_layers[0].channels_first

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
        config = self.residual_layers[0].get_config()
        project_first = config.pop("project")
        return {
            **config,
            **super().get_config(),
            "num_layers": len(self.residual_layers),
            "project_first": project_first,
        }

    @classmethod
    def from_config(cls, config):
        config = VERSION_0_1 | config
        # In version 0.1 this meant identity layers that keep the size.
        if config.pop("id_only", False):
            config |= {"project_first": False, "downsample_identity": False}
        return super().from_config(with_strides(config))
