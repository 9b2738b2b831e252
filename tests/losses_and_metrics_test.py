import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy

from diffstride.training import losses_and_metrics
from diffstride.validation import ConfigError

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
    loss = losses_and_metrics.CrossEntropy(from_logits=from_logits)
    y_pred = LOGITS if from_logits else PROBABILITIES
    np.testing.assert_allclose(
        float(loss(y_true, y_pred)), reference(targets), rtol=1e-5
    )


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("y_true", [LABELS, LABELS[:, None], SOFT])
def test_top_accuracy_against_numpy(y_true, k):
    metric = losses_and_metrics.TopAccuracy(k)
    metric.update_state(y_true, LOGITS)
    top = np.argsort(-LOGITS, axis=-1)[:, :k]
    expected = (top == LABELS[:, None]).any(-1).mean()
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)


def test_equal_logits_are_not_all_right():
    metric = losses_and_metrics.TopAccuracy()
    metric.update_state(LABELS, np.zeros((6, 7)))
    np.testing.assert_allclose(float(metric.result()), 1 / 6, rtol=1e-6)


def test_integers_may_follow_one_hot_targets():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(7)])
    model.compile(
        loss=losses_and_metrics.CrossEntropy(),
        metrics=[
            losses_and_metrics.TopAccuracy(1),
            losses_and_metrics.TopAccuracy(5),
        ],
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


RNG = np.random.default_rng(1)
MAPS = RNG.integers(-1, 4, (3, 5, 6))
MAP_LOGITS = RNG.normal(size=(3, 5, 6, 4)).astype("float32")
WEIGHTS = (1.0, 0.0, 3.0, 0.5)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_ignored_pixels_cost_nothing(class_weights):
    loss = losses_and_metrics.CrossEntropy(class_weights=class_weights)
    counted = MAPS >= 0
    labels, logits = MAPS[counted], MAP_LOGITS[counted].astype("float64")
    costs = (
        np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
    )
    weights = np.ones(4) if class_weights is None else np.array(WEIGHTS)
    expected = np.average(costs, weights=weights[labels])
    np.testing.assert_allclose(float(loss(MAPS, MAP_LOGITS)), expected, 1e-5)
    # What is predicted there changes nothing.
    other = np.where(counted[..., np.newaxis], MAP_LOGITS, 1e4)
    np.testing.assert_allclose(float(loss(MAPS, other)), expected, 1e-5)
    assert float(loss(np.full_like(MAPS, -1), MAP_LOGITS)) == 0


def test_class_weights_of_examples():
    """Integers and one-hot targets have the same weights."""
    weights = np.arange(1.0, 8)
    loss = losses_and_metrics.CrossEntropy(class_weights=weights)
    costs = -np.log(PROBABILITIES[np.arange(6), LABELS])
    expected = np.average(costs, weights=weights[LABELS])
    for targets in (LABELS, np.eye(7)[LABELS]):
        np.testing.assert_allclose(float(loss(targets, LOGITS)), expected, 1e-5)


def mean_iou(maps, predicted, num_classes):
    """Mean over the classes that occur, of pixels that count."""
    predicted, maps = predicted[maps >= 0], maps[maps >= 0]
    ious = []
    for number in range(num_classes):
        union = np.sum((maps == number) | (predicted == number))
        if union:
            ious.append(
                np.sum((maps == number) & (predicted == number)) / union
            )
    return np.mean(ious)


@pytest.mark.parametrize("num_classes", [4, 6])
def test_metrics_leave_out_ignored_pixels(num_classes):
    extra = np.full((*MAPS.shape, num_classes - 4), -9)
    logits = np.concatenate([MAP_LOGITS, extra], axis=-1)
    predicted = logits.argmax(-1)
    iou = losses_and_metrics.MeanIoU(num_classes)
    accuracy = losses_and_metrics.TopAccuracy()
    for rows in (slice(2), slice(2, 3)):
        for metric in (iou, accuracy):
            metric.update_state(MAPS[rows], logits[rows])
    expected = np.mean((predicted == MAPS)[MAPS >= 0])
    np.testing.assert_allclose(float(accuracy.result()), expected, 1e-6)
    expected = mean_iou(MAPS, predicted, num_classes)
    np.testing.assert_allclose(float(iou.result()), expected, 1e-6)


def test_figures_of_a_last_smaller_batch():
    """Those of `fit` and `evaluate` are those of all pixels."""
    model = keras.Sequential(
        [keras.Input((5, 6, 4)), keras.layers.Conv2D(4, 1, use_bias=False)]
    )
    model.layers[0].set_weights([np.eye(4)[None, None]])
    model.compile(
        keras.optimizers.SGD(0.0),
        losses_and_metrics.CrossEntropy(),
        weighted_metrics=losses_and_metrics.build_metrics(None, 4, True),
    )
    result = model.fit(
        MAP_LOGITS,
        MAPS,
        batch_size=2,
        validation_data=(MAP_LOGITS, MAPS),
        verbose=0,
    ).history
    predicted = MAP_LOGITS.argmax(-1)
    accuracy = np.mean((predicted == MAPS)[MAPS >= 0])
    for prefix in ("", "val_"):
        figures = result[f"{prefix}pixel_accuracy"], result[f"{prefix}mean_iou"]
        expected = [accuracy], [mean_iou(MAPS, predicted, 4)]
        np.testing.assert_allclose(figures, expected, rtol=1e-6)


def test_configs():
    loss = losses_and_metrics.CrossEntropy(from_logits=False, name="head")
    weighted = losses_and_metrics.CrossEntropy(class_weights=(1, 2))
    metric = losses_and_metrics.TopAccuracy(3)
    iou = losses_and_metrics.MeanIoU(3)
    for value in (loss, weighted, metric, iou):
        config = keras.saving.serialize_keras_object(value)
        restored = keras.saving.deserialize_keras_object(config)
        assert restored.get_config() == value.get_config()


def test_a_softmax_gives_no_logits():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(7)])
    logits = model(x)
    expected = losses_and_metrics.cross_entropy(model, 7)(LABELS, logits)
    model.add(keras.layers.Softmax())
    loss = losses_and_metrics.cross_entropy(model, 7)
    assert not loss.from_logits
    got = convert_to_numpy(loss(LABELS, model(x)))
    np.testing.assert_allclose(got, convert_to_numpy(expected), rtol=1e-5)


