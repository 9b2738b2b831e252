"""Layers with constants in the place of learned strides.

`diffstride.freeze` makes models of them.
"""

import keras
import numpy as np
from keras import ops, tree

from diffstride.layers.base_diffstride import BaseDiffStride
from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.layers.pooling import DiffStride, DiffStride1D, DiffStride3D

register = keras.saving.register_keras_serializable(package="diffstride")


class BaseFrozenDiffStride(BaseDiffStride):
    """A DiffStride layer whose strides are constants.

    `strides` are those that the layer began with. A layer that owns a pooling
    layer, such as `ResidualLayer`, tells it these when a model is loaded. So
    the strides in effect are an argument of their own.
    """

    # A class for one layer alone may state them here.
    learned_strides = None

    def __init__(self, strides=2.0, *args, learned_strides=None, **kwargs):
        if learned_strides is None:
            learned_strides = self.learned_strides
        in_effect = strides
        if learned_strides is not None:
            count = 1 if kwargs.get("shared_stride") else self.rank
            if len(learned_strides) != count:
                raise ValueError(
                    f"`learned_strides` must have {count} entries. "
                    f"Received: learned_strides={learned_strides}"
                )
            in_effect = [max(1.0, float(stride)) for stride in learned_strides]
            in_effect = in_effect * (self.rank // count)
        kwargs |= {"trainable": False, "static_sizes": True}
        super().__init__(in_effect, *args, **kwargs)
        self._first_strides = strides
        count = 1 if self.shared_stride else self.rank
        self.learned_strides = [
            float(stride) for stride in self._initial_strides[:count]
        ]
        self._strides = np.array(self.learned_strides, "float32")
        # The filters for each tuple of sizes; None until they are arrays.
        self._kept_filters = {}
        self._is_kept = False

    @property
    def strides(self):
        return self._strides

    def build(self, input_shape):
        pass

    def _output_sizes(self, sizes):
        self._note(sizes)
        return super()._output_sizes(sizes)

    def _filters(self, sizes):
        # Sizes may be unknown even in a frozen model: TensorFlow saves a model
        # inside of another also on its own, for any size that it takes.
        self._note(sizes)
        kept = self._kept_filters.get(sizes) if _are_known(sizes) else None
        return kept or super()._filters(sizes)

    def _note(self, sizes):
        if not self._is_kept and _are_known(sizes):
            self._kept_filters.setdefault(sizes)

    def keep_filters(self):
        """Makes arrays of the filters of all sizes that were met so far.

        In a graph, filters of other sizes are operations on constants, until
        somebody folds them.
        """
        for sizes in self._kept_filters:
            self._kept_filters[sizes] = tree.map_structure(
                lambda x: ops.convert_to_numpy(x) if ops.is_tensor(x) else x,
                tuple(self._filters(sizes)),
            )
        self._is_kept = True

    def check_sizes(self):
        """Raises an error if the layer has met no known sizes so far."""
        if not self._kept_filters:
            raise ValueError(
                "`input_shape` must be given to `diffstride.freeze`: a frozen "
                "layer needs inputs of known sizes. "
                f"Received: sizes {(None,) * self.rank} in layer '{self.name}'"
            )

    def refresh_sizes(self):
        return False

    def save_own_variables(self, store):
        # A derived class may have weights.
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        keras.layers.Layer.load_own_variables(self, store)
        self.keep_filters()

    def get_config(self):
        return {
            **super().get_config(),
            "strides": self._first_strides,
            "learned_strides": self.learned_strides,
        }


def _are_known(sizes):
    return all(isinstance(size, int) for size in sizes)


@register
class FrozenDiffStride(BaseFrozenDiffStride):
    """`DiffStride` with constants for strides, as `freeze` makes it.

    Args:
        strides: number of 1 or more, or tuple of two. Strides that the layer
            began with.
        learned_strides: tuple of two numbers, or of one if `shared_stride`. The
            strides in effect. Defaults to `strides`.

    The other arguments are those of `DiffStride`; `trainable` and
    `static_sizes` are without effect. Height and width must be known.

    Example:

    >>> layer = FrozenDiffStride(2, learned_strides=(1.6, 3.0), ramp="inside")
    >>> tuple(layer(np.zeros((1, 64, 64, 3))).shape)
    (1, 40, 21, 3)
    """

    rank = 2


@register
class FrozenDiffStride1D(BaseFrozenDiffStride):
    """`FrozenDiffStride` for signals, with one stride."""

    rank = 1


@register
class FrozenDiffStride3D(BaseFrozenDiffStride):
    """`FrozenDiffStride` for volumes, with three strides."""

    rank = 3


@register
class ConvolutionalLogMelSpectrogram(LogMelSpectrogram):
    """`LogMelSpectrogram` that transforms frames by a convolution.

    The Fourier transform of a frame is a product with cosines and sines, and of
    all frames a convolution whose stride is the hop. That needs no complex
    numbers, so that every format and device can take it. The arguments are
    those of `LogMelSpectrogram`.

    Example:

    >>> waveform = np.random.uniform(-1, 1, (2, 16000)).astype("float32")
    >>> tuple(ConvolutionalLogMelSpectrogram()(waveform).shape)
    (2, 98, 64, 1)
    """

    def _short_time_transform(self, waveforms):
        length, bins = self._fft_length, self._fft_length // 2 + 1
        phase = np.outer(np.arange(self._window_length), np.arange(bins))
        angle = phase % length * (2 * np.pi / length)
        kernel = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        kernel = (kernel * self._window[:, np.newaxis])[:, np.newaxis, :]
        # A frame is as long as the transform, with the window in its middle.
        margin = (length - self._window_length) // 2
        margins = (margin, length - self._window_length - margin)
        padding = [
            samples - margin
            for samples, margin in zip(self._padding(), margins, strict=True)
        ]
        if any(padding):
            waveforms = ops.pad(waveforms, [(0, 0), padding])
        spectrum = ops.conv(
            ops.expand_dims(waveforms, -1),
            ops.convert_to_tensor(kernel.astype("float32")),
            strides=self._hop_length,
            padding="valid",
            data_format="channels_last",
        )
        return spectrum[..., :bins], spectrum[..., bins:]


@register
class FrozenSubclass(BaseFrozenDiffStride):
    """A frozen layer of a class that somebody derived from a DiffStride layer.

    It is of a class of its own, which does what the derived class does on top
    of a frozen layer. To load it, Keras must know the derived class: register
    it, or name it in `custom_objects`.
    """

    @classmethod
    def from_config(cls, config):
        name = config["derived_class"]
        derived_class = keras.saving.get_registered_object(name)
        if derived_class is None:
            raise ValueError(
                f"'{name}' must be known to Keras, because a frozen layer was "
                "derived from it: register the class with "
                "`keras.saving.register_keras_serializable`, or pass it in "
                f"`custom_objects`. Received: derived_class={name}"
            )
        frozen = _frozen_subclass(derived_class, config["learned_strides"])
        return frozen.from_config(config)


def frozen_class(layer_class, learned_strides=None):
    """The class that takes the place of another in a frozen model.

    Args:
        layer_class: class of any layer.
        learned_strides: the strides in effect, if it is a DiffStride layer.
    """
    if layer_class in _FROZEN:
        return _FROZEN[layer_class]
    if not issubclass(layer_class, BaseDiffStride) or issubclass(
        layer_class, BaseFrozenDiffStride
    ):
        return layer_class
    return _frozen_subclass(layer_class, learned_strides)


def _frozen_subclass(derived_class, learned_strides):
    class Frozen(derived_class, BaseFrozenDiffStride):
        """What the derived class calls by `super()` is a frozen layer.

        The derived class may take other arguments than its base, so that the
        strides in effect do not reach the base through it.
        """

        def get_config(self):
            return {
                **super().get_config(),
                "derived_class": keras.saving.get_registered_name(
                    derived_class
                ),
                "learned_strides": self.learned_strides,
            }

        @classmethod
        def from_config(cls, config):
            ours = ("derived_class", "learned_strides")
            return super().from_config(
                {key: config[key] for key in config if key not in ours}
            )

    Frozen.learned_strides = learned_strides
    # Keras saves a layer under the name of its class, and loads what was
    # registered last: FrozenSubclass, which makes the class again.
    for registered in (Frozen, FrozenSubclass):
        keras.saving.register_keras_serializable(
            package="diffstride", name="FrozenSubclass"
        )(registered)
    return Frozen


_FROZEN = {
    DiffStride: FrozenDiffStride,
    DiffStride1D: FrozenDiffStride1D,
    DiffStride3D: FrozenDiffStride3D,
    LogMelSpectrogram: ConvolutionalLogMelSpectrogram,
}
