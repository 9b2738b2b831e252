"""Which layers with strides must share them, and where maps come back.

A map that went through layers with strides is described by its steps: the list
of these layers. Where maps meet, in an addition or a concatenation, they must
have one size. There are two ways to see to it:

- Maps that have taken as many steps, with equal strides one by one, share the
  strides of these steps from then on.
- All others are resized to one of the maps that they meet.

Layers that enlarge a map by a fixed factor are steps, too. If the factor undoes
the last steps, the map comes back to the size of a map on its own way, and is
resized to this map at once. So the layers in between work on the final size.
"""

import difflib

import keras
from keras import layers

from diffstride.analysis.keras_graph import (
    graph,
    is_graph,
    maker,
    nodes,
    output_specs,
    step_graph,
)
from diffstride.layers.base_pooling import BaseSpectralPooling
from diffstride.layers.resize import BaseSpectralResize
from diffstride.surgery.map_steps import (
    Map,
    Resize,
    are_alike,
    axes_of,
    described,
    eagerness_to_resize,
    enlarged,
)
from diffstride.surgery.size_changes import (
    data_format_of,
    enlargement,
    has_fixed_size,
    needs_fixed_size,
    needs_known_size,
    rank_of,
    strided,
    with_known_size,
)

# The output of these has as many points as their first input. The others may
# have any number of points.
_PRODUCTS = (
    "AdditiveAttention",
    "Attention",
    "Dot",
    "Einsum",
    "GroupedQueryAttention",
    "Matmul",
    "MultiHeadAttention",
)


