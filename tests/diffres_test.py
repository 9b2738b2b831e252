"""DiffRes and its rivals as layers: features, losses, graphs, saving."""

import json

import gradients
import keras
import numpy as np
import pytest
from keras import ops

from diffstride.layers.diffres import (
    AvgMaxPool,
    AvgPool,
    ChangeHopSize,
    ConvAvgPool,
    DiffRes,
)
from diffstride.layers.res_conv import ResConv1D
from diffstride.ops import warping

LAYERS = (DiffRes, ChangeHopSize, AvgPool, AvgMaxPool, ConvAvgPool)


def log_mel(batch=2, frames=40, mels=8, seed=0):
    """Noise, with silence in its middle."""
    x = np.random.default_rng(seed).normal(-3, 2, (batch, frames, mels))
    x[:, frames // 3 : frames // 2] = np.log(1e-5)
    return x.astype("float32")


def to_numpy(tensor):
    return ops.convert_to_numpy(tensor)


def call(layer, x, **kwargs):
    """What a layer makes of an array; compiled as a whole under JAX."""
    if keras.backend.backend() != "jax":
        return to_numpy(layer(x, **kwargs))
    import jax

    if not layer.built:
        layer.build(x.shape)
    state = (
        [v.value for v in layer.trainable_variables],
        [v.value for v in layer.non_trainable_variables],
    )
    outputs, _ = jax.jit(lambda x: layer.stateless_call(*state, x, **kwargs))(x)
    return to_numpy(outputs)


def analyze(layer, x):
    """The analysis of an array, as arrays."""
    function = layer.analyze
    if keras.backend.backend() == "jax":
        import jax

        function = jax.jit(function)
    return {name: to_numpy(value) for name, value in function(x).items()}


def trainable_parameters(layer):
    return sum(int(np.prod(w.shape)) for w in layer.trainable_weights)


def without_preference(**kwargs):
    """A built DiffRes that scores all frames of a clip alike."""
    layer = DiffRes(**kwargs)
    layer.build((None, None, 8))
    for normalization in layer._network[-1]._normalizations:
        normalization.gamma.assign([0.0])
    return layer


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "cls,mels,parameters",
    [
        (DiffRes, 128, 82_371),
        (ConvAvgPool, 128, 493_824),
        (ChangeHopSize, 128, 0),
        (AvgPool, 128, 0),
        (AvgMaxPool, 128, 0),
        # From 40 to 20 channels, then 10, 5, 2, 1.
        (DiffRes, 40, 6120 + 1560 + 405 + 82 + 21),
    ],
)
def test_parameters(cls, mels, parameters):
    layer = cls(reduction_rate=0.5)
    layer.build((None, None, mels))
    assert trainable_parameters(layer) == parameters


def test_res_conv_1d():
    layer = ResConv1D(3)
    x = gradients.random((2, 9, 4))
    layer.build(x.shape)
    for seed, weight in enumerate(layer.weights):
        weight.assign(np.abs(gradients.random(weight.shape, seed)) + 0.5)
    found = to_numpy(layer(x, training=False))

    def half(x, convolution, normalization):
        kernel, bias = map(to_numpy, (convolution.kernel, convolution.bias))
        padded = np.pad(x, ((0, 0), (2, 2), (0, 0)))
        y = bias + sum(padded[:, k : k + 9] @ kernel[k] for k in range(5))
        y = np.where(y > 0, y, 0.01 * y)
        gamma, beta, mean, variance = map(to_numpy, normalization.weights)
        return gamma * (y - mean) / np.sqrt(variance + 1e-5) + beta

    halves = list(zip(layer._convolutions, layer._normalizations, strict=True))
    hidden = half(x, *halves[0])
    np.testing.assert_allclose(
        found, hidden + half(hidden, *halves[1]), rtol=1e-4
    )


