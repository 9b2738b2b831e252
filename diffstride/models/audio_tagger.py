"""The classifier of the DiffRes paper: EfficientNet with attention heads.

References:
    - Gong et al., [PSLA: improving audio tagging with pretraining, sampling,
      labeling, and aggregation](https://arxiv.org/abs/2102.01243), 2021.
    - Liu et al., [Learning the spectrogram temporal resolution for audio
      classification](https://arxiv.org/abs/2210.01719), 2022: section 3.
"""

from collections.abc import Sequence

import keras
from keras import ops

from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.models import efficientnet
from diffstride.models.layer_argument import (
    make_frame_reduction,
    make_frontend,
    make_layer,
)
from diffstride.models.pretrained import load_keras_applications_weights
from diffstride.types import (
    Activation,
    FrontendArgument,
    LayerArgument,
    Shape,
    StagePooling,
    StageStrides,
)
from diffstride.validation import (
    check_choice,
    check_data_format,
    check_positive_integer,
)


def audio_tagger(
    variant: str = "b2",
    num_output_classes: int = 527,
    num_heads: int = 4,
    output_activation: Activation = "sigmoid",
    input_shape: Shape = (None, 128),
    frontend: FrontendArgument = LogMelSpectrogram,
    augmentation: LayerArgument | None = None,
    frame_reduction: LayerArgument | None = None,
    reduction_rate: float | Sequence[float] | None = None,
    output_frames: int | None = None,
    weights: str | keras.Model | None = None,
    strides: StageStrides = (1, 2, 2, 2, 1, 2, 1),
    pooling_cls: StagePooling = None,
    width_coefficient: float | None = None,
    depth_coefficient: float | None = None,
    drop_connect_rate: float = 0.2,
    weight_decay: float = 0.0,
    momentum: float = 0.99,
    data_format: str | None = None,
    name: str = "audio_tagger",
    *,
    pooling_order: str | Sequence[str] = "after",
) -> keras.Model:
    """Builds a classifier of sounds of any length.

        waveform -> front end -> augmentation -> frame reduction
        -> normalization -> EfficientNet -> attention pooling

    The front end is there for waveforms only; augmentation and frame reduction
    are what the arguments say. A spectrogram of one channel is repeated in
    three. The normalization brings each channel to a mean of zero and a
    variance of one, by moving averages, without weights to train. As in PSLA,
    frequency takes the place of the height of an image. With the defaults and
    527 classes there are 13.6 million parameters.

    Args:
        variant: `"b0"` to `"b7"`. The compound scaling of the EfficientNet.
        num_output_classes: integer. Defaults to the 527 of AudioSet.
        num_heads: integer. Attention heads of the pooling.
        output_activation: `"sigmoid"` for tags that occur together: each head
            gives probabilities, as in PSLA; `"softmax"` for one class out of
            many; or None for logits.
        input_shape: `(samples,)` of waveforms, `(time, mel)` or `(time, mel,
            channels)` of spectrograms. Samples and time may be None.
        frontend: layer that makes a spectrogram of a waveform, such as
            `LogMelSpectrogram` or `LEAF`; or a class or a function of `name`,
            or a config dict, that makes such a layer; or a list of these, which
            follow one another, such as a `LogMelSpectrogram` with
            `log_offset=None` and `PCEN`. Not used where the inputs are
            spectrograms.
        augmentation: None, or a layer in front of the frame reduction, given as
            the front end is.
        frame_reduction: None, or a layer as
            `diffstride.layers.diffres.DiffRes`, given as the front end is. A
            class or a function is told `log_scale=False` where the outputs of
            the front end are no logarithms.
        reduction_rate: number, or a range of two. The share of frames to do
            without, where `frame_reduction` is a class or a function, which is
            told.
        output_frames: integer. How many frames to leave, likewise.
        weights: weights of the EfficientNet to start from: a model of
            `keras.applications` of the same variant, `"imagenet"`, which
            downloads one, or None for random ones.
        strides: tuple with one entry for each stage of the EfficientNet (see
            `diffstride.models.efficientnet`).
        pooling_cls: None, or what makes the pooling layer of each stage, or a
            list with one for each (see `diffstride.models.pooling_slot`).
        width_coefficient: float. Takes the place of the variant's.
        depth_coefficient: float. Takes the place of the variant's.
        drop_connect_rate: float. Chance of dropping the last residual branch.
        weight_decay: float. Factor of the L2 penalty on the kernels of the
            EfficientNet.
        momentum: float. Momentum of the moving averages of batch
            normalization. A short training needs a smaller one.
        data_format: `"channels_last"`, `"channels_first"` or None. Of the
            EfficientNet; spectrograms always have their channels last. Defaults
            to `keras.config.image_data_format()`.
        name: string. Name of the model.
        pooling_order: `"after"`, the default, or `"before"`, or a list with one
            of these for each stage of the EfficientNet: where pooling layers
            stand (see `diffstride.models.efficientnet`).

    Returns:
        A Functional Keras model.

    Example:

    >>> from diffstride.layers.diffres import DiffRes
    >>> model = audio_tagger(
    ...     num_output_classes=10,
    ...     input_shape=(100, 64),
    ...     frame_reduction=DiffRes(reduction_rate=0.5),
    ...     width_coefficient=0.25,
    ...     depth_coefficient=0.25,
    ... )
    >>> tuple(model(np.zeros((2, 100, 64))).shape)
    (2, 10)
    """
    check_choice(
        output_activation, "output_activation", ("sigmoid", "softmax", None)
    )
    data_format = check_data_format(data_format)
    if len(input_shape) not in (1, 2, 3):
        raise ValueError(
            "`input_shape` must be (samples,), (time, mel) or (time, mel, "
            f"channels). Received: input_shape={input_shape}"
        )
    log_scale = True
    if len(input_shape) == 1:
        inputs = x = keras.Input(input_shape, name="waveform")
        for layer in make_frontend(frontend):
            x = layer(x)
            log_scale = getattr(layer, "log_scale", log_scale)
    else:
        inputs = x = keras.Input(input_shape, name="spectrogram")
    if len(x.shape) == 3:
        x = keras.layers.Reshape((-1, x.shape[2], 1), name="one_channel")(x)
    if augmentation is not None:
        x = make_layer("augmentation", augmentation)(x)
    frames = {"reduction_rate": reduction_rate, "output_frames": output_frames}
    frames = {name: v for name, v in frames.items() if v is not None}
    if frame_reduction is not None or frames:
        x = make_frame_reduction(frame_reduction, log_scale, **frames)(x)
    if x.shape[3] == 1:
        x = keras.layers.Concatenate(name="three_channels")([x, x, x])
    x = keras.layers.BatchNormalization(
        momentum=momentum,
        center=False,
        scale=False,
        name="input_normalization",
    )(x)

    order = (2, 1, 3) if data_format == "channels_last" else (3, 2, 1)
    x = keras.layers.Permute(order, name="frequency_as_height")(x)
    trunk_shape = list(x.shape[1:])
    if frame_reduction is not None or frames:
        # The reduction rate can be set again later, to other numbers of frames.
        trunk_shape[1 if data_format == "channels_last" else 2] = None
    trunk = efficientnet.efficientnet(
        variant,
        strides,
        pooling_cls,
        input_shape=tuple(trunk_shape),
        include_top=False,
        width_coefficient=width_coefficient,
        depth_coefficient=depth_coefficient,
        drop_connect_rate=drop_connect_rate,
        weight_decay=weight_decay,
        data_format=data_format,
        pooling_order=pooling_order,
    )
    for layer in trunk.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    if weights is not None:
        if weights == "imagenet":
            weights = getattr(
                keras.applications, f"EfficientNet{variant.upper()}"
            )(weights="imagenet", include_top=False)
        load_keras_applications_weights(trunk, weights, include_top=False)
    outputs = AttentionPooling(
        num_output_classes,
        num_heads,
        activation="sigmoid" if output_activation == "sigmoid" else None,
        data_format=data_format,
        name="predictions",
        # Losses and probabilities in full precision.
        dtype="float32",
    )(trunk(x))
    if output_activation == "softmax":
        outputs = keras.layers.Softmax(name="softmax", dtype="float32")(outputs)
    return keras.Model(inputs, outputs, name=name)


