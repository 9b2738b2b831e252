"""Operators, against NumPy's Fourier transforms."""

import gradients
import keras
import numpy as np
import pytest
import spectral_reference as reference
from keras import ops

from diffstride.ops import spectral, windows

AXES = [(1, 1.0), (2, 1.5), (7, 4.0), (16, 1.37), (17, 2.0), (32, 3.83)]


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def test_gain():
    for norm, expected in [
        ("backward", 1 / 8),
        ("ortho", 1 / np.sqrt(160)),
        ("forward", 1 / 20),
    ]:
        assert float(spectral.gain(20, 8, norm)) == pytest.approx(expected)


def window_case(size, stride, norm, rule):
    """A filter by the window of a stride, and the matrix it stands for."""
    symmetric = rule == "symmetric"
    expected = reference.diffstride(
        (size,), (stride,), 2, symmetric=symmetric, norm=norm
    )
    out_size = windows.output_size(size, stride, 2, rule=rule)

    def axis_filter():
        weights = windows.window_weights(size, out_size, stride, 2, rule=rule)
        return spectral.axis_filter(weights, size, out_size, norm, rule)

    return size, axis_filter, expected.matrices[0]


def crop_case(size, stride, norm="backward"):
    """A filter that crops only, and the matrix it stands for."""
    expected = reference.fixed((size,), (stride,), norm)
    (out_size,) = expected.out_sizes

    def axis_filter():
        weights = windows.crop_weights(out_size)
        return spectral.axis_filter(weights, size, out_size, norm, "width")

    return size, axis_filter, expected.matrices[0]


def matrix_and_transform(axis_filter, x, axis):
    """Both ways to apply a filter, one on top of the other."""

    def both(x):
        built = axis_filter()
        matrix = spectral.cosine_matrix(built)
        return ops.stack(
            [
                spectral.apply_matrix(x, matrix, axis),
                spectral.apply_transform(x, built, axis),
            ]
        )

    return gradients.value(both, ops.convert_to_tensor(x))


def test_matrix_and_transform_are_the_operator_of_the_axis():
    cases = [
        window_case(*axis, norm, rule)
        for axis in AXES
        for norm, rule in [("backward", "width"), ("ortho", "symmetric")]
    ]
    cases += [crop_case(*axis) for axis in AXES]
    for size, axis_filter, expected in cases:
        impulses = np.eye(size, dtype="float32")
        for found in matrix_and_transform(axis_filter, impulses, 0):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_matrix_and_transform_act_on_any_axis():
    x = gradients.random((3, 4, 5, 6))
    for axis, size in enumerate(x.shape):
        _, axis_filter, matrix = window_case(size, 1.5, "ortho", "symmetric")
        expected = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
        for found in matrix_and_transform(axis_filter, x, axis):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_transform_keeps_the_dtype():
    _, axis_filter, matrix = crop_case(16, 2, "forward")
    x = gradients.random((16, 3)).astype("float16")
    found = gradients.value(
        lambda x: spectral.apply_transform(x, axis_filter(), 0), x
    )
    assert found.dtype == "float16"
    np.testing.assert_allclose(found, matrix @ x.astype(float), atol=2e-3)


def test_a_long_signal_takes_the_transform(monkeypatch):
    def no_matrix(axis_filter):
        raise AssertionError("A matrix of a long signal was built")

    monkeypatch.setattr(spectral, "cosine_matrix", no_matrix)
    size, out_size = 6000, 2000
    axis_filter = spectral.axis_filter(
        windows.crop_weights(out_size), size, out_size, "forward", "width"
    )
    x = gradients.random((1, size, 2))
    found = spectral.resample(ops.convert_to_tensor(x), [axis_filter], (1,))
    spectrum = np.fft.rfft(x, axis=1, norm="forward")[:, : out_size // 2 + 1]
    expected = np.fft.irfft(spectrum, n=out_size, axis=1, norm="forward")
    np.testing.assert_allclose(numpy(found), expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7, 46_341, 65_536, 1_000_003])
def test_phases_of_tables_are_exact(size):
    # In a graph, where int32 is all that JAX has.
    frequencies = np.unique([0, size // 3, max(size // 2 - 1, 0), size // 2])
    found = gradients.value(
        lambda frequencies: spectral._phase(size, frequencies),
        ops.convert_to_tensor(frequencies, "int32"),
    )
    expected = np.outer(np.arange(size), frequencies) % size
    np.testing.assert_array_equal(found, expected)


def test_jax_on_a_cpu_takes_transforms_earlier(monkeypatch):
    def is_long(size):
        weights = windows.crop_weights(size // 2)
        return spectral._is_long(
            spectral.axis_filter(weights, size, size // 2, "forward", "width"),
            is_signal=True,
        )

    for backend, device, expected in [
        ("jax", "cpu:0", [False, True, True]),
        ("jax", "gpu:0", [False, False, True]),
        ("tensorflow", "CPU:0", [False, False, True]),
    ]:
        monkeypatch.setattr(keras.backend, "backend", lambda b=backend: b)
        monkeypatch.setattr(
            keras.distribution, "list_devices", lambda d=device: [d]
        )
        limit = spectral._matrix_entries()
        monkeypatch.undo()
        monkeypatch.setattr(spectral, "_matrix_entries", lambda n=limit: n)
        assert [is_long(size) for size in (128, 256, 1024)] == expected
        monkeypatch.undo()
