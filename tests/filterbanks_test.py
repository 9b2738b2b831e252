"""Filters and running means against loops over their formulas."""

import math

import numpy as np
import pytest
from gradients import random, value, value_and_gradients

from diffstride.ops import filterbanks


def test_gabor_filters():
    found = value(
        lambda f, d: filterbanks.gabor_filters(f, d, 9),
        np.array([0.1, 0.3], "float32"),
        np.array([1.5, 4.0], "float32"),
    )
    for band, (frequency, deviation) in enumerate([(0.1, 1.5), (0.3, 4.0)]):
        for index in range(9):
            step = index - 4
            envelope = math.exp(-(step**2) / (2 * deviation**2))
            envelope /= math.sqrt(2 * math.pi) * deviation
            angle = 2 * math.pi * frequency * step
            expected = envelope * np.array([math.cos(angle), math.sin(angle)])
            np.testing.assert_allclose(
                found[index, [band, 2 + band]], expected, atol=1e-6
            )


def test_full_width_at_half_maximum():
    """What the constant says about a Gaussian and its Fourier transform."""
    deviation = 20.0
    steps = np.arange(-400, 401)
    window = np.exp(-(steps**2) / (2 * deviation**2))
    frequencies = np.linspace(0, 0.1, 4001)
    response = window @ np.cos(2 * np.pi * np.outer(steps, frequencies))
    half = frequencies[np.argmin(np.abs(response / response[0] - 0.5))]
    assert 2 * half == pytest.approx(
        filterbanks.WIDTH_PRODUCT / deviation, 1e-2
    )


def test_sinc_filters():
    found = value(
        lambda low, high: filterbanks.sinc_filters(low, high, 7),
        np.array([0.05, 0.2], "float32"),
        np.array([0.1, 0.5], "float32"),
    )
    for band, (low, high) in enumerate([(0.05, 0.1), (0.2, 0.5)]):
        for index in range(7):
            step = index - 3
            window = 0.54 - 0.46 * math.cos(2 * math.pi * index / 6)
            ideal = 2 * (high - low)
            if step:
                ideal = math.sin(2 * math.pi * high * step)
                ideal -= math.sin(2 * math.pi * low * step)
                ideal /= math.pi * step
            np.testing.assert_allclose(
                found[index, band], ideal * window, atol=1e-6
            )


def test_mel_bands_are_as_wide_as_roots_of_triangles():
    points = filterbanks.mel_points(60, 7800, 12)
    centers, widths = filterbanks.mel_bands(60, 7800, 10)
    for band in range(10):
        left, middle, right = points[band : band + 3]
        hertz = np.linspace(left, right, 10_001)
        triangle = np.minimum(
            (hertz - left) / (middle - left), (right - hertz) / (right - middle)
        )
        wide = hertz[np.sqrt(np.maximum(triangle, 0)) >= 0.5]
        assert wide[-1] - wide[0] == pytest.approx(widths[band], rel=1e-3)
        assert centers[band] == pytest.approx(middle)


@pytest.mark.parametrize("stride", [1, 3, 8, 20])
@pytest.mark.parametrize("samples", [11, 90, 97])
def test_filter_waveforms(stride, samples):
    waveforms, filters = random((2, samples)), random((11, 3), seed=1)
    expected = [
        [
            waveforms[clip, start : start + 11] @ filters
            for start in range(0, samples - 10, stride)
        ]
        for clip in range(2)
    ]
    found = value(
        lambda x, f: filterbanks.filter_waveforms(x, f, stride),
        waveforms,
        filters,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window, stride", [(7, 3), (6, 3), (2, 5), (7, 1)])
@pytest.mark.parametrize("samples", [7, 29, 30])
def test_weighted_sums(window, stride, samples):
    inputs, weights = random((2, samples, 3)), random((window, 3), seed=1)
    expected = [
        np.sum(inputs[:, start : start + window] * weights, axis=1)
        for start in range(0, samples - window + 1, stride)
    ]
    found = value(
        lambda x, w: filterbanks.weighted_sums(x, w, stride), inputs, weights
    )
    np.testing.assert_allclose(
        found, np.stack(expected, axis=1), rtol=1e-4, atol=1e-5
    )


def running_means(energies, smoothing):
    means, mean = [], energies[:, 0]
    for frame in range(energies.shape[1]):
        mean = (1 - smoothing) * mean + smoothing * energies[:, frame]
        means.append(mean)
    return np.stack(means, axis=1)


@pytest.mark.parametrize("frames", [1, 5, 64, 65, 1000])
def test_running_mean_is_the_recursion(frames):
    energies = np.abs(random((2, frames, 3)))
    smoothing = np.array([0.001, 0.04, 0.999], "float32")
    np.testing.assert_allclose(
        value(filterbanks.running_mean, energies, smoothing),
        running_means(energies.astype("float64"), smoothing),
        rtol=2e-5,
    )


@pytest.mark.parametrize("culprit", [np.nan, np.inf])
def test_running_mean_of_what_is_not_finite(culprit):
    energies = np.abs(random((2, 200, 2)))
    energies[0, 100, 0] = culprit
    energies[1, 0, 1] = culprit
    smoothing = np.array([0.04, 0.5], "float32")
    np.testing.assert_allclose(
        value(filterbanks.running_mean, energies, smoothing),
        running_means(energies.astype("float64"), smoothing),
        rtol=2e-5,
    )


def test_running_mean_of_no_frames():
    energies = np.zeros((2, 0, 3), "float32")
    smoothing = np.full(3, 0.1, "float32")
    found = value(filterbanks.running_mean, energies, smoothing)
    assert found.shape == (2, 0, 3)


def test_gradients_of_the_running_mean():
    energies = np.abs(random((1, 300, 2)))
    smoothing = np.array([0.05, 0.3], "float32")
    upstream = random((1, 300, 2), seed=1)
    _, (by_energy, by_smoothing) = value_and_gradients(
        filterbanks.running_mean, [energies, smoothing], upstream
    )
    step = 1e-5
    for band in range(2):
        shift = np.eye(2)[band] * step
        ahead, behind = (
            np.sum(upstream * running_means(energies, smoothing + sign * shift))
            for sign in (1, -1)
        )
        expected = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(by_smoothing[band], expected, rtol=1e-3)
    direction = random(energies.shape, seed=2)
    np.testing.assert_allclose(
        np.sum(by_energy * direction),
        np.sum(upstream * running_means(direction, smoothing)),
        rtol=1e-3,
    )
