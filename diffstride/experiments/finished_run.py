"""Reads the results and the configuration of a finished run."""

import ast
import dataclasses
import functools
import itertools

from diffstride.analysis.complexity import complexity
from diffstride.analysis.cutoff import cutoff_frequency

# Layers that make a spectrogram of a waveform.
FRONTENDS = (
    "LogMelSpectrogram",
    "LEAF",
    "SincFilterbank",
    "TimeDomainFilterbank",
)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """One run that was finished.

    Args:
        name: Name of its directory.
        choices: The choice on each axis of the sweep.
        seed: Seed of the run, or None if it is not known.
        command: Arguments of the training binary, or None.
        history: One dict for each epoch.
        config: The lines of `config.gin` that bind something.
        environment: Date, backend, devices and versions, if they are known.
        test: The figures of the test split by checkpoint, `"final"` and
            `"best"`, of a run with a validation split.
    """

    name: str
    choices: dict
    seed: int | None
    command: list | None
    history: list
    config: list
    environment: dict = dataclasses.field(default_factory=dict)
    test: dict = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def parameters(self):
        """Values of the configuration, by the last part of their names."""
        parameters = {}
        for line in self.config:
            name, _, value = line.partition(" = ")
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                pass  # It is a reference, which stays a text.
            parameters[name.split("/")[-1]] = value
        return parameters

    def parameter(self, name, default=None):
        """The value of a parameter, whatever of: `strides` or `train.model`.

        Of a macro such as `%STRIDES`, what it stands for.
        """
        for key, value in self.parameters.items():
            if key == name or key.endswith(f".{name}"):
                while isinstance(value, str) and value.startswith("%"):
                    value = self.parameters.get(value[1:])
                return value
        return default

    def value(self, metric):
        """A number of the run at its end, or None."""
        if metric == "complexity":
            return self.complexity
        if metric == "total_seconds":
            return sum(row.get("seconds", 0) for row in self.history)
        return self.numbers.get(metric)

    @functools.cached_property
    def numbers(self):
        """All numbers of the run at its end, by name.

        Those of the test split, if there is a validation split beside it, are
        `test_accuracy` and `best_test_accuracy`: of the final weights, and of
        the epoch that is the best one for the validation split.
        """
        rows = {"": self.history[-1]}
        for which, prefix in (("final", "test_"), ("best", "best_test_")):
            rows[prefix] = self.test.get(which, {})
        return {
            f"{prefix}{name}": value
            for prefix, row in rows.items()
            for name, value in row.items()
            if isinstance(value, (int, float))
            and not (prefix and name == "step")
        }

    @property
    def learned(self):
        """Strides of each layer after training, a number for each axis."""
        return self.strides_after(len(self.history))

    def strides_after(self, epoch):
        """Learned strides after this epoch; those of epoch 0 only if known."""
        if not self.history[-1].get("strides"):
            return {}
        if epoch == 0:
            initial = self.initial
            layers = self.history[0]["strides"]
            if initial is None or len(initial) != len(layers):
                return None
            return dict(zip(layers, initial, strict=True))
        row = self.history[epoch - 1]
        # Without sizes of the input, the run has recorded no sizes of maps.
        return {
            layer: _per_axis(strides, len(row["sizes"].get(layer, strides)))
            for layer, strides in row["strides"].items()
        }

    @property
    def initial(self):
        """The strides in the configuration of downsampling layers, or None."""
        model = str(self.parameter("train.model", "")).split(".")[-1]
        strides = self.parameter(f"{model}.strides")
        if isinstance(strides, str):  # The 2022 release has "1, 2, 2".
            strides = ast.literal_eval(f"[{strides}]")
        if not isinstance(strides, (list, tuple)):
            return None
        if model.lower().startswith("resnet"):
            strides = self._of_slots(model, strides)
        return [_per_axis(s, 2) for s in strides if s is not None]

    def _of_slots(self, model, strides):
        """Strides of the parts of a ResNet that have a pooling slot.

        Version 0.1 had no such parameters, and a slot in each block.
        """
        has_slot = [self.parameter(f"{model}.stem_slot", False)]
        without = self.parameter(f"{model}.id_only", ())
        if self.parameter(f"{model}.downsample_identity", True):
            without = ()
        has_slot += [i not in without for i in range(len(strides) - 1)]
        return [s for s, slot in zip(strides, has_slot, strict=True) if slot]

    @property
    def axis_names(self):
        """Names of the axes of a map: height, width or time, frequency."""
        if self._of_frontend("hop_ms") is None:
            return ("height", "width")
        return ("time", "frequency")

    @property
    def complexity(self):
        """J in Eq. 6, of learned strides or of fixed ones, or None."""
        strides = list(self.learned.values()) or self.initial
        return complexity(strides) if strides else None

    @property
    def frames_per_second(self):
        """Frames of a spectrogram that the classifier sees, or None."""
        hop_ms = self._of_frontend("hop_ms")
        if hop_ms is None:
            return None
        return 1000 / hop_ms * (1 - self._reduction_rate)

    def _of_frontend(self, *names):
        """A parameter of the layer that makes a spectrogram, or None."""
        for name, frontend in itertools.product(names, FRONTENDS):
            value = self.parameter(f"{frontend}.{name}")
            if value is not None:
                return value
        return None

    @property
    def _reduction_rate(self):
        """The share of frames that the frame reduction removes."""
        layer = self.parameter("frame_reduction")
        if isinstance(layer, str) and layer.endswith(".all_frames"):
            return 0
        rate = self.parameter("reduction_rate") or 0
        # Of a range, the middle holds wherever the model is not trained.
        return sum(rate) / 2 if isinstance(rate, (tuple, list)) else rate

    @property
    def cutoffs(self):
        """Cut-offs of the first learned layer of a spectrogram, or None.

        In Hz along time, and in cycles per mel along frequency.
        """
        hop_ms = self._of_frontend("hop_ms")
        first = next(iter(self.learned.values()), ())
        if hop_ms is None or len(first) != 2:
            return None
        time, frequency = first
        return (
            cutoff_frequency(
                time, sampling_rate=1000 / hop_ms, size=self._frames
            ),
            cutoff_frequency(
                frequency, size=self._of_frontend("num_mels", "num_filters")
            ),
        )

    @property
    def _frames(self):
        """Frames of a spectrogram in training, or None."""
        names = ("sample_rate", "window_ms", "hop_ms", "center")
        rate, window_ms, hop_ms, center = (
            self._of_frontend(name) for name in names
        )
        seconds = self.parameter("window_seconds")
        if None in (rate, window_ms, seconds) or self._reduction_rate:
            return None
        hop = round(rate * hop_ms / 1000)
        if center:
            return 1 + round(seconds * rate) // hop
        samples = round(seconds * rate) - round(rate * window_ms / 1000)
        return 1 + samples // hop


def _per_axis(strides, rank):
    if isinstance(strides, (int, float)):
        strides = [strides]
    return [float(strides[axis % len(strides)]) for axis in range(rank)]
