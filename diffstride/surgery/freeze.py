"""Models whose learned strides have become constants, ready to be exported."""

import contextlib

import keras
import numpy as np
from keras import ops, tree

from diffstride.analysis import keras_graph
from diffstride.analysis.learned_layers import learned_layers
from diffstride.layers.base_pooling import BaseDiffStride
from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.layers.pooling import DiffStride, DiffStride1D, DiffStride3D
from diffstride.surgery import clone

register = keras.saving.register_keras_serializable(package="diffstride")


def freeze(model, input_shape=None, dtype=None):
    """Makes a model in which the learned strides are constants.

    The filters of a frozen layer are fixed matrices, the sizes of its output
    are integers, and it has no weights. All other weights are carried over, and
    the outputs are those of the model, to rounding. A `LogMelSpectrogram`
    computes its transform as a convolution, as no format but TensorFlow's own
    has a transform of its own.

    XLA compiles a frozen model on every backend, `model.save` saves it, and
    `model.export` exports it: see `scripts/export.py`.

    Args:
        model: a Functional model, or a Sequential one that is built.
        input_shape: shape of an example. It must be given where the model takes
            inputs of any size. Defaults to the shapes that the model has.
        dtype: dtype policy of all layers, such as `"float32"` for a model that
            was trained in mixed precision, as most formats need it. Defaults to
            those that the layers have.

    Returns:
        A Functional model, not compiled, with weights of its own.

    Example:

    >>> model = keras.Sequential([keras.Input((32, 32, 3)), DiffStride(2)])
    >>> frozen = freeze(model)
    >>> frozen.output_shape, frozen.count_params()
    ((None, 24, 24, 3), 0)
    """
    keras_graph.check_graph(model)
    names = map(keras.saving.get_registered_name, _FROZEN)
    with contextlib.ExitStack() as stack:
        # Layers inside of others are made from configs: those tell more for a
        # while, and have other classes.
        scope = dict(zip(names, _FROZEN.values(), strict=True))
        stack.enter_context(keras.saving.custom_object_scope(scope))
        for layer in [model, *keras_graph.sublayers(model)]:
            changes = {} if dtype is None else {"dtype": dtype}
            if isinstance(layer, BaseDiffStride):
                strides = ops.convert_to_numpy(layer.strides)
                changes["learned_strides"] = strides.tolist()
            stack.enter_context(_changed_config(layer, changes))
        frozen = clone.clone(
            model, _frozen, input_shape=input_shape, specialize=True
        )
    for layer in learned_layers(frozen):
        if isinstance(layer, BaseFrozenDiffStride):
            layer.keep_filters()
        else:
            raise ValueError(
                "`model` must name its DiffStride layers in the configs of the "
                "layers that own them, or Keras cannot make them otherwise: "
                "let the owner take its pooling layer as an argument. "
                f"Received: model={model.name} with layer '{layer.name}' of "
                f"type {type(layer).__name__}"
            )
    return frozen


def _frozen(layer):
    layer_class = _FROZEN.get(type(layer), type(layer))
    return layer_class.from_config(layer.get_config())


@contextlib.contextmanager
def _changed_config(layer, changes):
    if not changes or keras_graph.is_graph(layer):
        yield
        return
    get_config = layer.get_config
    layer.get_config = lambda: {**get_config(), **changes}
    try:
        yield
    finally:
        del layer.get_config


class BaseFrozenDiffStride(BaseDiffStride):
    """A DiffStride layer whose strides are constants.

    A slot of a model builder names the initial strides. They do not get lost,
    but those in effect are another argument.
    """

    def __init__(self, strides=2.0, learned_strides=None, **kwargs):
        kwargs |= {"trainable": False, "static_sizes": True}
        super().__init__(strides, **kwargs)
        count = 1 if self.shared_stride else self.rank
        if learned_strides is None:
            learned_strides = self._initial_strides[:count]
        if len(learned_strides) != count:
            raise ValueError(
                f"`learned_strides` must have {count} entries. "
                f"Received: learned_strides={learned_strides}"
            )
        self.learned_strides = [float(stride) for stride in learned_strides]
        self._strides = np.array(learned_strides, "float32")
        self._sizing_strides = tuple(map(float, self._strides))
        self._kept_filters = {}

    @property
    def strides(self):
        return self._strides

    def build(self, input_shape):
        pass

    def _output_sizes(self, sizes):
        if None in sizes:
            raise ValueError(
                "`input_shape` must be given to `diffstride.freeze`: a frozen "
                "layer needs inputs of known sizes. "
                f"Received: sizes {sizes} in layer '{self.name}'"
            )
        self._kept_filters.setdefault(sizes)
        return super()._output_sizes(sizes)

    def _filters(self, sizes):
        if not all(isinstance(size, int) for size in sizes):
            self._output_sizes((None,) * self.rank)
        return self._kept_filters.get(sizes) or super()._filters(sizes)

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

    def refresh_sizes(self):
        return False

    def save_own_variables(self, store):
        pass

    def load_own_variables(self, store):
        self.keep_filters()

    def get_config(self):
        return {**super().get_config(), "learned_strides": self.learned_strides}


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
    (1, 40, 22, 3)
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


_FROZEN = {
    DiffStride: FrozenDiffStride,
    DiffStride1D: FrozenDiffStride1D,
    DiffStride3D: FrozenDiffStride3D,
    LogMelSpectrogram: ConvolutionalLogMelSpectrogram,
}
