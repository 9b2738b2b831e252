"""What learned strides would change in a model, and what they would cost."""

from collections.abc import Callable, Sequence

import keras

from diffstride.analysis.keras_graph import check_graph
from diffstride.analysis.operations import count_macs
from diffstride.analysis.resolution import print_table
from diffstride.surgery.learn_strides import learn_strides
from diffstride.surgery.shared_strides import SharedStrides
from diffstride.surgery.size_changes import data_format_of, spatial_sizes
from diffstride.types import Pooling


def conversion_summary(
    model: keras.Model,
    pooling_cls: Pooling = None,
    *,
    where: Sequence[str] | Callable[[keras.layers.Layer], bool] | None = None,
    pooling_order: str = "after",
    print_fn: Callable[[str], object] = print,
) -> None:
    """Prints what `diffstride.learn_strides` would change in a model.

    There is a line for each DiffStride layer that it would make: the layers
    whose strides it learns, these strides, the size of the map that they read,
    and the multiply-accumulate operations of the model if these strides alone
    were learned. The model itself stays as it is.

    Args:
        model: as for `learn_strides`, with inputs of known sizes.
        pooling_cls: as for `learn_strides`.
        where: as for `learn_strides`.
        pooling_order: as for `learn_strides`.
        print_fn: function that takes a line.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((32, 32, 3)),
    ...         keras.layers.Conv2D(8, 3, strides=2, padding="same", name="a"),
    ...         keras.layers.MaxPooling2D(2, name="b"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...     ]
    ... )
    >>> conversion_summary(model)
    Layers        Strides  Map         MACs
    a             2, 2     32 x 32  417,792
    b             2, 2     16 x 16   79,872
    all of these                    442,368
    as it is                         55,296
    """
    check_graph(model)

    def macs(chosen):
        converted = learn_strides(
            model, pooling_cls, where=chosen, pooling_order=pooling_order
        )
        return f"{count_macs(converted):,}"

    shared = SharedStrides(model)
    groups = {}
    for layer in shared:
        if layer in shared.chosen(where):
            groups.setdefault(shared.leader(layer), []).append(layer)
    rows = [("Layers", "Strides", "Map", "MACs")]
    for leader, group in groups.items():
        sizes = spatial_sizes(
            shared.input_shapes[leader], data_format_of(leader)
        )
        rows.append(
            (
                ", ".join(layer.name for layer in group),
                ", ".join(map(str, leader.strides)),
                " x ".join(map(str, sizes)),
                macs(group.__contains__),
            )
        )
    if len(groups) > 1:
        rows.append(("all of these", "", "", macs(where)))
    rows.append(("as it is", "", "", f"{count_macs(model):,}"))
    print_table(rows, print_fn)
