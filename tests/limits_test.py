"""The constraint that keeps weights between two limits."""

import numpy as np
import pytest

from diffstride.layers.limits import Limits


def test_limits_of_each_entry():
    limits = Limits([0.0, 1.0], 2.0)
    found = limits(np.array([-1.0, 3.0], "float32"))
    np.testing.assert_array_equal(found, [0, 2])
    limits = Limits.from_config(limits.get_config())
    np.testing.assert_array_equal(limits(np.ones(2, "float32")), [1, 1])


@pytest.mark.parametrize(
    "lower, upper", [(2, 1), ([0, 2], 1), (1, [2, 0]), ([0, 2], [1, 1])]
)
def test_limits_in_the_wrong_order_are_an_error(lower, upper):
    with pytest.raises(ValueError, match="`lower` must be at most `upper`"):
        Limits(lower, upper)
