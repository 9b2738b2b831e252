"""What the spectral layers share, whatever the number of axes they resample.

The mathematics is in `diffstride.ops.spectral`, the documentation of the
arguments with the layers in `diffstride.layers.pooling`.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from diffstride.ops import (
    scalars,
    spectral,
    windows,
)
from diffstride.validation import (
    check_choice,
    check_data_format,
    check_floating_point,
    check_limits,
    check_size_multiple,
    check_smoothness_factor,
    check_strides,
)


@keras.saving.register_keras_serializable(package="diffstride")
class StrideConstraint(keras.constraints.Constraint):
    """Keeps strides at 1 or more, and within limits.

    Args:
        lower_limit: number, or one for each axis. Smallest stride.
        upper_limit: number, or one for each axis. Largest stride; it prevails
            where the limits cross.

    Example:

    >>> constraint = StrideConstraint(upper_limit=3.0)
    >>> keras.ops.convert_to_numpy(constraint(np.array([0.5, 4.0]))).tolist()
    [1.0, 3.0]
    """

    def __init__(self, lower_limit=None, upper_limit=None):
        self.lower_limit = lower_limit
        self.upper_limit = upper_limit

    def __call__(self, strides):
        strides = ops.convert_to_tensor(strides)

        def as_tensor(limit):
            return ops.convert_to_tensor(limit, dtype=strides.dtype)

        if self.lower_limit is not None:
            strides = ops.maximum(strides, as_tensor(self.lower_limit))
        if self.upper_limit is not None:
            strides = ops.minimum(strides, as_tensor(self.upper_limit))
        return ops.maximum(strides, as_tensor(1))

    def get_config(self):
        return {
            "lower_limit": self.lower_limit,
            "upper_limit": self.upper_limit,
        }


class BaseSpectralPooling(keras.layers.Layer):
    """Filters `rank` spatial axes in the Fourier domain and resizes them.

    A subclass says which size comes out of an axis (`_output_sizes`, None where
    it is unknown) and which filter leads there (`_filters`).
    """

    rank = None

    def __init__(
        self, strides=2.0, data_format=None, norm="backward", **kwargs
    ):
        super().__init__(**kwargs)
        self._initial_strides = check_strides(strides, self.rank)
        self.data_format = check_data_format(data_format)
        self.norm = check_choice(norm, "norm", ("backward", "ortho", "forward"))
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2)
        first = 1 if self.data_format == "channels_last" else 2
        self._axes = tuple(range(first, first + self.rank))

    @property
    def _rules(self):
        """How each axis reads its window (see `diffstride.ops.windows`)."""
        if self.rank == 2:
            return ("height", "width")
        return ("symmetric",) * (self.rank - 1) + ("width",)

    def _sizes(self, shape):
        return tuple(shape[axis] for axis in self._axes)

    def call(self, inputs):
        self._check_floating(inputs)
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
        output_shape = list(input_shape)
        sizes = self._output_sizes(self._sizes(input_shape))
        for axis, size in zip(self._axes, sizes, strict=True):
            output_shape[axis] = size
        return tuple(output_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "strides": list(self._initial_strides),
            "data_format": self.data_format,
            "norm": self.norm,
        }


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


class BaseDiffStride(BaseSpectralPooling):
    """A window on the spectrum whose width follows from trained strides."""

    def __init__(
        self,
        strides=2.0,
        smoothness_factor=4.0,
        cropping=True,
        trainable=True,
        shared_stride=False,
        lower_limit_stride=None,
        upper_limit_stride=None,
        data_format=None,
        symmetric=False,
        norm="backward",
        ramp="outside",
        static_sizes=None,
        size_multiple=1,
        **kwargs,
    ):
        super().__init__(
            strides, data_format, norm, trainable=trainable, **kwargs
        )
        check_smoothness_factor(smoothness_factor)
        check_limits(lower_limit_stride, upper_limit_stride)
        if shared_stride and len(set(self._initial_strides)) > 1:
            raise ValueError(
                "`strides` must be equal on all axes when `shared_stride` is "
                f"True. Received: strides={self._initial_strides}"
            )
        self.smoothness_factor = smoothness_factor
        self.cropping = cropping
        self.shared_stride = shared_stride
        self.lower_limit_stride = lower_limit_stride
        self.upper_limit_stride = upper_limit_stride
        self.symmetric = symmetric
        self.ramp = check_choice(ramp, "ramp", ("outside", "inside"))
        self.static_sizes = static_sizes
        self.size_multiple = check_size_multiple(size_multiple)
        # XLA compiles a graph only where every size in it is a constant.
        self.supports_jit = self._static = _resolve_static_sizes(
            static_sizes, trainable
        )
        # Static sizes follow from the strides as last read. What a graph was
        # built with is kept as {input sizes: output sizes}.
        self._sizing_strides = self._initial_strides
        self.built_sizes = {}

    @property
    def strides(self):
        """The learned strides: a weight, as soon as the layer is built."""
        return self._strides if self.built else self._initial_strides

    @property
    def _rules(self):
        if self.symmetric or self.ramp == "inside":
            return ("symmetric",) * self.rank
        return super()._rules

    def build(self, input_shape):
        sizes = self._sizes(input_shape)
        count = 1 if self.shared_stride else self.rank
        self._sizing_strides = tuple(
            map(float, self._in_effect(self._initial_strides, sizes)[:count])
        )
        self._strides = self.add_weight(
            name="strides",
            shape=(count,),
            initializer=keras.initializers.Constant(self._sizing_strides),
            constraint=StrideConstraint(
                self._lower_limits(sizes)[:count], self.upper_limit_stride
            ),
            dtype="float32",
            autocast=False,
        )

    def _lower_limits(self, sizes):
        """The smallest stride of each axis; on an unknown size, the user's."""
        user_limit = self.lower_limit_stride or 1.0
        limits = [user_limit] * self.rank
        for index, size in enumerate(sizes):
            if size is not None:
                limits[index] = scalars.maximum(
                    windows.minimum_stride(
                        size, self.smoothness_factor, self.ramp
                    ),
                    user_limit,
                )
        if self.shared_stride:
            limits = [functools.reduce(scalars.maximum, limits)] * self.rank
        return limits

    def _in_effect(self, strides, sizes):
        """The strides of all axes, within their limits."""
        if self.shared_stride:
            strides = [strides[0]] * self.rank
        upper = self.upper_limit_stride or math.inf
        return [
            scalars.minimum(scalars.maximum(strides[index], lower), upper)
            for index, lower in enumerate(self._lower_limits(sizes))
        ]

    def _sizes_from(self, strides, sizes):
        strides = self._in_effect(strides, sizes)
        return tuple(
            None
            if size is None
            else windows.output_size(
                size,
                stride,
                self.smoothness_factor,
                self.ramp,
                rule,
                self.size_multiple,
            )
            for size, stride, rule in zip(
                sizes, strides, self._rules, strict=True
            )
        )

    def _output_sizes(self, sizes):
        if not self.cropping:
            return sizes
        if not self._static:
            return (None,) * self.rank
        return self._sizes_from(self._sizing_strides, sizes)

    def _filters(self, sizes):
        strides = ops.convert_to_tensor(self._strides)
        if not self.cropping:
            out_sizes = sizes
        elif self._static and all(isinstance(size, int) for size in sizes):
            # A note of what the graph under construction relies on. A graph of
            # unknown sizes computes them, and needs no refresh.
            out_sizes = self.built_sizes[sizes] = self._output_sizes(sizes)
        else:
            out_sizes = self._sizes_from(ops.stop_gradient(strides), sizes)
        return [
            spectral.axis_filter(
                windows.window_weights(
                    size,
                    out_size,
                    stride,
                    self.smoothness_factor,
                    self.ramp,
                    rule,
                ),
                size,
                out_size,
                self.norm,
                rule,
            )
            for size, out_size, stride, rule in zip(
                sizes,
                out_sizes,
                self._straight_through(strides, sizes),
                self._rules,
                strict=True,
            )
        ]

    def _straight_through(self, strides, sizes):
        """Strides in effect; a stride at its limit keeps its gradient."""
        count = self._strides.shape[0]
        return [
            trained + ops.stop_gradient(in_effect - trained)
            for trained, in_effect in zip(
                [strides[index % count] for index in range(self.rank)],
                self._in_effect(strides, sizes),
                strict=True,
            )
        ]

    def sizes_follow(self, built_sizes):
        """Whether the strides as last read lead to the given sizes."""
        return all(
            self._sizes_from(self._sizing_strides, sizes) == out_sizes
            for sizes, out_sizes in built_sizes.items()
        )

    def refresh_sizes(self):
        """Lets static sizes follow the strides.

        Returns:
            True where a size changed, so that functions compiled from the
            layer are out of date (see `diffstride.RefreshSizes`).
        """
        self._read_strides()
        if self.sizes_follow(self.built_sizes):
            return False
        self.built_sizes = {}
        return True

    def _read_strides(self):
        self._sizing_strides = tuple(
            float(stride) for stride in ops.convert_to_numpy(self._strides)
        )

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self._static:
            store["sizing_strides"] = np.array(self._sizing_strides, "float32")

    def load_own_variables(self, store):
        weights = {k: store[k] for k in store.keys() if k != "sizing_strides"}
        super().load_own_variables(weights)
        # What functions were built with stays known: they may be out of date.
        if "sizing_strides" in store.keys():
            self._sizing_strides = tuple(map(float, store["sizing_strides"]))
        else:
            self._read_strides()

    def get_config(self):
        return {
            **super().get_config(),
            "smoothness_factor": self.smoothness_factor,
            "cropping": self.cropping,
            "shared_stride": self.shared_stride,
            "lower_limit_stride": self.lower_limit_stride,
            "upper_limit_stride": self.upper_limit_stride,
            "symmetric": self.symmetric,
            "ramp": self.ramp,
            "static_sizes": self.static_sizes,
            "size_multiple": self.size_multiple,
        }


def _resolve_static_sizes(static_sizes, trainable):
    """Whether sizes are constants of a graph, when the user does not say."""
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if static_sizes is None:
        # A stride that is not trained needs no dynamic size.
        return not (on_tensorflow and trainable)
    if not static_sizes and not on_tensorflow:
        raise ValueError(
            "`static_sizes=False` needs the TensorFlow backend, where the size "
            "of a tensor may depend on values. Received: static_sizes=False "
            f"on the {keras.backend.backend()} backend"
        )
    return bool(static_sizes)