def test_features_are_those_of_the_warp_matrix():
    x = log_mel(frames=50)
    layer = DiffRes(reduction_rate=0.7)
    found = call(layer, x)
    analysis = analyze(layer, x)
    matrix = analysis["warp_matrix"]
    assert found.shape == (2, 15, 8, 3) and matrix.shape == (2, 15, 50)
    np.testing.assert_allclose(matrix.sum(axis=2), 1, atol=1e-6)
    np.testing.assert_allclose(
        matrix.sum(axis=1), analysis["scores"], atol=1e-6
    )
    mean = np.log(matrix @ np.exp(x))
    encoding = matrix @ warping.sinusoidal_encoding(50, 8)
    np.testing.assert_allclose(found[..., 0], mean, atol=1e-4)
    np.testing.assert_allclose(found[..., 2], encoding, atol=1e-5)
    for channel, name in enumerate(("mean", "max", "encoding")):
        np.testing.assert_allclose(
            analysis[name], found[..., channel], atol=1e-6
        )
    highest = (matrix[..., None] * np.exp(x)[:, None]).max(axis=2) / 0.3
    quietest = np.exp(x).min(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(
        found[..., 1], np.log(np.maximum(highest, quietest)), atol=1e-4
    )


def test_maximum_is_equation_6_in_64_bits():
    """From the scores that the layer gives, by the matrix written out."""
    x = log_mel(frames=200)
    analysis = analyze(DiffRes(reduction_rate=0.75), x)
    # As float32 numbers the scores sum to 50 to within 1e-5.
    scores = analysis["scores"].astype("float64")[:, None]
    scores *= 50 / scores.sum(axis=2, keepdims=True)
    ends = np.cumsum(scores, axis=2)
    starts = ends - scores
    i = np.arange(50)[:, None]
    matrix = np.minimum(ends, i + 1) - np.maximum(starts, i)
    matrix = np.maximum(matrix, 0)[..., None]
    highest = (matrix * np.exp(x.astype("float64"))[:, None]).max(axis=2) / 0.25
    found = np.exp(analysis["max"].astype("float64"))
    highest = np.maximum(highest, np.exp(x).min(axis=(1, 2), keepdims=True))
    difference = np.linalg.norm(found - highest) / np.linalg.norm(highest)
    assert difference < 2e-6


@pytest.mark.parametrize("reduction_rate", (0.75, 0.3))
def test_without_preference_diffres_pools(reduction_rate):
    x = log_mel()
    layer = without_preference(reduction_rate=reduction_rate)
    found = call(layer, x)
    pooled = call(AvgMaxPool(reduction_rate=reduction_rate), x)
    np.testing.assert_allclose(found[..., 0], pooled[..., 0], atol=1e-4)
    if reduction_rate == 0.75:
        # Otherwise parts of frames count in part, which AvgMaxPool has not.
        np.testing.assert_allclose(found[..., 1], pooled[..., 1], atol=1e-4)
    average = call(AvgPool(reduction_rate=reduction_rate), x)
    for channel in range(3):
        np.testing.assert_allclose(
            average[..., channel], pooled[..., 0], atol=1e-6
        )
    activeness = analyze(layer, x)["activeness"]
    np.testing.assert_allclose(activeness, [0, 0], atol=1e-6)


def test_average_and_maximum_of_windows():
    x = log_mel(frames=12)
    windows = x.reshape(2, 3, 4, 8)
    found = call(AvgMaxPool(output_frames=3), x)
    average = np.log(np.exp(windows).mean(axis=2))
    np.testing.assert_allclose(found[..., 0], average, atol=1e-5)
    np.testing.assert_allclose(found[..., 1], windows.max(axis=2), atol=1e-5)
    linear = call(AvgMaxPool(output_frames=3, log_scale=False), x)
    np.testing.assert_allclose(linear[..., 0], windows.mean(axis=2), rtol=1e-5)
    # Windows of one frame and a third.
    thirds = np.repeat(x, 3, axis=1).reshape(2, 9, 4, 8).mean(axis=2)
    linear = call(AvgPool(output_frames=9, log_scale=False), x)
    np.testing.assert_allclose(linear[..., 0], thirds, rtol=1e-4)


def test_change_hop_size():
    x = log_mel(frames=12)
    found = call(ChangeHopSize(reduction_rate=0.75), x)
    np.testing.assert_array_equal(found, np.repeat(x[:, ::4, :, None], 3, -1))
    found = call(ChangeHopSize(output_frames=9), x)[..., 0]
    nearest = [0, 1, 3, 4, 5, 7, 8, 9, 11]
    np.testing.assert_array_equal(found, x[:, nearest])


def test_change_hop_size_of_a_long_clip():
    """Frames times output frames exceed an integer of 32 bits."""
    frames, output_frames = 100_000, 30_000
    x = np.arange(frames, dtype="float32")[None, :, None] / frames
    layer = ChangeHopSize(output_frames=output_frames)
    steps = np.arange(output_frames) * (frames / output_frames)
    nearest = np.floor(steps + 0.5).astype(int)
    expected = np.repeat(x[:, nearest, :, None], 3, -1)
    np.testing.assert_array_equal(call(layer, x), expected)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec([None, None, 1])]
        graph = tf.function(lambda x: layer(x), input_signature=signature)
        np.testing.assert_array_equal(graph(x), expected)


