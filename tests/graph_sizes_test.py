"""Whatever brings weights in, the next call gives the outputs of these."""

import gradients
import keras
import numpy as np
import pytest
from keras import layers, ops

import diffstride
from diffstride import DiffStride, RefreshSizes
from diffstride.analysis.operations import layer_costs

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
ON_JAX = keras.backend.backend() == "jax"
X = gradients.random((4, 16, 16, 2))
Y = gradients.random((4, 1), seed=1)


def make_model(**arguments):
    """A model whose first size is 12, and 10 from a stride of 16 / 6 on."""
    arguments = {"static_sizes": True, **arguments}
    inputs = keras.Input((16, 16, 2))
    x = DiffStride((2.6, 2.0), 2, name="pooling", **arguments)(inputs)
    x = layers.Dense(4, activation="relu")(x)
    outputs = layers.Dense(1)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


def used_model(optimizer=None, **arguments):
    """A model that has compiled all of its functions."""
    model = make_model(**arguments)
    model.compile(optimizer or keras.optimizers.SGD(0.0), "mse")
    model.predict(X, verbose=0)
    model.evaluate(X, Y, verbose=0)
    return model


def moved_weights(strides=(3.5, 1.7)):
    model = make_model()
    model.get_layer("pooling").strides.assign(strides)
    return model.get_weights()


