"""DiffRes, which learns the temporal resolution of a spectrogram.

The layer stands between a log-mel spectrogram and a classifier. The layers of
`diffstride.layers.frame_pooling`, with which it is compared, take the same
arguments and return the same shape, so that one can replace another. The
mathematics of DiffRes is in `diffstride.ops.frame_scores` and
`diffstride.ops.warping`.

Reference: Liu et al., [Learning the spectrogram temporal resolution for audio
classification](https://arxiv.org/abs/2210.01719), 2022.
"""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from diffstride.layers.frame_analysis import (
    FEATURES,
    FrameAnalysis,
    check_features,
)
from diffstride.layers.frame_pooling import (
    AvgMaxPool,
    AvgPool,
    ChangeHopSize,
    ConvAvgPool,
)
from diffstride.layers.frame_reduction import BaseFrameReduction
from diffstride.layers.frame_scorers import (
    check_score_threshold,
    check_scorer,
    importance,
    scorer_config,
    scoring_network,
)
from diffstride.layers.res_conv import ResConv1D
from diffstride.layers.training_statistics import (
    TrainingStatistics,
    add_statistic,
)
from diffstride.ops import frame_scores, warping
from diffstride.validation import check_not_negative, check_positive_integer

__all__ = [
    "AvgMaxPool",
    "AvgPool",
    "ChangeHopSize",
    "ConvAvgPool",
    "DiffRes",
    "ResConv1D",
]


