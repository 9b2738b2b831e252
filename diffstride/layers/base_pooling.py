"""What the spectral layers share, whatever the number of axes they resample.

The mathematics is in `diffstride.ops.spectral`, the documentation of the
arguments with the layers in `diffstride.layers.pooling`.
"""

import keras
from keras import ops

from diffstride.ops import spectral, windows
from diffstride.types import Strides
from diffstride.validation import (
    check_choice,
    check_data_format,
    check_floating_point,
    check_strides,
)


class BaseSpectralLayer(keras.layers.Layer):
    """Works on `rank` spatial axes in the Fourier domain."""

    rank = None

    def __init__(self, data_format: str | None, norm: str, **kwargs):
        super().__init__(**kwargs)
        self.data_format = check_data_format(data_format)
        self.norm = check_choice(norm, "norm", ("backward", "ortho", "forward"))
        first = 1 if self.data_format == "channels_last" else 2
        self._axes = tuple(range(first, first + self.rank))

    @property
    def _rules(self):
        """How each axis reads its window (see `diffstride.ops.windows`)."""
        return ("symmetric",) * self.rank

    def _sizes(self, shape):
        return tuple(shape[axis] for axis in self._axes)

    def _resized(self, shape, sizes):
        """The shape of a map, with other spatial sizes."""
        shape = list(shape)
        for axis, size in zip(self._axes, sizes, strict=True):
            shape[axis] = size
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "data_format": self.data_format,
            "norm": self.norm,
        }


class BaseSpectralPooling(BaseSpectralLayer):
    """Filters `rank` spatial axes in the Fourier domain and shrinks them.

    A subclass says which size comes out of an axis (`_output_sizes`, None where
    it is unknown) and which filter leads there (`_filters`).
    """

    def __init__(
        self,
        strides: Strides = 2.0,
        data_format: str | None = None,
        norm: str = "backward",
        **kwargs,
    ):
        super().__init__(data_format, norm, **kwargs)
        self._initial_strides = check_strides(strides, self.rank)
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2)

    @property
    def _rules(self):
        if self.rank == 2:
            return ("height", "width")
        return ("symmetric",) * (self.rank - 1) + ("width",)

    def call(self, inputs):
        self._check_floating(inputs)
        return self._resample(inputs)

    def _resample(self, inputs):
        filters = self._filters(self._sizes(ops.shape(inputs)))
        return spectral.resample(inputs, filters, self._axes)

    def compute_output_spec(self, inputs):
        self._check_floating(inputs)
        return super().compute_output_spec(inputs)

    def _check_floating(self, inputs):
        check_floating_point(
            inputs,
            self.name,
            "cast or rescale them first, for instance with "
            "`keras.layers.Rescaling`",
        )

    def compute_output_shape(self, input_shape):
        sizes = self._output_sizes(self._sizes(input_shape))
        return self._resized(input_shape, sizes)

    def get_config(self):
        strides = list(self._initial_strides)
        return {**super().get_config(), "strides": strides}


class BaseFixedSpectralPooling(BaseSpectralPooling):
    """A hard crop of the spectrum, at strides that stay as they are."""

    @property
    def strides(self):
        return self._initial_strides

    def _output_sizes(self, sizes):
        return tuple(
            None
            if size is None
            else windows.fixed_output_size(size, stride, rule)
            for size, stride, rule in zip(
                sizes, self.strides, self._rules, strict=True
            )
        )

    def _filters(self, sizes):
        return [
            spectral.axis_filter(
                windows.crop_weights(out_size), size, out_size, self.norm, rule
            )
            for size, out_size, rule in zip(
                sizes, self._output_sizes(sizes), self._rules, strict=True
            )
        ]

    def call(self, inputs):
        sizes = self._sizes(inputs.shape)
        if None not in sizes and self._output_sizes(sizes) == sizes:
            self._check_floating(inputs)
            return ops.convert_to_tensor(inputs)
        return super().call(inputs)