def assert_gives_outputs_of_its_weights(model, fit=True):
    """Its compiled functions, held against a model that is new."""
    fresh = make_model()
    fresh.set_weights(model.get_weights())
    expected = gradients.value(fresh, X)
    found = model.predict(X, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    loss = np.mean((expected - Y) ** 2)
    found = model.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(found, loss, rtol=1e-4)
    if fit:
        callbacks = [RefreshSizes()]
        history = model.fit(X, Y, verbose=0, callbacks=callbacks).history
        np.testing.assert_allclose(history["loss"], loss, rtol=1e-4)


KINDS = [{"static_sizes": True}, {"static_sizes": None, "trainable": False}]


@pytest.mark.parametrize("kind", KINDS, ids=["static", "not_trained"])
def test_weights_set_from_outside(kind, tmp_path):
    model = used_model(**kind)
    model.set_weights(moved_weights())
    assert_gives_outputs_of_its_weights(model)
    # By hand, back to the size of the beginning.
    model.get_layer("pooling").strides.assign([2.6, 2])
    assert_gives_outputs_of_its_weights(model, fit=False)
    saved = make_model(**kind)
    saved.set_weights(moved_weights([1.6, 3.0]))
    saved.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    assert_gives_outputs_of_its_weights(model, fit=False)


def test_copies_while_sizes_lag():
    # The training step has the sizes of the first strides.
    model = used_model(keras.optimizers.Adam(0.3))
    copies = {}

    class Copy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            copies["strides"] = self.model.get_layer("pooling").strides.numpy()
            copies["frozen"] = diffstride.freeze(self.model)
            copies["costs"] = layer_costs(self.model)

    model.fit(X, Y, callbacks=[Copy(), RefreshSizes()], verbose=0)
    layer = DiffStride((2.6, 2.0), 2, static_sizes=True)
    layer.build(X.shape)
    before = layer.compute_output_shape(X.shape)
    layer.strides.assign(copies["strides"])
    expected = layer.compute_output_shape(X.shape)
    assert expected != before
    costs = {cost.name: cost for cost in copies["costs"]}
    assert costs["pooling"].output_shape == expected[1:]
    found = copies["frozen"].get_layer("pooling").output.shape
    assert found[1:] == expected[1:]


@pytest.mark.slow
def test_weights_of_the_best_epoch():
    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = -epoch  # The first epoch is the best one.

    stopping = keras.callbacks.EarlyStopping(
        "score", mode="max", patience=2, restore_best_weights=True
    )
    # Before the other one, or not at all, it does not see the best weights.
    for callbacks in [[RefreshSizes(), Score(), stopping], [Score(), stopping]]:
        model = used_model(keras.optimizers.Adam(0.1))
        strides = model.get_layer("pooling").strides
        model.fit(
            X,
            Y,
            batch_size=2,
            epochs=4,
            validation_data=(X, Y),
            callbacks=callbacks,
            verbose=0,
        )
        assert stopping.best_epoch == 0
        assert abs(ops.convert_to_numpy(strides) - [2.6, 2.0]).max() < 0.3
        assert_gives_outputs_of_its_weights(model, fit=False)


@pytest.mark.parametrize("overwrite", [None, 2], ids=str)
def test_averaged_weights(overwrite):
    optimizer = keras.optimizers.Adam(
        0.3, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=overwrite
    )
    model = used_model(optimizer)
    model.fit(
        X,
        Y,
        batch_size=1,
        epochs=2,
        validation_data=(X, Y),
        callbacks=[RefreshSizes()],
        verbose=0,
    )
    # Under JAX, Keras cannot train a model after it has overwritten weights by
    # their averages: both are the same arrays.
    assert_gives_outputs_of_its_weights(model, fit=False)


def test_trained_weights():
    model = used_model(keras.optimizers.Adam(0.3))
    model.fit(X, Y, batch_size=1, callbacks=[RefreshSizes()], verbose=0)
    strides = ops.convert_to_numpy(model.get_layer("pooling").strides)
    assert abs(strides - [2.6, 2.0]).max() > 0.2
    model.optimizer.learning_rate = 0.0
    assert_gives_outputs_of_its_weights(model)


@pytest.mark.skipif(not ON_JAX, reason="only JAX shows Keras each epoch")
def test_jax_follows_at_the_end_of_an_epoch_without_the_callback():
    model = used_model(keras.optimizers.Adam(0.3))
    model.fit(X, Y, batch_size=1, epochs=2, verbose=0)
    assert_gives_outputs_of_its_weights(model, fit=False)


def test_validation_has_the_sizes_of_the_weights_that_it_is_for():
    model = used_model(keras.optimizers.Adam(0.3))
    history = model.fit(
        X,
        Y,
        batch_size=1,
        validation_data=(X, Y),
        callbacks=[RefreshSizes()],
        verbose=0,
    ).history
    fresh = make_model()
    fresh.set_weights(model.get_weights())
    loss = np.mean((gradients.value(fresh, X) - Y) ** 2)
    assert history["val_loss"][0] == pytest.approx(loss, rel=1e-4)


def test_a_copy_of_a_layer_that_is_no_longer_trained(tmp_path):
    for static_sizes in (None, True):
        model = make_model(static_sizes=static_sizes)
        layer = model.get_layer("pooling")
        layer.trainable = False
        layer.strides.assign([3.5, 1.7])
        expected = gradients.value(model, X)
        copy = keras.models.clone_model(model)
        assert copy.get_layer("pooling").is_static is layer.is_static
        copy.set_weights(model.get_weights())
        np.testing.assert_array_equal(gradients.value(copy, X), expected)
        model.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras")
        assert copy.get_layer("pooling").is_static is layer.is_static
        np.testing.assert_array_equal(gradients.value(copy, X), expected)


def test_built_frozen_then_trained(tmp_path):
    model = make_model(static_sizes=None, trainable=False)
    layer = model.get_layer("pooling")
    assert layer.is_static
    layer.trainable = True
    model.compile(keras.optimizers.Adam(0.3), "mse")
    if ON_TENSORFLOW or ON_JAX:
        with pytest.warns(UserWarning, match="'pooling'.*RefreshSizes"):
            model.fit(X, Y, batch_size=1, verbose=0)
    else:  # Without graphs sizes are those of the strides.
        model.fit(X, Y, batch_size=1, verbose=0)
    fresh = make_model()
    fresh.set_weights(model.get_weights())
    expected = gradients.value(fresh, X)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.get_layer("pooling").is_static
    for found in [copy(X), copy.predict(X, verbose=0), model(X)]:
        found = ops.convert_to_numpy(found)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(
    not (ON_TENSORFLOW or ON_JAX), reason="torch runs without graphs"
)
def test_functions_compiled_by_somebody_else():
    model = make_model()
    layer = model.get_layer("pooling")
    assert not layer.refresh_sizes()
    if ON_JAX:
        import jax

        function = jax.jit(
            lambda strides, x: layer.stateless_call([strides], [], x)[0]
        )
        function(layer.strides.value, X)
    else:
        import tensorflow as tf

        tf.function(lambda x: layer(x))(X)
    assert not layer.refresh_sizes()
    layer.strides.assign([2.65, 2.0])
    assert not layer.refresh_sizes()  # Another stride, and the same size.
    layer.strides.assign([2.7, 2.0])
    assert layer.refresh_sizes()
    assert not layer.refresh_sizes()  # It is known to be out of date.


def test_eager_calls_follow_and_leave_nothing_behind():
    layer = DiffStride(2, 1, static_sizes=True)
    layer.build((None, None, None, 1))
    for stride in (2, 3, 4):
        layer.strides.assign([stride, stride])
        for size in (10, 12, 14):
            y = layer(X[:1, :size, :size, :1])
            assert y.shape[1] == layer.compute_output_shape((1, size, 10, 1))[1]
    assert not layer.refresh_sizes()


def test_sizes_stay_where_strides_are_no_numbers():
    model = used_model()
    model.get_layer("pooling").strides.assign([np.nan, 2.0])
    assert np.isnan(model.predict(X, verbose=0)).all()
    assert np.isnan(gradients.apply(model.get_layer("pooling"), X)).all()
