"""Masks over stretches of time and frequency, while a model is trained.

Reference: Park et al., [SpecAugment: a simple data augmentation method for
automatic speech recognition](https://arxiv.org/abs/1904.08779), 2019.
"""

import keras
from keras import ops

from diffstride.validation import check_integer, is_number


@keras.saving.register_keras_serializable(package="diffstride")
class SpecAugment(keras.layers.Layer):
    """Masks a random stretch of time and of frequency of each spectrogram.

    The widths of the masks are uniform between nothing and a share of the
    spectrogram, and so are their places. What is masked takes the mean of its
    spectrogram, which is the zero of a normalized one. The defaults are those
    of PSLA and of the DiffRes paper.

    Only training masks: elsewhere the layer returns its input. A Keras mask of
    padding goes on to the next layer.

    Args:
        time_rate: number between 0 and 1. The largest share of time that a
            mask covers.
        frequency_rate: number between 0 and 1. The largest share of the
            frequency channels that a mask covers.
        time_masks: integer. Masks over time for each spectrogram.
        frequency_masks: integer. Masks over frequency for each spectrogram.
        seed: integer. Seed of the masks. Defaults to a random one, which
            follows from `keras.utils.set_random_seed`.

    Input shape:
        `(batch, time, frequency)` or `(batch, time, frequency, channels)`

    Output shape:
        Same as the input shape.

    Example:

    >>> log_mel = np.random.normal(-4, 2, (2, 100, 64)).astype("float32")
    >>> tuple(SpecAugment()(log_mel, training=True).shape)
    (2, 100, 64)

    References:
        - Park et al., 2019: section 2.
        - Liu et al., [Learning the spectrogram temporal resolution for audio
          classification](https://arxiv.org/abs/2210.01719), 2022: section 3.
    """

    def __init__(
        self,
        time_rate: float = 0.5,
        frequency_rate: float = 0.375,
        time_masks: int = 1,
        frequency_masks: int = 1,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, rate in [
            ("time_rate", time_rate),
            ("frequency_rate", frequency_rate),
        ]:
            if not is_number(rate) or not 0 <= rate <= 1:
                raise ValueError(
                    f"`{name}` must be a number between 0 and 1. "
                    f"Received: {name}={rate}"
                )
        self.time_rate = time_rate
        self.frequency_rate = frequency_rate
        self.time_masks = check_integer(time_masks, "time_masks", least=0)
        self.frequency_masks = check_integer(
            frequency_masks, "frequency_masks", least=0
        )
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.input_spec = keras.layers.InputSpec(min_ndim=3, max_ndim=4)
        self.supports_masking = True

    def build(self, input_shape):
        pass

    def call(self, inputs, training=False):
        if not training:
            return inputs
        masked = self._masked(inputs, 1, self.time_rate, self.time_masks)
        masked = ops.logical_or(
            masked,
            self._masked(inputs, 2, self.frequency_rate, self.frequency_masks),
        )
        if len(inputs.shape) == 4:
            masked = masked[..., None]
        axes = tuple(range(1, len(inputs.shape)))
        mean = ops.mean(ops.cast(inputs, "float32"), axis=axes, keepdims=True)
        return ops.where(masked, ops.cast(mean, inputs.dtype), inputs)

    def _masked(self, inputs, axis, rate, count):
        """Which of (batch, time, frequency) lie in a mask along one axis."""
        shape = ops.shape(inputs)
        size = ops.cast(shape[axis], "float32")
        chance = keras.random.uniform(
            (2, shape[0], count, 1), seed=self.seed_generator
        )
        largest = ops.floor(rate * size)
        # The product may be rounded up to the next integer.
        widths = ops.minimum(ops.floor(chance[0] * (largest + 1)), largest)
        starts = ops.floor(chance[1] * (size - widths + 1))
        places = ops.arange(shape[axis], dtype="float32")
        masked = ops.logical_and(places >= starts, places < starts + widths)
        masked = ops.any(masked, axis=1)
        return masked[:, :, None] if axis == 1 else masked[:, None, :]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "time_rate": self.time_rate,
            "frequency_rate": self.frequency_rate,
            "time_masks": self.time_masks,
            "frequency_masks": self.frequency_masks,
            "seed": self.seed,
        }
