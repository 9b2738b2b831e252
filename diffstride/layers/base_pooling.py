"""What the spectral layers share, whatever the number of axes they resample.

The mathematics is in `diffstride.ops.spectral`, the documentation of the
arguments with the layers in `diffstride.layers.pooling`.
"""

import functools
import math
import warnings

import keras
import numpy as np
from keras import ops

from diffstride.layers import compiled_functions
from diffstride.layers.graph_sizes import (
    GraphSizes,
    resolve_static_sizes,
    sizes_can_follow,
)
from diffstride.layers.strides import (
    StrideConstraint,
    StridesVariable,
    as_floats,
)
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
        self.size_multiple = check_size_multiple(size_multiple)
        if trainable and smoothness_factor == 0:
            warnings.warn(
                f"The strides of layer '{self.name}' do not learn, because a "
                "window without a ramp has no gradient. Use "
                "`trainable=False`, or a `smoothness_factor` above 0. "
                "Received: smoothness_factor=0",
                stacklevel=2,
            )
        self.is_static = resolve_static_sizes(static_sizes, trainable)
        # A copy has the same kind of sizes, even if `trainable` has changed.
        # Under JAX there is one kind only.
        if static_sizes is None and sizes_can_follow():
            static_sizes = self.is_static
        self.static_sizes = static_sizes
        # XLA compiles a graph only if every size in it is a constant.
        self.supports_jit = self.is_static
        self._strides = None
        self._is_checked = False
        self.graph_sizes = GraphSizes(self._initial_strides, self._sizes_from)

    @property
    def strides(self):
        """The learned strides: a weight, as soon as the layer is built."""
        return self._initial_strides if self._strides is None else self._strides

    @property
    def _rules(self):
        if self.symmetric or self.ramp == "inside":
            return ("symmetric",) * self.rank
        return super()._rules

    def build(self, input_shape):
        sizes = self._sizes(input_shape)
        count = 1 if self.shared_stride else self.rank
        strides = self._in_effect(self._initial_strides, sizes)[:count]
        variable = StridesVariable(
            keras.initializers.Constant(strides),
            shape=(count,),
            dtype="float32",
            autocast=False,
            name="strides",
        )
        variable.constraint = StrideConstraint(
            *(limits[:count] for limits in self._limits(sizes))
        )
        self._strides = variable
        variable.trainable = self.trainable
        self.graph_sizes.listen_to(variable, tuple(map(float, strides)))

    def _limits(self, sizes):
        """The smallest and the largest stride of each axis.

        An unknown size has the limits of the user alone, which hold in any
        case.
        """
        lower = [self.lower_limit_stride or 1.0] * self.rank
        upper = [self.upper_limit_stride or math.inf] * self.rank
        for index, size in enumerate(sizes):
            if size is not None:
                shape = size, self.smoothness_factor, self.ramp
                largest = windows.maximum_stride(*shape)
                least = scalars.minimum(windows.minimum_stride(*shape), largest)
                largest = scalars.maximum(largest, lower[index])
                upper[index] = scalars.minimum(largest, upper[index])
                lower[index] = scalars.maximum(least, lower[index])
        if self.shared_stride:
            lower = [functools.reduce(scalars.maximum, lower)] * self.rank
            upper = [functools.reduce(scalars.minimum, upper)] * self.rank
        return lower, upper

    def _in_effect(self, strides, sizes):
        """The strides of all axes, within their limits."""
        axes = [0] * self.rank if self.shared_stride else range(self.rank)
        return [
            scalars.minimum(scalars.maximum(strides[axis], least), largest)
            for axis, least, largest in zip(
                axes, *self._limits(sizes), strict=True
            )
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
        if not self.is_static:
            return (None,) * self.rank
        self.graph_sizes.read()
        return self._sizes_from(self.graph_sizes.strides, sizes)

    def _sizes_in_call(self, strides, sizes):
        """The sizes of the output, as numbers if anything knows them."""
        if not self.cropping:
            return sizes
        if not all(isinstance(size, int) for size in sizes):
            return self._sizes_from(ops.stop_gradient(strides), sizes)
        known_strides = as_floats(strides)
        if known_strides is not None:
            return self._sizes_from(known_strides, sizes)
        if self.is_static:
            return self.graph_sizes.in_graph(sizes)
        return self._sizes_from(ops.stop_gradient(strides), sizes)

    def _filters(self, sizes):
        strides = ops.convert_to_tensor(self._strides)
        if self.trainable and not self._is_checked:
            self._is_checked = compiled_functions.run_checks(self)
        out_sizes = self._sizes_in_call(strides, sizes)
        return [
            spectral.axis_filter(
                windows.window_weights(
                    size,
                    out_size,
                    stride,
                    self.smoothness_factor,
                    self.ramp,
                    rule,
                    self.cropping,
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

    def refresh_sizes(self):
        """Lets static sizes in graphs follow the strides.

        The functions that a Keras model has compiled are replaced, if they
        contain a size that has changed. A `tf.function` or a `jax.jit` of your
        own is not: make it anew if this method returns True.

        Returns:
            Whether a size has changed in a graph that contains the layer.
        """
        return self.graph_sizes.refresh()

    def save_own_variables(self, store):
        super().save_own_variables(store)
        held = self.graph_sizes.held
        if held is not None:
            # In the middle of an epoch, sizes of training steps follow from
            # the strides at its start. An interrupted training goes on so.
            store["sizing_strides"] = np.array(held, "float32")

    def load_own_variables(self, store):
        weights = {k: store[k] for k in store.keys() if k != "sizing_strides"}
        super().load_own_variables(weights)
        if "sizing_strides" in store.keys():
            held = tuple(map(float, store["sizing_strides"]))
            self.graph_sizes.held = held

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

    @classmethod
    def from_config(cls, config):
        if not config.get("static_sizes") and not sizes_can_follow():
            # Saved on another backend, where sizes may follow the strides.
            config = {**config, "static_sizes": None}
        return super().from_config(config)
