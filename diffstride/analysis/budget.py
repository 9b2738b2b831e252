"""Strides under which a model costs a given number of operations.

Operations fall as a stride grows, but by how much depends on what follows: a
stride of the first layers makes every later map smaller. So the strides are not
scaled alike. Each moves in proportion to its elasticity, the share by which
operations fall as its logarithm grows by one: this is the shortest way, in the
logarithms of the strides, to where the operations are as wanted. A training
that returns to the budget in this way finds strides at which no exchange of
operations between layers would lower the loss.
"""

import math

import keras
import numpy as np
from keras import ops

from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import layer_costs
from diffstride.types import Shape
from diffstride.validation import is_number

# By what factor strides change to see which operations depend on them.
_PROBE = 1.5
# How far the logarithm of a stride may move at once, and how often a search
# halves its interval: until strides differ by a thousandth.
_REACH = 4.0
_HALVINGS = 13


class StrideCosts:
    """Operations of a model as a function of the strides that it learns.

    Args:
        model: a built Keras model.
        input_shape: shape of an example, without the batch. Defaults to that of
            the model's input.
    """

    def __init__(self, model: keras.Model, input_shape: Shape | None = None):
        self._model = model
        self._input_shape = input_shape
        self._layers = [
            layer
            for layer in learned_layers(model)
            if layer.built and layer.trainable and layer.cropping
        ]
        if not self._layers:
            raise ValueError(
                "`model` must be built and have DiffStride layers whose "
                "strides are trained and crop. "
                f"Received: model={model.name}, which has none"
            )

    @property
    def strides(self) -> np.ndarray:
        """The strides of all layers, one after the other."""
        return np.concatenate(
            [ops.convert_to_numpy(layer.strides) for layer in self._layers]
        ).astype("float64")

    def _of_layers(self, strides):
        """The strides of each layer, within its limits."""
        counts = [layer.strides.shape[0] for layer in self._layers]
        parts = np.split(np.float32(strides), np.cumsum(counts)[:-1])
        return {
            layer: ops.convert_to_numpy(layer.strides.constraint(part))
            for layer, part in zip(self._layers, parts, strict=True)
        }

    def within_limits(self, strides: np.ndarray) -> np.ndarray:
        """The strides that the layers would have if these were assigned."""
        parts = self._of_layers(strides).values()
        return np.concatenate(list(parts)).astype("float64")

    def assign(self, strides: np.ndarray) -> None:
        """Sets the strides, within their limits."""
        for layer, values in self._of_layers(strides).items():
            layer.strides.assign(values)

    def costs(self, strides: np.ndarray) -> np.ndarray:
        """Operations of each call of a layer, at these strides."""
        costs = layer_costs(
            self._model, self._input_shape, self._of_layers(strides)
        )
        return np.array([cost.macs for cost in costs], "float64")

    def count(self, strides: np.ndarray | None = None) -> float:
        """Operations of the model, at these strides or those of now."""
        strides = self.strides if strides is None else strides
        return float(self.costs(strides).sum())

    def exponents(self, strides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How the operations of each call depend on each stride.

        Returns:
            The operations of the calls at the strides, and an array `(calls,
            strides)` of exponents p: near the strides, the operations of a call
            are about proportional to `stride ** -p`. It is 0 for what does not
            depend on a stride, and about 1 for what stands below its layer.
        """
        costs = self.costs(strides)
        exponents = np.zeros((len(costs), len(strides)))
        for index in range(len(strides)):
            # A stride at its limit can change in one direction only.
            for factor in (_PROBE, 1 / _PROBE):
                changed = np.array(strides)
                changed[index] *= factor
                others = self.costs(changed)
                depends = (others != costs) & (others > 0) & (costs > 0)
                if depends.any():
                    powers = np.log(costs[depends] / others[depends])
                    powers = np.clip(powers / math.log(factor), 0, 2)
                    exponents[depends, index] = powers
                    break
        return costs, exponents

    def move_to(self, target: float, tolerance: float = 0.01) -> float:
        """Changes the strides so that the model costs `target` operations.

        Args:
            target: number of multiply-accumulates.
            tolerance: relative difference that is good enough. Sizes are whole
                numbers, so operations cannot be met exactly.

        Returns:
            The operations under the new strides.
        """
        strides = self.strides
        best = _Best(target)
        best.offer(strides, self.count(strides))
        if best.error > tolerance:
            costs, exponents = self.exponents(strides)
            direction = costs @ exponents
            if direction.max() > 0:
                direction = direction / direction.max()
                self._search(best, strides, direction, tolerance)
        if best.error > tolerance:
            # What is left is a matter of single points: change one stride. Or a
            # stride has gone so far beyond the size of its map that a small
            # change of it changes nothing: change it by much.
            strides = best.strides
            for reach in (0.5, _REACH):
                for axis in np.eye(len(strides)):
                    if best.error > tolerance:
                        self._search(best, strides, axis, tolerance, reach)
        self.assign(best.strides)
        return best.macs

    def _search(self, best, strides, direction, tolerance, reach=_REACH):
        """Looks for the target on a line, along which operations fall."""
        low, high = -reach, reach
        for _ in range(_HALVINGS):
            if best.error <= tolerance:
                return
            middle = (low + high) / 2
            candidate = np.exp(np.log(strides) + middle * direction)
            candidate = self.within_limits(candidate)
            macs = self.count(candidate)
            best.offer(candidate, macs)
            if macs > best.target:
                low = middle
            else:
                high = middle

    def range(self) -> tuple[float, float]:
        """The fewest and the most operations that the limits allow."""
        ones = np.ones_like(self.strides)
        return self.count(ones * 1e6), self.count(ones)


class _Best:
    """The strides, of those offered, whose operations are nearest a target."""

    def __init__(self, target):
        self.target = target
        self.error = math.inf

    def offer(self, strides, macs):
        error = abs(macs / self.target - 1)
        if error < self.error:
            self.strides, self.macs, self.error = strides, macs, error


def check_target(target: float, costs: StrideCosts) -> float:
    """The number of operations that a target stands for.

    Args:
        target: number of operations; below 100, a ratio to those of the model
            as it is, because no model has so few.
        costs: the `StrideCosts` of the model.
    """
    valid = is_number(target) and 0 < target < math.inf
    macs = target * costs.count() if valid and target < 100 else target
    fewest, most = costs.range()
    if not valid or not fewest <= macs <= most:
        raise ValueError(
            "`target_macs` must be a number of operations that the strides can "
            f"reach, from {fewest:,.0f} to {most:,.0f}, or, below 100, a ratio "
            f"to the {costs.count():,.0f} of the model now. "
            f"Received: target_macs={target}"
        )
    return float(macs)
