"""A callback that keeps static sizes, and what is compiled, up to date."""

import functools

import keras

from diffstride.layers.base_pooling import BaseDiffStride


class RefreshSizes(keras.callbacks.Callback):
    """Lets the static sizes of DiffStride layers follow their strides.

    Where a layer holds static sizes (always under JAX, and with
    `static_sizes=True`), its strides move at every step, but its sizes only
    when this callback looks. Where a size changed, the compiled functions of
    the model are replaced. Those of earlier sizes are kept, so that a size
    seen before costs no compilation.

    Weights loaded into a model that has run already may ask for other sizes
    too: with this callback `fit`, `evaluate` and `predict` see to that first.

    Args:
        every: `"epoch"`, or an integer: a number of training steps.

    Attributes:
        steps: number of training steps so far. To be set where an interrupted
            training goes on, for `every` to count on.
        compilations: number of training functions compiled so far.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((16, 16, 1)),
    ...         DiffStride(2, static_sizes=True),
    ...         keras.layers.GlobalMaxPooling2D(),
    ...     ]
    ... )
    >>> model.compile("sgd", "mse", jit_compile=True)
    >>> x, y = np.ones((4, 16, 16, 1)), np.zeros((4, 1))
    >>> refresh = RefreshSizes()
    >>> _ = model.fit(x, y, callbacks=[refresh], verbose=0)
    >>> refresh.compilations
    1
    """

    _FUNCTIONS = ("train_function", "test_function", "predict_function")

    def __init__(self, every="epoch"):
        super().__init__()
        if every != "epoch" and (type(every) is not int or every < 1):
            raise ValueError(
                "`every` must be 'epoch' or a positive integer. "
                f"Received: every={every}"
            )
        self.every = every
        # Once an epoch, Keras need not wait for the result of each step.
        self.async_safe = every == "epoch"
        self.steps = 0
        self.compilations = 0
        self._train_function = None
        self._compiled = []
        # Pairs of the sizes that a graph was built with, by layer, and the
        # functions compiled from it.
        self._kept = []

    def on_train_batch_begin(self, batch, logs=None):
        function = self.model.train_function
        if not any(function is compiled for compiled in self._compiled):
            self._compiled.append(function)
            self.compilations += 1

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.every != "epoch" and self.steps % self.every == 0:
            if keras.backend.backend() == "jax":
                # The variables lag behind the state of the training step.
                self.model.jax_state_sync()
            self.refresh()

    def on_train_begin(self, logs=None):
        if self.model.train_function is not self._train_function:
            self._start_anew()
        self._replace_functions(self._built_sizes())

    def _start_anew(self):
        """Forgets functions of an earlier `model.compile`."""
        self._kept, self._compiled = [], []
        for name in self._FUNCTIONS:
            if getattr(self.model, name) is not None:
                setattr(self.model, name, None)
                self._make(name)
        self._train_function = self.model.train_function

    def on_test_begin(self, logs=None):
        self._replace_functions(self._built_sizes())

    def on_predict_begin(self, logs=None):
        self._replace_functions(self._built_sizes())

    def on_epoch_end(self, epoch, logs=None):
        if self.every == "epoch":
            self.refresh()

    def refresh(self):
        """Brings sizes up to date; replaces functions where one changed."""
        built = self._built_sizes()
        for layer in built:
            layer.refresh_sizes()
        self._replace_functions(built)

    def _built_sizes(self):
        return {
            layer: layer.built_sizes
            for layer in self.model._flatten_layers()
            if isinstance(layer, BaseDiffStride) and layer.supports_jit
        }

    def _replace_functions(self, built):
        """Replaces functions built with other sizes than those of now."""
        model, layers = self.model, list(built)
        if all(layer.sizes_follow(sizes) for layer, sizes in built.items()):
            return
        self._kept.append(
            (built, {name: getattr(model, name) for name in self._FUNCTIONS})
        )
        for index, (built, functions) in enumerate(self._kept):  # noqa: B007
            if all(layer.sizes_follow(sizes) for layer, sizes in built.items()):
                del self._kept[index]
                break
        else:
            built = {layer: {} for layer in layers}
            functions = dict.fromkeys(self._FUNCTIONS)
        for layer, sizes in built.items():
            layer.built_sizes = sizes
        for name, function in functions.items():
            in_use = getattr(model, name) is not None
            setattr(model, name, function)
            if in_use:
                self._make(name)
        self._train_function = model.train_function

    def _make(self, name):
        # JAX knows a function by equality. Every `model.train_step` equals the
        # one before, whose graph it would run again; a partial does not.
        step = name.replace("function", "step")
        attributes = vars(self.model)
        attributes[step] = functools.partial(getattr(self.model, step))
        getattr(self.model, f"make_{name}")()
        del attributes[step]
