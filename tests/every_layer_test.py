"""What every public layer, and a model of them, must be able to do."""

import copy
import pickle

import gradients
import keras
import numpy as np
import pytest
from keras import ops
from layers_table import ROWS

import diffstride
from diffstride import RefreshSizes
from diffstride.analysis.learned_layers import learned_layers

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
NAMES = sorted(ROWS)
LAYERS = [name for name in NAMES if not ROWS[name].is_model]
# The largest, and a second row of a class, are trained in the slow part.
SLOW = ["DiffRes", "ResidualLayer before"]
TRAINED = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in NAMES
    if ROWS[name].trains
]


def example(row, batch=2):
    return gradients.random((batch, *row.shape))


def moved(model):
    """Other weights, and other strides, than those of the beginning."""
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            value = ops.convert_to_numpy(variable)
            variable.assign(value * 1.3 + 0.1)
    return model


def assert_same(copied, model, x, outputs=True):
    for found, expected in zip(
        copied.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    for one, two in zip(
        learned_layers(copied), learned_layers(model), strict=True
    ):
        assert one.is_static is two.is_static
    # One compilation for each takes too long under JAX.
    if ON_TENSORFLOW or outputs:
        expected = gradients.value(model, x)
        np.testing.assert_allclose(gradients.value(copied, x), expected, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_saved_and_copied(name, tmp_path):
    row = ROWS[name]
    model, x = moved(row.model()), example(row)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(loaded, model, x)
    model.save(tmp_path / "model.h5")
    loaded = keras.saving.load_model(tmp_path / "model.h5")
    assert_same(loaded, model, x, outputs=False)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = row.model()
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert_same(loaded, model, x, outputs=False)
    cloned = keras.models.clone_model(model)
    cloned.set_weights(model.get_weights())
    assert_same(cloned, model, x, outputs=False)
    assert_same(copy.deepcopy(model), model, x, outputs=False)
    assert_same(pickle.loads(pickle.dumps(model)), model, x, outputs=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_weights_that_are_not_trained(name):
    row = ROWS[name]
    model = row.model()
    model.trainable = False
    moved(model)
    cloned = keras.models.clone_model(model)
    cloned.set_weights(model.get_weights())
    assert_same(cloned, model, example(row), outputs=False)


@keras.saving.register_keras_serializable("every_layer_test")
class Unused(keras.Model):
    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)


@pytest.mark.parametrize("name", LAYERS)
def test_it_need_not_be_built(name, tmp_path):
    row = ROWS[name]
    layer = row.layer()
    config = layer.get_config()
    for copied in [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]:
        assert copied.get_config() == config
    model = Unused(layer)
    x = np.ones((2, 3), "float32")
    y = ops.convert_to_numpy(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), y)
    assert loaded.layer.get_config() == config
    assert all(not inner.built for inner in learned_layers(loaded))
    loaded.layer.build((None, *row.shape))


@pytest.mark.parametrize("name", LAYERS)
def test_it_has_a_dtype_policy_of_its_own(name):
    row = ROWS[name]
    layer = row.layer(dtype="mixed_bfloat16")
    y = layer(example(row))
    for inner in layer._flatten_layers():
        # What measures time or frequency in full precision says so.
        assert inner.dtype_policy.name in ("mixed_bfloat16", "float32")
    assert layer.dtype_policy.name == "mixed_bfloat16"
    y = ops.convert_to_numpy(ops.cast(y, "float32"))
    assert np.isfinite(y).all()
    for variable in layer.weights:
        assert keras.backend.standardize_dtype(variable.dtype) != "bfloat16"


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", NAMES)
def test_xla_compiles_it(name):
    import tensorflow as tf

    row = ROWS[name]
    if name in ("DiffStride", "DiffStride1D", "DiffStride3D"):
        pytest.skip("its sizes are computed inside of the graph")
    model, x = row.model(), example(row)
    if not all(layer.is_static for layer in learned_layers(model)):
        pytest.skip("its sizes are computed inside of the graph")
    function = tf.function(model, jit_compile=True)
    np.testing.assert_allclose(function(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_weights_that_training_ends_with(name):
    """Averaged weights, and then those of the best epoch, are what it uses."""

    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = -epoch

    row = ROWS[name]
    model, x = row.model(), example(row)
    y = np.zeros((2, *ops.shape(gradients.value(model, x))[1:]), "float32")
    if y.ndim > 2:
        pooled = keras.layers.GlobalMaxPooling2D()(model.outputs[0])
        model = keras.Model(model.inputs, keras.layers.Dense(1)(pooled))
        y = np.ones((2, 1), "float32")
    optimizer = keras.optimizers.Adam(0.3, use_ema=True)
    model.compile(optimizer, "mse", jit_compile="auto")
    model.predict(x, verbose=0)
    stopping = keras.callbacks.EarlyStopping(
        "score", mode="max", patience=5, restore_best_weights=True
    )
    model.fit(
        x,
        y,
        epochs=2,
        callbacks=[Score(), stopping, RefreshSizes()],
        verbose=0,
    )
    fresh = keras.models.clone_model(model)
    fresh.set_weights(model.get_weights())
    np.testing.assert_allclose(
        model.predict(x, verbose=0), gradients.value(fresh, x), 1e-3, 1e-4
    )


@pytest.mark.parametrize("name", NAMES)
def test_frozen(name):
    row = ROWS[name]
    model, x = moved(row.model()), example(row)
    frozen = diffstride.freeze(model)
    assert not any(layer.trainable_weights for layer in learned_layers(frozen))
    if ON_TENSORFLOW:
        np.testing.assert_allclose(frozen(x), model(x), rtol=1e-3, atol=1e-4)
