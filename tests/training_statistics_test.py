import keras
import numpy as np
import pytest

from diffstride.layers.training_statistics import TrainingStatistics


class Measuring(keras.layers.Layer):
    """Passes its inputs on, and shows their mean."""

    def build(self, input_shape):
        batches, average = (
            self.add_weight(shape=(), initializer="zeros", trainable=False)
            for _ in range(2)
        )
        self.statistics = TrainingStatistics(batches, average=average)

    def call(self, inputs, training=None):
        self.statistics.is_training = bool(training)
        if training:
            self.statistics.update_state(average=keras.ops.mean(inputs))
        return inputs


def test_moving_average_over_a_hundred_batches():
    layer = Measuring()
    expected = 0.0
    for batch in range(1, 151):
        layer(np.full((1, 1), batch, "float32"), training=True)
        expected += (batch - expected) / min(batch, 100)
    np.testing.assert_allclose(
        layer.statistics.result()["average"], expected, rtol=1e-4
    )


def test_a_reset_hides_what_was_measured_before():
    layer = Measuring()
    layer(np.ones((1, 1), "float32"), training=True)
    layer.statistics.reset_state()
    layer(np.ones((1, 1), "float32"), training=False)
    assert layer.statistics.result() == {}
    layer(np.full((1, 1), 4, "float32"), training=True)
    # The average goes on.
    assert float(layer.statistics.result()["average"]) == pytest.approx(2.5)


@pytest.mark.tensorflow
def test_several_devices():
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), Measuring()])
        model.compile(loss="mse")
    x = np.array([[1.0], [3.0]], "float32")
    history = model.fit(
        x, x, 2, epochs=2, verbose=0, validation_data=(x, x)
    ).history
    assert history == {"loss": [0, 0], "val_loss": [0, 0], "average": [2, 2]}
