"""Residual layers and networks: against NumPy, published sizes, round trips."""

import functools
import math

import keras
import numpy as np
import pytest
from keras import ops

from diffstride.layers.pooling import (
    DiffStride,
    FixedSpectralPooling,
    SpatialPooling,
)
from diffstride.models.resnet import (
    ResidualLayer,
    Resnet,
    ResnetBlock,
    resnet18,
    resnet18_imagenet,
    resnet56,
)

POOLINGS = [None, SpatialPooling, FixedSpectralPooling, DiffStride]


def tiny(pooling_cls=None, **kwargs):
    arguments = {
        "filters": (5, 5, 5),
        "strides": (1, 1, 2),
        "num_layers": 1,
        "project_first": (False, True),
        "num_output_classes": 3,
        "input_shape": (16, 16, 3),
    }
    return Resnet(pooling_cls=pooling_cls, **{**arguments, **kwargs})


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def randomize(model):
    """Weights and statistics under which no path is close to zero or one."""
    rng = np.random.default_rng(2)
    for weight in model.weights:
        if weight.path.endswith("strides"):
            continue
        value = rng.uniform(0.5, 1.5, weight.shape)
        if len(weight.shape) > 1:
            value = rng.normal(size=weight.shape)
            value /= np.sqrt(np.prod(weight.shape[:-1]))
        weight.assign(value)


def trainable_parameters(builder, **kwargs):
    # Weights without values: the counts need none.
    with keras.StatelessScope(initialize_variables=False):
        weights = builder(**kwargs).trainable_weights
    return sum(math.prod(weight.shape) for weight in weights)


@pytest.mark.parametrize(
    "pooling_cls, parameters",
    [
        (None, 11_172_170),
        (FixedSpectralPooling, 11_172_170),
        (DiffStride, 11_172_178),
        (functools.partial(DiffStride, shared_stride=True), 11_172_174),
    ],
)
def test_parameters_of_the_2022_release(pooling_cls, parameters):
    assert trainable_parameters(resnet18, pooling_cls=pooling_cls) == parameters


def test_parameters_of_published_networks():
    # He et al., 2016a: 11,689,512 on ImageNet. On CIFAR the stem is smaller by
    # (49 - 9) * 3 * 64, the classifier by 990 rows of 513.
    assert trainable_parameters(resnet18_imagenet) == 11_689_512
    learned = trainable_parameters(resnet18_imagenet, pooling_cls=DiffStride)
    assert learned == 11_689_520
    small = 11_689_512 - 40 * 3 * 64 - 990 * 513
    assert trainable_parameters(resnet18, pre_activation=False) == small
    # He et al., 2016b: 0.85 million.
    assert trainable_parameters(resnet56) == 855_578


def test_identity_block_has_no_slot():
    with keras.StatelessScope(initialize_variables=False):
        model = tiny(DiffStride, id_only=(True, False))
    strides = [w.path for w in model.weights if w.name == "strides"]
    assert strides == ["block2/block2_layer1/block2_layer1_pooling/strides"]


