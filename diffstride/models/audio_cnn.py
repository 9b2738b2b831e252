"""The audio classifier of the paper, whose downsampling is a pooling slot.

References:
    - Riad et al., [Learning strides in convolutional neural networks](
      https://arxiv.org/abs/2202.01653), ICLR 2022: section 3.1.
    - Tagliasacchi et al., [Self-supervised audio representation learning for
      mobile devices](https://arxiv.org/abs/1905.11796), 2019.
"""

from collections.abc import Mapping, Sequence

import keras
from keras import ops

from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.models import pooling_slot
from diffstride.models.layer_argument import make_frontend
from diffstride.types import (
    FrontendArgument,
    Shape,
    StagePooling,
    StageStrides,
)
from diffstride.validation import check_positive_integer

# Time is the height of a spectrogram, frequency its width.
DATA_FORMAT = "channels_last"


def audio_cnn(
    num_output_classes: int | Mapping[str, int] = 35,
    input_shape: Shape = (16000,),
    channels: Sequence[int] = (64, 128, 256, 256, 512, 512),
    strides: StageStrides = ((2, 2), (2, 2), (1, 1), (2, 2), (1, 1), (2, 2)),
    pooling_cls: StagePooling = None,
    frontend: FrontendArgument = LogMelSpectrogram,
    momentum: float = 0.99,
    name: str = "audio_cnn",
    *,
    pooling_order: str | Sequence[str] = "after",
) -> keras.Model:
    """Builds a convolutional network on the spectrogram of a sound.

    A block is a 3x1 convolution along time and a 1x3 convolution along
    frequency, each followed by rectification and batch normalisation:

        pooling_cls=None:  convolution, with a stride along its own axis
        else:              convolutions without strides; after the second of
                           them, one pooling layer with a stride for each axis

    The pooling layer follows the convolution directly, as a stride does: the
    normalisation after it absorbs the gain of a spectral layer, whatever its
    `norm`. With `pooling_order="before"` it stands in front of the first
    convolution of the block instead. The maximum over time and frequency feeds
    one linear layer for each task.

    A model of waveforms takes clips of any length. It cuts them into windows
    of the length it was built for, without overlap, and returns the average of
    their logits, as the paper evaluates (see `SplitWindows` about what is
    left over).

    Args:
        num_output_classes: integer; or for several tasks a dict from the name
            of a task to its number of classes.
        input_shape: `(samples,)`, the length of a window, or `(None,)` to take
            a clip as one window, whatever its length; or `(time, frequency,
            channels)`, for spectrograms.
        channels: tuple of integers. Output channels of each block.
        strides: tuple of numbers, or of pairs for time and frequency.
            Downsampling factors of each block, integers where `pooling_cls` is
            None.
        pooling_cls: None for strided convolutions, or a class, a function or a
            config dict that makes a pooling layer (see
            `diffstride.models.pooling_slot`); or a list with one of these for
            each block.
        frontend: layer that makes a spectrogram of a waveform, such as
            `LogMelSpectrogram` or `LEAF`; or a class or a function of `name`,
            or a config dict, that makes such a layer; or a list of these, which
            follow one another, such as a `LogMelSpectrogram` with
            `log_offset=None` and `PCEN`. Not used where the inputs are
            spectrograms.
        momentum: float. Momentum of the moving averages of batch
            normalisation. A short training needs a smaller one.
        name: string. Name of the model.
        pooling_order: `"after"`, the default: the pooling layer of a block
            follows its second convolution. `"before"`: it pools the input of
            the block along time and frequency, so that both convolutions run on
            the small map. In the first block this input is the spectrogram.
            Take `norm="forward"` there, because the biases of the convolutions
            do not know the gain of the pooling layer. Or a list with one of
            these for each block: the first as `"after"` lets the convolutions
            see the whole spectrogram.

    Returns:
        A Functional Keras model with logits as output; for several tasks a
        dict from the name of a task to its logits.

    Example:

    >>> model = audio_cnn(
    ...     num_output_classes={"word": 35, "bird": 2},
    ...     channels=(8, 16),
    ...     strides=((2, 2), (2, 2)),
    ... )
    >>> logits = model(np.zeros((3, 16000)))
    >>> {task: tuple(logits[task].shape) for task in sorted(logits)}
    {'bird': (3, 2), 'word': (3, 35)}
    """
    strides = pooling_slot.stage_strides(strides)
    if len(channels) != len(strides) or not channels:
        raise ValueError(
            "`channels` and `strides` must have one entry for each block. "
            f"Received: channels={channels}, strides={strides}"
        )
    pooling_cls = pooling_slot.per_stage(
        pooling_cls, "pooling_cls", len(channels)
    )
    orders = pooling_slot.pooling_orders(pooling_order, len(channels))
    if len(input_shape) not in (1, 3):
        raise ValueError(
            "`input_shape` must be (samples,) or (time, frequency, channels). "
            f"Received: input_shape={input_shape}"
        )
    waveforms = len(input_shape) == 1
    window = input_shape[0] if waveforms else None
    if waveforms:
        inputs = x = keras.Input((None,), name="waveform")
        if window is not None:
            x = SplitWindows(window, name="windows")(x)
        for layer in make_frontend(frontend):
            x = layer(x)
    else:
        inputs = x = keras.Input(input_shape, name="spectrogram")

    for index, filters in enumerate(channels):
        block = f"block{index + 1}"
        slot = f"{block}_pooling"
        time_stride, frequency_stride = pooling_slot.convolution_strides(
            strides[index], pooling_cls[index], slot
        )
        pooling = pooling_slot.make_pooling(
            pooling_cls[index], strides[index], DATA_FORMAT, slot
        )
        if pooling is not None and orders[index] == "before":
            x, pooling = pooling(x), None
        for axis, kernel_size, stride in [
            ("time", (3, 1), (time_stride, 1)),
            ("frequency", (1, 3), (1, frequency_stride)),
        ]:
            x = keras.layers.Conv2D(
                filters,
                kernel_size,
                stride,
                padding="same",
                data_format=DATA_FORMAT,
                name=f"{block}_{axis}_convolution",
            )(x)
            if axis == "frequency" and pooling is not None:
                x = pooling(x)
            x = keras.layers.ReLU(name=f"{block}_{axis}_activation")(x)
            x = keras.layers.BatchNormalization(
                momentum=momentum, name=f"{block}_{axis}_normalization"
            )(x)
    x = keras.layers.GlobalMaxPooling2D(
        data_format=DATA_FORMAT, name="global_pooling"
    )(x)

    def head(classes, name):
        # Losses and probabilities in full precision.
        logits = keras.layers.Dense(classes, name=name, dtype="float32")(x)
        if window is None:
            return logits
        return AverageWindows(name=f"{name}_average", dtype="float32")(
            logits, inputs
        )

    if isinstance(num_output_classes, Mapping):
        outputs = {
            task: head(classes, task)
            for task, classes in num_output_classes.items()
        }
    else:
        outputs = head(num_output_classes, "predictions")
    return keras.Model(inputs, outputs, name=name)


