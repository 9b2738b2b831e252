"""Every bad argument and every bad input has an error that names it."""

import keras
import numpy as np
import pytest

from diffstride import (
    DiffStride,
    DiffStride1D,
    DiffStride3D,
    FixedSpectralPooling,
    FixedSpectralPooling1D,
    SpatialPooling,
)

NAN = float("nan")
STRIDES = "`strides` must be"


BAD_ARGUMENTS = [
    (DiffStride, {"strides": 0.5}, STRIDES),
    (DiffStride, {"strides": (2, 0.5)}, STRIDES),
    (DiffStride, {"strides": (0.99, 2)}, STRIDES),
    (DiffStride, {"strides": -2}, STRIDES),
    (DiffStride, {"strides": NAN}, STRIDES),
    (DiffStride, {"strides": (2, NAN)}, STRIDES),
    (DiffStride, {"strides": float("inf")}, STRIDES),
    (DiffStride, {"strides": (2,)}, STRIDES),
    (DiffStride, {"strides": (2, 2, 2)}, STRIDES),
    (DiffStride, {"strides": "2"}, STRIDES),
    (DiffStride, {"strides": None}, STRIDES),
    (DiffStride, {"strides": True}, STRIDES),
    (DiffStride, {"lower_limit_stride": float("inf")}, "finite"),
    (DiffStride, {"upper_limit_stride": float("inf")}, "finite"),
    (DiffStride1D, {"strides": (2, 2)}, STRIDES),
    (DiffStride3D, {"strides": (2, 2)}, STRIDES),
    (FixedSpectralPooling, {"strides": (2, 0.9)}, STRIDES),
    (FixedSpectralPooling, {"strides": NAN}, STRIDES),
    (FixedSpectralPooling1D, {"strides": ()}, STRIDES),
    (
        DiffStride,
        {"strides": (2, 3), "shared_stride": True},
        "`strides` must be equal .* `shared_stride`",
    ),
    (
        DiffStride,
        {"smoothness_factor": -1},
        "`smoothness_factor` must be",
    ),
    (
        DiffStride,
        {"smoothness_factor": NAN},
        "`smoothness_factor` must be",
    ),
    (
        DiffStride,
        {"smoothness_factor": "4"},
        "`smoothness_factor` must be",
    ),
    (
        DiffStride,
        {"lower_limit_stride": 0.5},
        "`lower_limit_stride` must be",
    ),
    (
        DiffStride,
        {"upper_limit_stride": NAN},
        "`upper_limit_stride` must be",
    ),
    (
        DiffStride,
        {"lower_limit_stride": 3, "upper_limit_stride": 2},
        "`lower_limit_stride` must not exceed `upper_limit_stride`",
    ),
    (DiffStride, {"data_format": "last"}, "`data_format` must be"),
    (FixedSpectralPooling, {"data_format": 1}, "`data_format` must be"),
    (SpatialPooling, {"data_format": "NHWC"}, "`data_format` must be"),
    (DiffStride, {"norm": "none"}, "`norm` must be"),
    (FixedSpectralPooling, {"norm": None}, "`norm` must be"),
    (DiffStride, {"ramp": "between"}, "`ramp` must be"),
    (SpatialPooling, {"strides": 1.5}, STRIDES),
    (SpatialPooling, {"strides": (2, 0)}, STRIDES),
    (SpatialPooling, {"strides": (2, 2, 2)}, STRIDES),
    (SpatialPooling, {"pool_size": NAN}, "`pool_size` must be"),
    (SpatialPooling, {"pool_mode": "median"}, "`pool_mode` must be"),
    (SpatialPooling, {"padding": "full"}, "`padding` must be"),
]


def test_bad_arguments():
    for layer_class, arguments, message in BAD_ARGUMENTS:
        with pytest.raises(ValueError, match=message) as error:
            layer_class(**arguments)
        # The error ends in an argument and the value it was given.
        _, _, received = str(error.value).rpartition("Received: ")
        name, value = next(iter(arguments.items()))
        assert received.startswith(f"{name}=")
        assert str(value).strip("(,)'").split(",")[0] in received


def test_arrays_of_strides():
    for layer_class in (DiffStride, FixedSpectralPooling, SpatialPooling):
        layer = layer_class(strides=np.array([2, 3]))
        assert tuple(layer.strides) == (2, 3)
        for strides in ([2, 0], [[2, 3]], [1, 2, 3]):
            with pytest.raises(ValueError, match=f"{STRIDES}.*=array"):
                layer_class(strides=np.array(strides))


def test_unknown_arguments():
    with pytest.raises((TypeError, ValueError), match="smoothness"):
        DiffStride(smoothness=4)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow can do with sizes that follow from values",
)
def test_sizes_are_static_outside_tensorflow():
    with pytest.raises(ValueError, match="`static_sizes=False` needs"):
        DiffStride(static_sizes=False)


def test_wrong_rank():
    for layer in [DiffStride(), FixedSpectralPooling(), SpatialPooling()]:
        for shape in [(8, 8, 1), (1, 2, 8, 8, 1)]:
            with pytest.raises(ValueError, match="expected ndim=4"):
                layer(np.zeros(shape, "float32"))
            with pytest.raises(ValueError, match="expected ndim=4"):
                layer(keras.Input(shape[1:]))
    with pytest.raises(ValueError, match="expected ndim=3"):
        DiffStride1D()(np.zeros((1, 8, 8, 1), "float32"))
    with pytest.raises(ValueError, match="expected ndim=5"):
        DiffStride3D()(np.zeros((1, 8, 8, 1), "float32"))


def test_inputs_that_are_no_real_numbers():
    layers = [
        DiffStride(2),
        FixedSpectralPooling(2),
        # Nothing to crop, and bad input all the same.
        FixedSpectralPooling(1),
    ]
    for dtype in ["int32", "uint8", "bool", "complex64"]:
        message = rf"`inputs` .* floating-point.*Received: .*{dtype}"
        for layer in layers:
            with pytest.raises(TypeError, match=message):
                layer(keras.ops.cast(np.zeros((1, 8, 8, 1)), dtype))
            with pytest.raises(TypeError, match=message):
                layer(keras.Input((8, 8, 1), dtype=dtype))
