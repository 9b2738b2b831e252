"""Which sizes of a layer are constants of which graphs."""

import concurrent.futures
import weakref

import keras

from diffstride.layers import compiled_functions
from diffstride.layers.strides import as_floats


def sizes_can_follow():
    """Whether the size of a tensor may depend on values, as it may not in XLA.

    Torch runs without graphs, so every size is that of the strides of now.
    """
    return keras.backend.backend() in ("tensorflow", "torch")


def resolve_static_sizes(static_sizes, trainable):
    """Whether sizes are constants of a graph."""
    if static_sizes is None:
        # A stride that is not trained needs no dynamic size.
        return not (sizes_can_follow() and trainable)
    if not static_sizes and not sizes_can_follow():
        raise ValueError(
            "`static_sizes=False` needs the TensorFlow backend, where the size "
            "of a tensor may depend on values. Received: static_sizes=False "
            f"on the {keras.backend.backend()} backend"
        )
    return bool(static_sizes)


class GraphSizes:
    """The strides of a layer as last read, and the graphs with sizes of them.

    Args:
        strides: tuple of floats. The strides of now.
        output_sizes: function `(strides, input_sizes)` that returns the sizes
            that come out of the layer.

    Attributes:
        strides: tuple of floats. The strides as last read.
        held: tuple of floats, or None. The strides that decide the sizes of
            training steps while `RefreshSizes` is at work, which lets these
            change at certain steps only.
        is_holding: whether `RefreshSizes` is at work.
    """

    def __init__(self, strides, output_sizes):
        self.strides = strides
        self.held = None
        self.is_holding = False
        self._output_sizes = output_sizes
        self._variable = None
        # Compiled functions of Keras with sizes of this layer.
        self._functions = weakref.WeakSet()
        # Pairs of sizes in graphs of somebody else.
        self._other_graphs = set()
        # Whether a function was replaced since `refresh` was last called.
        self._replaced = False
        # Whether functions wait to be replaced.
        self._is_waiting = False

    def listen_to(self, variable, strides):
        """Follows a `StridesVariable` that has just been made."""
        self.strides = strides
        self._variable = variable
        variable.listener = self

    def in_graph(self, in_sizes):
        """The output sizes for the graph that is being built."""
        self.read(in_graph=True)
        function = compiled_functions.being_traced()
        is_training = function is not None and function.is_training
        out_sizes = self._sizes_now(in_sizes, is_training)
        if function is None:
            self._other_graphs.add((in_sizes, out_sizes))
        else:
            function.note(self, in_sizes, out_sizes)
            self._functions.add(function)
        return out_sizes

    def is_current(self, pairs, is_training=False):
        """Whether graphs with these pairs of sizes are up to date."""
        return all(
            self._sizes_now(in_sizes, is_training) == out_sizes
            for in_sizes, out_sizes in pairs
        )

    def _sizes_now(self, in_sizes, is_training):
        holds = is_training and self.is_holding
        return self._output_sizes(
            self.held if holds else self.strides, in_sizes
        )

    def read(self, in_graph=False):
        """Reads the strides, which a graph of TensorFlow may have changed."""
        # Under JAX nothing changes a variable but `assign`, and while Keras
        # trains, the variable is empty.
        if self._variable is None or keras.backend.backend() == "jax":
            return
        strides = None if in_graph else as_floats(self._variable)
        if strides is None:
            strides = in_another_thread(as_floats, self._variable)
        # A variable made in this graph has no value yet.
        if strides is not None:
            self.strides = strides

    def refresh(self):
        """Reads the strides, and lets all sizes follow them.

        Returns:
            Whether a graph was out of date.
        """
        self.read()
        if self.is_holding:
            self.held = self.strides
        self.follow()
        was_current = self.is_current(self._other_graphs)
        changed = self._replaced or not was_current
        self._replaced = False
        if not was_current:
            self._other_graphs.clear()
        return changed

    def follow(self):
        """Replaces compiled functions that are out of date."""
        self._is_waiting = False
        for function in list(self._functions):
            self._replaced |= function.follow()

    def hold(self):
        """From now on training steps follow at calls of `refresh` alone."""
        self.read()
        if self.is_holding or self.held is None:
            self.held = self.strides
        # Otherwise `held` comes from a checkpoint that was made in a training.
        self.is_holding = True
        self.follow()

    def release(self):
        """Ends what `hold` began."""
        self.held, self.is_holding = None, False
        self.read()
        self.follow()

    def assigned(self, strides):
        """Called by the variable: somebody has set the strides."""
        self.strides = strides
        if not self.is_holding:
            self.held = None
        if keras.backend.backend() == "jax":
            # Keras may be in the middle of setting all variables, and can only
            # make new functions when it is done. Then it reads them.
            self._is_waiting = True
        else:
            self.follow()

    def about_to_be_read(self):
        """Called by the variable."""
        if self._is_waiting:
            self.follow()


def in_another_thread(function, *args):
    """Calls a function outside of the graph that this thread is building."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(function, *args).result()
