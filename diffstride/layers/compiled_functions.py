"""The functions that Keras compiled from a model, and the sizes inside them.

A compiled function holds the static sizes of the layers as constants. Here each
function knows which sizes it was built with, so that another function takes its
place as soon as the strides of a layer lead to other sizes.
"""

import functools
import inspect

import keras

NAMES = ("train_function", "test_function", "predict_function")

# Called with a layer that learns strides and a model, when a training step of
# the model first calls the layer. Whoever knows more about models adds one.
CHECKS = []


def run_checks(layer):
    """Runs the checks, if a training step calls the layer.

    Returns:
        Whether it does.
    """
    function = being_traced()
    if function is None or not function.is_training:
        return False
    for check in CHECKS:
        check(layer, function.model)
    return True


def being_traced():
    """The `CompiledFunction` whose graph is built right now, or None.

    Keras does not tell a layer which model calls it. But while Keras builds a
    graph, or runs without one, the `train_step`, `test_step` or `predict_step`
    of the model is on the call stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        name = f"{code.co_name.removesuffix('_step')}_function"
        if name in NAMES and code.co_argcount:
            model = frame.f_locals.get(code.co_varnames[0])
            if isinstance(model, keras.Model):
                return CompiledFunction.of(model, name)
        frame = frame.f_back
    return None


class CompiledFunction:
    """One of the functions of a model, and those that it had before.

    A replaced function is kept, so that sizes seen before cost no compilation.

    Args:
        model: the model.
        name: string. `"train_function"`, `"test_function"` or
            `"predict_function"`.
    """

    @classmethod
    def of(cls, model, name):
        """The one object for a model and a name. It lives as the model does."""
        known = vars(model).setdefault("_functions_by_sizes", {})
        if name not in known:
            known[name] = cls(model, name)
        return known[name]

    def __init__(self, model, name):
        self.model = model
        self.name = name
        self._forget()

    @property
    def is_training(self):
        return self.name == "train_function"

    def _forget(self):
        # The function that `_graphs` belongs to, and if we made it.
        self._function, self._is_ours = None, False
        # For each layer, the pairs of input and output sizes in the graphs.
        self._graphs = {}
        # Pairs of graphs and the function that they were compiled to.
        self._kept = []

    def note(self, graph_sizes, in_sizes, out_sizes):
        """Remembers the sizes of a layer in the graph that is built now."""
        function = getattr(self.model, self.name)
        if function is not self._function:  # `model.compile` was called.
            self._forget()
            self._function = function
        pairs = self._graphs.setdefault(graph_sizes, set())
        pairs.add((in_sizes, out_sizes))

    def follow(self):
        """Replaces the function if its sizes are out of date.

        Returns:
            Whether it was replaced.
        """
        if getattr(self.model, self.name) is not self._function:
            self._forget()
            return False
        if self._is_current(self._graphs):
            return False
        if self._is_ours:
            self._kept.append((self._graphs, self._function))
        for index, (graphs, function) in enumerate(self._kept):
            if self._is_current(graphs):
                del self._kept[index]
                self._graphs, self._function = graphs, function
                setattr(self.model, self.name, function)
                return True
        self._make()
        return True

    def take_over(self):
        """Lets a function that Keras has just made be one that can be kept."""
        if getattr(self.model, self.name) not in (None, self._function):
            self._forget()
            self._make()

    def _is_current(self, graphs):
        return all(
            graph_sizes.is_current(pairs, self.is_training)
            for graph_sizes, pairs in graphs.items()
        )

    def _make(self):
        # Functions of JAX with equal steps share their graphs, and
        # `model.train_step` is equal to itself. A `partial` is not, which is
        # also why a function with a step of Keras's own is never kept.
        step = self.name.replace("function", "step")
        attributes = vars(self.model)
        replaced = {k: attributes[k] for k in [step] if k in attributes}
        attributes[step] = functools.partial(getattr(self.model, step))
        try:
            getattr(self.model, f"make_{self.name}")(force=True)
        finally:
            del attributes[step]
            attributes.update(replaced)
        self._function, self._is_ours = getattr(self.model, self.name), True
        self._graphs = {}
