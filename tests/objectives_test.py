import keras
import numpy as np
import pytest

from diffstride.training import objectives

LOGITS = np.random.default_rng(0).normal(size=(6, 7)).astype("float32")
LABELS = np.array([0, 3, 6, 1, 1, 5])
SOFT = 0.9 * np.eye(7)[LABELS] + 0.1 / 7
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)


def reference(targets):
    return -(targets * np.log(PROBABILITIES)).sum(-1).mean()


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize(
    "y_true, targets",
    [(LABELS, np.eye(7)[LABELS]), (LABELS[:, None], np.eye(7)[LABELS])]
    + [(SOFT, SOFT)],
)
def test_cross_entropy_against_numpy(y_true, targets, from_logits):
    loss = objectives.CrossEntropy(from_logits=from_logits)
    y_pred = LOGITS if from_logits else PROBABILITIES
    np.testing.assert_allclose(
        float(loss(y_true, y_pred)), reference(targets), rtol=1e-5
    )


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("y_true", [LABELS, LABELS[:, None], SOFT])
def test_top_accuracy_against_numpy(y_true, k):
    metric = objectives.TopAccuracy(k)
    metric.update_state(y_true, LOGITS)
    top = np.argsort(-LOGITS, axis=-1)[:, :k]
    expected = (top == LABELS[:, None]).any(-1).mean()
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)


def test_equal_logits_are_not_all_right():
    metric = objectives.TopAccuracy()
    metric.update_state(LABELS, np.zeros((6, 7)))
    np.testing.assert_allclose(float(metric.result()), 1 / 6, rtol=1e-6)


def test_integers_may_follow_one_hot_targets():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(7)])
    model.compile(
        loss=objectives.CrossEntropy(),
        metrics=[objectives.TopAccuracy(1), objectives.TopAccuracy(5)],
    )
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    soft = model.fit(
        x, np.eye(7)[LABELS], validation_data=(x, LABELS), verbose=0
    ).history
    assert set(soft) >= {"accuracy", "top5_accuracy", "val_top5_accuracy"}
    integers = model.evaluate(x, LABELS, verbose=0, return_dict=True)
    one_hot = model.evaluate(x, np.eye(7)[LABELS], verbose=0, return_dict=True)
    for name in integers:
        np.testing.assert_allclose(integers[name], one_hot[name], rtol=1e-6)


def test_configs():
    loss = objectives.CrossEntropy(from_logits=False, name="head")
    metric = objectives.TopAccuracy(3)
    for value in (loss, metric):
        config = keras.saving.serialize_keras_object(value)
        restored = keras.saving.deserialize_keras_object(config)
        assert restored.get_config() == value.get_config()


def test_a_softmax_gives_no_logits():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(7)])
    logits = model(x)
    expected = objectives.cross_entropy(model, 7)(LABELS, logits)
    model.add(keras.layers.Softmax())
    loss = objectives.cross_entropy(model, 7)
    assert not loss.from_logits
    np.testing.assert_allclose(loss(LABELS, model(x)), expected, rtol=1e-5)