def test_conv_avg_pool():
    x = log_mel(frames=12)
    layer = ConvAvgPool(reduction_rate=0.75)
    found = call(layer, x)
    hidden = x
    for block in layer._network:
        hidden = block(hidden)
    hidden = to_numpy(hidden).reshape(2, 3, 4, 8).mean(axis=2)
    np.testing.assert_allclose(found[..., 0], hidden, atol=1e-5)


def assert_equal_sums(found, expected):
    """Equal but for the order of their terms, which changes on a GPU."""
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cls", LAYERS)
def test_shapes(cls):
    x = log_mel()
    # A rate; a number; more frames than there are.
    for frames, kwargs in [
        (10, {"reduction_rate": 0.75}),
        (17, {"output_frames": 17}),
        (70, {"output_frames": 70}),
    ]:
        layer = cls(**kwargs)
        found = call(layer, x)
        assert found.shape == (2, frames, 8, 3)
        assert found.dtype == "float32"
        assert np.isfinite(found).all()
        assert layer.compute_output_shape(x.shape) == found.shape
        four_axes = cls.from_config(layer.get_config())
        four_axes.build((*x.shape, 1))
        four_axes.set_weights(layer.get_weights())
        assert_equal_sums(call(four_axes, x[..., None]), found)

    unknown = keras.KerasTensor((None, None, 8))
    assert cls(reduction_rate=0.5)(unknown).shape == (None, None, 8, 3)
    assert cls(output_frames=5)(unknown).shape == (None, 5, 8, 3)


@pytest.mark.tensorflow
@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize(
    "kwargs", ({"reduction_rate": 0.7}, {"output_frames": 24})
)
def test_unknown_number_of_frames(cls, kwargs):
    import tensorflow as tf

    layer = cls(**kwargs)
    layer.build((None, None, 8))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 8])])
    def run(x):
        return layer(x)

    for frames in (1, 7, 23, 24, 48, 50):
        x = log_mel(frames=frames)
        np.testing.assert_allclose(to_numpy(run(x)), call(layer, x), atol=1e-4)


def test_clips_with_few_frames_are_stretched():
    x = log_mel(frames=5)
    layer = without_preference(output_frames=10)
    found = call(layer, x)
    np.testing.assert_allclose(found[..., 0], np.repeat(x, 2, 1), atol=1e-5)
    assert analyze(layer, x)["scores"].shape == (2, 10)


