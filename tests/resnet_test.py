"""Residual networks: the one of the 2022 release, the variants, round trips.

`release` and `residual_reference` are written from a description of the
networks, in NumPy, and use nothing of the models under test.
"""

import functools
import inspect
import math

import gradients
import keras
import numpy as np
import pytest
import spectral_reference
from gradients import value_and_gradients
from keras import ops

from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import count_macs
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
from diffstride.surgery.freeze import freeze
from diffstride.surgery.learn_strides import learn_strides

POOLINGS = [None, SpatialPooling, FixedSpectralPooling, DiffStride]
# The variant of `configs/models/resnet18_modern.gin`.
MODERN = {
    "stem_slot": False,
    "downsample_identity": True,
    "activated_shortcut": True,
    "weight_decay": 0.0,
}


def tiny(pooling_cls=None, **kwargs):
    """A block of identity layers, then one that downsamples."""
    arguments = {
        "filters": (5, 5, 5),
        "strides": (1, 1, 2),
        "num_layers": 1,
        "id_only": (0,),
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


def to_numpy(tensor):
    return ops.convert_to_numpy(tensor)


def slots(model):
    """The names of the DiffStride layers of a model."""
    return [layer.name for layer in learned_layers(model)]


def parameters(builder, **kwargs):
    """Numbers of trainable weights and of all."""
    # Weights without values: the counts need none.
    with keras.StatelessScope(initialize_variables=False):
        model = builder(**kwargs)
    return tuple(
        sum(math.prod(weight.shape) for weight in weights)
        for weights in (model.trainable_weights, model.weights)
    )


# The counts of the release. They say nothing about the order of the layers:
# `test_release_equals_numpy` does.
@pytest.mark.parametrize(
    "builder, pooling_cls, trainable",
    [
        (resnet18, None, 11_172_170),
        (resnet18, FixedSpectralPooling, 11_172_170),
        (resnet18, DiffStride, 11_172_178),
        (resnet56, None, 855_834),
        (resnet56, FixedSpectralPooling, 855_834),
        (resnet56, DiffStride, 855_842),
    ],
)
def test_numbers_of_parameters_of_the_release(builder, pooling_cls, trainable):
    found = parameters(
        builder, pooling_cls=pooling_cls, input_shape=(32, 32, 3)
    )
    # Moving means and variances.
    moving = {resnet18: 7808, resnet56: 4064}[builder]
    assert found == (trainable, trainable + moving)


def test_numbers_of_parameters_of_other_networks():
    # He et al., 2016a: 11,689,512 on ImageNet. On CIFAR the stem is smaller by
    # (49 - 9) * 3 * 64, the classifier by 990 rows of 513.
    assert parameters(resnet18_imagenet)[0] == 11_689_512
    learned = parameters(resnet18_imagenet, pooling_cls=DiffStride)
    assert learned[0] == 11_689_520
    options = {"input_shape": (32, 32, 3)}
    small = 11_689_512 - 40 * 3 * 64 - 990 * 513
    found = parameters(resnet18, pre_activation=False, **options)
    assert found[0] == small
    # He et al., 2016b: 0.85 million, without a projection in the first block.
    found = parameters(resnet56, id_only=(0,), **options)
    assert found[0] == 855_578


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


def normalize(x, weights, name):
    gamma, beta, mean, variance = (
        weights[f"{name}/{key}"]
        for key in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def rectify(x):
    return np.maximum(x, 0)


def release(x, weights, strides, id_only, num_layers, pool):
    """The logits of the 2022 release.

    Args:
        weights: arrays by their names.
        strides: one pair for the stem and one for each block.
        num_layers: one number for each block.
        pool: None, or function of a map, strides and the name of a slot.
    """

    def downsample(x, kernel, strides, slot):
        """A convolution that downsamples, by itself or by pooling."""
        if pool is None:
            return convolve(x, weights[kernel], strides)
        return pool(convolve(x, weights[kernel]), strides, slot)

    x = downsample(x, "stem_convolution/kernel", strides[0], "stem_pooling")
    for i, block_strides in enumerate(strides[1:]):
        for j in range(num_layers[i]):
            name = f"block{i + 1}_layer{j + 1}"
            x_raw = x
            x = rectify(normalize(x, weights, f"{name}/normalization1"))
            if j == 0 and i not in id_only:
                slot = f"{name}_pooling"
                x, x_raw = (
                    downsample(x, f"{name}/{kernel}", block_strides, slot)
                    for x, kernel in [
                        (x, "convolution1/kernel"),
                        (x_raw, "shortcut/kernel"),
                    ]
                )
            else:
                x = convolve(x, weights[f"{name}/convolution1/kernel"])
            x = rectify(normalize(x, weights, f"{name}/normalization2"))
            x = x_raw + convolve(x, weights[f"{name}/convolution2/kernel"])
    x = rectify(normalize(x, weights, "head_normalization")).mean((1, 2))
    return x @ weights["predictions/kernel"] + weights["predictions/bias"]


def spectral_pool(x, strides, slot):
    return spectral_reference.fixed(x.shape[1:3], strides)(x)


def short_name(weight):
    """`layer/variable`, for layers in residual layers `owner/layer/variable`.

    What stands further left names the model and the block.
    """
    parts = weight.path.split("/")
    owners = [i for i, part in enumerate(parts) if "_layer" in part]
    return "/".join(parts[owners[0] if owners else -2 :])


@pytest.mark.parametrize(
    "pooling_cls, strides",
    [
        (None, ((1, 2), (1, 1), (2, 1), (2, 2))),
        (FixedSpectralPooling, ((1.5, 1), (3, 3), (2, 1.4), (1, 2))),
        (
            functools.partial(DiffStride, smoothness_factor=1.0),
            ((1.37, 1.6), (2, 2), (1.3, 1.45), (1.7, 1.8)),
        ),
    ],
    ids=["strided", "spectral", "diffstride"],
)
def test_release_equals_numpy(pooling_cls, strides):
    model = Resnet(
        filters=(3, 3, 4, 4),
        strides=strides,
        num_output_classes=3,
        id_only=(0,),
        num_layers=(1, 2, 1),
        pooling_cls=pooling_cls,
        input_shape=(12, 14, 2),
    )
    randomize(model)
    trained = model.trainable_variables
    tensors = {short_name(weight): weight for weight in model.weights}
    assert len(tensors) == len(model.weights)
    tensors["images"] = images(2, 12, 14, 2)
    values = {n: to_numpy(t).astype("float64") for n, t in tensors.items()}
    learned = {
        name.split("/")[-2]: value
        for name, value in values.items()
        if name.endswith("strides")
    }
    # The stem and two blocks have a slot.
    assert len(learned) == 3 * isinstance(pooling_cls, functools.partial)

    def learned_pool(x, strides, slot, weights):
        (name,) = (n for n in weights if n.endswith(f"{slot}/strides"))
        return spectral_reference.diffstride(
            x.shape[1:3],
            weights[name],
            smoothness_factor=1.0,
            # No gradient goes through the crop.
            crop_strides=learned[slot],
        )(x)

    def expected(values):
        pool = {None: None, FixedSpectralPooling: spectral_pool}.get(
            pooling_cls, functools.partial(learned_pool, weights=values)
        )
        return release(values["images"], values, strides, (0,), (1, 2, 1), pool)

    def function(x, *trainable):
        fixed = [weight.value for weight in model.non_trainable_variables]
        return model.stateless_call(trainable, fixed, x)[0]

    names = ["images", *map(short_name, trained)]
    upstream = images(2, 3)
    y, found = value_and_gradients(
        function, [to_numpy(tensors[name]) for name in names], upstream
    )
    np.testing.assert_allclose(
        y, expected(values), rtol=1e-4, atol=1e-4 * np.abs(y).max()
    )
    rng = np.random.default_rng(3)
    for name, gradient in zip(names, found, strict=True):
        # The slope along a random direction in the space of each argument.
        direction = rng.normal(size=values[name].shape)
        up, down = (
            np.sum(
                upstream
                * expected({**values, name: values[name] + step * direction})
            )
            for step in (1e-6, -1e-6)
        )
        slope = np.sum(to_numpy(gradient) * direction)
        np.testing.assert_allclose(
            slope, (up - down) / 2e-6, rtol=2e-3, atol=1e-3, err_msg=name
        )


def test_layers_are_called_in_the_order_of_the_release():
    layer = ResidualLayer(4, strides=2, pooling_cls=DiffStride, project=True)
    calls = []
    for inner in layer._layers:
        inner.call = functools.partial(
            lambda inputs, inner, call, **kwargs: (
                calls.append(inner.name) or call(inputs, **kwargs)
            ),
            inner=inner,
            call=inner.call,
        )
    layer.build((1, 12, 12, 3))
    layer.call(images(1, 12, 12, 3))
    # The shortcut is pooled next to the main path, and not last, because some
    # layers must see both maps at once. The numbers are the same.
    assert calls == [
        "normalization1",
        "convolution1",
        f"{layer.name}_pooling",
        f"{layer.name}_pooling",
        "normalization2",
        "convolution2",
        "shortcut",
    ]


def residual_reference(layer, x, pool, strides):
    """A residual layer as the papers draw it: the shortcut pools last."""
    weights = {w.path.split("/", 1)[1]: to_numpy(w) for w in layer.weights}
    main = shortcut = x
    if layer.pre_activation:
        main = rectify(normalize(x, weights, "normalization1"))
        if layer.activated_shortcut and layer.project:
            shortcut = main
    if layer.project:
        shortcut = convolve(shortcut, weights["shortcut/kernel"])
    # A strided 1x1 convolution reads every stride-th pixel.
    shortcut = pool(shortcut[:, :: strides[0], :: strides[1]])
    main = pool(convolve(main, weights["convolution1/kernel"], strides))
    if layer.pre_activation:
        main = rectify(normalize(main, weights, "normalization2"))
        return convolve(main, weights["convolution2/kernel"]) + shortcut
    main = rectify(normalize(main, weights, "normalization1"))
    main = convolve(main, weights["convolution2/kernel"])
    if layer.project:
        shortcut = normalize(shortcut, weights, "shortcut_normalization")
    return rectify(normalize(main, weights, "normalization2") + shortcut)


@pytest.mark.parametrize(
    "options",
    [{}, {"activated_shortcut": True}, {"pre_activation": False}],
    ids=["release", "activated", "post-activation"],
)
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("pooling_cls", [None, DiffStride])
def test_layer_equals_numpy(pooling_cls, project, options):
    strides = (2, 3) if pooling_cls is None else (1.5, 2.5)
    layer = ResidualLayer(
        filters=5,
        strides=strides,
        pooling_cls=pooling_cls,
        project=project,
        downsample_identity=True,
        **options,
    )
    x = images(2, 11, 12, 5)
    layer.build(x.shape)
    randomize(layer)
    if pooling_cls is None:
        expected = residual_reference(layer, x, lambda x: x, strides)
    else:
        pool = pooling_cls(strides)
        expected = residual_reference(
            layer, x, lambda x: to_numpy(pool(x.astype("float32"))), (1, 1)
        )
    found = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    shape = layer.compute_output_shape(x.shape)
    for size, computed in zip(expected.shape, shape, strict=True):
        assert computed in (size, None)


def test_the_stem_has_a_slot():
    with keras.StatelessScope(initialize_variables=False):
        model = tiny(FixedSpectralPooling, strides=(1.5, 1, 2.5), kernel_size=5)
    assert model.get_layer("stem_pooling").output.shape == (None, 10, 10, 5)
    assert model.get_layer("block2").output.shape == (None, 4, 4, 5)
    # Its kernel has 3x3 points, whatever those of the blocks have.
    assert model.get_layer("stem_convolution").kernel.shape[:2] == (3, 3)
    first = model.get_layer("block1").layers[0]
    assert first.convolution1.kernel.shape[:2] == (5, 5)


def test_blocks_without_a_projection_are_given_by_index():
    with keras.StatelessScope(initialize_variables=False):
        model = Resnet(
            filters=(4, 4, 4, 4),
            strides=(1, 2, 2, 2),
            num_layers=1,
            id_only=[0, 2],
            pooling_cls=DiffStride,
            input_shape=(32, 32, 3),
        )
    assert slots(model) == ["stem_pooling", "block2_layer1_pooling"]
    projects = [block.layers[0].project for block in model.layers[2:5]]
    assert projects == [False, True, False]


@pytest.mark.parametrize(
    "id_only", [(True, False), (2,), (-1,), 0, True, ("0",), None]
)
def test_other_forms_of_id_only_are_errors(id_only):
    with pytest.raises(ValueError, match="`id_only` must .* from 0 to 1"):
        tiny(id_only=id_only)


@pytest.mark.parametrize("pooling_cls", POOLINGS)
def test_identity_layers_keep_the_size(pooling_cls):
    x = images(1, 24, 24, 4)
    options = {"strides": (2, 2), "pooling_cls": pooling_cls}
    layer = ResidualLayer(4, **options)
    assert layer.pooling is None and layer.strides == (1, 1)
    block = ResnetBlock(4, project_first=False, **options)
    for identity in (layer, block):
        assert identity(x).shape == x.shape
        assert identity.compute_output_shape(x.shape) == x.shape
    downsampling = ResidualLayer(4, downsample_identity=True, **options)
    assert downsampling(x).shape != x.shape


def test_a_block_is_a_sequence_of_layers():
    block = ResnetBlock(4, 2, 3)
    assert [type(layer) for layer in block.layers] == [ResidualLayer] * 3
    assert [layer.project for layer in block.layers] == [True, False, False]
    assert [layer.strides for layer in block.layers] == [(2, 2), *[(1, 1)] * 2]


def test_projections_with_equal_channels():
    block = ResnetBlock(4, 1, 1)
    block.build((None, 8, 8, 4))
    assert block.layers[0].shortcut.kernel.shape == (1, 1, 4, 4)


def test_the_three_variants_of_resnet18():
    def found(**options):
        with keras.StatelessScope(initialize_variables=False):
            model = resnet18(
                [1, 2, 2, 2, 2],
                filters=2,
                pooling_cls=DiffStride,
                input_shape=(64, 64, 3),
                **options,
            )
        return slots(model)

    shortcuts = [f"block{i}_layer1_pooling" for i in (2, 3, 4)]
    assert found() == ["stem_pooling", *shortcuts]
    assert found(stem_slot=False) == shortcuts
    assert found(**MODERN) == ["block1_layer1_pooling", *shortcuts]


def test_the_first_argument_is_strides():
    model = resnet18([1, 1, 3, 2, 3], input_shape=(64, 64, 3), filters=2)
    shapes = [layer.output.shape[1] for layer in model.layers[:-2]]
    assert shapes == [64, 64, 22, 11, 4, 4, 4]
    widths = [layer.layers[0].filters for layer in model.layers[1:5]]
    assert widths == [2, 4, 8, 16]
    with keras.StatelessScope(initialize_variables=False):
        model = resnet18([1, 1, 3, 2, 3])
    widths = [layer.layers[0].filters for layer in model.layers[1:5]]
    assert widths == [64, 128, 256, 512]
    assert resnet56(None).layers[3].strides == (2, 2)


def test_arguments_have_the_order_of_the_release():
    def positional(function):
        return [
            name
            for name, parameter in inspect.signature(
                function
            ).parameters.items()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]

    assert positional(Resnet) == [
        "filters",
        "strides",
        "num_output_classes",
        "output_activation",
        "id_only",
        "channels_first",
        "pooling_cls",
        "weight_decay",
    ]
    assert positional(ResidualLayer) == [
        "filters",
        "kernel_size",
        "strides",
        "pooling_cls",
        "project",
        "channels_first",
        "weight_decay",
    ]
    assert positional(ResnetBlock) == [
        "filters",
        "strides",
        "num_layers",
        "project_first",
    ]
    for builder in (resnet18, resnet56, resnet18_imagenet):
        assert positional(builder) == ["strides"]
        # Each argument has a name of its own, which gin needs.
        known = inspect.signature(builder).parameters
        assert known.keys() == inspect.signature(Resnet).parameters.keys()
        with pytest.raises(TypeError, match="unexpected .* 'head_stride'"):
            builder(head_stride=2)


def test_strides_as_a_string():
    model = tiny(strides="1, 1, (2, 4)")
    assert model.get_layer("block2").output.shape == (None, 8, 4, 5)
    # As the gin files of the release have them.
    assert tiny(strides="1, 1, 2").get_layer("block2").strides == (2, 2)
    for strides in ("1 1 2", "one", "2", "1, x, 2"):
        with pytest.raises(
            ValueError, match="`strides` must be a list .*'1, 1"
        ):
            tiny(strides=strides)


@pytest.mark.parametrize("pooling_cls", POOLINGS)
def test_any_size_and_number_of_channels(pooling_cls):
    for shape in [(2, 16, 16, 1), (1, 12, 20, 4)]:
        model = tiny(pooling_cls, input_shape=None)
        assert not model.built
        assert model(images(*shape)).shape == (shape[0], 3)
        assert model.get_layer("stem_convolution").kernel.shape[2] == shape[3]
    model = tiny(pooling_cls, input_shape=None)
    model.build((None, 16, 12, 3))
    assert model.input_shape == (None, 16, 12, 3)
    assert model.predict(images(3, 16, 12, 3), verbose=0).shape == (3, 3)


def test_a_model_that_is_not_built_yet_learns():
    model = tiny(FixedSpectralPooling, input_shape=None)
    model.compile("sgd", "mse")
    model.fit(images(6, 16, 16, 2), images(6, 3), batch_size=4, verbose=0)
    assert model.predict(images(5, 16, 16, 2), verbose=0).shape == (5, 3)


def test_a_model_that_is_built_is_copied_counted_and_saved(tmp_path):
    x = images(2, 16, 16, 3)
    strided, learned = tiny(), tiny(DiffStride)
    assert slots(learn_strides(strided)) == ["block2_layer1_pooling"]
    np.testing.assert_allclose(
        to_numpy(freeze(learned)(x)), to_numpy(learned(x)), atol=1e-5
    )
    assert count_macs(learned) > count_macs(strided) > 0
    model = tiny(DiffStride, input_shape=None)
    model.build((None, 16, 16, 3))
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(reloaded(x)), to_numpy(model(x)))


@pytest.mark.parametrize("function", [learn_strides, freeze])
def test_a_model_that_is_not_built_yet_is_an_error(function):
    with pytest.raises(ValueError, match=r"Build it first, .*model.build\(\(N"):
        function(resnet18(filters=2))
    with pytest.raises(ValueError, match="`input_shape` must be given"):
        count_macs(resnet18(filters=2))


def test_map_sizes():
    def sizes(pooling_cls):
        shape, result = (None, 32, 32, 4), []
        for strides in (1, 2, 2, 2):
            block = ResnetBlock(4, strides, pooling_cls=pooling_cls)
            shape = block.compute_output_shape(shape)
            result.append(shape[1:3])
        return result

    diffstride = functools.partial(DiffStride, static_sizes=True)
    assert sizes(diffstride) == [(32, 32), (24, 24), (20, 20), (18, 18)]
    inside = functools.partial(diffstride, ramp="inside")
    halved = [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert sizes(inside) == sizes(None) == sizes(FixedSpectralPooling) == halved


@pytest.mark.parametrize("pooling_cls", [None, DiffStride])
def test_channels_first(pooling_cls):
    last = tiny(pooling_cls, pre_activation=False)
    first = tiny(pooling_cls, pre_activation=False, channels_first=True)
    assert isinstance(first.layers[0], keras.layers.Permute)
    assert first.get_layer("stem_convolution").output.shape[1] == 5
    randomize(last)
    first.set_weights(last.get_weights())
    x = images(2, 16, 16, 3)
    np.testing.assert_allclose(
        *gradients.to_numpy([first(x), last(x)]), rtol=1e-4, atol=1e-4
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
        downsample_identity=True,
    )
    randomize(model)
    for weight in model.weights:
        if weight.name == "strides":
            weight.assign([1.7, 2.6])
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images(2, 16, 16, 3)
    np.testing.assert_array_equal(
        gradients.value(reloaded, x), gradients.value(model, x)
    )
    assert reloaded.to_json() == model.to_json()
    losses = [sum(each.losses) for each in (reloaded, model)]
    np.testing.assert_array_equal(*gradients.to_numpy(losses))


@pytest.mark.parametrize(
    "layer",
    [
        ResidualLayer(4, 5, (1, 2), project=True, pre_activation=False),
        ResidualLayer(4, strides=2, pooling_cls=SpatialPooling),
        ResnetBlock(4, num_layers=3, project_first=False, channels_first=True),
        ResnetBlock(4, 1.5, pooling_cls=DiffStride, activated_shortcut=True),
        ResnetBlock(
            4,
            np.array([1.5, 2]),
            project_first=False,
            pooling_cls=DiffStride,
            downsample_identity=True,
        ),
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


def test_strides_are_in_the_config_of_the_pooling_layer_alone():
    layer = ResidualLayer(4, 3, (1.5, 2), DiffStride, project=True)
    for config in (layer.get_config(), ResnetBlock(4, 2).get_config()):
        inner = config["pooling_cls"]
        assert ("strides" in config) == (inner is None)
    config = layer.get_config()
    assert list(config["pooling_cls"]["config"]["strides"]) == [1.5, 2]
    config["pooling_cls"]["config"]["strides"] = [3.0, 4]
    assert ResidualLayer.from_config(config).strides == (3, 4)
    # Strides that are given win over those of a config.
    other = ResidualLayer(4, 3, 5, config["pooling_cls"], project=True)
    assert tuple(other.pooling.strides) == (5, 5)


def test_configs_of_version_0_1():
    layer = {
        "filters": 4,
        "kernel_size": 3,
        "strides": 2,
        "pooling_cls": {"class_name": "FixedSpectralPooling"},
        "channels_first": False,
        "weight_decay": 0.0,
        "pre_activation": True,
    }
    for project in (True, False):
        made = ResidualLayer.from_config({**layer, "project": project})
        # The shortcut was activated, or pooled and nothing else.
        assert made.activated_shortcut
        assert made(images(1, 16, 16, 4)).shape == (1, 8, 8, 4)
    block = {**layer, "num_layers": 2, "project_first": True}
    made = ResnetBlock.from_config({**block, "id_only": False})
    assert made.layers[0].project and made.layers[0].activated_shortcut
    assert made.strides == (2, 2)
    made = ResnetBlock.from_config({**block, "id_only": True, "strides": 1})
    assert not made.layers[0].project and made.layers[0].pooling is None


@pytest.mark.parametrize("pooling_cls", POOLINGS)
@pytest.mark.parametrize("project", [True, False])
def test_dtype_policy_reaches_all_layers(pooling_cls, project):
    options = {
        "strides": 2,
        "pooling_cls": pooling_cls,
        "downsample_identity": True,
    }
    x = images(1, 12, 12, 4)
    explicit = {**options, "dtype": "mixed_bfloat16"}
    layer = ResidualLayer(4, project=project, **explicit)
    block = ResnetBlock(4, project_first=project, **explicit)
    keras.config.set_dtype_policy("mixed_bfloat16")
    under_policy = ResidualLayer(4, project=project, **options)
    keras.config.set_dtype_policy("float32")
    reloaded = ResidualLayer.from_config(under_policy.get_config())
    for made in (layer, block, under_policy, reloaded):
        output = made(x)
        assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
        policies = {inner.dtype_policy.name for inner in made._flatten_layers()}
        assert policies == {"mixed_bfloat16"}


def test_a_slot_may_have_a_dtype_policy_of_its_own():
    own = functools.partial(DiffStride, dtype="float32")
    for pooling_cls in (own, keras.saving.serialize_keras_object(own(2))):
        layer = ResidualLayer(
            4, 3, 2, pooling_cls, project=True, dtype="mixed_bfloat16"
        )
        assert layer.pooling.dtype_policy.name == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_every_weight_learns_in_fit():
    # Away from the smallest stride, where the constraint holds it.
    model = tiny(DiffStride, strides=(1.6, 1.6, 2), downsample_identity=True)
    model.compile("sgd", "mse")
    before = [to_numpy(w) for w in model.trainable_weights]
    model.fit(images(4, 16, 16, 3), images(4, 3), batch_size=2, verbose=0)
    assert len(slots(model)) == 3
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.any(to_numpy(weight) != old), weight.path


@pytest.mark.parametrize("pooling_cls", [None, FixedSpectralPooling])
def test_unknown_height_and_width(pooling_cls):
    fixed = tiny(pooling_cls)
    free = tiny(pooling_cls, input_shape=(None, None, 3))
    free.set_weights(fixed.get_weights())
    x = images(2, 16, 16, 3)
    np.testing.assert_allclose(
        *gradients.to_numpy([free(x), fixed(x)]), rtol=1e-5, atol=1e-5
    )


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
        return to_numpy(model(images(2, 16, 16, 3)))

    plain = logits(None)
    forward = functools.partial(FixedSpectralPooling, norm="forward")
    np.testing.assert_allclose(logits(forward), plain, atol=1e-5)
    # 16x16 averages over 8x8, and the classifier starts without a bias.
    np.testing.assert_allclose(
        logits(FixedSpectralPooling), 4 * plain, rtol=1e-4, atol=1e-5
    )


def test_weight_decay_is_that_of_the_release():
    model = tiny()
    randomize(model)
    decayed = [
        weight
        for weight in model.trainable_weights
        if weight.name in ("kernel", "bias")
    ]
    # Stem, two residual layers of two and a projection, kernel and bias of the
    # classifier.
    assert len(decayed) == len(model.losses) == 8
    penalty = sum(float(ops.sum(ops.square(w))) for w in decayed)
    loss = keras.ops.convert_to_numpy(sum(model.losses))
    np.testing.assert_allclose(loss, 5e-3 * penalty, rtol=1e-5)
    assert tiny(weight_decay=0.0).losses == []


def test_the_classifier_starts_as_that_of_the_release():
    initializer = tiny().get_layer("predictions").kernel_initializer
    assert isinstance(initializer, keras.initializers.HeNormal)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = tiny(DiffStride)
    output = model(images(2, 16, 16, 3))
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    assert model.get_layer("block2").compute_dtype == "bfloat16"
    assert np.all(np.isfinite(keras.ops.convert_to_numpy(output)))


def test_identity_layer_of_imagenet_downsamples():
    with keras.StatelessScope(initialize_variables=False):
        model = resnet18_imagenet(
            (2, 3), filters=4, num_layers=1, input_shape=(48, 24, 3)
        )
    assert model.get_layer("stem_max_pooling").output.shape == (None, 12, 6, 4)
    assert model.get_layer("block1").output.shape == (None, 4, 2, 4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strides": (1, 1, 2.5)}, "`strides` must be integers.*2.5.* block2"),
        ({"strides": (1.5, 1, 1)}, "`strides` must be integers.*1.5.* stem"),
        ({"strides": (1, 0.5, 2)}, "`strides` must be a finite .*block1"),
        ({"filters": (5, 5)}, r"`strides` and `filters` must.*\(5, 5\)"),
        ({"strides": (1,)}, r"`strides` and `filters` must.*\[1\]"),
        ({"num_layers": 0}, "`num_layers` must be a pos.*num_layers=0"),
        ({"num_layers": (1, 1, 1)}, "`num_layers` must be one value.*1, 1, 1"),
        ({"filters": (5, 7, 5)}, "`filters` must equal.*filters=7"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)
