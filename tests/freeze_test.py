"""Tests of models whose strides have become constants."""

import functools

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from diffstride import (
    DiffStride,
    DiffStride1D,
    DiffStride3D,
    freeze,
)
from diffstride.analysis.keras_graph import sublayers
from diffstride.analysis.learned_layers import learned_layers
from diffstride.layers.log_mel import LogMelSpectrogram
from diffstride.models.audio_cnn import audio_cnn
from diffstride.models.residual_layer import ResidualLayer
from diffstride.models.resnet import Resnet
from diffstride.surgery.frozen_layers import (
    BaseFrozenDiffStride,
    ConvolutionalLogMelSpectrogram,
    FrozenDiffStride,
)

layers = keras.layers


def train_a_little(model):
    """Moves every weight, and the strides away from where they started."""
    generator = np.random.default_rng(1)
    strides = {id(layer.strides) for layer in learned_layers(model)}
    for weight in model.weights:
        noise = generator.uniform(0.05, 0.3, weight.shape)
        if id(weight) in strides:
            noise = noise * 2
        weight.assign(ops.convert_to_numpy(weight) + noise)
    for layer in learned_layers(model):
        layer.refresh_sizes()
    return model


def outputs(model, inputs):
    return ops.convert_to_numpy(model(inputs, training=False))


def check_frozen(model, inputs, **kwargs):
    """Freezes a model, and checks all that holds of a frozen one."""
    before = [ops.convert_to_numpy(weight) for weight in model.weights]
    frozen = freeze(model, **kwargs)
    expected = outputs(model, inputs)
    np.testing.assert_allclose(
        outputs(frozen, inputs), expected, atol=2e-6 * np.abs(expected).max()
    )
    assert all(
        isinstance(layer, BaseFrozenDiffStride)
        for layer in learned_layers(frozen)
    )
    strides = {id(layer.strides) for layer in learned_layers(model)}
    kept = [
        weight.shape for weight in model.weights if id(weight) not in strides
    ]
    assert [weight.shape for weight in frozen.weights] == kept
    assert None not in frozen.output_shape[1:]
    # The model is as it was.
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)
    return frozen


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("options", [{}, {"ramp": "inside", "norm": "forward"}])
def test_a_resnet_gives_equal_outputs_and_reloads(options, tmp_path):
    model = train_a_little(
        Resnet(
            filters=2,
            strides=(1, 1, 2),
            num_layers=1,
            pooling_cls=functools.partial(DiffStride, **options),
            input_shape=(16, 16, 3),
        )
    )
    x = images(2, 16, 16, 3)
    frozen = check_frozen(model, x)
    frozen.save(tmp_path / "frozen.keras")
    reloaded = keras.saving.load_model(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(outputs(reloaded, x), outputs(frozen, x))


def test_strides_under_the_limit_of_a_size_are_those_in_effect():
    # Too small for a map of 16 points, which the layer knows when it is called.
    model = keras.Sequential([keras.Input((None, None, 1)), DiffStride(1.0)])
    model.layers[-1].strides.assign([1.05, 2.5])
    x = images(1, 16, 16, 1)
    frozen = check_frozen(model, x, input_shape=(16, 16, 1))
    assert frozen.output_shape == (None, *outputs(model, x).shape[1:])


@pytest.mark.parametrize(
    "layer, shape",
    [
        (DiffStride1D(2.3), (40, 2)),
        (DiffStride3D((1.2, 2, 3), smoothness_factor=2), (8, 12, 10, 2)),
        (DiffStride(2, cropping=False), (12, 13, 2)),
        (DiffStride(2, shared_stride=True, symmetric=True), (12, 13, 2)),
        (DiffStride(2, upper_limit_stride=2.1, norm="ortho"), (12, 13, 2)),
        (DiffStride((2, 3), data_format="channels_first"), (2, 21, 30)),
    ],
)
def test_every_form_of_the_layer(layer, shape):
    model = keras.Sequential([keras.Input(shape), layer])
    check_frozen(train_a_little(model), images(2, *shape))


def test_a_layer_shared_by_maps_of_several_sizes():
    pool = DiffStride(2, norm="forward")
    inputs = keras.Input((24, 20, 1))
    small = layers.AveragePooling2D(2)(inputs)
    x = [layers.GlobalMaxPooling2D()(pool(y)) for y in (inputs, small)]
    model = train_a_little(keras.Model(inputs, layers.Concatenate()(x)))
    check_frozen(model, images(2, 24, 20, 1))


def test_the_audio_model_takes_clips_of_any_length():
    model = train_a_little(
        audio_cnn(
            3, (1600,), channels=(2,), strides=((2, 2),), pooling_cls=DiffStride
        )
    )
    x = images(2, 3500)
    frozen = check_frozen(model, x)
    np.testing.assert_allclose(
        outputs(frozen, x[:, :1500]), outputs(model, x[:, :1500]), rtol=1e-5
    )
    assert isinstance(
        frozen.get_layer("frontend"), ConvolutionalLogMelSpectrogram
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"center": True, "power": 1.0},
        {"fft_length": 701, "window": "hamming"},
        {"window": None, "window_ms": 16.0},
    ],
)
def test_the_spectrogram_by_convolution_is_that_of_the_transform(options):
    x = images(2, 3000) / 3
    options = {"num_mels": 20, **options}
    np.testing.assert_allclose(
        outputs(ConvolutionalLogMelSpectrogram(**options), x),
        outputs(LogMelSpectrogram(**options), x),
        rtol=1e-4,
        atol=1e-4,
    )