def test_features_in_any_order():
    x = log_mel()
    full = DiffRes(reduction_rate=0.5)
    expected = call(full, x)
    for features, channels in [
        (("mean", "encoding"), (0, 2)),
        (["encoding", "max", "max"], (2, 1, 1)),
    ]:
        layer = DiffRes(reduction_rate=0.5, features=features)
        layer.build(x.shape)
        layer.set_weights(full.get_weights())
        found = call(layer, x)
        np.testing.assert_allclose(found, expected[..., channels], atol=1e-6)
        assert layer.compute_output_shape(x.shape) == found.shape


def test_one_feature_has_no_axis_for_channels():
    x = log_mel()
    layer = DiffRes(reduction_rate=0.5)
    expected = call(layer, x)
    for name, channel in [("mean", 0), ("encoding", 2)]:
        single = DiffRes(reduction_rate=0.5, features=name)
        for shape in (x.shape, (*x.shape, 1)):
            single = DiffRes.from_config(single.get_config())
            single.build(shape)
            single.set_weights(layer.get_weights())
            found = call(single, x.reshape(shape))
            assert single.compute_output_shape(shape) == found.shape
            np.testing.assert_allclose(found, expected[..., channel], atol=1e-6)


def test_features_of_a_network_are_merged_as_they_are():
    x = gradients.random((2, 40, 8))
    layer = DiffRes(0.5, log_scale=False, features="mean")
    layer.build(x.shape)
    matrix = analyze(layer, x)["warp_matrix"]
    np.testing.assert_allclose(call(layer, x), matrix @ x, atol=1e-5)


def test_whole_frames():
    x = log_mel()
    layer = DiffRes(reduction_rate=0.5, split_frames=False, fill_up=False)
    found = call(layer, x)
    analysis = analyze(layer, x)
    matrix, scores = analysis["warp_matrix"], analysis["scores"]
    # Every column has one entry: the score of the frame.
    assert np.all((matrix > 0).sum(axis=1) == 1)
    np.testing.assert_allclose(matrix.max(axis=1), scores, rtol=1e-6)
    linear = np.maximum(
        matrix @ np.exp(x), np.exp(x).min((1, 2), keepdims=True)
    )
    np.testing.assert_allclose(found[..., 0], np.log(linear), atol=1e-4)


def test_learned_encoding():
    x = log_mel()
    layer = DiffRes(reduction_rate=0.5, learned_encoding=True)
    fixed = DiffRes(reduction_rate=0.5)
    fixed.build(x.shape)
    layer.build(x.shape)
    assert layer._encoding.shape == (40, 8)
    assert any(layer._encoding is w for w in layer.trainable_weights)
    for block, other in zip(layer._network, fixed._network, strict=True):
        block.set_weights(other.get_weights())
    np.testing.assert_allclose(call(layer, x), call(fixed, x), atol=1e-5)
    with pytest.raises(ValueError, match="expected axis 1"):
        layer(x[:, :30])


def test_guide_loss_and_statistics():
    x = log_mel()
    layer = DiffRes(
        reduction_rate=0.5, guide_loss_weight=3.0, guide_threshold=0.2
    )
    layer(x)
    analysis = analyze(layer, x)
    scores = analysis["scores"] / 0.5
    empty = slice(40 // 3, 40 // 2)
    np.testing.assert_allclose(
        analysis["guide_loss"],
        np.maximum(scores[:, empty] - 0.2, 0).mean(axis=1),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        analysis["activeness"],
        np.delete(scores, np.r_[empty], axis=1).std(axis=1),
        rtol=1e-4,
    )
    (loss,) = layer.losses
    np.testing.assert_allclose(
        to_numpy(loss), 3 * analysis["guide_loss"].mean(), rtol=1e-5
    )
    assert float(layer.guide_loss) == float(layer.activeness) == 0
    # Averages over the batches of training so far.
    losses = []
    for seed in range(3):
        layer(log_mel(seed=seed), training=True)
        losses.append(float(layer.losses[0]) / 3)
        np.testing.assert_allclose(
            float(layer.guide_loss), np.mean(losses), rtol=1e-5
        )
    assert float(layer.activeness) > 0


def test_no_guide_loss():
    layer = DiffRes(0.5, guide_loss_weight=0)
    layer(log_mel(), training=True)
    assert not layer.losses
    assert float(layer.guide_loss) > 0


def classifier(layer, frames, mels):
    return keras.Sequential(
        [
            keras.Input((frames, mels)),
            layer,
            # To values around zero.
            keras.layers.Rescaling(0.2, 1.0),
            keras.layers.Conv2D(16, (3, mels), activation="relu"),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(2),
        ]
    )


def compile_classifier(model, optimizer="sgd", **kwargs):
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )


