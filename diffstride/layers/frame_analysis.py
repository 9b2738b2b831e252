"""What DiffRes tells about given clips, and the way back to their frames."""

import typing

from keras import ops

from diffstride.layers.frame_reduction import fits
from diffstride.ops import frame_scores, unwarping, warping

FEATURES = ("mean", "max", "encoding")


def check_features(features, learned_encoding):
    """The argument `features` of `DiffRes`, as a tuple."""
    names = (features,) if isinstance(features, str) else features
    if not (
        isinstance(names, (tuple, list))
        and names
        and all(name in FEATURES for name in names)
    ):
        raise ValueError(
            f"`features` must be one of {FEATURES}, or a tuple of one or "
            f"more of them. Received: features={features!r}"
        )
    if learned_encoding and "encoding" not in names:
        raise ValueError(
            "`learned_encoding` needs `features` with 'encoding', because it "
            f"has no other use. Received: features={features!r}"
        )
    return tuple(names)


class FrameAnalysis:
    """What `DiffRes` says about clips, and how it brings back frames."""

    def analyze(
        self,
        inputs: typing.Any,
        mask: typing.Any = None,
        lengths: typing.Any = None,
    ) -> dict[str, typing.Any]:
        """Scores, warp matrix and features that the layer has for given clips.

        Args:
            inputs: spectrograms, as for a call.
            mask: as for a call.
            lengths: as for a call.

        Returns:
            A dict of tensors, in float32 where not said otherwise: the input as
            `spectrogram` (batch, time, mel), stretched if it had too few
            frames; `scores` (batch, time); `warp_matrix` (batch, output frames,
            time); `mean`, `max` and `encoding` (batch, output frames, mel),
            whatever the `features` of the output; `edges` (batch, output frames
            + 1), where in the input each output frame begins and ends, in
            frames: times the seconds of a hop, these are times; `output_frames`
            (batch,), integers, how many each clip uses; `guide_loss` and
            `activeness` (batch,).
        """
        clips = self._built_clips(inputs, mask, lengths)
        linear = self._to_linear(clips.spectrogram)
        clips, scores, warp = self._warp(clips, training=False)
        guide_loss, activeness = self._guide_loss_and_activeness(
            clips, scores, linear
        )
        edges = unwarping.edges(warp, clips.output_frames, clips.mask)
        repeats = frame_scores.for_each_clip(clips.repeats, edges.dtype)
        return {
            "spectrogram": clips.spectrogram,
            "scores": scores,
            "warp_matrix": warping.warp_matrix(warp, clips.output_frames),
            **{
                name: self._feature(name, clips, linear, scores, warp)
                for name in FEATURES
            },
            "edges": edges / repeats,
            "output_frames": ops.cast(clips.counts, "int32")
            + ops.zeros_like(warp.rows[:, 0]),
            "guide_loss": guide_loss,
            "activeness": activeness,
        }

    def to_frames(
        self,
        outputs: typing.Any,
        inputs: typing.Any,
        mask: typing.Any = None,
        lengths: typing.Any = None,
    ) -> typing.Any:
        """Brings what output frames hold back to the frames of the input.

        Inside a model, `return_warp` and `RestoreFrames` do the same.

        Args:
            outputs: (batch, output frames, channels), such as predictions.
            inputs: the spectrograms that the layer was called on.
            mask: as for the call.
            lengths: as for the call.

        Returns:
            (batch, time, channels), with the frames of the input. A frame that
            was repeated receives the average of its copies.
        """
        clips = self._built_clips(inputs, mask, lengths)
        clips, _, warp = self._warp(clips, training=False)
        outputs = ops.convert_to_tensor(outputs)
        known = clips.output_frames
        known = known if isinstance(known, int) else None
        sizes = (clips.spectrogram.shape[0], known, None)
        if not fits(outputs.shape, sizes):
            raise ValueError(
                f"`outputs` must have the shape {sizes} of the output frames "
                f"of layer '{self.name}', with any number of channels. "
                f"Received: outputs.shape={tuple(outputs.shape)}"
            )
        restored = unwarping.to_frames(outputs, warp)
        if self.output_frames is None:
            return restored
        return _unstretched(restored, clips, ops.shape(inputs)[1])

    def _guide_loss_and_activeness(self, clips, scores, linear):
        """Of each clip."""
        rate = clips.rate(scores)
        is_empty = frame_scores.frame_energy(linear) < self.empty_energy
        is_active = ops.logical_not(is_empty)
        if clips.mask is not None:
            is_empty = ops.logical_and(is_empty, clips.mask)
            is_active = ops.logical_and(is_active, clips.mask)
        threshold = self.guide_threshold
        return (
            frame_scores.guide_loss(scores, is_empty, rate, threshold),
            frame_scores.activeness(scores, is_active, rate),
        )

    def _built_clips(self, inputs, mask, lengths):
        inputs = ops.convert_to_tensor(inputs)
        if not self.built:
            self.build(tuple(inputs.shape))
        return self._clips(inputs, mask, lengths)


def _unstretched(restored, clips, frames):
    """Averages over the copies of each frame, by a warp that merges them."""
    repeats = frame_scores.for_each_clip(clips.repeats, "int32")
    shares = ops.ones_like(restored[..., 0]) / ops.cast(repeats, restored.dtype)
    if clips.mask is not None:
        shares = ops.where(clips.mask, shares, 0.0)
    places = ops.arange(ops.shape(restored)[1], dtype="int32")
    rows = places // repeats + ops.zeros_like(shares, dtype="int32")
    copies = warping.Warp(rows, shares, ops.zeros_like(shares))
    return warping.weighted_mean(restored, copies, frames)
