import keras
import numpy as np
import pytest

from diffstride.training import schedules


def rates(schedule, steps):
    # One step at a time, as an optimizer asks: PyTorch takes no more.
    return np.array(
        [keras.ops.convert_to_numpy(schedule(step)) for step in steps]
    )


def test_piecewise_drops_with_the_first_step_of_an_epoch():
    schedule = schedules.piecewise(
        7, 400, values=(1.0, 0.5, 0.25), boundaries=(2, 3)
    )
    np.testing.assert_allclose(
        rates(schedule, range(28)),
        [1.0] * 14 + [0.5] * 7 + [0.25] * 7,
    )


def test_rates_that_a_run_does_not_reach_are_named(caplog):
    schedules.piecewise(10, 300, boundaries=(200, 299))
    assert not caplog.records
    schedules.piecewise(10, 200, boundaries=(200, 300))
    assert "after 200 epochs, so that the learning rates after 200, 300 ep" in (
        caplog.text
    )


def test_piecewise_fractions_scale_with_the_run():
    schedule = schedules.piecewise(10, 8, values=(1.0, 0.5), boundaries=(0.25,))
    np.testing.assert_allclose(rates(schedule, (19, 20)), (1.0, 0.5))


def test_warm_up_is_linear_and_leaves_the_rest_alone():
    arguments = {"values": (1.0, 0.5), "boundaries": (3,)}
    cold = schedules.piecewise(10, 5, **arguments)
    warm = schedules.piecewise(10, 5, **arguments, warmup_epochs=2)
    steps = np.arange(50)
    np.testing.assert_allclose(
        rates(warm, steps),
        rates(cold, steps) * np.minimum(steps / 20, 1),
        rtol=1e-6,
    )


@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_cosine(warmup_epochs):
    schedule = schedules.cosine(
        10, 12, peak=0.4, final_fraction=0.1, warmup_epochs=warmup_epochs
    )
    steps = np.array([0, 1, 19, 20, 21, 70, 119, 120, 130])
    warmup = 10 * warmup_epochs
    progress = np.clip((steps - warmup) / (120 - warmup), 0, 1)
    expected = 0.4 * (0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2)
    if warmup:
        expected = np.where(steps < warmup, 0.4 * steps / warmup, expected)
    # Keras's own warm-up takes one step at a time.
    actual = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("peak_epoch", [3, 0.25])
def test_one_cycle(peak_epoch):
    schedule = schedules.one_cycle(
        10,
        12,
        peak=0.4,
        peak_epoch=peak_epoch,
        initial_fraction=0.5,
        final_fraction=0.01,
    )
    steps = np.arange(140)
    np.testing.assert_allclose(
        rates(schedule, steps),
        np.interp(steps, [0, 30, 120], [0.2, 0.4, 0.004]),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "initial,factor,first_epoch,every,num_epochs",
    # Table 4 of the DiffRes paper.
    [
        (1e-4, 0.5, 11, 5, 30),
        (5e-4, 0.5, 21, 5, 40),
        (2.5e-4, 0.95, 41, 1, 80),
        (2.5e-4, 0.9, 25, 1, 60),
        (1e-4, 0.85, 11, 1, 30),
    ],
)
def test_step_decay(initial, factor, first_epoch, every, num_epochs):
    schedule = schedules.step_decay(
        4, num_epochs, initial, factor, first_epoch, every
    )
    rate, expected = initial, []
    for epoch in range(1, num_epochs + 1):
        if epoch >= first_epoch and (epoch - first_epoch) % every == 0:
            rate *= factor
        expected += 4 * [rate]
    steps = np.arange(4 * num_epochs)
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-5)


def test_one_cycle_ends_at_zero_and_not_below():
    schedule = schedules.one_cycle(7, 13, peak=1e-3)
    assert 0 <= float(schedule(7 * 13)) < 1e-9


def test_step_decay_after_the_end():
    assert schedules.step_decay(4, 10, 0.1, first_epoch=11) == 0.1


def test_step_decay_warms_up_where_the_run_ends_before_the_first_drop():
    arguments = {"initial": 0.5, "first_epoch": 11, "warmup_epochs": 2}
    short = schedules.step_decay(4, 10, **arguments)
    long = schedules.step_decay(4, 11, **arguments)
    steps = np.arange(40)
    expected = 0.5 * np.minimum(steps / 8, 1)
    np.testing.assert_allclose(rates(short, steps), expected, rtol=1e-6)
    np.testing.assert_allclose(rates(long, steps), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.piecewise(10, 4, warmup_epochs=1),
        schedules.cosine(10, 4, warmup_epochs=1),
        schedules.one_cycle(10, 4),
    ],
)
def test_an_optimizer_keeps_its_schedule_when_saved(schedule):
    optimizer = keras.optimizers.SGD(schedule)
    restored = keras.optimizers.deserialize(
        keras.optimizers.serialize(optimizer)
    )
    for step in (5, 25):
        optimizer.iterations.assign(step)
        restored.iterations.assign(step)
        assert float(restored.learning_rate) == float(optimizer.learning_rate)
        assert float(optimizer.learning_rate) == float(schedule(step))


def test_errors():
    with pytest.raises(ValueError, match="`values` must have one entry more"):
        schedules.piecewise(10, 4, values=(1, 2), boundaries=(1, 2))
    for boundaries in ((3, 2), (2, 2), (0, 2), (-1, 2), (0.75, 0.5)):
        with pytest.raises(ValueError, match="`boundaries` must be positive"):
            schedules.piecewise(10, 4, (1, 2, 3), boundaries)
    with pytest.raises(ValueError, match="`warmup_epochs` must be less than"):
        schedules.cosine(10, 4, warmup_epochs=4)
    with pytest.raises(ValueError, match="`peak_epoch` must lie inside"):
        schedules.one_cycle(10, 4, peak_epoch=4)
    for arguments in [{"first_epoch": 1}, {"every": 0}]:
        with pytest.raises(ValueError, match="`first_epoch` must be 2 or more"):
            schedules.step_decay(10, 4, **arguments)


@pytest.mark.parametrize(
    "schedule, arguments, message",
    [
        (schedules.piecewise, {"values": (0.1, -1, 1)}, "`values` must be 0"),
        (schedules.cosine, {"peak": -0.1}, "`peak` must be 0 or more.*=-0.1"),
        (schedules.cosine, {"warmup_epochs": -1}, "`warmup_epochs` must be 0"),
        (schedules.one_cycle, {"peak_epoch": "1"}, "`peak_epoch` must be 0"),
        (schedules.step_decay, {"initial": -1.0}, "`initial` must be 0 or"),
    ],
)
def test_wrong_numbers(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(10, 4, **arguments)
