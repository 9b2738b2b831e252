"""What the layers that learn strides share, whatever their number of axes.

The documentation of the arguments is with the layers in
`diffstride.layers.pooling`.
"""

import functools
import math
import warnings

import keras
import numpy as np
from keras import ops

from diffstride.layers import compiled_functions
from diffstride.layers.base_pooling import BaseSpectralPooling
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
from diffstride.ops import scalars, spectral, windows
from diffstride.types import Strides
from diffstride.validation import (
    check_aliasing,
    check_choice,
    check_limits,
    check_not_negative,
    check_size_multiple,
)

# The ramp of the 2022 release, and one that leaves most of the pass band of a
# small map alone: docs/results.md compares it with others.
_SMOOTHNESS_FACTORS = {"outside": 4.0, "inside": 1.0}


class BaseDiffStride(BaseSpectralPooling):
    """A window on the spectrum whose width follows from trained strides."""

    def __init__(
        self,
        strides: Strides = 2.0,
        smoothness_factor: float | None = None,
        cropping: bool = True,
        trainable: bool = True,
        shared_stride: bool = False,
        lower_limit_stride: float | None = None,
        upper_limit_stride: float | None = None,
        data_format: str | None = None,
        symmetric: bool = False,
        norm: str = "backward",
        ramp: str = "outside",
        static_sizes: bool | None = None,
        size_multiple: int = 1,
        aliasing: float = 0.0,
        **kwargs,
    ):
        super().__init__(
            strides, data_format, norm, trainable=trainable, **kwargs
        )
        self.ramp = check_choice(ramp, "ramp", ("outside", "inside"))
        if smoothness_factor is None:
            smoothness_factor = _SMOOTHNESS_FACTORS[ramp]
        check_not_negative(smoothness_factor=smoothness_factor)
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
        self._initial_aliasing = check_aliasing(
            aliasing, is_symmetric=symmetric or ramp == "inside"
        )
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
        self._aliasing = None
        # Whether a callback lowers the aliasing.
        self.is_fading = False
        self._is_checked = False
        self.graph_sizes = GraphSizes(self._initial_strides, self._sizes_from)

    @property
    def strides(self):
        """The learned strides: a weight, as soon as the layer is built."""
        return self._initial_strides if self._strides is None else self._strides

    @property
    def aliasing(self):
        """Weight of what lies beyond the window: a number, or a Keras weight.

        It is a weight, which is not trained and may be set, in a built layer
        that was made with an `aliasing` above zero.
        """
        if self._aliasing is None:
            return self._initial_aliasing
        return self._aliasing

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
        if self._initial_aliasing:
            self._aliasing = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(self._initial_aliasing),
                dtype="float32",
                autocast=False,
                trainable=False,
                name="aliasing",
            )
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
                largest = windows.maximum_stride(size)
                if self._initial_aliasing:
                    # It may take one point of two, as strides do.
                    initial = self._initial_strides[index]
                    largest = scalars.maximum(
                        largest,
                        scalars.minimum(initial, scalars.float32(size)),
                    )
                least = scalars.minimum(
                    windows.minimum_stride(
                        size, self.smoothness_factor, self.ramp
                    ),
                    largest,
                )
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
        aliasing = self._aliasing_in_call()
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
                    aliasing,
                ),
                size,
                out_size,
                self.norm,
                rule,
                keeps_all=aliasing is not None,
            )
            for size, out_size, stride, rule in zip(
                sizes,
                out_sizes,
                self._straight_through(strides, sizes),
                self._rules,
                strict=True,
            )
        ]

    def _aliasing_in_call(self):
        """None if no frequency beyond the window has a weight."""
        if self._aliasing is None:
            return self._initial_aliasing or None
        return ops.convert_to_tensor(self._aliasing)

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

    def refresh_sizes(self) -> bool:
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
            "aliasing": self._initial_aliasing,
        }

    @classmethod
    def from_config(cls, config):
        if not config.get("static_sizes") and not sizes_can_follow():
            # Saved on another backend, where sizes may follow the strides.
            config = {**config, "static_sizes": None}
        return super().from_config(config)
