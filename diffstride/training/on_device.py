"""Training on data that stay on the device. JAX only.

Keras asks the host for each batch. Here the images lie on the device, and the
compiled training step makes its batch itself, so that the host only says which
step is next. Runs that differ only in their seeds share what is compiled.

The loop over the steps is one of Python, not `jax.lax.scan`: on a CPU, XLA runs
convolutions inside of its loops more than ten times as slowly, and on a GPU the
host is ahead of the device anyway.
"""

import keras
import numpy as np
from keras import ops

from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import layer_costs
from diffstride.analysis.resolution import resolution
from diffstride.data.augment_on_device import (
    DeviceAugmentation,
    check_augmentation,
    draw_epoch,
    take_points,
)
from diffstride.training.macs_budget import MacsBudget
from diffstride.training.run import Run
from diffstride.training.shift_consistency import draw_shifts
from diffstride.validation import ConfigError


class OnDevice:
    """What runs share that differ only in their seeds.

    The first network is compiled. Later ones, which must be built alike, lend
    it their weights.

    Attributes:
        compilations: number of training steps compiled so far: one, and one
            more whenever the strides lead to sizes of maps that were not there
            before.
    """

    def __init__(self):
        if keras.backend.backend() != "jax":
            raise ConfigError(
                "Data can stay on the device with KERAS_BACKEND=jax only. "
                f"Received: KERAS_BACKEND={keras.backend.backend()}"
            )
        import jax

        self.compilations = 0
        self._network = None
        # The sizes are no part of the calculation. With other sizes JAX calls
        # the Python function again, and so finds those that the layers have.
        self._train_step = jax.jit(
            self._trained, static_argnums=0, donate_argnums=1
        )
        self._test_step = jax.jit(self._tested, static_argnums=0)
        self._count_consistent = jax.jit(self._consistent, static_argnums=0)

    def start(self, network, data):
        """Takes the network and the data of a run.

        Args:
            network: a compiled Keras model.
            data: a `diffstride.data.dataset.Dataset` with `image_batches`.
        """
        self._batches = data.image_batches
        self._input_shape = data.input_shape
        self._splits = {
            split: (
                ops.convert_to_tensor(images),
                ops.convert_to_tensor(labels, "int32"),
            )
            for split, (images, labels) in self._batches.splits.items()
        }
        _make_metrics(network, data)
        if self._network is None:
            self._network = network
            self._augmentation = DeviceAugmentation(self._batches.augmentation)
            for layer in learned_layers(network):
                layer.graph_sizes.hold()
        shapes, known = (
            [tuple(v.shape) for group in state_of(each) for v in group]
            for each in (network, self._network)
        )
        if shapes != known:
            raise ValueError(
                "`network` must have the variables of the first one, because "
                f"both share compiled functions. Received: shapes={shapes}"
            )

    def train_epoch(self, network, epoch):
        """Trains a network for an epoch, and returns its metrics."""
        network.reset_metrics()
        sizes, state = self._sizes(network), _values(network)
        draws = list(
            map(ops.convert_to_tensor, draw_epoch(self._batches, epoch))
        )
        for step in range(self._batches.train_steps):
            state = self._train_step(
                sizes, state, *self._splits["train"], draws, step
            )
        _assign(state_of(network), state)
        return _metrics(network)

    def evaluate(self, network):
        """The metrics of a network on the test split."""
        network.reset_metrics()
        sizes = self._sizes(network)
        trainable, others, _, metrics = _values(network)
        state = trainable, others, metrics
        for batch in self._test_batches(*self._splits["test"]):
            state = self._test_step(sizes, state, *batch)
        _assign([network.metrics_variables], [state[-1]])
        return _metrics(network)

    def shift_consistency(self, network, max_shift):
        """The share of test images whose class stays when they move."""
        sizes, (*weights, _, _) = self._sizes(network), _values(network)
        images, _ = self._splits["test"]
        count = 0
        for index, (batch,) in enumerate(self._test_batches(images)):
            shifts = draw_shifts(index, len(batch), max_shift)
            count += self._count_consistent(sizes, weights, batch, *shifts)
        return int(count) / len(images)

    def _test_batches(self, *arrays):
        """The batches of arrays on the device. The last may be smaller."""
        size = self._batches.batch_size
        for start in range(0, len(arrays[0]), size):
            yield [array[start : start + size] for array in arrays]

    def _sizes(self, network):
        """Lets the compiled network have the sizes of another one."""
        layers = learned_layers(network)
        if not layers:
            return ()
        for mine, theirs in zip(
            learned_layers(self._network), layers, strict=True
        ):
            mine.strides.assign(theirs.strides.value)
            mine.refresh_sizes()
        costs = layer_costs(network, self._input_shape)
        sizes = resolution(network, costs)["sizes"].values()
        return tuple(map(tuple, sizes))

    def _trained(self, sizes, state, images, labels, draws, step):
        self.compilations += 1  # Python is here only while JAX compiles.
        draws = [each[step] for each in draws]
        batch = self._augmentation.train(images, labels, *draws)
        _, state = self._network.train_step(state, batch)
        return state

    def _tested(self, sizes, state, images, labels):
        batch = self._augmentation.evaluate(images, labels)
        _, state = self._network.test_step(state, batch)
        return state

    def _consistent(self, sizes, weights, images, *shifts):
        moved = ops.concatenate([_move(images, each) for each in shifts])
        x = self._augmentation.normalize(moved)
        outputs, _ = self._network.stateless_call(*weights, x, training=False)
        first, second = ops.split(ops.argmax(outputs, axis=-1), 2)
        return ops.sum(ops.cast(first == second, "int32"))


