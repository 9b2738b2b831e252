"""Values and gradients of functions, on whichever backend runs the tests."""

import keras
import numpy as np


def value_and_gradients(function, arguments, upstream):
    """`function(*arguments)`, and the gradient of its product with `upstream`.

    Works on arrays, and on tensors inside a graph.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        arguments = [tf.convert_to_tensor(argument) for argument in arguments]
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = function(*arguments)
        gradients = tape.gradient(
            value, arguments, upstream, unconnected_gradients="zero"
        )
        return value, gradients
    if keras.backend.backend() == "torch":
        import torch

        arguments = [
            keras.ops.convert_to_tensor(argument).detach().requires_grad_()
            for argument in arguments
        ]
        value = function(*arguments)
        upstream = keras.ops.convert_to_tensor(upstream, dtype=value.dtype)
        if not value.requires_grad:
            return value, [torch.zeros_like(each) for each in arguments]
        gradients = torch.autograd.grad(
            value,
            arguments,
            upstream,
            allow_unused=True,
            materialize_grads=True,
        )
        return value.detach(), gradients
    import jax

    def run(*arguments):
        value, pullback = jax.vjp(function, *arguments)
        return value, pullback(jax.numpy.asarray(upstream, value.dtype))

    return jax.jit(run)(*arguments)


def value(function, *arguments):
    """`function(*arguments)` as an array; one compilation on JAX."""
    if keras.backend.backend() == "jax":
        import jax

        function = jax.jit(function)
    return keras.ops.convert_to_numpy(function(*arguments))


def apply(layer, inputs):
    """Output of a layer as an array; one compilation on JAX."""
    if not layer.built:
        layer.build(inputs.shape)
    return value(layer, np.asarray(inputs, "float32"))


def layer_function(layer):
    """A layer that has strides to train, as a function of input and strides."""

    def function(x, strides):
        x = keras.ops.cast(x, layer.compute_dtype)
        others = [v.value for v in layer.non_trainable_variables]
        return layer.stateless_call([strides], others, x)[0]

    return function


def to_numpy(tensors):
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")
