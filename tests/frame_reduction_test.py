"""Clips of several lengths in a batch: masks in, masks out."""

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

LAYERS = (DiffRes, ChangeHopSize, AvgPool, AvgMaxPool, ConvAvgPool)
LENGTHS = np.array([40, 23, 4, 0])


def log_mel(batch=4, frames=40, mels=8):
    x = np.random.default_rng(0).normal(-3, 2, (batch, frames, mels))
    return x.astype("float32")


def padded(x=None):
    """Clips whose padding must not matter: it is not even a number."""
    x = log_mel() if x is None else x
    mask = np.arange(x.shape[1]) < LENGTHS[:, None]
    return np.where(mask[..., None], x, np.nan).astype("float32"), mask


def call(layer, x, mask=None, **kwargs):
    """Outputs and their mask as arrays; compiled as a whole under JAX."""

    def function(x, mask):
        outputs = layer(x, mask=mask, **kwargs)
        return outputs, read_mask(outputs)

    if keras.backend.backend() == "jax":
        import jax

        function = jax.jit(function)
    if not layer.built:
        layer.build(x.shape)
    outputs, mask = function(x, mask)
    return (
        ops.convert_to_numpy(outputs),
        None if mask is None else ops.convert_to_numpy(mask),
    )


class ReadMask(keras.layers.Layer):
    """Returns the mask that Keras gives to the layers that follow."""

    supports_masking = True

    def call(self, inputs, mask=None):
        return mask

    def compute_mask(self, inputs, previous_mask=None):
        return None


def read_mask(outputs):
    return ReadMask()(outputs)


def layers_of(cls):
    """Layers with weights that are not those of the beginning."""
    for size in ({"reduction_rate": 0.7}, {"output_frames": 9}):
        layer = cls(**size)
        layer.build((None, None, 8))
        for seed, weight in enumerate(layer.weights):
            noise = np.random.default_rng(seed).normal(size=weight.shape)
            weight.assign(np.abs(noise) * 0.5 + 0.1 * noise)
        yield layer


@pytest.mark.parametrize("cls", LAYERS)
def test_a_clip_alone_and_in_a_padded_batch(cls):
    for layer in layers_of(cls):
        x, mask = padded()
        found, used = call(layer, x, mask)
        assert used.shape == found.shape[:3]
        assert not found[~used].any()
        for clip, length in enumerate(LENGTHS[:-1]):
            alone, no_mask = call(layer, x[clip : clip + 1, :length])
            assert no_mask is None
            frames = alone.shape[1]
            assert used[clip].all(axis=1).sum() == frames
            assert used[clip, :frames].all()
            np.testing.assert_allclose(
                found[clip, :frames], alone[0], atol=1e-5, rtol=1e-5
            )
        assert not used[-1].any() and np.isfinite(found).all()


def train(layer, *args, **kwargs):
    """The outputs and the changed weights of a step of training."""
    outputs, state = layer.stateless_call(
        [v.value for v in layer.trainable_variables],
        [v.value for v in layer.non_trainable_variables],
        *args,
        training=True,
        **kwargs,
    )
    return [ops.convert_to_numpy(y) for y in (outputs, *state)]