layers = keras.layers


def classifier(*last, activation=None, names=("first", "second")):
    inputs = keras.Input((4,))
    outputs = []
    for name in names:
        x = layers.Dense(3, activation=activation)(inputs)
        for layer in last:
            x = layer(x)
        outputs.append(layers.Identity(name=name)(x))
    return keras.Model(inputs, outputs[0] if len(names) == 1 else outputs)


@pytest.mark.parametrize(
    "model, kind",
    [
        (classifier(), "logits"),
        (classifier(activation="softmax"), "probabilities"),
        (classifier(activation="sigmoid"), "probabilities"),
        (classifier(layers.Activation("sigmoid")), "probabilities"),
        (classifier(keras.ops.softmax), "probabilities"),
        (classifier(activation="log_softmax"), "logits"),
        (classifier(activation="relu"), "activated"),
        (classifier(layers.BatchNormalization()), "unknown"),
        # Layers after the one that counts.
        (classifier(layers.Activation("linear")), "logits"),
        (
            classifier(
                layers.Activation("linear", dtype="float32"),
                layers.Reshape((3, 1)),
                layers.Dropout(0.1),
                layers.Flatten(),
                activation="softmax",
            ),
            "probabilities",
        ),
        # Models inside of models, and a wrapper.
        (
            classifier(keras.Sequential([layers.Dense(3, "softmax")])),
            "probabilities",
        ),
        (
            classifier(
                keras.Sequential([keras.Input((3,)), layers.Dropout(0.1)]),
                activation="softmax",
            ),
            "probabilities",
        ),
        (
            classifier(
                layers.SpectralNormalization(layers.Dense(2, "softmax"))
            ),
            "probabilities",
        ),
    ],
)
def test_kinds_of_outputs(model, kind):
    assert losses_and_metrics.output_kind(model) == kind
    assert losses_and_metrics.output_kind(model, "second") == kind


def test_the_layer_that_makes_the_output_counts():
    """Keras lists the layers by depth, so that the shorter branch is last."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, "relu")(layers.Dense(4, "relu")(inputs))
    long = layers.Dense(3, "softmax", name="long")(hidden)
    short = layers.Dense(3, name="short")(inputs)
    for heads in ([long, short], {"long": long, "short": short}):
        model = keras.Model(inputs, heads)
        kinds = [
            losses_and_metrics.output_kind(model, head)
            for head in ("long", "short", None)
        ]
        assert kinds == ["probabilities", "logits", "probabilities"]
        loss = losses_and_metrics.cross_entropy(model, {"long": 3, "short": 3})
        assert {head: one.from_logits for head, one in loss.items()} == {
            "long": False,
            "short": True,
        }


def test_average_of_two_classifiers():
    inputs = keras.Input((4,))
    softmax = [layers.Dense(3, "softmax")(inputs) for _ in range(2)]
    model = keras.Model(inputs, layers.average(softmax))
    assert losses_and_metrics.output_kind(model) == "probabilities"
    mixed = [softmax[0], layers.Dense(3)(inputs)]
    model = keras.Model(inputs, layers.average(mixed))
    assert losses_and_metrics.output_kind(model) == "unknown"


def test_a_subclassed_model():
    class Model(keras.Model):
        def __init__(self, activation):
            super().__init__()
            self.dense = layers.Dense(3, activation)

        def call(self, x):
            return self.dense(x)

    for activation in (None, "softmax"):
        model = Model(activation)
        model(np.zeros((1, 4)))
        loss = losses_and_metrics.cross_entropy(model, 3)
        assert loss.from_logits == (activation is None)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_examples_of_several_classes_train(activation):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    y = (x[:, :3] > 0).astype("float32")
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, activation, name="tags")]
    )
    loss = losses_and_metrics.build_loss(model, 3, is_multi_label=True)
    assert loss.from_logits == (activation is None)
    model.compile(keras.optimizers.Adam(0.1), loss)
    history = model.fit(x, y, epochs=60, verbose=0).history["loss"]
    # Probabilities that are logits end at 1.0.
    assert history[-1] < 0.15


def test_losses_that_expect_the_other_kind_are_refused():
    binary = keras.losses.BinaryCrossentropy
    build = losses_and_metrics.build_loss
    logits, probabilities = classifier(), classifier(activation="sigmoid")
    message = "`loss` must expect .*logits: set `BinaryCrossentropy.from_logits"
    with pytest.raises(ConfigError, match=message + " = True`.*Received"):
        build(logits, 3, True, binary())
    with pytest.raises(ConfigError, match="gives, probabilities.*CrossEntropy"):
        build(probabilities, 3, False, losses_and_metrics.CrossEntropy())
    with pytest.raises(ConfigError, match="`loss` must .*output second"):
        build(logits, {"second": 3}, True, {"second": binary()})
    with pytest.raises(ConfigError, match="`loss` must be given, as a dict"):
        build(logits, {"first": 3, "second": 3}, True)
    for model, loss in [
        (logits, binary(from_logits=True)),
        (probabilities, binary()),
        (probabilities, "mse"),
        (classifier(activation="relu"), binary()),
    ]:
        assert build(model, 3, True, loss) is loss
