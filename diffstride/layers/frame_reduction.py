"""What the layers that reduce the frames of a spectrogram share.

The documentation of the arguments is with the layers in
`diffstride.layers.diffres`.
"""

import typing
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from diffstride.layers.frame_rate import FrameRate, check_reduction_rate
from diffstride.layers.graph_sizes import sizes_can_follow
from diffstride.ops import frame_scores
from diffstride.validation import check_positive_integer

# Clip log-mel values to ±80, because exp() overflows float32 above 88.
LOG_RANGE = 80.0


class Clips(typing.NamedTuple):
    """A batch of clips, and how many frames are to be left of each.

    Attributes:
        spectrogram: (batch, time, mel) in float32, zero in padding.
        mask: booleans (batch, time), False for padding; or None if there is
            none.
        output_frames: integer or scalar tensor. Frames of the output tensor.
        used: integers (batch,). How many of them each clip has; or None if
            every clip has all.
        repeats: integer, scalar tensor, or integers (batch,). How often each
            frame of the input was repeated, where it had too few.
        reduction_rate: number, or scalar tensor, or None. The rate of this
            call.
    """

    spectrogram: typing.Any
    mask: typing.Any
    output_frames: typing.Any
    used: typing.Any = None
    repeats: typing.Any = 1
    reduction_rate: typing.Any = None

    @property
    def counts(self):
        """The output frames of each clip, or one number for all."""
        return self.output_frames if self.used is None else self.used

    @property
    def output_mask(self):
        """Which output frames the clips have; None if they have all."""
        if self.used is None:
            return None
        outputs = ops.arange(self.output_frames, dtype="int32")
        return outputs < self.used[:, None]

    def rate(self, scores):
        """Output frames over frames, of all clips or of each."""
        return frame_scores.rate(scores, self.counts, self.mask)


