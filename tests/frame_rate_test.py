"""The reduction rate at call time: set again, drawn from a range, exported."""

import gradients
import keras
import numpy as np
import pytest
import tiny
from keras import ops

from diffstride import AvgPool, DiffRes, DrawReductionRate, export
from diffstride.training import trainer

ON_JAX = keras.backend.backend() == "jax"
# On JAX each rate takes seconds to compile.
RATES = (0.3, 0.9) if ON_JAX else (0.0, 0.3, 0.5, 0.75, 0.9)


def log_mel(batch=4):
    x = np.random.default_rng(0).normal(-3, 2, (batch, 40, 8))
    return x.astype("float32")


def network(frames, cls=DiffRes):
    """A model with a layer `frames`, given as it is or by its rate."""
    if not isinstance(frames, keras.layers.Layer):
        frames = cls(frames, name="frames")
    return keras.Sequential(
        [
            keras.Input((40, 8)),
            frames,
            keras.layers.Conv2D(2, 3, padding="same", activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )


def outputs_of_rate(model, rate, x):
    """What a model gives that was made for one rate, with the same weights."""
    other = network(rate)
    other.set_weights(model.get_weights())
    return gradients.value(other, x)


def test_one_file_five_rates(tmp_path):
    x = log_mel()
    network(0.25).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    seen = []
    # The first rate comes again: its function has been kept.
    for rate in (*RATES, RATES[0]):
        model.get_layer("frames").reduction_rate = rate
        found = model.predict(x, verbose=0)
        expected = outputs_of_rate(model, rate, x)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        seen.append(found)
    np.testing.assert_array_equal(seen[0], seen[-1])
    assert len({tuple(found.ravel()) for found in seen}) == len(RATES)
    config = model.get_layer("frames").get_config()
    assert config["reduction_rate"] == RATES[0]
    model.save(tmp_path / "again.keras")
    loaded = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), seen[-1], atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.tensorflow
def test_an_export_for_each_rate(tmp_path):
    """By the command, which freezes the model first."""
    import tensorflow as tf

    x = log_mel()
    model = network((0.25, 0.75))
    model.save(tmp_path / "model.keras")
    for rate in (0.3, 0.9):
        arguments = f"--formats saved_model --reduction_rate {rate}".split()
        arguments += ["--output_dir", str(tmp_path / str(rate))]
        assert export.main([str(tmp_path / "model.keras"), *arguments]) == 0
        loaded = tf.saved_model.load(tmp_path / str(rate) / "saved_model")
        np.testing.assert_allclose(
            loaded.serve(x), outputs_of_rate(model, rate, x), atol=1e-5
        )


def test_only_models_that_reduce_frames_have_a_rate(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(export.ExportError, match="`--reduction_rate` needs"):
        export.export(model, tmp_path, reduction_rate=0.5)


def test_evaluation_has_the_rate_of_now():
    x, y = log_mel(), np.zeros((4, 1))
    model = network(0.9)
    model.compile(loss="mse")
    for rate in (0.9, 0.25):
        model.get_layer("frames").reduction_rate = rate
        found = model.evaluate(x, y, verbose=0)
        expected = np.mean(outputs_of_rate(model, rate, x) ** 2)
        # The guide loss is part of it; no frame here is empty.
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("cls", (DiffRes, AvgPool))
def test_the_middle_of_a_range_outside_of_training(cls):
    x = log_mel()
    layer = cls((0.25, 0.75))
    assert layer.compute_output_shape(x.shape) == (4, None, 8, 3)
    assert layer(x).shape == (4, 20, 8, 3)
    if cls is DiffRes:
        assert layer.analyze(x)["mean"].shape == (4, 20, 8)
    layer.reduction_rate = 0.25
    assert layer(x).shape == (4, 30, 8, 3)
    assert layer.compute_output_shape(x.shape) == (4, 30, 8, 3)
    layer.reduction_rate = (0.5, 0.7)
    config = cls.from_config(layer.get_config()).get_config()
    assert config["reduction_rate"] == [0.5, 0.7]


@pytest.mark.tensorflow
def test_a_graph_draws_at_each_step():
    import tensorflow as tf

    x = log_mel()
    mask = np.arange(40) < np.array([[40], [20], [10], [0]])
    layer = DiffRes((0.25, 0.75))
    layer.build(x.shape)

    @tf.function
    def step(mask=None):
        return layer(x, mask=mask, training=True)

    def eager():
        return layer(x, training=True)

    for function in (step, eager):
        frames = {function().shape[1] for _ in range(20)}
        assert len(frames) > 5 and min(frames) >= 10 and max(frames) <= 30
    # Each clip keeps its share of the frames that were drawn.
    outputs = ops.convert_to_numpy(step(tf.constant(mask)))
    used = outputs.any(axis=(2, 3)).sum(axis=1)
    np.testing.assert_allclose(used / used[0], [1, 0.5, 0.25, 0], atol=0.05)
    assert step.experimental_get_tracing_count() == 2


@pytest.mark.parametrize(
    "callback", (True, pytest.param(False, marks=pytest.mark.slow))
)
def test_training_with_a_range(callback, tmp_path):
    """With the callback on both backends; without it, TensorFlow draws."""
    x, y = log_mel(8), np.zeros((8, 1))
    model = network((0.25, 0.75))
    layer = model.get_layer("frames")
    model.compile("sgd", "mse")
    if ON_JAX and not callback:
        with pytest.raises(ValueError, match="needs the callback"):
            model.fit(x, y, batch_size=4, verbose=0)
        return
    held, functions = [], set()

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.trained = self.model

        def on_train_batch_end(self, batch, logs=None):
            held.append(layer.frame_rate.held)
            functions.add(self.trained.train_function)

    draw = [DrawReductionRate(num_rates=2)] if callback else []
    history = model.fit(
        x,
        y,
        batch_size=1,
        epochs=2,
        callbacks=[*draw, Look()],
        validation_data=(x, y),
        verbose=0,
    ).history
    assert np.isfinite(history["loss"]).all()
    assert set(held) == ({0.25, 0.75} if callback else {None})
    assert len(functions) == (2 if callback else 1)
    assert layer.frame_rate.held is None
    assert layer.reduction_rate == (0.25, 0.75)
    # The rate of the validation was that of now: the middle.
    np.testing.assert_allclose(
        model.predict(x, verbose=0), outputs_of_rate(model, 0.5, x), atol=1e-5
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.get_layer("frames").reduction_rate = 0.9
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0),
        outputs_of_rate(model, 0.9, x),
        atol=1e-5,
    )


def test_the_trainer_draws_and_goes_on_with_the_same_draws(tmp_path):
    """On both backends, also after an interruption."""

    def model(num_output_classes, input_shape):
        return keras.Sequential(
            [
                keras.Input(input_shape),
                AvgPool((0.25, 0.75), log_scale=False),
                keras.layers.Conv2D(2, 3, activation="relu"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(num_output_classes),
            ]
        )

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("stopped")

    def train(name, **kwargs):
        options = {"num_epochs": 2, "learning_rate": 0.01, "verbose": 0}
        options |= {"tensorboard": False, **kwargs}
        return trainer.train(tiny.dataset(), model, tmp_path / name, **options)

    history = train("whole")
    with pytest.raises(RuntimeError, match="stopped"):
        train("parts", callbacks=[Stop()])
    losses = [row["loss"] for row in train("parts")]
    assert losses == [row["loss"] for row in history]
    assert np.isfinite(losses).all()


def test_a_rate_that_an_interrupted_training_left():
    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = network((0.25, 0.75))
    model.compile("sgd", "mse")
    layer = model.get_layer("frames")
    x = np.ones((2, 40, 8), "float32")
    with pytest.raises(KeyboardInterrupt):
        y = model.predict(x, verbose=0)
        model.fit(x, y, callbacks=[DrawReductionRate(), Interrupt()], verbose=0)
    layer.reduction_rate = 0.5
    assert layer(x, training=True).shape[1] == 20


def test_draws_follow_from_the_seed():
    model = network((0.25, 0.75))
    rate = model.get_layer("frames").frame_rate
    model.compile("sgd", "mse")

    def drawn(seed):
        draw = DrawReductionRate(seed=seed)
        draw.set_model(model)
        draw.on_train_begin()
        rates = []
        for epoch in range(2):
            draw.on_epoch_begin(epoch)
            for batch in range(10):
                draw.on_train_batch_begin(batch)
                rates.append(rate.held)
        return rates

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0)[:10] != drawn(0)[10:]
    assert DrawReductionRate(np.int64(3), np.int64(1)).num_rates == 3
    for wrong in ({"num_rates": 1}, {"num_rates": 2.5}, {"seed": -1}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
            DrawReductionRate(**wrong)


@pytest.mark.parametrize(
    "rate", (1.0, -0.1, "0.5", (0.5,), (0.7, 0.2), (0.5, 1), [0.1, None])
)
def test_rates_are_checked(rate):
    message = "`reduction_rate` must be a number(.|\n)*Received"
    with pytest.raises(ValueError, match=message):
        DiffRes(rate)
    layer = DiffRes(0.5)
    with pytest.raises(ValueError, match=message):
        layer.reduction_rate = rate
    assert layer.reduction_rate == 0.5


def test_a_seed_of_the_draws(tmp_path):
    """With a seed, a loaded layer can be set to a range too."""
    model = network(DiffRes((0.25, 0.75), seed=3, name="frames"))
    model.get_layer("frames").reduction_rate = 0.5
    model.save(tmp_path / "model.keras")
    layers = []
    for _ in range(2):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        layers.append(loaded.get_layer("frames"))
        layers[-1].reduction_rate = (0.1, 0.9)
    assert layers[0].seed == 3
    if not ON_JAX:
        x = log_mel()
        frames = [
            [layer(x, training=True).shape[1] for _ in range(5)]
            for layer in (*layers, DiffRes((0.1, 0.9), seed=3))
        ]
        assert frames[0] == frames[1] == frames[2]
        assert len(set(frames[0])) > 1


def test_what_cannot_be_set_later():
    layer = DiffRes(0.5)
    layer.build((None, 40, 8))
    with pytest.raises(ValueError, match="a range from the beginning"):
        layer.reduction_rate = (0.1, 0.2)
    with pytest.raises(ValueError, match="must be given to the constructor"):
        DiffRes(output_frames=5).reduction_rate = 0.5
