"""The script that takes the weights of a SavedModel of the 2022 release."""

import functools
import pathlib
import sys

import keras
import numpy as np
import pytest

from diffstride.layers.pooling import DiffStride, FixedSpectralPooling
from diffstride.models import resnet

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"
pytestmark = pytest.mark.tensorflow

# The layers of a small network in the order in which the release made them, by
# their names. Legacy Keras counted on from one model to the next.
STEM = [("conv2d_7", (3, 3, 2, 3))]
RESIDUAL = {
    "residual_layer_9": [
        ("conv2d_8", (3, 3, 3, 3)),
        ("conv2d_9", (3, 3, 3, 3)),
        ("batch_normalization_9", (3,)),
        ("batch_normalization_10", (3,)),
    ],
    "residual_layer_10": [
        ("conv2d_10", (3, 3, 3, 4)),
        ("conv2d_11", (3, 3, 4, 4)),
        ("batch_normalization_11", (3,)),
        ("batch_normalization_12", (4,)),
        ("conv2d_12", (1, 1, 3, 4)),
    ],
}
HEAD = [("batch_normalization_13", (4,)), ("dense_2", (4, 5))]
# Names of pooling layers, of the stem and of the block that has one.
SLOTS = {
    DiffStride: ("diff_stride", "residual_layer_10/diff_stride_1"),
    FixedSpectralPooling: (
        "fixed_spectral_pooling",
        "residual_layer_10/fixed_spectral_pooling_1",
    ),
    None: (),
}


def random_weights(pooling_cls):
    rng = np.random.default_rng(0)
    layers = [*STEM, *HEAD]
    for owner, inner in RESIDUAL.items():
        layers += [(f"{owner}/{name}", shape) for name, shape in inner]
    weights = {}
    for name, shape in layers:
        if "batch_normalization" in name:
            for key in ("gamma", "beta", "moving_mean", "moving_variance"):
                weights[f"{name}/{key}"] = rng.uniform(0.5, 1.5, shape)
        else:
            kernel = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
            weights[f"{name}/kernel"] = kernel
        if "dense" in name:
            weights[f"{name}/bias"] = rng.normal(size=shape[1:])
    for slot in SLOTS[pooling_cls]:
        weights[f"{slot}/strides"] = rng.uniform(1.5, 2.5, 2)
    return weights


def write_release(directory, pooling_cls, strides):
    """Writes such a network, with a state of its optimizer."""
    import tensorflow as tf

    module = tf.Module()
    weights = {
        name: tf.Variable(value, dtype=tf.float32, name=name)
        for name, value in random_weights(pooling_cls).items()
    }
    # The checkpoint's own names and order say nothing.
    module.kept = list(weights.values())[::-1]
    module.optimizer = tf.Module()
    module.optimizer.moments = [
        tf.Variable(0 * weight, name=f"SGD/{name}")
        for name, weight in weights.items()
    ]

    poolings = {slot: pooling_cls(2) for slot in SLOTS[pooling_cls]}
    for slot, layer in poolings.items():
        layer.build((None, None, None, 4 if "residual" in slot else 3))

    def downsample(x, kernel, strides, slot):
        if pooling_cls is None:
            return tf.nn.conv2d(x, weights[f"{kernel}/kernel"], strides, "SAME")
        x = tf.nn.conv2d(x, weights[f"{kernel}/kernel"], 1, "SAME")
        if pooling_cls is FixedSpectralPooling:
            return pooling_cls(strides)(x)
        strides = [weights[f"{slot}/strides"]]
        return poolings[slot].stateless_call(strides, [], x)[0]

    def activate(x, name):
        gamma, beta, mean, variance = (
            weights[f"{name}/{key}"]
            for key in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return tf.nn.relu(gamma * (x - mean) / tf.sqrt(variance + 1e-5) + beta)

    def convolve(x, name):
        return tf.nn.conv2d(x, weights[f"{name}/kernel"], 1, "SAME")

    @tf.function(input_signature=[tf.TensorSpec((None, 16, 16, 2))])
    def serve(images):
        slots = SLOTS[pooling_cls] or (None, None)
        x = downsample(images, "conv2d_7", strides[0], slots[0])
        first, second = (f"{owner}/" for owner in RESIDUAL)
        y = convolve(
            activate(x, f"{first}batch_normalization_9"), f"{first}conv2d_8"
        )
        y = activate(y, f"{first}batch_normalization_10")
        x = x + convolve(y, f"{first}conv2d_9")
        y, shortcut = (
            downsample(z, f"{second}{kernel}", strides[2], slots[1])
            for z, kernel in [
                (activate(x, f"{second}batch_normalization_11"), "conv2d_10"),
                (x, "conv2d_12"),
            ]
        )
        y = activate(y, f"{second}batch_normalization_12")
        x = shortcut + convolve(y, f"{second}conv2d_11")
        x = activate(x, "batch_normalization_13")
        x = tf.reduce_mean(x, (1, 2)) @ weights["dense_2/kernel"]
        return {"dense": tf.nn.softmax(x + weights["dense_2/bias"])}

    module.serve = serve
    signatures = {"serving_default": serve}
    tf.saved_model.save(module, str(directory), signatures=signatures)


@pytest.fixture
def convert(monkeypatch, tmp_path):
    """Runs the script on a network, with the builder of as small a one."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import convert_release

    builder = functools.partial(
        resnet.Resnet, (3, 3, 4), id_only=(0,), num_layers=1
    )
    monkeypatch.setattr(resnet, "resnet18", builder)

    def run(pooling_cls, strides):
        write_release(tmp_path / "ckpts", pooling_cls, strides)
        arguments = [
            "convert_release.py",
            str(tmp_path / "ckpts"),
            str(tmp_path / "model.keras"),
            f"--strides={', '.join(map(str, strides))}",
            f"--pooling={pooling_cls and pooling_cls.__name__}",
        ]
        monkeypatch.setattr(sys, "argv", arguments)
        return convert_release.main(), tmp_path / "model.keras"

    return run


@pytest.mark.parametrize("pooling_cls", SLOTS)
def test_outputs_of_the_release_are_kept(pooling_cls, convert, capsys):
    status, path = convert(pooling_cls, (2, 1, 2))
    assert status == 0
    assert "differ by" in capsys.readouterr().out
    model = keras.saving.load_model(path)
    expected = random_weights(pooling_cls)["dense_2/kernel"]
    kernel = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


def test_another_network_is_told(convert, monkeypatch):
    # One of another depth, or with activated shortcuts.
    monkeypatch.setattr(
        resnet, "resnet18", functools.partial(resnet.resnet18, num_layers=2)
    )
    with pytest.raises(ValueError, match="`model` must be the network"):
        convert(None, (2, 1, 2))
    builder = functools.partial(
        resnet.resnet18, num_layers=1, activated_shortcut=True
    )
    monkeypatch.setattr(resnet, "resnet18", builder)
    assert convert(None, (2, 1, 2))[0] == 1
