from diffstride import DiffStride
from diffstride.analysis.learned_layers import strides_of


def test_strides_of_names_one_per_axis():
    layer = DiffStride(2, shared_stride=True)
    layer.build((None, 16, 16, 1))
    assert [float(stride) for stride in strides_of(layer)] == [2.0, 2.0]
