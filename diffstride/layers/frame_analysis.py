"""What DiffRes tells about given clips, and the way back to their frames."""

import typing

import numpy as np
from keras import ops

from diffstride.ops import frame_scores, unwarping, warping

FEATURES = ("mean", "max", "encoding")


class FrameAnalysis:
    """Methods of `DiffRes` that are no part of a call."""

    def analyze(
        self,
        inputs: typing.Any,
        mask: typing.Any = None,
        lengths: typing.Any = None,
    ) -> dict[str, np.ndarray]:
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
            (batch, time, channels).
        """
        clips = self._built_clips(inputs, mask, lengths)
        _, _, warp = self._warp(clips, training=False)
        return unwarping.to_frames(outputs, warp)

    def _built_clips(self, inputs, mask, lengths):
        inputs = ops.convert_to_tensor(inputs)
        if not self.built:
            self.build(tuple(inputs.shape))
        return self._clips(inputs, mask, lengths)