class SharedStrides:
    """The layers with strides of a model, in groups that must share them.

    Args:
        model: a Functional model, or a Sequential one that is built.

    Attributes:
        input_shapes: for each of the layers, the shape that it is called on, or
            the first one if there are several.
        resizes: dict to a `Resize`, from the id of a tensor in the graph and
            the call that reads it; None stands for all calls, and "output" for
            what the model puts out.
        inner_strides: dict from the id of an input of a model inside of the
            model to the layers with strides in front of it.
    """

    def __init__(self, model):
        self.input_shapes, self.resizes, self.inner_strides = {}, {}, {}
        self._name = model.name
        self._leaders = {}
        self._step_graphs = {}
        self._data_format = self._find_data_format(model)
        inputs = graph(model).inputs
        outputs = self._follow(
            model,
            [
                self._map(tensor, with_known_size(tensor), ())
                for tensor in inputs
            ],
        )
        is_open = any(None in tensor.shape[1:] for tensor in inputs)
        for output in outputs:
            self._come_back_at_the_end(output, is_open)

    def __contains__(self, layer):
        return layer in self._leaders

    def __iter__(self):
        return iter(self._leaders)

    def __len__(self):
        return len(self._leaders)

    def leader(self, layer):
        """The layer that stands for the group of a layer."""
        while self._leaders[layer] is not layer:
            layer = self._leaders[layer]
        return layer

    def chosen(self, where=None):
        """The layers that somebody chooses, and those that share with them.

        Args:
            where: names of layers, or a function from a layer to True or False,
                or None for all layers.
        """
        if where is None:
            return set(self)
        if callable(where):
            chosen = {layer for layer in self if where(layer)}
        else:
            chosen = self._named([where] if isinstance(where, str) else where)
        if not chosen:
            raise ValueError(
                "`where` must choose at least one of the layers with strides: "
                f"{', '.join(layer.name for layer in self)}. "
                f"Received: where={where}, which chooses none"
            )
        leaders = {self.leader(layer) for layer in chosen}
        return {layer for layer in self if self.leader(layer) in leaders}

    def _named(self, names):
        by_name = {layer.name: layer for layer in self}
        for name in names:
            if name not in by_name:
                near = difflib.get_close_matches(name, by_name) or by_name
                raise ValueError(
                    "`where` must name layers with strides, such as "
                    f"{', '.join(near)}. Received: {name!r}, of which there is "
                    f"none in model={self._name}"
                )
        return {by_name[name] for name in names}

    def inner_graph(self, layer):
        """The model whose calls are a call of a layer, or None.

        It is the layer itself, or what `TimeDistributed` calls at each step.
        """
        if is_graph(layer):
            return layer
        if not isinstance(layer, layers.TimeDistributed):
            return None
        if layer not in self._step_graphs:
            self._step_graphs[layer] = step_graph(layer)
        return self._step_graphs[layer]

    def _find_data_format(self, model):
        for node in nodes(model):
            inner = self.inner_graph(node.operation)
            found = None
            if inner is not None:
                found = self._find_data_format(inner)
            elif strided(node.operation):
                found = data_format_of(node.operation)
            if found:
                return found
        return None

    def _map(self, tensor, spec, steps, ways=None):
        data_format = self._data_format or keras.config.image_data_format()
        return Map(tensor, spec, steps, data_format, ways)

    def _follow(self, model, inputs):
        """What is known of the outputs of a model from its inputs.

        The specs know the sizes with which a model inside of another is called,
        even if the inner one takes any size.
        """
        known = {
            id(tensor): self._map(tensor, given.spec, given.steps)
            for tensor, given in zip(graph(model).inputs, inputs, strict=True)
        }
        for key, one in known.items():
            self.inner_strides.setdefault(key, set()).update(one.strides)
        for node in nodes(model):
            given = [known[id(tensor)] for tensor in node.input_tensors]
            ways = {}
            for one in given:
                ways = one.ways | ways
            for tensor, (spec, steps) in zip(
                node.outputs, self._outputs(node, given), strict=True
            ):
                made = self._map(tensor, spec, steps, ways)
                known[id(tensor)] = self._come_back(made)
        return [known[id(tensor)] for tensor in graph(model).outputs]

    def _outputs(self, node, given):
        """Spec and steps of each output of a call."""
        inner = self.inner_graph(node.operation)
        if inner is None:
            specs = output_specs(
                node, {id(one.tensor): one.spec for one in given}
            )
            specs = [with_known_size(spec) for spec in specs]
            steps = self._steps(node, given, specs[0])
            return [(spec, steps) for spec in specs]
        if inner is node.operation:
            return [(x.spec, x.steps) for x in self._follow(inner, given)]
        return self._outputs_over_time(inner, given)

    def _outputs_over_time(self, inner, given):
        """As `_outputs`, of a call of `TimeDistributed`."""
        given = given[: len(graph(inner).inputs)]  # Without a mask.
        batch, time, *_ = given[0].spec.shape
        steps = given[0].steps or ()
        is_time_learned = any(rank_of(x) == 3 for x in steps if x in self)
        made = self._follow(
            inner,
            [
                self._map(
                    None,
                    keras.KerasTensor(
                        (batch, *one.spec.shape[2:]), one.spec.dtype
                    ),
                    one.steps,
                )
                for one in given
            ],
        )
        # If no map is left, the steps of time are as many as before.
        without_map = steps if is_time_learned else ()
        return [
            (
                keras.KerasTensor(
                    (batch, time, *one.spec.shape[1:]), one.spec.dtype
                ),
                without_map if one.steps is None else one.steps,
            )
            for one in made
        ]

    def _steps(self, node, given, spec):
        """Steps of the output of a call, or None if its size is its own.

        A tensor of three axes or more may be a map, or the points of a map in
        one row. A matrix has no axis that could follow the strides.
        """
        operation = node.operation
        made = self._map(None, spec, None)
        if type(operation).__name__ in _PRODUCTS:
            steps = given[0].steps
        elif isinstance(operation, BaseSpectralResize):
            steps = None if operation.size else given[-1].steps
        elif len(given) == 1:
            steps = given[0].steps
        else:
            steps = self._meet(node, given, made.sizes or given[0].sizes)
        for layer in (x for x in steps or () if x in self):
            advice = needs_known_size(operation)
            if advice is not None:
                raise ValueError(
                    "`model` must not learn strides in front of a layer that "
                    "needs to know the size of its map on TensorFlow: "
                    f"{advice}. Received: model={self._name} with layer "
                    f"'{operation.name}'"
                )
            axes = axes_of(given[0].spec.shape, layer)
            if has_fixed_size(node, axes):
                return None
            if needs_fixed_size(node, axes):
                self._raise_flattened(operation)
        if made.sizes is None:
            return None
        if strided(operation):
            self._leaders.setdefault(operation, operation)
            self.input_shapes.setdefault(operation, given[0].spec.shape)
            return (*(steps or ()), operation)
        factors = None
        if len(given) == 1 and steps is not None:
            factors = enlargement(operation, given[0].sizes, made.sizes)
        if factors is not None:
            return enlarged(steps, factors)
        if isinstance(operation, BaseSpectralPooling):
            return (*(steps or ()), operation)
        return steps

    def _meet(self, node, given, sizes):
        """Steps of what a call makes of several inputs.

        Inputs of other sizes than those of the output do not meet the others:
        a gate has one point, and a resize of one map to another reads the size
        of the other.
        """
        meeting = [one for one in given if one.sizes == sizes is not None]
        if all(one.steps is None for one in meeting):
            # A concatenation along an axis of space, for instance.
            steps = [one.steps for one in given if one.steps is not None]
            return (*steps[0], node.operation) if steps else None
        first = min(meeting, key=eagerness_to_resize)
        for other in meeting:
            if not are_alike(first.steps, other.steps):
                self._resize(other, first, node)
                continue
            for one, two in zip(
                first.steps or (), other.steps or (), strict=True
            ):
                if one is not two and one in self:
                    self._leaders[self.leader(two)] = self.leader(one)
        return first.steps

    def _resize(self, one, like, node):
        """Notes that a map must be resized before a call reads it."""
        because = [x for x in (*like.strides, *one.strides) if x in self]
        if any(len(one.sizes) < rank_of(layer) for layer in because):
            raise ValueError(
                "`model` must downsample branches that meet in the same steps "
                "where the points of a map are in one row, because a row "
                "cannot be resized: let the branches meet as maps. "
                f"Received: model={self._name}, with a branch through "
                f"{described(like.steps)} and one through "
                f"{described(one.steps)} in '{node.operation.name}'"
            )
        if because:
            key = id(one.tensor), node
            self.resizes.setdefault(key, Resize(like.tensor, because))

    def _come_back(self, one):
        """Notes that a map comes back to the size of one on its way."""
        back = self._undone(one.steps)
        if back is None or (back, one.sizes) not in one.ways:
            return one
        like = one.ways[back, one.sizes]
        because = [layer for layer in one.strides if layer in self]
        self.resizes.setdefault((id(one.tensor), None), Resize(like, because))
        return self._map(one.tensor, one.spec, back, one.ways)

    def _come_back_at_the_end(self, output, is_open):
        """Notes that an output of the model has a size that is fixed."""
        back = self._undone(output.steps)
        if back is None or any(layer in self for layer in back):
            return
        operation = maker(output.tensor).name
        if is_open:
            raise ValueError(
                "`model` must be given inputs of known sizes, or come back to "
                "the size of one of its maps. Received: "
                f"model={self._name}, with layer '{operation}', which comes "
                "back to another size than that of the input: let it crop or "
                "pad its map, or name the sizes in `keras.Input`"
            )
        because = [layer for layer in output.strides if layer in self]
        self.resizes[id(output.tensor), "output"] = Resize(
            output.sizes, because
        )

    def _undone(self, steps):
        """Steps without an enlargement at the end and without what it undoes.

        None if there is no enlargement, or if it undoes no whole steps.
        """
        if not steps or not isinstance(steps[-1], tuple):
            return None
        *steps, factors = steps
        while any(factor != 1 for factor in factors):
            if not steps or steps[-1] not in self:
                return None
            strides = steps.pop().strides
            if len(strides) != len(factors) or any(
                factor % stride
                for factor, stride in zip(factors, strides, strict=True)
            ):
                return None
            factors = [
                factor // stride
                for factor, stride in zip(factors, strides, strict=True)
            ]
        return tuple(steps)

    def _raise_flattened(self, operation):
        raise ValueError(
            "`model` must not flatten or reshape a map of a learned size: "
            "let it end in global pooling, as with `include_top=False, "
            "pooling='avg'` in `keras.applications`, and reshape to "
            "`(-1, channels)`. Received: "
            f"model={self._name} with layer '{operation.name}'"
        )
