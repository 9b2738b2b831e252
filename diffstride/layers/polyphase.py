"""Subsampling that starts where the map itself says, to follow its shifts."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from diffstride.layers.base_slot_pooling import BaseSlotPooling
from diffstride.ops.borders import extend
from diffstride.validation import (
    check_choice,
    check_positive,
    check_positive_integer,
)


@keras.saving.register_keras_serializable(package="diffstride")
class PolyphasePooling(BaseSlotPooling):
    """Keeps every `strides`-th point, from a start that depends on the map.

    A map has `stride * stride` components of this kind, one for each start. The
    layer keeps one of them, the same for all channels of a map. If the map
    moves, in circles, the same points are kept, so that the output moves by a
    whole number of points. Behind convolutions with circular borders
    and in front of a global average, a classifier is then invariant to shifts.

    How a component is chosen:

    - `choice="norm"`: the one with the largest Euclidean norm. This is adaptive
      polyphase sampling (APS), without weights.
    - `choice="learned"`: the one with the largest score. A network scores each
      component: a 3x3 convolution, a rectification, the average over the
      component and a dense layer. This is learnable polyphase sampling (LPS).
      In training, Gumbel noise is added to the scores, and the gradient that
      the scores get is that of a softmax.

    Of two components that are equally good, the first one is kept. TIPS (Saha
    and Gokhale, 2025) is not offered: it mixes all components of each channel
    instead of choosing one, needs two losses of its own, and as published its
    weights do not follow shifts exactly.

    Args:
        strides: integer, or tuple of two. Downsampling factor of each axis.
            Defaults to 2.
        choice: `"norm"` or `"learned"`.
        hidden_channels: integer. Channels of the network that scores
            components. Defaults to 8.
        temperature: number above 0. Temperature of the softmax. The lower it
            is, the more the gradient is that of the chosen component alone.
            Defaults to 1.
        seed: integer or None. Seed of the noise.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.

    Call arguments:
        inputs: a map, or a list of maps of one height and width. The first one
            chooses for all, so that they still fit together, as those of main
            path and shortcut must.

    Input shape:
        `(batch, height, width, channels)` with `"channels_last"`,
        `(batch, channels, height, width)` with `"channels_first"`. A size that
        is no multiple of the stride is filled up with points from the other
        end; such a map is not followed exactly.

    Output shape:
        That of the input, with height and width divided by the strides, rounded
        up.

    Example:

    >>> x = np.array([0.0, 1.0, 0.0, 2.0]).reshape((1, 1, 4, 1))
    >>> layer = PolyphasePooling(strides=(1, 2))
    >>> keras.ops.convert_to_numpy(layer(x)).ravel().tolist()
    [1.0, 2.0]
    >>> moved = np.roll(x, 1, axis=2)
    >>> keras.ops.convert_to_numpy(layer(moved)).ravel().tolist()
    [2.0, 1.0]

    References:
        - Chaman and Dokmanić, [Truly shift-invariant convolutional neural
          networks](https://arxiv.org/abs/2011.14214), CVPR 2021.
        - Rojas-Gomez et al., [Learnable polyphase sampling for shift invariant
          and equivariant convolutional networks](
          https://arxiv.org/abs/2210.08001), NeurIPS 2022.
    """

    pools_together = True

    def __init__(
        self,
        strides: int | Sequence[int] = 2,
        choice: str = "norm",
        hidden_channels: int = 8,
        temperature: float = 1.0,
        seed: int | None = None,
        *,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(strides, data_format, **kwargs)
        self.choice = check_choice(choice, "choice", ("norm", "learned"))
        self.hidden_channels = check_positive_integer(
            hidden_channels, "hidden_channels"
        )
        check_positive(temperature=temperature)
        self.temperature = temperature
        self.seed = seed
        self.input_spec = None  # There may be several maps.
        self._is_learned = choice == "learned" and self.strides != (1, 1)
        if self._is_learned:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        shapes = _maps(input_shape)
        for shape in shapes:
            if len(shape) != 4:
                raise ValueError(
                    "`inputs` must be one map, or a list of them, each of four "
                    f"axes. Received: input_shape={input_shape}"
                )
        if self._is_learned:
            channels = shapes[0][self._channel_axis]
            self.convolution = keras.layers.Conv2D(
                self.hidden_channels,
                3,
                activation="relu",
                data_format="channels_last",
                dtype=self.dtype_policy,
                name="convolution",
            )
            self.score = keras.layers.Dense(
                1, dtype=self.dtype_policy, name="score"
            )
            self.convolution.build((None, None, None, channels))
            self.score.build((None, self.hidden_channels))

    def call(self, inputs, training=None):
        maps = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        for each in maps:
            self._check_floating(each)
        if self.strides == (1, 1):
            return inputs
        maps = [self._filled_up(each) for each in maps]
        weights = self._choose(maps[0], training)
        pooled = [self._keep(each, weights) for each in maps]
        return pooled if isinstance(inputs, (list, tuple)) else pooled[0]

    def _filled_up(self, x):
        """A map with the channels last, whose sizes are multiples."""
        if self.data_format == "channels_first":
            x = ops.moveaxis(x, 1, -1)
        for axis, stride in zip((1, 2), self.strides, strict=True):
            size = x.shape[axis]
            if size is None:
                x = extend(x, axis, 0, stride - 1, "wrap")
                fitting = ops.shape(x)[axis] // stride * stride
                x = x[:, :fitting] if axis == 1 else x[:, :, :fitting]
            elif size % stride:
                x = extend(x, axis, 0, -size % stride, "wrap")
        return x

    def _grid(self, x):
        """Sizes of a component of a map."""
        _, height, width, _ = ops.shape(x)
        return height // self.strides[0], width // self.strides[1]

    def _choose(self, x, training):
        """Weights of the components: one for the chosen one, else zero.

        Their shape is that of a window, `(batch, *strides)`.
        """
        if self.choice == "norm":
            scores = self._norms(x)
        else:
            scores = self._scores(x)
        count = math.prod(self.strides)
        scores = ops.reshape(scores, (-1, count))
        if training and self.choice == "learned":
            uniform = keras.random.uniform(
                ops.shape(scores), 1e-6, 1 - 1e-6, seed=self.seed_generator
            )
            scores = scores - ops.log(-ops.log(uniform))
        weights = ops.one_hot(ops.argmax(scores, axis=-1), count)
        if self.choice == "learned":
            # Adds zero, but the gradient is that of the softmax.
            soft = ops.softmax(scores / self.temperature)
            weights = weights + (soft - ops.stop_gradient(soft))
        return ops.reshape(weights, (-1, *self.strides))

    def _norms(self, x):
        # Squares are beyond what float16 can hold.
        squares = ops.sum(ops.square(ops.cast(x, "float32")), axis=-1)
        (height, width), (rows, columns) = self._grid(x), self.strides
        squares = ops.reshape(squares, (-1, height, rows, width, columns))
        return ops.sum(squares, axis=(1, 3))

    def _scores(self, x):
        """The scores of a network that sees each component by itself."""
        (height, width), (rows, columns) = self._grid(x), self.strides
        channels = x.shape[-1]
        x = ops.reshape(x, (-1, height, rows, width, columns, channels))
        x = ops.transpose(x, (0, 2, 4, 1, 3, 5))
        x = ops.reshape(x, (-1, height, width, channels))
        for axis in (1, 2):
            x = extend(x, axis, 1, 1, "wrap")
        features = ops.mean(self.convolution(x), axis=(1, 2))
        return ops.cast(self.score(features), "float32")

    def _keep(self, x, weights):
        """The sum over the points of each window, of which one has a weight.

        A gather would be shorter, but has no gradient for the weights, and a
        matrix product rounds its factors on some devices.
        """
        (height, width), (rows, columns) = self._grid(x), self.strides
        channels = x.shape[-1]
        weights = ops.tile(ops.cast(weights, x.dtype), (1, height, width))
        x = x * ops.expand_dims(weights, -1)
        x = ops.reshape(x, (-1, rows, width * columns, channels))
        x = ops.reshape(ops.sum(x, axis=1), (-1, columns, channels))
        y = ops.reshape(ops.sum(x, axis=1), (-1, height, width, channels))
        if self.data_format == "channels_first":
            y = ops.moveaxis(y, -1, 1)
        return y

    def compute_output_shape(self, input_shape):
        shapes = [
            super(PolyphasePooling, self).compute_output_shape(shape)
            for shape in _maps(input_shape)
        ]
        return shapes if _is_list(input_shape) else shapes[0]

    def get_config(self):
        return {
            **super().get_config(),
            "choice": self.choice,
            "hidden_channels": self.hidden_channels,
            "temperature": self.temperature,
            "seed": self.seed,
        }


def _is_list(input_shape):
    """Whether these are the shapes of several maps."""
    return isinstance(input_shape[0], (list, tuple))


def _maps(input_shape):
    return input_shape if _is_list(input_shape) else [input_shape]