@pytest.mark.parametrize(
    "jit_compile",
    (False, pytest.param(True, marks=pytest.mark.compiles)),
)
def test_fit_shows_the_statistics(jit_compile):
    if keras.backend.backend() == "jax" and not jit_compile:
        pytest.skip("JAX always compiles.")
    layer = DiffRes(reduction_rate=0.5)
    model = classifier(layer, 40, 8)
    compile_classifier(model, jit_compile=jit_compile)
    x, y = log_mel(batch=6), np.array([0, 1] * 3)
    history = model.fit(x, y, 2, epochs=2, verbose=0).history
    assert history["guide_loss"][-1] == pytest.approx(float(layer.guide_loss))
    assert history["activeness"][-1] == pytest.approx(float(layer.activeness))
    assert history["guide_loss"][0] != history["guide_loss"][1]


@pytest.mark.parametrize(
    "eager",
    (
        pytest.param(False, marks=pytest.mark.compiles),
        pytest.param(True, marks=pytest.mark.slow),
    ),
)
def test_no_statistics_of_training_under_the_name_of_validation(eager):
    layer = DiffRes(reduction_rate=0.5)
    model = classifier(layer, 40, 8)
    compile_classifier(model, run_eagerly=eager, jit_compile=not eager)
    x, y = log_mel(batch=4), np.array([0, 1] * 2)
    data = {"validation_data": (x[:2], y[:2]), "verbose": 0}
    for epoch in range(1, 3):
        # The functions of a step are made anew by the first `fit` alone.
        history = model.fit(
            x, y, 2, epochs=epoch, initial_epoch=epoch - 1, **data
        ).history
        names = {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert set(history) == names | {"guide_loss", "activeness"}
        for name in ("guide_loss", "activeness"):
            assert history[name] == [pytest.approx(float(getattr(layer, name)))]
            assert history[name][0] > 0
    epochs = model.fit(x, y, 2, epochs=3, **data).history["activeness"]
    assert len(set(epochs)) == 3
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "accuracy"}
    assert len(model.evaluate(x, y, verbose=0)) == 2


def test_statistics_are_averages_over_all_batches():
    layer = DiffRes(reduction_rate=0.5)
    layer.build((None, 40, 8))
    found = []
    for seed in range(3):
        layer(log_mel(seed=seed), training=True)
        found.append(float(layer.losses[0]))
        average = layer.metrics[0].result()["guide_loss"]
        np.testing.assert_allclose(average, np.mean(found), rtol=1e-5)