class BaseFrameReduction(keras.layers.Layer):
    """Reduces the frames of a spectrogram; computes in float32.

    A subclass makes the features, a list of (batch, output frames, mel).
    """

    # All frame reductions output three channels, so that one classifier fits
    # after each. A layer with fewer features repeats them.
    channels = 3
    # Whether clips can have fewer output frames than the output, unasked.
    is_adaptive = False

    def __init__(
        self,
        reduction_rate: float | Sequence[float] | None = None,
        output_frames: int | None = None,
        log_scale: bool = True,
        seed: int | None = None,
        **kwargs,
    ):
        # Compute in float32, because float16 gives errors of 6 % after exp(),
        # and larger ones in running sums.
        super().__init__(autocast=False, **kwargs)
        if (reduction_rate is None) == (output_frames is None):
            raise ValueError(
                "Exactly one of `reduction_rate` and `output_frames` must be "
                f"given. Received: reduction_rate={reduction_rate}, "
                f"output_frames={output_frames}"
            )
        if output_frames is not None:
            output_frames = check_positive_integer(
                output_frames, "output_frames"
            )
        self.output_frames = output_frames
        self.seed = seed
        self.frame_rate = self._seed_generator = None
        if reduction_rate is not None:
            self.frame_rate = FrameRate(check_reduction_rate(reduction_rate))
            self._set_up_range()
        self.log_scale = log_scale
        self.input_spec = keras.layers.InputSpec(min_ndim=3, max_ndim=4)
        self.supports_masking = True
        # From a call to the `compute_mask` that follows it: the masks of the
        # outputs and of the frames.
        self._masks = None

    @property
    def reduction_rate(self):
        return None if self.frame_rate is None else self.frame_rate.value

    @reduction_rate.setter
    def reduction_rate(self, value):
        if self.frame_rate is None:
            raise ValueError(
                "`reduction_rate` must be given to the constructor, in the "
                "place of `output_frames`, to be set later. "
                f"Received: reduction_rate={value} for layer '{self.name}'"
            )
        value = check_reduction_rate(value)
        if isinstance(value, tuple) and self.built and not self._seed_generator:
            raise ValueError(
                "`reduction_rate` must be a range from the beginning, or the "
                "layer must have a `seed`, for it to be a range now: a layer "
                "that is built takes no new random state. "
                f"Received: reduction_rate={value} for layer '{self.name}'"
            )
        self.frame_rate.set(value)
        self._set_up_range()

    def _set_up_range(self):
        is_range = self.frame_rate.is_range
        # Without a range or a seed, make no generator: older files have no
        # state for it.
        needs_seeds = is_range or self.seed is not None
        if needs_seeds and self._seed_generator is None:
            self._seed_generator = keras.random.SeedGenerator(self.seed)
        # XLA cannot know a number of frames that a graph draws.
        self.supports_jit = not (is_range and sizes_can_follow())

    def _check_input_shape(self, input_shape):
        """Raises an error for a wrong shape; returns the number of mels."""
        if len(input_shape) == 4 and input_shape[3] != 1:
            raise ValueError(
                f"Inputs of layer '{self.name}' with four axes must have one "
                f"channel. Received: input_shape={tuple(input_shape)}"
            )
        if input_shape[2] is None:
            raise ValueError(
                f"Inputs of layer '{self.name}' must have a known number of "
                f"mel channels. Received: input_shape={tuple(input_shape)}"
            )
        return input_shape[2]

    def build(self, input_shape):
        mels = self._check_input_shape(input_shape)
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={2: mels}
        )

    def call(self, inputs, training=None, mask=None, lengths=None):
        clips = self._clips(inputs, mask, lengths, training)
        return self._outputs(clips, self._features(clips, training))

    def _features(self, clips, training):
        raise NotImplementedError

    def _channels(self):
        """How many channels the outputs have; None for no such axis."""
        return self.channels

    def _outputs(self, clips, features):
        """The output tensor of a list of features."""
        channels = self._channels()
        if channels is None:
            (outputs,) = features
        else:
            features = [features[i % len(features)] for i in range(channels)]
            # On a CPU this is faster than to stack along the last axis.
            outputs = ops.transpose(ops.stack(features, axis=1), (0, 2, 3, 1))
        mask = self._mask_of_outputs(clips)
        if mask is not None:
            # Zeros, as a convolution sees them at the end of a clip.
            outputs = ops.where(mask[..., None], outputs, 0.0)
        self._masks = mask, clips.mask
        return ops.cast(outputs, self.compute_dtype)

    def _mask_of_outputs(self, clips):
        """All axes of the outputs but the last, as in Keras's own layers."""
        mask = clips.output_mask
        if mask is None or self._channels() is None:
            return mask
        mels = clips.spectrogram.shape[2]
        return ops.repeat(mask[..., None], mels, axis=2)

    def compute_mask(self, inputs, previous_mask=None):
        return self._take_masks(inputs, previous_mask)[0]

    def _take_masks(self, inputs, previous_mask):
        """The masks of the outputs and of the frames of the last call."""
        if isinstance(inputs, keras.KerasTensor):
            # In a graph of layers, each reads the mask of its input as it runs.
            return None, None
        if self._masks is None and (
            previous_mask is not None or self.is_adaptive
        ):
            clips = self._with_used(self._clips(inputs, previous_mask))
            self._masks = self._mask_of_outputs(clips), clips.mask
        masks, self._masks = self._masks, None
        return (None, None) if masks is None else masks

    def _with_used(self, clips):
        """The clips, with how many output frames each has."""
        return clips

    def _clips(self, inputs, mask=None, lengths=None, training=False):
        """The `Clips` of a call."""
        if inputs.shape[1] == 0:
            raise ValueError(
                f"Inputs of layer '{self.name}' must have frames. "
                f"Received: inputs.shape={tuple(inputs.shape)}"
            )
        if len(inputs.shape) == 4:
            inputs = ops.squeeze(inputs, axis=3)
        spectrogram = ops.cast(inputs, "float32")
        if self.log_scale:
            spectrogram = ops.clip(spectrogram, -LOG_RANGE, LOG_RANGE)
        frames = ops.shape(spectrogram)[1]
        if mask is not None:
            mask = ops.convert_to_tensor(mask)
            self._check_mask(mask, spectrogram)
        if lengths is not None:
            lengths = ops.convert_to_tensor(lengths)
            self._check_lengths(lengths, spectrogram)
        mask = _joined_mask(mask, lengths, frames)
        if mask is not None:
            spectrogram = ops.where(mask[..., None], spectrogram, 0.0)
        if self.frame_rate is None:
            if mask is None:
                return self._stretched(spectrogram)
            return self._stretched_one_by_one(spectrogram, mask)
        rate = self.frame_rate.in_graph(
            training, self._seed_generator, self.name
        )
        output_frames = frame_scores.reduced_frames(frames, rate)
        used = None
        if mask is not None:
            counts = ops.sum(ops.cast(mask, "int32"), axis=1)
            used = frame_scores.reduced_frames(counts, rate, frames)
            # A clip that is all padding has no output frame.
            used = ops.minimum(used, counts)
        return Clips(
            spectrogram, mask, output_frames, used, reduction_rate=rate
        )

    def _check_mask(self, mask, spectrogram):
        # It may have an axis for the mel channels.
        sizes = tuple(spectrogram.shape[:2])
        if not fits(mask.shape[:2], sizes):
            raise ValueError(
                f"`mask` of layer '{self.name}' must have the batch and time "
                f"axes of the inputs, {sizes}. "
                f"Received: mask.shape={tuple(mask.shape)}"
            )

    def _check_lengths(self, lengths, spectrogram):
        dtype = keras.backend.standardize_dtype(lengths.dtype)
        is_integer = "int" in dtype
        if not is_integer or not fits(lengths.shape, spectrogram.shape[:1]):
            raise ValueError(
                f"`lengths` of layer '{self.name}' must be integers of shape "
                f"{tuple(spectrogram.shape[:1])}, one for each clip. Received: "
                f"lengths of shape {tuple(lengths.shape)} and dtype {dtype}"
            )

    def _stretched(self, spectrogram):
        """Clips whose frames are repeated if there are too few."""
        frames = ops.shape(spectrogram)[1]
        repeats = self._repeats(frames)
        if isinstance(repeats, int):
            if repeats > 1:
                spectrogram = ops.repeat(spectrogram, repeats, axis=1)
        else:
            indices = ops.arange(frames * repeats, dtype="int32") // repeats
            spectrogram = ops.take(spectrogram, indices, axis=1)
        return Clips(spectrogram, None, self.output_frames, repeats=repeats)

    def _repeats(self, frames):
        if self.output_frames is None:
            return 1
        return -(-self.output_frames // frames)

    def _stretched_one_by_one(self, spectrogram, mask):
        """The same for clips that are followed by padding."""
        frames = ops.shape(spectrogram)[1]
        counts = ops.sum(ops.cast(mask, "int32"), axis=1)
        repeats = -(-self.output_frames // ops.maximum(counts, 1))
        # A clip with too few frames becomes shorter than twice what is left.
        longest = 2 * self.output_frames - 1
        if isinstance(frames, int):
            longest = max(frames, longest)
        else:
            longest = ops.maximum(frames, longest)
        places = ops.arange(longest, dtype="int32")
        mask = places < (counts * repeats)[:, None]
        indices = ops.minimum(places // repeats[:, None], frames - 1)
        spectrogram = ops.take_along_axis(
            spectrogram, indices[..., None], axis=1
        )
        spectrogram = ops.where(mask[..., None], spectrogram, 0.0)
        used = ops.where(counts > 0, self.output_frames, 0)
        return Clips(spectrogram, mask, self.output_frames, used, repeats)

    def _to_linear(self, spectrogram):
        return ops.exp(spectrogram) if self.log_scale else spectrogram

    def _from_linear(self, features, linear, mask=None):
        """The logarithm of features, if the input was one.

        Features below the quietest point of the clip are raised to it, because
        the logarithm of zero is not finite.
        """
        if not self.log_scale:
            return features
        if mask is not None:
            linear = ops.where(mask[..., None], linear, np.inf)
        # `initial` gives an empty batch a minimum.
        quietest = ops.min(linear, axis=(1, 2), keepdims=True, initial=np.inf)
        return ops.log(ops.maximum(features, ops.stop_gradient(quietest)))

    def compute_output_shape(self, input_shape):
        mels = self._check_input_shape(input_shape)
        frames = self.output_frames
        if frames is None and not self.frame_rate.is_range:
            frames = frame_scores.reduced_frames(
                input_shape[1], self.frame_rate.value
            )
        channels = self._channels()
        shape = (input_shape[0], frames, mels)
        return shape if channels is None else (*shape, channels)

    def get_config(self):
        return {
            **super().get_config(),
            "reduction_rate": (
                list(self.reduction_rate)
                if isinstance(self.reduction_rate, tuple)
                else self.reduction_rate
            ),
            "output_frames": self.output_frames,
            "log_scale": self.log_scale,
            "seed": self.seed,
        }


def fits(shape, expected):
    """Whether shapes agree, as far as their sizes are known."""
    return len(shape) == len(expected) and all(
        None in sizes or sizes[0] == sizes[1]
        for sizes in zip(shape, expected, strict=True)
    )


def _joined_mask(mask, lengths, frames):
    """Booleans (batch, time) of a mask and of lengths, or None."""
    if mask is not None:
        mask = ops.cast(mask, "bool")
        # A mask may have an axis for the mel channels.
        for _ in mask.shape[2:]:
            mask = ops.any(mask, axis=-1)
    if lengths is None:
        return mask
    places = ops.arange(frames, dtype="int32")
    within = places < ops.cast(lengths, "int32")[:, None]
    return within if mask is None else ops.logical_and(mask, within)