def test_models_inside_of_models_take_the_sizes_they_are_called_with():
    # The inner model takes any size, and is called twice.
    inner = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(3, 3, padding="same"),
            layers.BatchNormalization(),
            DiffStride(1.5, norm="forward"),
        ]
    )
    inputs = keras.Input((20, 16, 3))
    x = layers.Normalization(mean=0.5, variance=2.0)(inputs)
    x = layers.TimeDistributed(DiffStride1D(1.5))(inner(x))
    model = keras.Model(inputs, layers.GlobalMaxPooling2D()(x) ** 2)
    check_frozen(train_a_little(model), images(2, 20, 16, 3))


def test_an_inner_model_that_is_called_with_several_sizes():
    inner = keras.Sequential(
        [keras.Input((None, None, 2)), DiffStride(2, norm="forward")]
    )
    inputs = keras.Input((24, 20, 2))
    small = layers.AveragePooling2D(2)(inputs)
    x = [layers.GlobalMaxPooling2D()(inner(y)) for y in (inputs, small)]
    model = train_a_little(keras.Model(inputs, layers.Concatenate()(x)))
    check_frozen(model, images(2, 24, 20, 2))


def test_an_inner_model_that_is_called_by_keyword():
    inner = keras.Sequential([keras.Input((None, None, 2)), DiffStride(2)])
    inputs = keras.Input((16, 12, 2))
    x = layers.GlobalMaxPooling2D()(inputs=inner(inputs=inputs))
    check_frozen(train_a_little(keras.Model(inputs, x)), images(2, 16, 12, 2))


def body(*input_shape):
    return [
        *[keras.Input(shape) for shape in input_shape],
        layers.Conv2D(2, 3, padding="same"),
        layers.BatchNormalization(),
        DiffStride(2, norm="forward"),
        layers.GlobalMaxPooling2D(),
    ]


