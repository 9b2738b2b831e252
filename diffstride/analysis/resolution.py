"""At which resolution a model works: strides, sizes of maps, operations."""

import typing
from collections.abc import Callable, Sequence

import keras
from keras import ops

from diffstride.analysis.keras_graph import sublayers
from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import LayerCost, layer_costs
from diffstride.types import Shape


def learned_strides(model: keras.Model) -> dict[str, list[float]]:
    """The strides of every layer that learns them, by the layer's name."""
    return {
        layer.name: ops.convert_to_numpy(layer.strides).tolist()
        for layer in learned_layers(model)
    }


def resolution(
    model: keras.Model, costs: Sequence[LayerCost] = ()
) -> dict[str, typing.Any]:
    """Strides, sizes of maps, and operations of a model, as JSON values.

    Args:
        model: a built Keras model.
        costs: what `layer_costs` returned. Without it there are strides only.

    Returns:
        A dict with `strides`, and, by the name of each layer that learns them,
        the `sizes` of its output; with `macs`, the operations of the model.
    """
    shapes = {cost.name: cost.output_shape for cost in costs}
    known = {
        "strides": learned_strides(model),
        "sizes": {
            layer.name: [shapes[layer.name][axis - 1] for axis in layer._axes]
            for layer in learned_layers(model)
            if layer.name in shapes
        },
    }
    if costs:
        known["macs"] = sum(cost.macs for cost in costs)
    return known


def summary(
    model: keras.Model,
    input_shape: Shape | None = None,
    print_fn: Callable[[str], object] = print,
) -> None:
    """Prints strides, sizes of maps and operations of a model, by layer.

    `model.summary()` shows None where a size follows from a learned stride.
    This sends one example through the model, and shows the sizes that it has.

    Args:
        model: a built Keras model.
        input_shape: shape of an example, without the batch. Defaults to that of
            the model's input.
        print_fn: function that takes a line.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((32, 32, 3)), DiffStride((2, 3), name="pooling")]
    ... )
    >>> summary(model)
    Layer    Strides     Output        MACs
    pooling  2.00, 3.00  24 x 20 x 3  ...
    Total                             ...
    """
    strides = {
        layer.name: ", ".join(f"{float(s):.2f}" for s in _strides(layer))
        for layer in sublayers(model)
        if _strides(layer) is not None
    }
    rows = [("Layer", "Strides", "Output", "MACs")]
    costs = layer_costs(model, input_shape)
    for cost in costs:
        shape = " x ".join(map(str, cost.output_shape))
        macs = f"{cost.macs:,}" if cost.macs else ""
        rows.append((cost.name, strides.get(cost.name, ""), shape, macs))
    rows.append(("Total", "", "", f"{sum(cost.macs for cost in costs):,}"))
    print_table(rows, print_fn)


def print_table(
    rows: Sequence[tuple[str, ...]], print_fn: Callable[[str], object]
):
    """Prints rows of strings in columns, the last of them to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, last in rows:
        line = [f"{c:{w}}" for c, w in zip(cells, widths[:-1], strict=True)]
        print_fn("  ".join([*line, f"{last:>{widths[-1]}}"]))


def _strides(layer):
    """The strides of a layer that downsamples, learned or not."""
    strides = getattr(layer, "strides", None)
    if strides is None or isinstance(strides, (int, float)):
        return None if strides in (None, 1) else (strides,)
    values = [float(s) for s in keras.ops.convert_to_numpy(strides)]
    return None if set(values) == {1.0} else values