class DeviceRun(Run):
    """A run that trains by `OnDevice`. It has no checkpoints.

    Args:
        on_device: an `OnDevice`.
        *args: as for `Run`.
    """

    def __init__(self, on_device, *args):
        super().__init__(*args)
        self._on_device = on_device

    def fit(
        self, callbacks, checkpoint_steps, monitor, asked_to_end, tensorboard
    ):
        """Trains from the first epoch to the last; arguments as in `Run`."""
        self._check(callbacks, checkpoint_steps, monitor)
        network, progress = self.model, self.progress
        self._on_device.start(network, self.data)
        recorder, beside = self._observers(self._measure)
        steps = self.data.train_steps
        callbacks = keras.callbacks.CallbackList(
            [*beside, *callbacks],
            add_progbar=self.verbose != 0,
            model=network,
            verbose=self.verbose,
            epochs=self.num_epochs,
            steps=steps,
        )
        recorder.write()
        compiled_before = self._on_device.compilations
        callbacks.on_train_begin()
        for epoch in range(self.num_epochs):
            callbacks.on_epoch_begin(epoch)
            # For callbacks, the steps of an epoch are one execution.
            callbacks.on_train_batch_begin(0)
            logs = self._on_device.train_epoch(network, epoch)
            self.refresh.compilations = (
                self._on_device.compilations - compiled_before
            )
            callbacks.on_train_batch_end(steps - 1, logs)
            callbacks.on_test_begin()
            found = self._on_device.evaluate(network)
            callbacks.on_test_end(found)
            logs |= {f"val_{name}": value for name, value in found.items()}
            callbacks.on_epoch_end(epoch, logs)
            progress.epoch = epoch + 1
            number = asked_to_end()
            if number is not None and progress.epoch < self.num_epochs:
                raise SystemExit(128 + number)
        network.optimizer.finalize_variable_values(network.trainable_weights)
        callbacks.on_train_end()
        progress.finished = True

    def _measure(self, network, make_batches):
        max_shift = self.shift_consistency.max_shift
        return self._on_device.shift_consistency(network, max_shift)

    def _check(self, callbacks, checkpoint_steps, monitor):
        """Refuses what is not made here, by the name of an argument."""
        if self.data.image_batches is None:
            raise ConfigError(
                "`dataset` must hold all of its images in memory, as "
                "`arrays.from_arrays` does and `images.tfds_images` with "
                "`cache=True`, so that they can stay on the device. Received: "
                f"{self.data.name!r}"
            )
        check_augmentation(self.data.image_batches)
        others = [
            type(callback).__name__
            for callback in callbacks
            if not isinstance(callback, MacsBudget) or callback.every != "epoch"
        ]
        if any(self.checkpoints.directory.glob("*")):
            raise ConfigError(
                f"{self.workdir} has checkpoints of a training that is not "
                "finished. Go on with it by `python -m diffstride.train` or "
                "`python -m diffstride.sweep`, or remove the directory."
            )
        validation = "a split" if self.data.validation else None
        for name, value, must_be in (
            ("validation_split", validation, None),
            ("callbacks", others, []),
            ("checkpoint_steps", checkpoint_steps, None),
            ("monitor", monitor, None),
            ("refresh_sizes", self.refresh.every, "epoch"),
        ):
            if value != must_be:
                raise ConfigError(
                    f"`{name}` must be {must_be!r} where data stay on the "
                    f"device. Received: {name}={value!r}"
                )


def _make_metrics(network, data):
    """Lets Keras make the variables of metrics, as the first batch would."""
    labels = np.zeros(1, "int32")
    outputs = np.zeros((1, data.num_classes), "float32")
    network.compute_loss(y=labels, y_pred=outputs)
    network.compute_metrics(x=None, y=labels, y_pred=outputs)


def state_of(network):
    """The state of a training, in the groups of Keras's training step."""
    return [
        network.trainable_variables,
        network.non_trainable_variables,
        network.optimizer.variables,
        network.metrics_variables,
    ]


def _values(network):
    # A tuple of lists, as Keras's step returns it. For anything else than what
    # it returns, JAX would compile a second time.
    return tuple([v.value for v in group] for group in state_of(network))


def _assign(groups, values):
    for variables, found in zip(groups, values, strict=True):
        for variable, value in zip(variables, found, strict=True):
            variable.assign(value)


def _metrics(network):
    return {
        name: float(value)
        for name, value in network.get_metrics_result().items()
    }


def _move(images, shifts):
    """As `shift_consistency.move`, on the device."""
    rows, columns = (
        (ops.arange(size) - shifts[:, None]) % size
        for size in images.shape[1:3]
    )
    return take_points(images, ops.arange(len(images)), rows, columns)