@pytest.mark.parametrize(
    "inner",
    [
        lambda: DiffStride(2),
        lambda: ResidualLayer(2, pooling_cls=DiffStride, strides=2),
        lambda: keras.Sequential(body()),
        lambda: keras.Sequential(body((16, 12, 2))),
        # One model inside of another, and sizes that they do not know.
        lambda: keras.Sequential(
            [keras.Input((None, None, 2)), keras.Sequential(body())]
        ),
    ],
    ids=["layer", "block", "unbuilt", "model", "any size"],
)
def test_layers_and_models_for_each_time_step(inner, tmp_path):
    model = keras.Sequential(
        [keras.Input((3, 16, 12, 2)), layers.TimeDistributed(inner())]
    )
    x = images(2, 3, 16, 12, 2)
    frozen = check_frozen(train_a_little(model), x)
    frozen.save(tmp_path / "frozen.keras")
    reloaded = keras.saving.load_model(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(outputs(reloaded, x), outputs(frozen, x))


@keras.saving.register_keras_serializable(package="test")
class Defaults(DiffStride):
    """Has other defaults."""

    def __init__(self, strides=3, ramp="inside", **kwargs):
        super().__init__(strides, ramp=ramp, **kwargs)


@keras.saving.register_keras_serializable(package="test")
class Doubled(DiffStride):
    """Does more."""

    def call(self, inputs):
        return 2 * super().call(inputs)


@keras.saving.register_keras_serializable(package="test")
class Scaled(DiffStride):
    """Has an argument and a weight of its own, and names its strides."""

    def __init__(self, steps, factor, **kwargs):
        super().__init__(steps, 3.0, **kwargs)
        self.factor = factor

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", initializer="ones")
        super().build(input_shape)

    def call(self, inputs):
        return self.factor * self.scale * super().call(inputs)

    def get_config(self):
        config = super().get_config()
        del config["smoothness_factor"]
        return {"steps": config.pop("strides"), "factor": self.factor} | config


@pytest.mark.parametrize(
    "make",
    [
        lambda: Defaults(),
        lambda: Doubled(2, norm="forward"),
        lambda: Scaled((2, 3), factor=3.0),
        lambda: ResidualLayer(2, strides=2, pooling_cls=Doubled),
        lambda: layers.TimeDistributed(Doubled(2)),
    ],
    ids=["defaults", "call", "weight", "slot", "wrapper"],
)
def test_a_class_that_is_derived_from_the_layer(make, tmp_path):
    layer = make()
    shape = (16, 12, 2)
    if isinstance(layer, layers.TimeDistributed):
        shape = (3, *shape)
    model = keras.Sequential([keras.Input(shape), layer])
    x = images(2, *shape)
    frozen = check_frozen(train_a_little(model), x)
    np.testing.assert_array_equal(
        outputs(freeze(frozen), x), outputs(frozen, x)
    )
    frozen.save(tmp_path / "frozen.keras")
    reloaded = keras.saving.load_model(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(outputs(reloaded, x), outputs(frozen, x))


def test_a_derived_class_that_keras_does_not_know(tmp_path):
    class Unknown(DiffStride):
        pass

    model = keras.Sequential([keras.Input((16, 12, 2)), Unknown(2)])
    x = images(2, 16, 12, 2)
    frozen = check_frozen(train_a_little(model), x)
    path = tmp_path / "frozen.keras"
    frozen.save(path)
    with pytest.raises(
        (TypeError, ValueError), match="'Unknown' must be known"
    ):
        keras.saving.load_model(path)
    reloaded = keras.saving.load_model(
        path, custom_objects={"Unknown": Unknown}
    )
    np.testing.assert_array_equal(outputs(reloaded, x), outputs(frozen, x))


@keras.saving.register_keras_serializable(package="test")
class Pair(layers.Layer):
    """Owns two layers, and names them in its config, serialized or not."""

    def __init__(self, first, second, serialized=True, **kwargs):
        super().__init__(**kwargs)
        self.serialized = serialized
        self.first, self.second = (
            keras.saving.deserialize_keras_object(layer)
            if isinstance(layer, dict)
            else layer
            for layer in (first, second)
        )

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build(self.first.compute_output_shape(input_shape))

    def call(self, inputs):
        return self.second(self.first(inputs))

    def compute_output_shape(self, input_shape):
        return self.second.compute_output_shape(
            self.first.compute_output_shape(input_shape)
        )

    def get_config(self):
        config = {"first": self.first, "second": self.second}
        if self.serialized:
            config = keras.saving.serialize_keras_object(config)
        return {**super().get_config(), "serialized": self.serialized} | config


@pytest.mark.parametrize("serialized", [True, False])
def test_an_owner_of_owners(serialized):
    # The layers of the two have the same names, and other strides.
    inner = [
        Pair(
            DiffStride(1 + strides, name="a"),
            DiffStride((1, 1 + strides), name="b"),
            serialized=serialized,
        )
        for strides in (0.3, 0.6)
    ]
    model = keras.Sequential(
        [keras.Input((40, 36, 2)), Pair(*inner, serialized=serialized)]
    )
    check_frozen(train_a_little(model), images(2, 40, 36, 2))


def test_layers_of_one_name_in_one_owner_are_an_error():
    pair = Pair(DiffStride(1.5, name="a"), DiffStride(1.2, name="a"))
    model = keras.Sequential([keras.Input((24, 20, 2)), pair])
    with pytest.raises(ValueError, match="must have names of their own"):
        freeze(model)


def test_the_config_of_a_layer_that_lives_is_not_touched():
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            ResidualLayer(3, pooling_cls=DiffStride, strides=2),
        ]
    )
    configs = [layer.get_config() for layer in sublayers(model)]
    freeze(model, dtype="bfloat16")
    assert [layer.get_config() for layer in sublayers(model)] == configs