def test_training_leaves_padding_out():
    x, mask = padded()
    layer = DiffRes(0.5)
    layer.build(x.shape)
    for found, expected in zip(
        train(layer, x, mask=mask),
        train(layer, log_mel(), mask=mask),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("filters", (1, 3))
def test_batch_statistics_are_those_of_the_frames(filters):
    """A batch with padding trains as its frames alone, in one clip."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 12, 4)).astype("float32")
    halves = np.zeros((2, 9, 4), "float32")
    halves[0, :7], halves[1, :5] = x[0, :7], x[0, 7:]
    mask = np.arange(9) < np.array([[7], [5]])
    # With a kernel of one frame, the clips need not be next to each other.
    together, apart = (ResConv1D(filters, kernel_size=1) for _ in range(2))
    for layer in (together, apart):
        layer.build((None, None, 4))
    apart.set_weights(together.get_weights())

    expected, *expected_state = train(together, x)
    found, *state = train(apart, halves, mask=mask)
    np.testing.assert_allclose(found[mask], expected[0], atol=1e-5)
    for one, other in zip(state, expected_state, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_lengths_are_a_mask():
    keras.utils.set_random_seed(0)
    x, mask = padded()
    layer = DiffRes(0.5)
    expected, used = call(layer, x, mask)
    outputs = layer(x, lengths=LENGTHS)
    np.testing.assert_allclose(
        ops.convert_to_numpy(outputs), expected, atol=1e-5
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(read_mask(outputs)), used
    )
    # In a model, they are an input beside the clips.
    inputs = {
        "x": keras.Input((40, 8), name="x"),
        "lengths": keras.Input((), dtype="int32", name="lengths"),
    }
    model = keras.Model(inputs, layer(inputs["x"], lengths=inputs["lengths"]))
    found = model.predict({"x": x, "lengths": LENGTHS}, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    four_axes = layer.from_config(layer.get_config())
    four_axes.build((*x.shape, 1))
    four_axes.set_weights(layer.get_weights())
    found, _ = call(four_axes, x[..., None], mask[..., None])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_masks_go_through_a_model(tmp_path):
    """From a layer that makes a mask to one that heeds it, and saved."""
    x, mask = padded()
    x = np.where(mask[..., None], x, -100).astype("float32")
    diffres = DiffRes(0.5, features="mean", name="diffres")
    model = keras.Sequential(
        [
            keras.Input((None, 8)),
            keras.layers.Masking(-100),
            diffres,
            keras.layers.GlobalAveragePooling1D(),
        ]
    )
    found = model.predict(x[:-1], verbose=0)
    for clip, length in enumerate(LENGTHS[:-1]):
        alone = gradients.apply(diffres, x[clip : clip + 1, :length])
        np.testing.assert_allclose(found[clip], alone[0].mean(0), atol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x[:-1], verbose=0), found, atol=1e-5
    )


def test_mask_without_a_call():
    x, mask = padded()
    for layer in (
        DiffRes(0.5),
        AvgPool(0.5),
        DiffRes(0.5, score_threshold=0.4),
    ):
        expected = call(layer, x, mask)[1]
        found = layer.compute_mask(ops.convert_to_tensor(x), mask)
        np.testing.assert_array_equal(ops.convert_to_numpy(found), expected)
    assert AvgPool(0.5).compute_mask(ops.convert_to_tensor(x)) is None


def test_a_mask_asked_for_alone_adds_no_loss():
    layer = DiffRes(0.5, score_threshold=0.4)
    x = log_mel()
    layer(x)
    layer.compute_mask(ops.convert_to_tensor(x))
    assert len(layer.losses) == 1


@pytest.mark.parametrize(
    "name,value",
    [
        ("lengths", [40]),
        ("lengths", 5),
        ("lengths", [1, 2, 3]),
        ("lengths", [[1], [2]]),
        ("lengths", [1.5, 2.0]),
        ("lengths", [True, False]),
        ("mask", np.ones((1, 40), bool)),
        ("mask", np.ones((2, 39), bool)),
        ("mask", np.ones(2, bool)),
    ],
)
def test_lengths_and_masks_are_checked(name, value):
    layer = AvgPool(0.5, name="frames")
    message = f"`{name}` of layer 'frames' must .* Received: {name}"
    with pytest.raises(ValueError, match=message):
        layer(log_mel(batch=2), **{name: value})


def test_lengths_out_of_range():
    x = log_mel(batch=2)
    layer = AvgPool(0.5)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(layer(x, lengths=[-3, 99])),
        ops.convert_to_numpy(layer(x, lengths=[0, 40])),
    )


def test_no_mask_without_need():
    _, mask = call(DiffRes(0.5), log_mel())
    assert mask is None


@pytest.mark.tensorflow
def test_lengths_that_a_graph_does_not_know():
    import tensorflow as tf

    for size in ({"reduction_rate": 0.7}, {"output_frames": 9}):
        layer = DiffRes(**size)
        layer.build((None, None, 8))
        signature = [
            tf.TensorSpec([None, None, 8]),
            tf.TensorSpec([None], "int32"),
        ]
        graph = tf.function(
            lambda x, n, layer=layer: layer(x, lengths=n),
            input_signature=signature,
        )
        for frames in (40, 15):
            x, lengths = log_mel()[:, :frames], np.minimum(LENGTHS, frames)
            np.testing.assert_allclose(
                graph(x, lengths), layer(x, lengths=lengths), atol=1e-4
            )


def test_number_of_frames_from_a_threshold():
    x, mask = padded()
    layer = DiffRes(
        0.2, scorer="dissimilarity", score_threshold=0.15, features=("mean",)
    )
    found, used = call(layer, x, mask)
    assert found.shape == (4, 32, 8, 1)
    used = used[..., 0]
    for clip, length in enumerate(LENGTHS[:-1]):
        alone, alone_used = call(layer, x[clip : clip + 1, :length])
        frames = alone_used[0, :, 0].sum()
        assert used[clip].sum() == frames
        np.testing.assert_allclose(
            found[clip, :frames], alone[0, :frames], atol=1e-5
        )
    analysis = layer.analyze(x, mask)
    scores = ops.convert_to_numpy(analysis["scores"])
    counts = ops.convert_to_numpy(analysis["output_frames"])
    np.testing.assert_array_equal(counts, used.sum(axis=1))
    np.testing.assert_allclose(scores.sum(axis=1), counts, rtol=1e-5)
    # Clips that change more get more frames.
    still = np.repeat(x[:1, :1], 40, axis=1)
    assert call(layer, still)[1][0, :, 0].sum() == 1
    assert 1 < counts[0] <= 32


def test_a_mask_with_a_learned_encoding():
    x, mask = padded()
    assert np.isfinite(
        call(DiffRes(0.5, learned_encoding=True), x, mask)[0]
    ).all()
    layer = DiffRes(output_frames=9, learned_encoding=True)
    layer.build(x.shape)
    with pytest.raises(ValueError, match="`learned_encoding` takes a mask"):
        layer(x, mask=mask)