@keras.saving.register_keras_serializable(package="diffstride")
class DiffRes(FrameAnalysis, BaseFrameReduction):
    """Keeps the important frames of a spectrogram and merges the others.

    A small convolutional network gives each frame a score between zero and
    one, its share of an output frame. The scores of a clip sum to the number of
    output frames. Neighbours whose scores sum to one become one output frame
    (see `diffstride.ops.warping`). The network is trained with the classifier
    that follows. The guide loss teaches it not to spend output frames on
    silence. Another `scorer` may take the place of the network.

    The layer adds the guide loss to the losses of the model. In training, the
    metrics of the model also show `guide_loss`, without its weight, and
    `activeness` ρ, the spread of the scores of frames that are not empty (Eq.
    4). Both are moving averages over about a hundred batches of training, and
    weights of the layer. An evaluation shows neither of them, because it makes
    no batches of training. Of two such layers in a model the metrics show the
    second one's only. For given clips, `analyze` returns both, the scores and
    the warp matrix.

    Clips of several lengths: a mask of the input, or `lengths`, says which
    frames are padding. Padding has no part in the output, nor in the statistics
    of a batch, so that a clip in a padded batch gives what it gives alone. Each
    clip has its own number of output frames. Those that it does not use are
    zeros, and the mask of the output is False there.

    The convolutions follow the dtype policy. All else is computed in float32.

    Args:
        reduction_rate: number of 0 or more, below 1, δ in the paper. The share
            of frames to do without: `round(time * (1 - reduction_rate))` are
            left. `layer.reduction_rate = 0.5` sets another number later. A
            range of two numbers is drawn from at each step of training;
            elsewhere its middle holds, until a number is set. Under JAX the
            callback `DrawReductionRate` draws, by its own seed. See `seed` for
            a range that is set later.
        output_frames: integer. How many frames to leave, however long the clip;
            give this or `reduction_rate`. A clip with fewer frames is first
            stretched by repeating each.
        log_scale: boolean. Whether the input is a logarithm (to base e), as of
            a mel spectrogram. Frames are then merged, and their energy is
            measured, on the linear scale, and the result is a logarithm again.
            With False, the outputs are as large as the inputs, and energies
            above 65,504 overflow under the policy `mixed_float16`: put `PCEN`
            between. Defaults to True.
        features: tuple of `"mean"`, `"max"` and `"encoding"`, the channels of
            the output in this order: the mean of merged frames; the maximum of
            the frames, each times its share of the output frame (Eq. 6) and
            1 / (1 - δ); and the resolution encoding, which says where in the
            clip the merged frames were. A name may occur again. Defaults to all
            three. A single string instead of a tuple gives outputs without an
            axis for the channels.
        learned_encoding: boolean. Whether the positional encoding is trained.
            It begins as sines and cosines. The number of frames must be known,
            and `features` must have `"encoding"`. Defaults to False.
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
        score_threshold: number between 0 and 1, or None. With a number, a clip
            has as many output frames as it has frames whose importance, before
            the scores are rescaled, exceeds this: at least one, and no more
            than `reduction_rate` or `output_frames` leave. The mask of the
            output says which are used. Defaults to None: all are.
        return_warp: boolean. Whether to return the warp beside the features,
            as a tensor for `RestoreFrames`. It needs a `reduction_rate`.
            Defaults to False.
        scorer: `"learned"`, `"dissimilarity"`, or a layer or a function.
            `"learned"` is the network of the paper. `"dissimilarity"` has no
            parameters: a frame scores by how much it differs from its
            neighbours (see `diffstride.ops.frame_scores.dissimilarity`). A
            layer or a function takes (batch, time, mel) and returns scores
            between zero and one, (batch, time) or (batch, time, 1); padding
            comes to it as zeros. Defaults to `"learned"`.
        seed: integer or None. Seed of what is drawn from a range. A built layer
            can be set to a range if it was made with a range or with a seed.
            A file stores the current rate. If that is a number, a loaded layer
            can be set to a range only if it has a seed. Defaults to None: a
            random seed, which follows from `keras.utils.set_random_seed`.

    Call arguments:
        inputs: spectrograms.
        training: boolean.
        mask: booleans (batch, time), False for padding. Defaults to the mask of
            `inputs`, if Keras has one.
        lengths: integers (batch,). How many frames each clip has, before
            padding; in the place of a mask. A length below 0 counts as 0, and
            one above the number of frames as all of them. With `output_frames`,
            padding must come after the frames of a clip in any case.

    Input shape:
        `(batch, time, mel)` or `(batch, time, mel, 1)`

    Output shape:
        `(batch, output frames, mel, 3)`, or as many channels as `features`; or
        `(batch, output frames, mel)` if `features` is a string. With
        `return_warp`, a tuple of this and `(batch, time, 3)`.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> layer = DiffRes(reduction_rate=0.75)
    >>> tuple(layer(log_mel).shape)
    (2, 25, 64, 3)
    >>> tuple(layer.analyze(log_mel)["scores"].shape)
    (2, 100)
    >>> outputs = layer(log_mel, lengths=np.array([100, 60]))
    >>> mask = keras.ops.convert_to_numpy(outputs._keras_mask[..., 0])
    >>> mask.sum(axis=1).tolist()
    [25, 15]

    Inside a network, features of any kind are merged as they are:

    >>> merge = DiffRes(0.5, log_scale=False, features="mean")
    >>> tuple(merge(np.random.normal(size=(2, 100, 16))).shape)
    (2, 50, 16)

    References:
        - Liu et al., 2022: sections 2.2 and 2.3, Table 6.
    """

    def __init__(
        self,
        reduction_rate: float | Sequence[float] | None = None,
        output_frames: int | None = None,
        log_scale: bool = True,
        features: str | Sequence[str] = FEATURES,
        learned_encoding: bool = False,
        guide_loss_weight: float = 1.0,
        guide_threshold: float = 0.5,
        empty_energy: float = 1e-4,
        fill_up: bool = True,
        split_frames: bool = True,
        kernel_size: int = 5,
        score_threshold: float | None = None,
        return_warp: bool = False,
        scorer: str | Callable = "learned",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(
            reduction_rate, output_frames, log_scale, seed, **kwargs
        )
        self._names = check_features(features, learned_encoding)
        check_not_negative(
            guide_loss_weight=guide_loss_weight,
            guide_threshold=guide_threshold,
            empty_energy=empty_energy,
        )
        self.features = features if isinstance(features, str) else self._names
        self.scorer = check_scorer(scorer)
        self.learned_encoding = learned_encoding
        self.guide_loss_weight = float(guide_loss_weight)
        self.guide_threshold = float(guide_threshold)
        self.empty_energy = float(empty_energy)
        self.fill_up = fill_up
        self.split_frames = split_frames
        self.kernel_size = check_positive_integer(kernel_size, "kernel_size")
        self.score_threshold = check_score_threshold(score_threshold)
        self.is_adaptive = score_threshold is not None
        if return_warp and reduction_rate is None:
            raise ValueError(
                "`return_warp` needs a `reduction_rate`: with `output_frames`, "
                "frames may be repeated, and the warp is not that of the "
                f"input. Received: output_frames={output_frames}"
            )
        self.return_warp = return_warp

    def build(self, input_shape):
        super().build(input_shape)
        frames, mels = input_shape[1:3]
        self._network = scoring_network(
            self.scorer,
            tuple(input_shape[:3]),
            self.kernel_size,
            self.dtype_policy,
        )

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

        self.guide_loss = add_statistic(self, "guide_loss")
        self.activeness = add_statistic(self, "activeness")
        batches = add_statistic(self, "batches")
        self._statistics = TrainingStatistics(
            batches, guide_loss=self.guide_loss, activeness=self.activeness
        )

    def call(self, inputs, training=None, mask=None, lengths=None):
        clips = self._clips(inputs, mask, lengths, training)
        linear = self._to_linear(clips.spectrogram)
        clips, scores, warp = self._warp(clips, training)
        self._record(clips, scores, linear, training)
        outputs = self._outputs(
            clips,
            [
                self._feature(name, clips, linear, scores, warp)
                for name in self._names
            ],
        )
        if not self.return_warp:
            return outputs
        return outputs, warping.as_tensor(warp)

    def compute_output_shape(self, input_shape):
        shape = super().compute_output_shape(input_shape)
        return (shape, (*input_shape[:2], 3)) if self.return_warp else shape

    def compute_output_spec(self, inputs, *args, **kwargs):
        shapes = self.compute_output_shape(inputs.shape)
        if not self.return_warp:
            return keras.KerasTensor(shapes, self.compute_dtype)
        return (
            keras.KerasTensor(shapes[0], self.compute_dtype),
            keras.KerasTensor(shapes[1], "float32"),
        )

    def compute_mask(self, inputs, previous_mask=None):
        # The warp takes the mask of the frames to `RestoreFrames`.
        masks = self._take_masks(inputs, previous_mask)
        return list(masks) if self.return_warp else masks[0]

    def _with_used(self, clips):
        return self._warp(clips, training=False)[0]

    def _channels(self):
        return None if isinstance(self.features, str) else len(self.features)

    def _warp(self, clips, training):
        """The clips with what they use, their scores and their warp."""
        scores = importance(self.scorer, self._network, clips, training)
        if self.score_threshold is not None:
            exceeds = scores > self.score_threshold
            if clips.mask is not None:
                exceeds = ops.logical_and(exceeds, clips.mask)
            used = ops.sum(ops.cast(exceeds, "int32"), axis=1)
            used = ops.minimum(ops.maximum(used, 1), clips.counts)
            clips = clips._replace(used=used)
        scores = frame_scores.rescale_scores(
            scores, clips.counts, self.fill_up, clips.mask
        )
        warp = warping.warp(
            scores, clips.counts, self.fill_up, self.split_frames
        )
        return clips, scores, warp

    def _feature(self, name, clips, linear, scores, warp):
        _, frames, mels = ops.shape(linear)
        output_frames = clips.output_frames
        if name == "encoding":
            encoding = self._encoding
            stretched = self.output_frames is not None
            if encoding is not None and stretched and clips.mask is not None:
                raise ValueError(
                    "`learned_encoding` takes a mask with `reduction_rate` "
                    "only, because `output_frames` stretches each clip by "
                    f"another factor. Received: layer '{self.name}'"
                )
            if encoding is None:
                encoding = warping.sinusoidal_encoding(frames, mels)
            encoding = ops.convert_to_tensor(encoding)[None]
            return warping.weighted_mean(encoding, warp, output_frames)
        if name == "mean":
            merged = warping.weighted_mean(linear, warp, output_frames)
        else:
            merged = warping.weighted_max(linear, warp, output_frames)
            # As loud as the mean where no frame is preferred to another.
            if clips.reduction_rate is None or self.is_adaptive:
                rate = clips.rate(scores)
                merged = merged / ops.reshape(rate, (-1, 1, 1))
            else:
                merged = merged / (1 - clips.reduction_rate)
        return self._from_linear(merged, linear, clips.mask)

    def _record(self, clips, scores, linear, training):
        if scores.shape[0] == 0:
            # The mean over no clips is not a number.
            return
        guide_loss, activeness = map(
            ops.mean, self._guide_loss_and_activeness(clips, scores, linear)
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
            "features": (
                self.features
                if isinstance(self.features, str)
                else list(self.features)
            ),
            "learned_encoding": self.learned_encoding,
            "guide_loss_weight": self.guide_loss_weight,
            "guide_threshold": self.guide_threshold,
            "empty_energy": self.empty_energy,
            "fill_up": self.fill_up,
            "split_frames": self.split_frames,
            "kernel_size": self.kernel_size,
            "score_threshold": self.score_threshold,
            "return_warp": self.return_warp,
            "scorer": scorer_config(self.scorer),
        }
