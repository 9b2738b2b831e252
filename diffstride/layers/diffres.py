"""DiffRes, which learns the temporal resolution of a spectrogram.

The layer stands between a log-mel spectrogram and a classifier. The layers of
`diffstride.layers.frame_pooling`, with which it is compared, take the same
arguments and return the same shape, so that one can replace another. The
mathematics of DiffRes is in `diffstride.ops.warping`.

Reference: Liu et al., [Learning the spectrogram temporal resolution for audio
classification](https://arxiv.org/abs/2210.01719), 2022.
"""

import typing
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from diffstride.layers.frame_pooling import (
    AvgMaxPool,
    AvgPool,
    ChangeHopSize,
    ConvAvgPool,
)
from diffstride.layers.frame_reduction import (
    BaseFrameReduction,
    ResConv1D,
    build_all,
)
from diffstride.layers.training_statistics import TrainingStatistics
from diffstride.ops import warping
from diffstride.validation import check_positive_integer, is_number

__all__ = [
    "AvgMaxPool",
    "AvgPool",
    "ChangeHopSize",
    "ConvAvgPool",
    "DiffRes",
    "ResConv1D",
]

FEATURES = ("mean", "max", "encoding")


@keras.saving.register_keras_serializable(package="diffstride")
class DiffRes(BaseFrameReduction):
    """Keeps the important frames of a spectrogram and merges the others.

    A small convolutional network gives each frame a score between zero and
    one, its share of an output frame. The scores of a clip sum to the number of
    output frames. Neighbours whose scores sum to one become one output frame
    (see `diffstride.ops.warping`). The network is trained with the classifier
    that follows. The guide loss teaches it not to spend output frames on
    silence.

    The layer adds the guide loss to the losses of the model. In training, the
    metrics of the model also show `guide_loss`, without its weight, and
    `activeness` ρ, the spread of the scores of frames that are not empty (Eq.
    4). Both are moving averages over about a hundred batches of training, and
    weights of the layer. An evaluation shows neither of them, because it makes
    no batches of training. Of two such layers in a model the metrics show the
    second one's only. For given clips, `analyze` returns both, the scores and
    the warp matrix.

    The convolutions follow the dtype policy. All else is computed in float32.

    Args:
        reduction_rate: number of 0 or more, below 1, δ in the paper. The share
            of frames to do without: `round(time * (1 - reduction_rate))` are
            left.
        output_frames: integer. How many frames to leave, however long the clip;
            give this or `reduction_rate`. A clip with fewer frames is first
            stretched by repeating each.
        log_scale: boolean. Whether the input is a logarithm (to base e), as of
            a mel spectrogram. Frames are then merged, and their energy is
            measured, on the linear scale, and the result is a logarithm again.
            Defaults to True.
        features: tuple of `"mean"`, `"max"` and `"encoding"`, the channels of
            the output in this order: the mean of merged frames; the maximum of
            the frames, each times its share of the output frame (Eq. 6) and
            1 / (1 - δ); and the resolution encoding, which says where in the
            clip the merged frames were. A name may occur again. Defaults to all
            three.
        learned_encoding: boolean. Whether the positional encoding is trained.
            It begins as sines and cosines, and the number of frames must be
            known. Defaults to False.
        guide_loss_weight: number. Factor of the guide loss; with 0 there is
            none. Defaults to 1.
        guide_threshold: number, λ in the paper. Up to this score an empty frame
            costs nothing. It is relative to the score that every frame has if
            all have the same one. Defaults to 0.5.
        empty_energy: number, ε in the paper. A frame is empty if its root mean
            square over the mel channels, on the linear scale, is less than
            this. Defaults to 1e-4.
        fill_up: boolean. The scores are divided by their sum and, if one of
            them is then above one, by their maximum. With True they are then
            filled up, so that they sum to the number of output frames. With
            False, as in the paper, the last output frames may stay empty.
            Defaults to True.
        split_frames: boolean. Whether a frame is split between output frames so
            that each receives one in total (Algorithm 1). Defaults to True.
        kernel_size: integer. Number of frames that each of the ten
            convolutions of the network sees. Defaults to 5.

    Input shape:
        `(batch, time, mel)` or `(batch, time, mel, 1)`

    Output shape:
        `(batch, output frames, mel, 3)`, or as many channels as `features`.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> layer = DiffRes(reduction_rate=0.75)
    >>> tuple(layer(log_mel).shape)
    (2, 25, 64, 3)
    >>> tuple(layer.analyze(log_mel)["scores"].shape)
    (2, 100)

    References:
        - Liu et al., 2022: sections 2.2 and 2.3, Table 6.
    """

    def __init__(
        self,
        reduction_rate: float | None = None,
        output_frames: int | None = None,
        log_scale: bool = True,
        features: Sequence[str] = FEATURES,
        learned_encoding: bool = False,
        guide_loss_weight: float = 1.0,
        guide_threshold: float = 0.5,
        empty_energy: float = 1e-4,
        fill_up: bool = True,
        split_frames: bool = True,
        kernel_size: int = 5,
        **kwargs,
    ):
        super().__init__(reduction_rate, output_frames, log_scale, **kwargs)
        if not (
            isinstance(features, (tuple, list))
            and features
            and all(feature in FEATURES for feature in features)
        ):
            raise ValueError(
                f"`features` must be a tuple of one or more of {FEATURES}. "
                f"Received: features={features!r}"
            )
        for name, value in [
            ("guide_loss_weight", guide_loss_weight),
            ("guide_threshold", guide_threshold),
            ("empty_energy", empty_energy),
        ]:
            if not is_number(value) or not value >= 0:
                raise ValueError(
                    f"`{name}` must be a number of 0 or more. "
                    f"Received: {name}={value}"
                )
        self.features = tuple(features)
        self.learned_encoding = learned_encoding
        self.guide_loss_weight = float(guide_loss_weight)
        self.guide_threshold = float(guide_threshold)
        self.empty_energy = float(empty_energy)
        self.fill_up = fill_up
        self.split_frames = split_frames
        self.kernel_size = check_positive_integer(kernel_size, "kernel_size")

    def build(self, input_shape):
        super().build(input_shape)
        frames, mels = input_shape[1:3]
        widths = [max(mels // 2**block, 1) for block in range(1, 5)]
        self._network = [
            ResConv1D(width, self.kernel_size, dtype=self.dtype_policy)
            for width in (*widths, 1)
        ]
        build_all(self._network, (input_shape[0], frames, mels))

        self._encoding = None
        if self.learned_encoding:
            if frames is None:
                raise ValueError(
                    "`learned_encoding` needs inputs with a known number of "
                    f"frames. Received: input_shape={tuple(input_shape)}"
                )
            self.input_spec = keras.layers.InputSpec(
                ndim=len(input_shape), axes={1: frames, 2: mels}
            )
            self._encoding = self.add_weight(
                name="encoding",
                shape=(frames * self._repeats(frames), mels),
                initializer=lambda shape, dtype: ops.cast(
                    warping.sinusoidal_encoding(*shape), dtype
                ),
                autocast=False,
            )

        self.guide_loss = self._add_statistic("guide_loss")
        self.activeness = self._add_statistic("activeness")
        batches = self._add_statistic("batches")
        self._statistics = TrainingStatistics(
            batches, guide_loss=self.guide_loss, activeness=self.activeness
        )

    def _add_statistic(self, name):
        return self.add_weight(
            name=name,
            shape=(),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="mean",
        )

    def analyze(self, inputs: typing.Any) -> dict[str, np.ndarray]:
        """Scores, warp matrix and features that the layer has for given clips.

        Args:
            inputs: spectrograms, as for a call.

        Returns:
            A dict of float32 tensors: the input as `spectrogram` (batch, time,
            mel), stretched if it had too few frames; `scores` (batch, time);
            `warp_matrix` (batch, output frames, time); `mean`, `max` and
            `encoding` (batch, output frames, mel), whatever the `features` of
            the output; `guide_loss` and `activeness` (batch,).
        """
        inputs = ops.convert_to_tensor(inputs)
        if not self.built:
            self.build(tuple(inputs.shape))
        spectrogram, output_frames = self._spectrogram(inputs)
        linear = self._to_linear(spectrogram)
        scores, warp = self._warp(spectrogram, output_frames, training=False)
        guide_loss, activeness = self._guide_loss_and_activeness(
            scores, linear, output_frames
        )
        return {
            "spectrogram": spectrogram,
            "scores": scores,
            "warp_matrix": warping.warp_matrix(warp, output_frames),
            **{
                name: self._feature(name, linear, scores, warp, output_frames)
                for name in FEATURES
            },
            "guide_loss": guide_loss,
            "activeness": activeness,
        }

    def _features(self, spectrogram, output_frames, training):
        linear = self._to_linear(spectrogram)
        scores, warp = self._warp(spectrogram, output_frames, training)
        self._record(scores, linear, output_frames, training)
        return [
            self._feature(name, linear, scores, warp, output_frames)
            for name in self.features
        ]

    def _channels(self):
        return len(self.features)

    def _importance(self, spectrogram, training):
        """Eq. 3: the importance of each frame, between zero and one."""
        x = spectrogram
        for block in self._network:
            x = block(x, training=training)
        return ops.sigmoid(ops.cast(x[..., 0], "float32"))

    def _warp(self, spectrogram, output_frames, training):
        scores = warping.rescale_scores(
            self._importance(spectrogram, training), output_frames, self.fill_up
        )
        warp = warping.warp(
            scores, output_frames, self.fill_up, self.split_frames
        )
        return scores, warp

    def _feature(self, name, linear, scores, warp, output_frames):
        _, frames, mels = ops.shape(linear)
        if name == "encoding":
            encoding = self._encoding
            if encoding is None:
                encoding = warping.sinusoidal_encoding(frames, mels)
            encoding = ops.convert_to_tensor(encoding)[None]
            return warping.weighted_mean(encoding, warp, output_frames)
        if name == "mean":
            merged = warping.weighted_mean(linear, warp, output_frames)
        else:
            # As loud as the mean where no frame is preferred to another.
            share = (
                warping.rate(scores, output_frames)
                if self.reduction_rate is None
                else 1 - self.reduction_rate
            )
            merged = warping.weighted_max(linear, warp, output_frames) / share
        return self._from_linear(merged, linear)

    def _guide_loss_and_activeness(self, scores, linear, output_frames):
        """Of each clip."""
        rate = warping.rate(scores, output_frames)
        is_empty = warping.frame_energy(linear) < self.empty_energy
        return (
            warping.guide_loss(scores, is_empty, rate, self.guide_threshold),
            warping.activeness(scores, ops.logical_not(is_empty), rate),
        )

    def _record(self, scores, linear, output_frames, training):
        guide_loss, activeness = map(
            ops.mean,
            self._guide_loss_and_activeness(scores, linear, output_frames),
        )
        if self.guide_loss_weight:
            self.add_loss(self.guide_loss_weight * guide_loss)
        self._statistics.is_training = bool(training)
        if training:
            self._statistics.update_state(
                guide_loss=guide_loss, activeness=activeness
            )

    def get_config(self):
        return {
            **super().get_config(),
            "features": list(self.features),
            "learned_encoding": self.learned_encoding,
            "guide_loss_weight": self.guide_loss_weight,
            "guide_threshold": self.guide_threshold,
            "empty_energy": self.empty_energy,
            "fill_up": self.fill_up,
            "split_frames": self.split_frames,
            "kernel_size": self.kernel_size,
        }
