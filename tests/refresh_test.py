"""Static sizes follow the strides, and compiled functions the sizes."""

import gradients
import keras
import numpy as np
import pytest
from keras import layers, ops

from diffstride import DiffStride
from diffstride.training.refresh_sizes import RefreshSizes

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch runs without graphs"
)
X = gradients.random((8, 16, 16, 2))
Y = np.mean(X[:, :, :8], axis=(1, 2))[:, :1] * 4


class Probe(layers.Layer):
    """Notes the shape of its input each time that a graph is built."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def call(self, inputs):
        self.shapes.append(tuple(inputs.shape[1:3]))
        return inputs


class SetStrides(keras.callbacks.Callback):
    """Sets the strides of the next epoch."""

    def __init__(self, strides):
        super().__init__()
        self.remaining = iter(strides)

    def on_epoch_end(self, epoch, logs=None):
        layer = self.model.get_layer("pooling")
        layer.strides.assign([next(self.remaining)] * 2)


def small_model(strides=2, **arguments):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((16, 16, 2))
    x = DiffStride(strides, 2, name="pooling", **arguments)(inputs)
    probe = Probe()
    x = layers.Dense(4, activation="relu")(probe(x))
    outputs = layers.Dense(1)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    probe.shapes.clear()
    return model, model.get_layer("pooling"), probe


def trained(every=None, epochs=2, jit_compile="auto", **arguments):
    """What comes of a training in which the height changes."""
    # Beyond a stride of 16 / 6 a height of 12 becomes one of 10.
    model, layer, _ = small_model((2.6, 2.05), **arguments)
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=jit_compile)
    history = model.fit(
        X,
        Y,
        batch_size=4,
        epochs=epochs,
        shuffle=False,
        callbacks=[] if every is None else [RefreshSizes(every)],
        verbose=0,
    )
    strides = ops.convert_to_numpy(layer.strides)
    assert strides[0] > 16 / 6
    return {
        "losses": history.history["loss"],
        "strides": strides,
        "predictions": gradients.value(model, X),
    }


def assert_equal(one, other):
    for name, expected in other.items():
        np.testing.assert_allclose(one[name], expected, 1e-3, err_msg=name)


def test_every_says_when():
    for every in ["batch", 0, -1, 1.5, None]:
        with pytest.raises(ValueError, match=f"`every` must .*every={every!r}"):
            RefreshSizes(every)
    assert RefreshSizes(np.int64(3)).every == 3


@pytest.mark.tensorflow
def test_a_training_step_of_ones_own_needs_no_optimizer():
    class Own(keras.Sequential):
        def train_step(self, data):
            return {"loss": 0.0}

    model = Own([keras.Input((8, 8, 1)), DiffStride(2, static_sizes=True)])
    model.compile(optimizer=None, loss="mse")
    refresh = RefreshSizes()
    x = np.ones((2, 8, 8, 1), "float32")
    model.fit(x, x, callbacks=[refresh], verbose=0)
    assert refresh.compilations == 1


def test_a_size_seen_before_costs_no_compilation():
    model, layer, probe = small_model(static_sizes=True)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    refresh = RefreshSizes()
    losses = model.fit(
        X,
        Y,
        batch_size=8,
        epochs=6,
        callbacks=[SetStrides([4, 2, 4, 2, 1.5, 2]), refresh],
        verbose=0,
    ).history["loss"]
    # Keras may build a graph on its way to the first compilation.
    first = probe.shapes.count((12, 12))
    assert probe.shapes == [*[(12, 12)] * first, (8, 8), (16, 16)]
    assert refresh.compilations == 3
    # The loss is that of the size, not of the one before.
    losses = np.array(losses)
    np.testing.assert_allclose(losses[[2, 4, 3]], losses[[0, 0, 1]], rtol=1e-5)
    assert len(set(np.round(losses, 4))) == 3
    layer.strides.assign([1.5, 1.5])
    layer.refresh_sizes()
    expected = np.mean((gradients.value(model, X) - Y) ** 2)
    assert losses[5] == pytest.approx(expected, rel=1e-3)


def test_evaluation_and_prediction_follow_too():
    model, layer, probe = small_model(static_sizes=True)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    before = model.predict(X, verbose=0)
    loss_before = model.evaluate(X, Y, verbose=0)
    refresh = RefreshSizes()
    history = model.fit(
        X,
        Y,
        epochs=2,
        callbacks=[SetStrides([4, 4]), refresh],
        validation_data=(X, Y),
        verbose=0,
    ).history
    after = model.predict(X, verbose=0)
    expected = np.mean((after - Y) ** 2)
    assert np.abs(after - before).max() > 1e-3
    assert history["val_loss"][0] == pytest.approx(loss_before, rel=1e-5)
    assert history["val_loss"][1] == pytest.approx(expected, rel=1e-4)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(expected, rel=1e-4)


# Step n has a stride of 2 + n / 2. Sizes follow after the steps 2 and 5 or,
# where there was a step before these, after 1, 4 and 7.
@pytest.mark.parametrize("before, expected", [(0, [12, 10, 8]), (1, [12, 8])])
def test_every_n_steps(before, expected):
    model, layer, probe = small_model(static_sizes=True)
    model.compile(keras.optimizers.SGD(0.0), "mse")

    class Shrink(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            layer.strides.assign([2 + 0.5 * batch] * 2)

    refresh = RefreshSizes(every=3)
    refresh.steps = before  # Those of an interrupted training.
    model.fit(
        X,
        Y,
        batch_size=1,
        shuffle=False,
        callbacks=[Shrink(), refresh],
        verbose=0,
    )
    sizes = list(dict.fromkeys(size for size, _ in probe.shapes))
    assert sizes == expected
    assert refresh.steps == before + len(X)


# Six steps, in calls of four and two.
@pytest.mark.parametrize("every, looks", [(3, [4, 6]), (5, [6]), (8, [])])
def test_every_n_steps_of_several_in_one_call(every, looks):
    model, layer, _ = small_model(static_sizes=True)
    model.compile("sgd", "mse", steps_per_execution=4)
    refresh, steps = RefreshSizes(every), []
    refresh.refresh = lambda: steps.append(refresh.steps)
    model.fit(X[:6], Y[:6], batch_size=1, callbacks=[refresh], verbose=0)
    assert refresh.steps == 6
    assert steps == looks


@pytest.mark.tensorflow
def test_refreshing_every_step_equals_dynamic_sizes():
    dynamic = trained()
    assert_equal(trained(every=1, static_sizes=True), dynamic)
    # Without the callback sizes stay, and it is another training.
    with pytest.raises(AssertionError):
        assert_equal(trained(static_sizes=True), dynamic)


@pytest.mark.tensorflow
def test_xla_trains_to_the_same_numbers():
    expected = trained(every="epoch", jit_compile=False, static_sizes=True)
    found = trained(every="epoch", jit_compile=True, static_sizes=True)
    assert_equal(found, expected)


@pytest.mark.tensorflow
def test_dynamic_sizes_keep_xla_off():
    expected = trained(epochs=1, jit_compile=False)
    with pytest.warns(UserWarning, match="jit_compile"):
        found = trained(epochs=1, jit_compile=True)
    assert_equal(found, expected)
    model, layer, _ = small_model()
    model.compile("sgd", "mse", jit_compile="auto")
    assert not model.jit_compile


@pytest.mark.parametrize("same_callback", [True, False])
def test_a_model_compiled_anew_forgets_old_functions(same_callback):
    model, layer, _ = small_model(static_sizes=True)
    y = np.ones((8, 1), "float32")
    first = RefreshSizes()
    second = first if same_callback else RefreshSizes()

    def losses(callback, loss, next_strides):
        model.compile(keras.optimizers.SGD(0.0), loss)
        callbacks = [SetStrides([next_strides] * 2), callback]
        return model.fit(X, y, epochs=2, verbose=0, callbacks=callbacks)

    def hundredfold(y, predictions):
        return 100 * ops.mean(ops.square(y - predictions))

    # Strides of 2 and 4, then of 4 and 2: sizes that the callback has seen.
    before = losses(first, "mse", 4.0).history["loss"]
    after = losses(second, hundredfold, 2.0).history["loss"]
    np.testing.assert_allclose(after, 100 * np.array(before[::-1]), rtol=1e-4)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "arguments", [{"static_sizes": True}, {"trainable": False}]
)
def test_static_layers_take_graphs_of_unknown_size(arguments, tmp_path):
    import tensorflow as tf

    model = keras.Sequential(
        [keras.Input((None, None, 2)), DiffStride(2, 2, **arguments)]
    )
    model.export(tmp_path, verbose=False)
    served = tf.saved_model.load(tmp_path)
    for size in (12, 16):
        x = X[:, :size, :size]
        # Tables of unknown size are computed in single precision.
        np.testing.assert_allclose(served.serve(x), model(x), 1e-5, 1e-5)
