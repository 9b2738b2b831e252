"""The weight that holds strides, and its limits."""

import keras
import numpy as np
import pytest
from keras import ops

from diffstride import DiffStride, StrideConstraint


def test_stride_constraint():
    strides = np.array([0.5, 2.0, 9.0], "float32")
    for arguments, expected in [
        ({}, [1, 2, 9]),
        ({"lower_limit": 3.0}, [3, 3, 9]),
        ({"upper_limit": 1.5}, [1, 1.5, 1.5]),
        ({"lower_limit": [1.5, 2.5, 1.0], "upper_limit": 8.0}, [1.5, 2.5, 8]),
        ({"lower_limit": 3.0, "upper_limit": 2.0}, [2, 2, 2]),
    ]:
        constraint = StrideConstraint(**arguments)
        found = ops.convert_to_numpy(constraint(strides))
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == "float32"
        config = keras.saving.serialize_keras_object(constraint)
        again = keras.saving.deserialize_keras_object(config)
        assert (
            again.get_config()
            == constraint.get_config()
            == {
                "lower_limit": None,
                "upper_limit": None,
                **arguments,
            }
        )


def test_what_is_assigned_stays_within_the_limits():
    layer = DiffStride(2, 2, lower_limit_stride=1.5, upper_limit_stride=3)
    layer.build((None, 16, 4, 1))
    for assigned, expected in [
        (np.array([1, 4]), [1.5, 2]),
        ([2, 1.75], [2.0, 2.0]),  # A map of four points needs two at least.
    ]:
        layer.strides.assign(assigned)
        found = ops.convert_to_numpy(layer.strides)
        np.testing.assert_allclose(found, expected)
    for wrong in ([2.0], 2.0):
        with pytest.raises(ValueError, match="shape"):
            layer.strides.assign(wrong)


def test_optimizer_steps_stay_within_the_limits_and_are_seen():
    layer = DiffStride(2, 2, static_sizes=True)
    layer.build((None, 16, 16, 1))
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build([layer.strides])
    for gradient, expected in [(-0.5, 2.5), (-100.0, 8.0), (100.0, 16 / 14)]:
        optimizer.apply([ops.full((2,), gradient)])
        found = ops.convert_to_numpy(layer.strides)
        np.testing.assert_allclose(found, [expected] * 2, rtol=1e-6)
        size = layer.compute_output_shape((1, 16, 16, 1))[1]
        assert size == {2.5: 12, 8.0: 6, 16 / 14: 16}[expected]