def test_map_sizes():
    def sizes(pooling_cls):
        shape, result = (None, 32, 32, 4), []
        for strides in (1, 2, 2, 2):
            block = ResnetBlock(4, 3, strides, pooling_cls)
            shape = block.compute_output_shape(shape)
            result.append(shape[1:3])
        return result

    diffstride = functools.partial(DiffStride, static_sizes=True)
    assert sizes(diffstride) == [(32, 32), (24, 24), (20, 20), (18, 18)]
    inside = functools.partial(diffstride, ramp="inside")
    halved = [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert sizes(inside) == sizes(None) == sizes(FixedSpectralPooling) == halved


def convolve(x, kernel, strides=(1, 1)):
    """Convolution with padding "same", by a sum over the kernel's taps."""
    sizes = [-(-n // s) for n, s in zip(x.shape[1:3], strides, strict=True)]
    margins = [
        max((m - 1) * s + k - n, 0)
        for m, s, k, n in zip(
            sizes, strides, kernel.shape[:2], x.shape[1:3], strict=True
        )
    ]
    padding = [(0, 0), *((m // 2, m - m // 2) for m in margins), (0, 0)]
    x = np.pad(x, padding)
    result = 0
    for i, row in enumerate(kernel):
        for j, tap in enumerate(row):
            window = x[:, i :: strides[0], j :: strides[1]]
            result = result + window[:, : sizes[0], : sizes[1]] @ tap
    return result


def reference(layer, x, pool, strides):
    """A residual layer as the papers draw it: the shortcut pools last."""
    weights = {w.path.split("/", 1)[1]: np.array(w) for w in layer.weights}

    def normalize(x, name):
        gamma, beta, mean, variance = (
            weights[f"{name}/{key}"]
            for key in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta

    def rectify(x):
        return np.maximum(x, 0)

    main = shortcut = x
    if layer.pre_activation:
        main = rectify(normalize(x, "normalization1"))
        shortcut = main if layer.project else x
    if layer.project:
        shortcut = convolve(shortcut, weights["shortcut/kernel"])
    # A strided 1x1 convolution reads every stride-th pixel.
    shortcut = pool(shortcut[:, :: strides[0], :: strides[1]])
    main = pool(convolve(main, weights["convolution1/kernel"], strides))
    if layer.pre_activation:
        main = rectify(normalize(main, "normalization2"))
        return convolve(main, weights["convolution2/kernel"]) + shortcut
    main = rectify(normalize(main, "normalization1"))
    main = convolve(main, weights["convolution2/kernel"])
    if layer.project:
        shortcut = normalize(shortcut, "shortcut_normalization")
    return rectify(normalize(main, "normalization2") + shortcut)


@pytest.mark.parametrize("pre_activation", [True, False])
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("pooling_cls", [None, DiffStride])
def test_layer_equals_numpy(pooling_cls, project, pre_activation):
    strides = (2, 3) if pooling_cls is None else (1.5, 2.5)
    layer = ResidualLayer(
        filters=5,
        strides=strides,
        pooling_cls=pooling_cls,
        project=project,
        pre_activation=pre_activation,
    )
    x = images(2, 11, 12, 5)
    layer.build(x.shape)
    randomize(layer)
    if pooling_cls is None:
        expected = reference(layer, x, lambda x: x, strides)
    else:
        pool = pooling_cls(strides)
        expected = reference(
            layer, x, lambda x: np.array(pool(x.astype("float32"))), (1, 1)
        )
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)
    shape = layer.compute_output_shape(x.shape)
    for size, computed in zip(expected.shape, shape, strict=True):
        assert computed in (size, None)


@pytest.mark.parametrize("pooling_cls", [None, DiffStride])
def test_channels_first(pooling_cls):
    last = tiny(pooling_cls, pre_activation=False)
    first = tiny(
        pooling_cls,
        pre_activation=False,
        channels_first=True,
        input_shape=(3, 16, 16),
    )
    randomize(last)
    first.set_weights(last.get_weights())
    x = images(2, 16, 16, 3)
    np.testing.assert_allclose(
        first(x.transpose(0, 3, 1, 2)), last(x), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("pooling_cls", POOLINGS)
def test_save_and_reload(pooling_cls, tmp_path):
    head = None if pooling_cls is None else FixedSpectralPooling
    model = tiny(
        pooling_cls,
        head_pooling=head,
        head_strides=(1, 2),
        weight_decay=1e-3,
        output_activation="softmax",
    )
    randomize(model)
    for weight in model.weights:
        if weight.name == "strides":
            weight.assign([1.7, 2.6])
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images(2, 16, 16, 3)
    np.testing.assert_array_equal(reloaded(x), model(x))
    assert reloaded.to_json() == model.to_json()
    np.testing.assert_array_equal(sum(reloaded.losses), sum(model.losses))


@pytest.mark.parametrize(
    "layer",
    [
        ResidualLayer(4, 5, (1, 2), project=True, pre_activation=False),
        ResnetBlock(4, num_layers=3, id_only=True, channels_first=True),
        ResnetBlock(4, 3, 1.5, DiffStride, project_first=False),
    ],
)
def test_config_round_trip(layer):
    config = layer.get_config()
    copy = type(layer).from_config(config)
    assert copy.get_config() == config
    with keras.StatelessScope(initialize_variables=False):
        layer.build((None, 4, 8, 4))
        copy.build((None, 4, 8, 4))
    assert [w.path for w in copy.weights] == [w.path for w in layer.weights]


def test_every_weight_learns_in_fit():
    # Away from the smallest stride, where the constraint holds it.
    model = tiny(DiffStride, strides=(1, 1.6, 2))
    model.compile("sgd", "mse")
    before = [np.array(w) for w in model.trainable_weights]
    model.fit(images(4, 16, 16, 3), images(4, 3), batch_size=2, verbose=0)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.any(np.array(weight) != old), weight.path


@pytest.mark.parametrize("pooling_cls", [None, FixedSpectralPooling])
def test_unknown_height_and_width(pooling_cls):
    fixed = tiny(pooling_cls)
    free = tiny(pooling_cls, input_shape=(None, None, 3))
    free.set_weights(fixed.get_weights())
    x = images(2, 16, 16, 3)
    np.testing.assert_allclose(free(x), fixed(x), rtol=1e-5, atol=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("pooling_cls", POOLINGS)
def test_any_height_and_width(pooling_cls):
    model = tiny(pooling_cls, input_shape=(None, None, 3))
    assert model(images(2, 16, 12, 3)).shape == (2, 3)
    assert model(images(1, 9, 20, 3)).shape == (1, 3)


def test_spectral_pooling_in_front_of_the_average():
    def logits(head_pooling):
        keras.utils.set_random_seed(0)
        model = tiny(strides=(1, 1, 1), head_pooling=head_pooling)
        return np.array(model(images(2, 16, 16, 3)))

    plain = logits(None)
    forward = functools.partial(FixedSpectralPooling, norm="forward")
    np.testing.assert_allclose(logits(forward), plain, atol=1e-5)
    # 16x16 averages over 8x8, and the classifier starts without a bias.
    np.testing.assert_allclose(
        logits(FixedSpectralPooling), 4 * plain, rtol=1e-4, atol=1e-5
    )


def test_weight_decay_is_half_the_gradient_of_the_kernels():
    model = tiny(weight_decay=0.01)
    kernels = [w for w in model.trainable_weights if w.name == "kernel"]
    # Stem, two residual layers of two and a projection, classifier.
    assert len(kernels) == len(model.losses) == 7
    penalty = sum(float(ops.sum(ops.square(w))) for w in kernels)
    np.testing.assert_allclose(sum(model.losses), 0.01 * penalty, rtol=1e-5)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = tiny(DiffStride)
    output = model(images(2, 16, 16, 3))
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    assert model.get_layer("block2").compute_dtype == "bfloat16"
    assert np.all(np.isfinite(output))


def test_identity_layer_of_imagenet_downsamples():
    with keras.StatelessScope(initialize_variables=False):
        model = resnet18_imagenet(
            filters=4, strides=(2, 3), num_layers=1, input_shape=(48, 24, 3)
        )
    assert model.get_layer("stem_pooling").output.shape == (None, 12, 6, 4)
    assert model.get_layer("block1").output.shape == (None, 4, 2, 4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strides": (1, 1, 2.5)}, "`strides` must be integers.*2.5.* block2"),
        ({"strides": (1.5, 1, 1)}, "`strides` must be integers.*1.5.* stem"),
        ({"strides": (1, 0.5, 2)}, "`strides` must be a number of 1.*block1"),
        ({"filters": (5, 5)}, r"`strides` and `filters` must.*\(5, 5\)"),
        ({"strides": (1,)}, r"`strides` and `filters` must.*\(1,\)"),
        ({"num_layers": 0}, "`num_layers` must be 1 or more.*num_layers=0"),
        ({"num_layers": (1, 1, 1)}, "`num_layers` must be one value.*1, 1, 1"),
        ({"id_only": True}, "`strides` must be 1 when `id_only=True`.*block2"),
        ({"filters": (5, 7, 5)}, "`filters` must equal.*filters=7"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)
