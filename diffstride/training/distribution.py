"""Training on many devices, and on those of many processes.

On TensorFlow the GPUs of one machine train in step, each on its share of a
batch. Under JAX so do all devices of one or more processes.
"""

import contextlib
import dataclasses
import functools
import inspect
import platform

import keras
import numpy as np

from diffstride.analysis.keras_graph import sublayers
from diffstride.data.dataset import batch_shapes
from diffstride.training.processes import (
    gather,
    process_count,
    process_index,
)
from diffstride.validation import ConfigError


def load(dataset, seed):
    """A data set; of several processes, the rows of this one.

    Args:
        dataset: a `diffstride.data.dataset.Dataset`, or a function of `seed`
            that loads one, and of `process_index` and `process_count` if
            several processes are to train on it.
        seed: integer.

    Raises:
        ConfigError: where the function does not find what it is to load.
    """
    if not callable(dataset):
        return dataset
    share = {
        "process_index": process_index(),
        "process_count": process_count(),
    }
    # Given to one process too, so that the configuration of the run does not
    # depend on the number of processes.
    if not share.keys() <= inspect.signature(dataset).parameters.keys():
        if process_count() > 1:
            raise ValueError(
                "`dataset` must take `process_index` and `process_count`, to "
                "load the rows of one of several processes. Received: "
                f"dataset={dataset}"
            )
        share = {}
    try:
        return dataset(seed=seed, **share)
    except (ValueError, OSError, TypeError) as error:
        unbound = "No values supplied by Gin" in str(error)
        # Messages of the loaders begin with the name of an argument.
        is_of_argument = str(error).startswith("`")
        if isinstance(error, TypeError) and not (unbound or is_of_argument):
            raise
        raise ConfigError(str(error)) from error


def scope(devices=None):
    """How to make and train a model on several devices.

    Args:
        devices: list of names. Defaults to all GPUs on TensorFlow, to all
            devices of all processes under JAX.

    Returns:
        A function that makes the context to do it in.

    Raises:
        ConfigError: where there is no such device.
    """
    names = _names(devices)
    if devices is None and len(names) < 2:
        return contextlib.nullcontext
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.MirroredStrategy(names).scope
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel(
            devices=devices, auto_shard_dataset=False
        ).scope
    return contextlib.nullcontext


def count_devices(devices=None):
    """The number of devices that `scope` trains on, of all processes."""
    return max(1, len(_names(devices)))


def device_kind():
    """What kind of device trains, like `"NVIDIA H100 80GB HBM3"`."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpu)
            return details.get("device_name", "GPU")
    return platform.machine()


def _names(devices):
    """The devices that are asked for or, by default, those to train on."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        _let_memory_grow()
        there = [each.name for each in tf.config.list_logical_devices()]
        default = [name for name in there if "GPU" in name]
    else:
        there = default = keras.distribution.list_devices()
    if devices is None:
        return default
    known = {_short(name) for name in there}
    if (
        not isinstance(devices, (list, tuple))
        or not devices
        or not all(_short(name) in known for name in devices)
    ):
        raise ConfigError(
            f"`devices` must be None or a list of names out of {sorted(known)}."
            f" Received: devices={devices!r}"
        )
    return list(devices)


def _short(name):
    return str(name).lower().lstrip("/").removeprefix("device:")


def _let_memory_grow():
    """Lets TensorFlow take the memory of a GPU as it needs it, not all at once.

    So several processes can share a GPU.
    """
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        # Too late once TensorFlow has used the GPU, or where it hides it.
        with contextlib.suppress(RuntimeError, ValueError):
            tf.config.experimental.set_memory_growth(gpu, True)


@contextlib.contextmanager
def synchronized(model):
    """Lets batch normalisation see whole batches, on several GPUs too.

    On TensorFlow each device would take the statistics of its own share of a
    batch, so that the number of devices would change what is trained. Under JAX
    they are always those of the whole batch.
    """
    layers = [
        layer
        for layer in sublayers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [layer.synchronized for layer in layers]
    if keras.backend.backend() == "tensorflow" and _replicas() > 1:
        for layer in layers:
            layer.synchronized = True
    try:
        yield
    finally:
        # A saved model must load on backends that do not know the option.
        for layer, value in zip(layers, before, strict=True):
            layer.synchronized = value


def _replicas():
    """The number of devices of this process in the scope."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    return distribution.device_mesh.devices.size // process_count()


def divide(data):
    """A data set whose batches divide among the devices of the scope.

    Keras puts the same number of rows on every device. A test batch with other
    numbers is filled up with examples of no weight; the weights of the others
    are such that the loss, an average over all rows, is that of the examples.

    Args:
        data: a `diffstride.data.dataset.Dataset`.
    """
    devices, processes = _replicas(), process_count()
    if devices * processes == 1:
        return data
    rows = _count_rows(next(iter(data.train(0))))
    if rows % devices:
        every = devices * processes
        batch_size = rows * processes
        below = batch_size // every * every
        choices = f"{below} or {below + every}" if below else f"{every}"
        raise ConfigError(
            f"`batch_size` must be a multiple of the {every} devices: bind "
            f"{choices} to it, or fewer devices to `train.train.devices`. "
            f"Received: batch_size={batch_size}"
        )

    validation = data.validation and _filled_up(data.validation, devices)
    return dataclasses.replace(
        data, test=_filled_up(data.test, devices), validation=validation
    )


def _filled_up(make_batches, devices):
    """A function that makes the same batches, with rows for all devices."""

    @functools.cache
    def plan():
        """Rows of each batch here, and the weight of an example."""
        rows = [shape[0] for shape in batch_shapes(make_batches())]
        rows = gather(np.array(rows, "int32"))
        even = -(-rows.max(axis=0) // devices) * devices
        return even, process_count() * even.sum() / rows.sum()

    def iterate():
        sizes, weight = plan()
        for batch, size in zip(make_batches(), sizes, strict=True):
            yield batch if weight == 1 else _fill_up(batch, size, weight)

    return lambda: _InOrder(iterate, len(plan()[0]))


class _InOrder(keras.utils.PyDataset):
    """Batches of which Keras knows the number, and asks for one by one."""

    def __init__(self, iterate, length):
        super().__init__()
        self._iterate = iterate
        self._length = length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if index == 0:
            self._batches = iter(self._iterate())
        return next(self._batches)


def _count_rows(batch):
    return len(keras.tree.flatten(batch)[0])


def _fill_up(batch, size, weight):
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    if weights is None:
        weights = keras.tree.map_structure(_ones, y)

    def repeat(array):
        # Rows that occur: the weight would not make a NaN vanish.
        return np.resize(array, (size, *np.shape(array)[1:]))

    def pad(array):
        padded = np.zeros((size, *np.shape(array)[1:]), "float32")
        padded[: len(array)] = weight * np.asarray(array)
        return padded

    return (
        keras.tree.map_structure(repeat, x),
        keras.tree.map_structure(repeat, y),
        keras.tree.map_structure(pad, weights),
    )


def _ones(labels):
    """A weight for each example or, of label maps, for each pixel."""
    is_map = np.ndim(labels) > 2
    return np.ones(np.shape(labels) if is_map else len(labels))
