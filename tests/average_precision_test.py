"""Mean average precision against scikit-learn, in `fit` and over devices."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from diffstride.training.average_precision import (
    MeanAveragePrecision,
    average_precision,
)

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def draw(examples=60, classes=5, levels=None, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.random((examples, classes)) < 0.3
    scores = generator.random((examples, classes)).astype("float32")
    if levels:
        scores = np.floor(scores * levels) / levels
    return targets.astype("float32"), scores.astype("float32")


def reference(targets, scores, weights=None):
    return sklearn_metrics.average_precision_score(
        targets, scores, average="macro", sample_weight=weights
    )


def test_against_scikit_learn():
    for seed in range(20):
        # Few levels: many equal scores. Once, all are equal.
        targets, scores = draw(levels=[None, 7, 1][seed % 3], seed=seed)
        weights = np.random.default_rng(seed).random(60)
        np.testing.assert_allclose(
            average_precision(targets, scores).mean(),
            reference(targets, scores),
            rtol=1e-12,
        )
        np.testing.assert_allclose(
            average_precision(targets, scores, weights).mean(),
            reference(targets, scores, weights),
            rtol=1e-6,
        )


def test_a_class_without_a_true_example_does_not_count():
    targets, scores = draw()
    targets[:, 2] = 0
    values = average_precision(targets, scores)
    assert np.isnan(values).tolist() == [False, False, True, False, False]
    metric = MeanAveragePrecision(5, 60)
    metric.update_state(targets, scores)
    kept = [0, 1, 3, 4]
    np.testing.assert_allclose(
        float(metric.result()),
        reference(targets[:, kept], scores[:, kept]),
        rtol=1e-6,
    )


def test_batches_weights_and_reset():
    targets, scores = draw()
    weights = np.tile([1.0, 0.0, 2.0], 20)
    metric = MeanAveragePrecision(5, max_examples=100)
    assert metric.name == "mean_average_precision"
    assert float(metric.result()) == 0
    for _ in range(2):
        metric.reset_state()
        for start in range(0, 60, 25):
            part = slice(start, start + 25)
            metric.update_state(targets[part], scores[part], weights[part])
        np.testing.assert_allclose(
            float(metric.result()),
            reference(targets, scores, weights),
            rtol=1e-6,
        )


def test_the_latest_examples_are_kept():
    targets, scores = draw()
    metric = MeanAveragePrecision(5, max_examples=40)
    for start in range(0, 60, 15):
        part = slice(start, start + 15)
        metric.update_state(targets[part], scores[part])
    expected = reference(targets[-40:], scores[-40:])
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)


def test_in_compiled_fit_and_evaluate():
    targets, x = draw(examples=50)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(5, activation="sigmoid"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1),
        "binary_crossentropy",
        weighted_metrics=[MeanAveragePrecision(5, 50)],
    )
    history = model.fit(
        x, targets, 16, validation_data=(x, targets), verbose=0
    ).history
    expected = reference(targets, model.predict(x, verbose=0))
    np.testing.assert_allclose(
        history["val_mean_average_precision"], [expected], rtol=1e-5
    )
    assert 0.1 < history["mean_average_precision"][0] < 1
    result = model.evaluate(x, targets, 7, verbose=0, return_dict=True)
    np.testing.assert_allclose(
        result["mean_average_precision"], expected, rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.tensorflow
def test_devices_in_step():
    """In a process of its own, which alone can have two devices."""
    script = """
import numpy as np, tensorflow as tf, keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
from diffstride.training.average_precision import *
generator = np.random.default_rng(0)
x = generator.random((40, 3)).astype("float32")
y = (generator.random((40, 3)) < 0.4).astype("float32")
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3, activation="sigmoid")]
    )
    model.compile(
        loss="binary_crossentropy", metrics=[MeanAveragePrecision(3, 40)]
    )
found = model.evaluate(x, y, batch_size=8, verbose=0)[1]
expected = average_precision(y, model.predict(x, verbose=0)).mean()
np.testing.assert_allclose(found, expected, rtol=1e-5)
print("equal")
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert result.stdout.strip().endswith("equal"), result.stderr


def test_config():
    metric = MeanAveragePrecision(5, 60, name="map")
    copy = MeanAveragePrecision.from_config(metric.get_config())
    assert copy.get_config() == metric.get_config()
    assert copy.max_examples == 60


def test_without_truth_or_with_nan():
    metric = MeanAveragePrecision(2, 10)
    metric.update_state(np.zeros((3, 2)), np.ones((3, 2)))
    assert float(metric.result()) == 0
    metric.update_state(np.ones((3, 2)), np.full((3, 2), np.nan))
    assert np.isnan(float(metric.result()))


def test_wrong_shapes_are_an_error():
    metric = MeanAveragePrecision(3, 10)
    for name, y_true, y_pred in [
        ("y_true", np.zeros(4), np.zeros((4, 3))),
        ("y_true", np.zeros((4, 2)), np.zeros((4, 3))),
        ("y_pred", np.zeros((4, 3)), np.zeros((4, 4))),
    ]:
        with pytest.raises(ValueError, match=f"`{name}` must .* Received: "):
            metric.update_state(y_true, y_pred)


def test_errors():
    for name, arguments in [
        ("num_classes", (0, 3)),
        ("max_examples", (3, 2.5)),
    ]:
        with pytest.raises(ValueError, match=f"`{name}` must .* Received: "):
            MeanAveragePrecision(*arguments)
