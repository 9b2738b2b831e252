"""Maps in the graph of a model, and the steps that led to their sizes."""

from diffstride.surgery.size_changes import (
    CONVOLUTIONS,
    POOLINGS,
    data_format_of,
    rank_of,
    spatial_axes,
    spatial_sizes,
)


class Map:
    """What is known of a tensor in the graph of a model.

    Attributes:
        tensor: the tensor in the graph of the model.
        spec: a `keras.KerasTensor` with sizes where those of `tensor` are open.
        steps: tuple of what changed the size of the map since the input of the
            model: layers with strides, and tuples of the integers by which an
            axis was enlarged. None for a size that no step can change.
        sizes: spatial sizes, or None if the tensor is no map.
        ways: dict from steps and sizes to the first tensor that had them, on
            the way to this one.
    """

    def __init__(self, tensor, spec, steps, data_format, ways=None):
        self.tensor, self.spec, self.steps = tensor, spec, steps
        self.sizes = None
        if len(spec.shape) > 2:
            self.sizes = spatial_sizes(spec.shape, data_format)
        self.ways = dict(ways or {})
        if self.sizes is None:
            self.steps = None
        if self.steps is not None:
            self.ways.setdefault((self.steps, self.sizes), tensor)

    @property
    def strides(self):
        """The layers with strides among the steps."""
        return [x for x in self.steps or () if not isinstance(x, tuple)]


class Resize:
    """A map that must be resized, because strides before it are learned.

    Attributes:
        like: the tensor whose size it takes, or the size itself.
        because: layers. It keeps its size if none of them learns its strides.
    """

    def __init__(self, like, because):
        self.like, self.because = like, because


def axes_of(shape, layer):
    """Axes of a map that a layer has downsampled, or of its points in a row."""
    if len(shape) < rank_of(layer) + 2:
        return range(1, len(shape) - 1)
    return spatial_axes(len(shape), data_format_of(layer))


def enlarged(steps, factors):
    """Steps with an enlargement added, in one with the last if that is one."""
    if steps and isinstance(steps[-1], tuple):
        *steps, last = steps
        factors = tuple(a * b for a, b in zip(last, factors, strict=True))
    return (*steps, factors)


def eagerness_to_resize(one):
    """Of maps that meet, those with the lowest value keep their size."""
    if one.steps is None:
        return 1
    return 2 if one.steps and isinstance(one.steps[-1], tuple) else 0


def are_alike(first, second):
    """Whether two lists of steps can be one and the same."""
    if first is None or second is None:
        return first is second
    return len(first) == len(second) and all(map(_is_alike, first, second))


def _is_alike(one, two):
    if one is two or isinstance(one, tuple):
        return one == two
    return (
        isinstance(one, CONVOLUTIONS + POOLINGS)
        and isinstance(two, CONVOLUTIONS + POOLINGS)
        and tuple(one.strides) == tuple(two.strides)
    )


def described(steps):
    if steps is None:
        return "a map of a fixed size"
    names = [
        f"enlargement by {step}" if isinstance(step, tuple) else step.name
        for step in steps
    ]
    return f"[{', '.join(names)}]"