@keras.saving.register_keras_serializable(package="diffstride")
class AttentionPooling(keras.layers.Layer):
    """Classifies every time step and averages the results by attention.

    The feature map is averaged over frequency. Each head then has a classifier
    and an attention for every class and time step. The attention is a sigmoid,
    normalized over time. The results of the heads are summed with weights that
    are trained and start equal, with a sum of one.

    Args:
        num_classes: integer.
        num_heads: integer. Defaults to 4.
        activation: activation of the classifiers. Defaults to `"sigmoid"`.
        data_format: `"channels_last"`, `"channels_first"` or None. Defaults to
            `keras.config.image_data_format()`.

    Input shape:
        `(batch, frequency, time, channels)`, or with `"channels_first"`
        `(batch, channels, frequency, time)`.

    Output shape:
        `(batch, num_classes)`

    Example:

    >>> x = np.random.normal(size=(2, 4, 10, 32)).astype("float32")
    >>> tuple(AttentionPooling(5)(x).shape)
    (2, 5)

    References:
        - Gong et al., 2021, section III-D.
    """

    def __init__(
        self,
        num_classes: int,
        num_heads: int = 4,
        activation: Activation = "sigmoid",
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = check_positive_integer(num_classes, "num_classes")
        self.num_heads = check_positive_integer(num_heads, "num_heads")
        self.activation = keras.activations.get(activation)
        self.data_format = check_data_format(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        last = self.data_format == "channels_last"
        channels = input_shape[3 if last else 1]
        # Glorot's limits, for each head by itself.
        limit = (6 / (channels + self.num_classes)) ** 0.5
        self._classifier, self._attention = (
            keras.layers.EinsumDense(
                "btc,chn->bthn",
                output_shape=(None, self.num_heads, self.num_classes),
                bias_axes="hn",
                kernel_initializer=keras.initializers.RandomUniform(
                    -limit, limit
                ),
                activation=activation,
                name=name,
                dtype=self.dtype_policy,
            )
            for name, activation in [
                ("classifier", self.activation),
                ("attention", "sigmoid"),
            ]
        )
        for layer in (self._classifier, self._attention):
            layer.build((input_shape[0], None, channels))
        self.head_weights = self.add_weight(
            name="head_weights",
            shape=(self.num_heads,),
            initializer=keras.initializers.Constant(1 / self.num_heads),
        )

    def call(self, inputs):
        if self.data_format == "channels_last":
            x = ops.mean(inputs, axis=1)
        else:
            x = ops.transpose(ops.mean(inputs, axis=2), (0, 2, 1))
        attention = self._attention(x)
        # Sums over time, in full precision whatever the policy.
        attention = ops.cast(attention, "float32") + keras.config.epsilon()
        attention = attention / ops.sum(attention, axis=1, keepdims=True)
        classes = ops.cast(self._classifier(x), "float32")
        heads = ops.sum(attention * classes, axis=1)
        weights = ops.cast(self.head_weights, "float32")
        outputs = ops.sum(heads * weights[:, None], axis=1)
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_classes)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "num_heads": self.num_heads,
            "activation": keras.activations.serialize(self.activation),
            "data_format": self.data_format,
        }