@keras.saving.register_keras_serializable(package="diffstride")
class SplitWindows(keras.layers.Layer):
    """Cuts clips into windows without overlap, next to each other in the batch.

    What is left over at the end of a clip, less than a window, is dropped: the
    windows of training hold no silence that is not in the clip. A clip that is
    shorter than a window makes one window, with zeros at its end.

    Args:
        window: integer. Samples in a window.

    Input shape:
        `(batch, samples)`.

    Output shape:
        `(batch * windows, window)`, with `max(1, samples // window)` windows.

    Example:

    >>> windows = SplitWindows(3)(np.arange(14.0).reshape(2, 7))
    >>> keras.ops.convert_to_numpy(windows).tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [7.0, 8.0, 9.0], [10.0, 11.0, 12.0]]
    """

    def __init__(self, window: int, **kwargs):
        # Keep the waveform in float32: quiet samples are below the resolution
        # of float16.
        super().__init__(autocast=False, **kwargs)
        self.window = check_positive_integer(window, "window")
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def call(self, inputs):
        samples = ops.shape(inputs)[1]
        if inputs.shape[1] is None:
            windows = ops.maximum(1, samples // self.window)
        else:
            windows = max(1, samples // self.window)
        # With zeros for the shortest clip; the slice leaves what is needed.
        padded = ops.pad(inputs, [(0, 0), (0, self.window - 1)])
        return ops.reshape(
            padded[:, : windows * self.window], [-1, self.window]
        )

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((None, self.window), inputs.dtype)

    def get_config(self):
        return {**super().get_config(), "window": self.window}


@keras.saving.register_keras_serializable(package="diffstride")
class AverageWindows(keras.layers.Layer):
    """Averages what was computed from each window, clip by clip.

    Call arguments:
        inputs: tensor `(batch * windows, features)`.
        clips: the tensor of `batch` clips that `SplitWindows` cut.

    Output shape:
        `(batch, features)`.

    Example:

    >>> average = AverageWindows()(np.array([[1.0], [3.0]]), np.zeros((1, 9)))
    >>> float(average[0, 0])
    2.0
    """

    def call(self, inputs, clips):
        shape = [ops.shape(clips)[0], -1, inputs.shape[-1]]
        return ops.mean(ops.reshape(inputs, shape), axis=1)

    def compute_output_shape(self, inputs_shape, clips_shape):
        return (clips_shape[0], inputs_shape[-1])
