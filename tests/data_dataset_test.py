import doctest
import threading

import keras
import numpy as np
import pytest

from diffstride.data import arrays, augment, dataset, synthetic
from diffstride.data.arrays import from_arrays
from diffstride.data.clip_windows import from_clips
from diffstride.data.clips import collect
from diffstride.data.dataset import (
    Batches,
    batch_shapes,
    process_rows,
    random_generator,
    validate_batching,
)
from diffstride.data.multi_task import multi_task


@pytest.mark.parametrize("module", [arrays, augment, dataset, synthetic])
def test_examples(module):
    failures, tests = doctest.testmod(module)
    assert tests and not failures


def test_batches_run_from_start_to_stop():
    batches = Batches(lambda step: (step,), stop=7, start=4)
    assert len(batches) == 3
    assert list(batches) == [(4,), (5,), (6,)]
    assert batches[1] == (5,)
    for index in -1, 3:
        with pytest.raises(IndexError, match=f"between 0 and 2.*index={index}"):
            batches[index]
    assert len(Batches(str, stop=7, start=7)) == 0


@pytest.mark.parametrize("start", [-1, 8])
def test_batches_reject_a_start_outside(start):
    with pytest.raises(ValueError, match=f"`start_step`.*start_step={start}"):
        Batches(str, stop=7, start=start)


def test_batches_are_computed_ahead_and_once():
    made = []

    def make_batch(step):
        made.append(step)
        return step

    batches = Batches(make_batch, stop=6, start=1, ahead=2)
    assert batches[0] == 1
    batches._threads.submit(int).result()
    assert made == [1, 2, 3]
    assert list(batches) == [1, 2, 3, 4, 5]
    # Only the first batch had been handed out already.
    assert made == [1, 2, 3, 1, 4, 5]


def test_an_error_in_a_batch_reaches_the_user():
    def make_batch(step):
        raise RuntimeError(f"step {step}")

    with pytest.raises(RuntimeError, match="step 0"):
        next(iter(Batches(make_batch, 3)))


def test_fit_trains_on_the_batches_in_order():
    """Nothing is lost or swapped by looking ahead."""

    def make_batch(step):
        generator = random_generator(0, 0, step)
        x = generator.normal(size=(8, 4)).astype("float32")
        return x, generator.integers(0, 3, 8)

    def make_model():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile(
            keras.optimizers.SGD(0.5),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    fitted = make_model()
    fitted.fit(Batches(make_batch, 12), shuffle=False, verbose=0)
    stepped = make_model()
    for step in range(12):
        stepped.train_on_batch(*make_batch(step))
    for one, other in zip(fitted.weights, stepped.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_random_generators_differ_in_seed_epoch_and_step():
    arguments = [
        (seed, epoch, step)
        for seed in range(3)
        for epoch in range(3)
        for step in (None, 0, 1, 2)
    ]
    numbers = [random_generator(*each).integers(2**62) for each in arguments]
    assert len(set(numbers)) == len(arguments)
    again = [random_generator(*each).integers(2**62) for each in arguments]
    assert again == numbers


@pytest.mark.parametrize("size, count", [(8, 1), (8, 4), (5, 3), (2, 3)])
def test_the_rows_of_all_processes_are_the_batch(size, count):
    rows = [process_rows(size, index, count) for index in range(count)]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(size))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "`batch_size` .*batch_size=0"),
        ({"batch_size": 11}, "`batch_size` .* 10 .*batch_size=11"),
        ({"seed": -1}, "`seed` .*seed=-1"),
        ({"process_index": 2, "process_count": 2}, "`process_index`"),
        ({"process_index": -1}, "`process_index`"),
        ({"batch_size": 5, "process_count": 2}, "multiple of `process_count`"),
    ],
)
def test_batching_errors(arguments, message):
    validate_batching(10, batch_size=10, seed=0)
    with pytest.raises(ValueError, match=message):
        validate_batching(10, **{"batch_size": 10, "seed": 0, **arguments})


@pytest.mark.parametrize("argument", ["batch_size", "seed"])
def test_integers_are_no_fractions(argument):
    arguments = {"batch_size": 10, "seed": 0, argument: 1.5}
    with pytest.raises(TypeError, match=f"`{argument}` must be an int.*=1.5"):
        validate_batching(10, **arguments)


def test_it_is_said_how_many_examples_an_epoch_leaves_out(caplog):
    with caplog.at_level("INFO", logger="absl"):
        validate_batching(10, batch_size=5, seed=0)
        assert not caplog.text
        validate_batching(10, batch_size=4, seed=0)
    assert "leaves out 2 of the 10 training examples" in caplog.text


def pictures(**kwargs):
    images, labels = np.zeros((13, 8, 8, 3), "uint8"), np.arange(13) % 3
    return from_arrays(
        ((images, labels), (images, labels)), batch_size=4, **kwargs
    )


def sounds(**kwargs):
    lengths = (25, 10, 7, 31, 25, 19)
    clips = collect([(np.ones(n, "int16"), n % 2) for n in lengths], "ab")
    return from_clips(clips, clips, "sounds", batch_size=4, **kwargs)


@pytest.mark.parametrize(
    "load",
    [
        pictures,
        lambda **kwargs: sounds(window=10, **kwargs),
        lambda **kwargs: sounds(window=None, length_step=5, **kwargs),
    ],
)
def test_test_batches_are_counted_without_making_them(load, monkeypatch):
    for index in (0, 1):
        batches = load(process_index=index, process_count=2).test()
        expected = [x.shape for x, _ in batches]
        monkeypatch.setattr(batches, "make_batch", None)
        assert list(batch_shapes(batches)) == expected
    assert batch_shapes([(np.zeros((2, 3)), 0), (np.zeros((1, 3)), 0)]) == [
        (2, 3),
        (1, 3),
    ]


def test_test_batches_of_several_tasks_are_counted():
    data = multi_task({"a": sounds(window=10), "b": sounds(window=10)})
    batches = data.test()
    assert batch_shapes(batches) == [x.shape for x, *_ in batches]


def test_workers_make_the_same_batches():
    """Large images that are cropped and resized take more than one thread."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (24, 20, 30, 3), dtype="uint8")
    data = ((images, np.arange(24)), (images[:9], np.arange(9)))
    one, four = (
        from_arrays(
            data,
            batch_size=4,
            image_size=16,
            inception_crop=True,
            mixup_alpha=0.2,
            workers=workers,
        )
        for workers in (1, 4)
    )
    for run in (lambda data: data.train(1, 2), lambda data: data.test()):
        for batch, other in zip(run(one), run(four), strict=True):
            for part, other_part in zip(batch, other, strict=True):
                np.testing.assert_array_equal(part, other_part)


def test_workers_work_at_the_same_time():
    together = threading.Barrier(3)  # Breaks where one waits for the others.

    def make_batch(step):
        together.wait(30)
        return step

    assert list(Batches(make_batch, 6, workers=3)) == list(range(6))