def test_tensors_beside_the_weights_become_arrays():
    normalization = layers.Normalization()
    normalization.adapt(images(8, 4, 4, 2))
    model = keras.Sequential([keras.Input((12, 12, 2)), normalization])
    model.add(DiffStride(2))
    frozen = check_frozen(model, images(2, 12, 12, 2))
    assert isinstance(frozen.layers[1].mean, np.ndarray)


@pytest.mark.tensorflow
def test_a_model_inside_that_takes_any_size_is_exported(tmp_path):
    inner = keras.Sequential([keras.Input((None, None, 2)), DiffStride(2)])
    inputs = keras.Input((16, 12, 2))
    model = train_a_little(keras.Model(inputs, inner(inputs)))
    frozen = freeze(model)
    frozen.export(tmp_path / "exported", verbose=False)
    reloaded = keras.layers.TFSMLayer(tmp_path / "exported")
    x = images(2, 16, 12, 2)
    np.testing.assert_allclose(
        ops.convert_to_numpy(reloaded(x)), outputs(model, x), atol=1e-5
    )


@pytest.mark.tensorflow
def test_a_frozen_model_is_exported_before_it_is_called(tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    normalization = layers.Normalization()
    normalization.adapt(images(8, 4, 4, 2))
    model = keras.Sequential([keras.Input((12, 12, 2)), normalization])
    model.add(DiffStride(2))
    path = str(tmp_path / "model.onnx")
    freeze(model).export(path, format="onnx", verbose=False)
    session = runtime.InferenceSession(path)
    (given,) = session.get_inputs()
    x = images(2, 12, 12, 2)
    (got,) = session.run(None, {given.name: x})
    np.testing.assert_allclose(got, outputs(model, x), atol=1e-5)


def test_what_a_layer_keeps_beside_its_weights_is_carried_over():
    normalization = layers.Normalization()
    normalization.adapt(images(8, 4, 4, 2) * 3 + 1)
    model = keras.Sequential(
        [keras.Input((12, 12, 2)), normalization, DiffStride(2)]
    )
    check_frozen(model, images(2, 12, 12, 2))


def test_a_compiled_model_with_a_loss_of_its_own():
    model = keras.Sequential([keras.Input((12, 12, 2)), DiffStride(2)])
    model.compile("sgd", loss=lambda target, output: output)
    assert not check_frozen(model, images(2, 12, 12, 2)).compiled


def test_freezing_twice_changes_nothing():
    model = keras.Sequential([keras.Input((16, 16, 2)), DiffStride(2)])
    frozen = freeze(train_a_little(model))
    x = images(2, 16, 16, 2)
    np.testing.assert_array_equal(
        outputs(freeze(frozen), x), outputs(frozen, x)
    )


def test_a_frozen_model_is_trained_with_the_strides_it_has():
    model = keras.Sequential(
        [keras.Input((16, 16, 2)), DiffStride(2), layers.Conv2D(1, 8)]
    )
    frozen = freeze(model)
    strides = np.array(learned_layers(frozen)[0].strides)
    frozen.compile("sgd", "mse", jit_compile=True)
    assert np.isfinite(
        frozen.train_on_batch(images(2, 16, 16, 2), images(2, 9, 9, 1))
    )
    np.testing.assert_array_equal(learned_layers(frozen)[0].strides, strides)


def test_mixed_precision_can_be_left_behind():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential(
        [
            keras.Input((16, 16, 4)),
            ResidualLayer(
                4,
                pooling_cls=DiffStride,
                strides=2,
                downsample_identity=True,
            ),
        ]
    )
    keras.config.set_dtype_policy("float32")
    frozen = freeze(model, dtype="float32")
    assert {layer.compute_dtype for layer in sublayers(frozen)} == {"float32"}
    x = images(2, 16, 16, 4)
    expected = outputs(model, x)
    np.testing.assert_allclose(
        outputs(frozen, x), expected, atol=0.1 * np.abs(expected).max()
    )
    assert freeze(model).layers[1].compute_dtype == "bfloat16"


def test_unknown_sizes_are_an_error_that_names_the_argument():
    model = keras.Sequential([keras.Input((None, None, 3)), DiffStride(2)])
    with pytest.raises(ValueError, match=r"`input_shape` must be given.*None"):
        freeze(model)
    layer = ResidualLayer(3, 3, 2, DiffStride, project=True)
    model = keras.Sequential([keras.Input((None, None, 3)), layer])
    with pytest.raises(ValueError, match="`input_shape` must be given"):
        freeze(model)


@pytest.mark.parametrize("input_shape", [(16, 16), (16, 17, 3)])
def test_an_input_shape_that_the_model_does_not_take(input_shape):
    model = keras.Sequential([keras.Input((16, 16, 3)), DiffStride(2)])
    with pytest.raises(ValueError, match="`input_shape` must be a shape that"):
        freeze(model, input_shape)


def test_an_input_shape_for_several_inputs_is_an_error():
    inputs = [keras.Input((16, 16, 3)), keras.Input((16, 16, 3))]
    model = keras.Model(inputs, DiffStride(2)(layers.Add()(inputs)))
    with pytest.raises(ValueError, match="`input_shape` must be None"):
        freeze(model, (16, 16, 3))


class Opaque(keras.Model):
    def __init__(self):
        super().__init__()
        self.pooling = DiffStride(2)

    def call(self, inputs):
        return self.pooling(inputs)


@pytest.mark.parametrize("model", [Opaque(), keras.Sequential([DiffStride(2)])])
def test_a_model_without_a_graph_is_an_error(model):
    with pytest.raises(ValueError, match="`model` must be a Functional model"):
        freeze(model)


def test_something_else_than_a_model_is_an_error():
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        freeze(DiffStride(2))


def test_layers_that_configs_do_not_name_are_an_error():
    model = keras.Sequential([keras.Input((16, 16, 3)), tiny.Owner()])
    with pytest.raises(ValueError, match="`model` must name its DiffStride"):
        freeze(model)


def test_learned_strides_of_a_wrong_length_are_an_error():
    with pytest.raises(ValueError, match="`learned_strides` must have 2"):
        FrozenDiffStride(2, learned_strides=(2.0,))