def test_evaluation_counts_the_guide_loss():
    layer = DiffRes(reduction_rate=0.5)
    model = classifier(layer, 40, 8)
    compile_classifier(model, run_eagerly=True)
    x, y = log_mel(), np.array([0, 1])
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    cross_entropy = keras.losses.sparse_categorical_crossentropy(
        y, model(x), from_logits=True
    )
    guide_loss = analyze(layer, x)["guide_loss"]
    expected = float(ops.mean(cross_entropy)) + guide_loss.mean()
    assert logs["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("policy", ("mixed_float16", "mixed_bfloat16"))
def test_mixed_precision(policy):
    x = log_mel(batch=1, frames=3000)
    layer = DiffRes(reduction_rate=0.5, dtype=policy)
    found = layer(x)
    assert keras.backend.standardize_dtype(found.dtype) == policy[6:]
    found = to_numpy(ops.cast(found, "float32"))
    matrix = analyze(layer, x)["warp_matrix"]
    np.testing.assert_allclose(matrix.sum(axis=2), 1, atol=1e-6)
    # What is left to half a precision is the result.
    np.testing.assert_allclose(
        found[..., 0], np.log(matrix @ np.exp(x)), rtol=1e-2, atol=1e-2
    )


def test_own_weights_stay_float32(monkeypatch):
    encodings = []
    weighted_mean = warping.weighted_mean

    def spy(features, *arguments):
        encodings.append(features)
        return weighted_mean(features, *arguments)

    monkeypatch.setattr(warping, "weighted_mean", spy)
    layer = DiffRes(
        reduction_rate=0.5,
        features=("encoding",) * 3,
        learned_encoding=True,
        dtype="mixed_float16",
    )
    model = classifier(layer, 20, 8)
    compile_classifier(model)
    history = model.fit(log_mel(frames=20), np.array([0, 1]), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert 0 < history["activeness"][0] < 1
    # Outside a model, too, Keras would have a layer read its weights in half.
    call(layer, log_mel(frames=20), training=True)
    assert encodings
    for encoding in encodings:
        assert keras.backend.standardize_dtype(encoding.dtype) == "float32"


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize("size", ({"output_frames": 5}, {"reduction_rate": 0}))
def test_clips_without_frames_are_an_error(cls, size):
    with pytest.raises(ValueError, match="must have frames(.|\n)*(4, 0, 8)"):
        cls(**size)(np.ones((4, 0, 8), "float32"))


@pytest.mark.parametrize("cls", (AvgPool, AvgMaxPool, ChangeHopSize, DiffRes))
def test_no_clips(cls):
    for frames in (10, 7):
        layer = cls(output_frames=frames)
        none = np.ones((0, 20, 8), "float32")
        assert layer(none).shape == (0, frames, 8, 3)
        assert layer(none, training=True).shape == (0, frames, 8, 3)
        # The loss and the statistics of no clips would not be numbers.
        assert not layer.losses
        for weight in layer.weights:
            assert np.isfinite(to_numpy(weight)).all()


def test_config_of_numpy_numbers_is_json():
    for layer in [
        AvgPool(reduction_rate=np.float32(0.5)),
        DiffRes(output_frames=np.int64(5), empty_energy=np.float32(0.1)),
    ]:
        json.dumps(layer.get_config())


@pytest.mark.parametrize("cls", LAYERS)
def test_extreme_input_is_finite(cls):
    x = log_mel(batch=5)
    x[:4] = np.array([-np.inf, -100, 0, 1e4])[:, None, None]
    layer = cls(reduction_rate=0.5)
    assert np.isfinite(call(layer, x, training=True)).all()
    if keras.backend.backend() == "tensorflow":
        _, (slope,) = gradients.value_and_gradients(
            lambda x: layer(x, training=True),
            [x],
            np.ones((5, 20, 8, 3), "float32"),
        )
        assert np.isfinite(to_numpy(slope)).all()


def test_back_to_frames_and_times():
    x = log_mel()
    layer = DiffRes(reduction_rate=0.5)
    layer.build(x.shape)
    analysis = analyze(layer, x)
    np.testing.assert_array_equal(analysis["output_frames"], [20, 20])
    edges = analysis["edges"]
    assert edges.shape == (2, 21)
    np.testing.assert_allclose(edges[:, [0, -1]], [[0, 40], [0, 40]])
    # The number of each output frame, back at the frames.
    numbers = np.tile(np.arange(20.0)[None, :, None], (2, 1, 1))
    found = to_numpy(layer.to_frames(numbers, x))[..., 0]
    for clip in range(2):
        at = np.searchsorted(edges[clip], np.arange(40) + 0.5) - 1
        assert np.abs(found[clip] - at).max() < 1


@pytest.mark.parametrize("lengths", (None, [20, 5]))
def test_back_to_the_frames_of_a_stretched_clip(lengths):
    """The clip as it came, not as it was stretched."""
    x = log_mel(frames=20)
    layer = DiffRes(output_frames=30, scorer="dissimilarity")
    layer.build(x.shape)
    # In the middle of an output frame its number is the middle of its edges.
    edges = to_numpy(layer.analyze(x, lengths=lengths)["edges"])
    counts = [20, 20] if lengths is None else lengths
    np.testing.assert_allclose(edges[:, -1], counts, rtol=1e-6)
    middles = (edges[:, 1:] + edges[:, :-1])[..., None] / 2
    found = to_numpy(layer.to_frames(middles, x, lengths=lengths))[..., 0]
    assert found.shape == (2, 20)
    for clip, count in enumerate(counts):
        longest = np.diff(edges[clip]).max()
        at = np.arange(count) + 0.5
        assert np.abs(found[clip, :count] - at).max() <= longest
        assert not found[clip, count:].any()
    for wrong in (middles[:, :29], middles[:1], middles[..., 0]):
        with pytest.raises(ValueError, match="`outputs` must(.|\n)*Received"):
            layer.to_frames(wrong, x, lengths=lengths)


def test_batch_members_are_independent():
    x = log_mel(batch=3)
    layer = DiffRes(reduction_rate=0.6)
    together = call(layer, x)
    x[1] += 5
    assert_equal_sums(call(layer, x)[[0, 2]], together[[0, 2]])


@pytest.mark.parametrize("cls", LAYERS)
def test_save_and_reload(cls, tmp_path):
    x = log_mel()
    layer = cls(output_frames=13, name="frames")
    model = classifier(layer, 40, 8)
    for seed, weight in enumerate(layer.weights):
        weight.assign(np.abs(gradients.random(weight.shape, seed)))
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal_sums(call(copy, x), call(model, x))
    assert copy.get_layer("frames").get_config() == layer.get_config()


def test_config_of_every_argument():
    kwargs = {
        "reduction_rate": 0.25,
        "output_frames": None,
        "log_scale": False,
        "features": ["max", "encoding"],
        "learned_encoding": True,
        "guide_loss_weight": 0.5,
        "guide_threshold": 0.25,
        "empty_energy": 1e-3,
        "fill_up": False,
        "split_frames": False,
        "kernel_size": 3,
        "score_threshold": 0.25,
        "return_warp": True,
        "scorer": "dissimilarity",
        "seed": 3,
    }
    config = DiffRes.from_config(DiffRes(**kwargs).get_config()).get_config()
    assert {name: config[name] for name in kwargs} == kwargs
    config = ConvAvgPool(output_frames=4, kernel_size=3).get_config()
    assert ConvAvgPool.from_config(config).kernel_size == 3


@pytest.mark.tensorflow
def test_export(tmp_path):
    import tensorflow as tf

    model = keras.Sequential(
        [keras.Input((None, 8)), DiffRes(reduction_rate=0.5)]
    )
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    for frames in (10, 33):
        x = log_mel(frames=frames)
        np.testing.assert_allclose(
            to_numpy(loaded.serve(x)), model.predict(x, verbose=0), atol=1e-5
        )


@pytest.mark.parametrize(
    "kwargs,message",
    [
        ({}, "Exactly one of `reduction_rate` and `output_frames`"),
        (
            {"reduction_rate": 0.5, "output_frames": 3},
            "Exactly one of `reduction_rate` and `output_frames`",
        ),
        ({"reduction_rate": 1.0}, "`reduction_rate` must be"),
        ({"output_frames": 2.5}, "`output_frames` must be"),
        ({"output_frames": 0}, "`output_frames` must be"),
        ({"output_frames": 3, "features": ()}, "`features` must be"),
        ({"output_frames": 3, "features": ("min",)}, "`features` must be"),
        (
            {"output_frames": 3, "guide_loss_weight": -1},
            "`guide_loss_weight` must be",
        ),
        (
            {"output_frames": 3, "guide_threshold": "0"},
            "`guide_threshold` must be",
        ),
        (
            {"output_frames": 3, "guide_loss_weight": np.inf},
            "`guide_loss_weight` must be",
        ),
        (
            {"output_frames": 3, "learned_encoding": True, "features": "max"},
            "`learned_encoding` needs `features`",
        ),
        (
            {"output_frames": 3, "scorer": keras.layers.Dense},
            "`scorer` must be",
        ),
        ({"output_frames": 3, "empty_energy": None}, "`empty_energy` must be"),
        ({"output_frames": 3, "features": "min"}, "`features` must be"),
        ({"output_frames": 3, "features": None}, "`features` must be"),
        ({"output_frames": 3, "return_warp": True}, "`return_warp` needs"),
        ({"output_frames": 3, "scorer": "loud"}, "`scorer` must be"),
        (
            {"output_frames": 3, "score_threshold": 1},
            "`score_threshold` must be",
        ),
        ({"output_frames": 3, "features": [["mean"]]}, "`features` must be"),
        ({"output_frames": 3, "kernel_size": 2.5}, "`kernel_size` must be"),
        ({"output_frames": 3, "kernel_size": "5"}, "`kernel_size` must be"),
    ],
)
def test_arguments_are_checked(kwargs, message):
    with pytest.raises(ValueError, match=message + "(.|\n)*Received: "):
        DiffRes(**kwargs)


@pytest.mark.parametrize(
    "shape,message",
    [
        ((2, 40, 8, 3), "must have one channel"),
        ((2, 40, None), "known number of mel channels"),
        ((2, None, 8), "`learned_encoding` needs"),
    ],
)
def test_input_shapes_are_checked(shape, message):
    with pytest.raises(ValueError, match=message):
        DiffRes(reduction_rate=0.5, learned_encoding=True).build(shape)
    with pytest.raises(ValueError, match="found ndim=2"):
        AvgPool(reduction_rate=0.5)(np.ones((2, 8)))


def events_in_silence(clips, seed, frames=40, mels=16):
    """Clips with one event of eight frames, that of two kinds, in silence.

    An event switches between two bands, every frame or every second frame: the
    averages of four frames are much alike.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(np.log(1e-5), 0.3, (clips, frames, mels))
    kinds = rng.integers(0, 2, clips)
    is_event = np.zeros((clips, frames), bool)
    upper_band = np.arange(mels) // (mels // 2)
    for clip, start in enumerate(rng.integers(0, frames - 8, clips)):
        band = np.arange(8) // (1 + kinds[clip]) % 2
        event = rng.normal(-3, 0.3, (8, mels))
        event += 3 * (band[:, None] == upper_band)
        x[clip, start : start + 8] = event
        is_event[clip, start : start + 8] = True
    return x.astype("float32"), kinds, is_event


@pytest.mark.slow
def test_learns_to_keep_the_event():
    x, y, _ = events_in_silence(512, seed=0)
    test_x, test_y, is_event = events_in_silence(256, seed=1)
    accuracy = {}
    for cls in (DiffRes, AvgPool):
        layer = cls(reduction_rate=0.75)
        model = classifier(layer, 40, 16)
        compile_classifier(model, keras.optimizers.Adam(1e-2))
        model.fit(x, y, batch_size=32, epochs=25, verbose=0)
        logs = model.evaluate(test_x, test_y, verbose=0, return_dict=True)
        accuracy[cls] = logs["accuracy"]
        if cls is DiffRes:
            scores = analyze(layer, test_x)["scores"]
    assert accuracy[DiffRes] > 0.95
    assert accuracy[AvgPool] < 0.75
    assert scores[is_event].mean() > 0.4
    assert scores[is_event].mean() > 2 * scores[~is_event].mean()
