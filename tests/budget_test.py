"""Strides that keep a budget of operations."""

import keras
import numpy as np
import pytest
import tiny

from diffstride import (
    DiffStride,
    MacsBudget,
    RefreshSizes,
    set_stride_rate,
)
from diffstride.analysis.budget import StrideCosts
from diffstride.analysis.learned_layers import learned_layers
from diffstride.analysis.operations import count_macs
from diffstride.training import trainer


def network(strides=2.0, **options):
    inputs = x = keras.Input((32, 32, 3))
    for filters in (4, 8):
        x = keras.layers.Conv2D(filters, 3, padding="same")(x)
        x = DiffStride(
            strides,
            norm="forward",
            ramp="inside",
            smoothness_factor=2,
            name=f"pooling{filters}",
            **options,
        )(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(8, 3, padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def test_exponents_are_those_of_finite_differences():
    model = network(2.0)
    costs = StrideCosts(model)
    strides = costs.strides
    parts, exponents = costs.exponents(strides)
    assert parts.sum() == count_macs(model)
    # The relaxed cost, a sum of powers of the strides, against real counts.
    for index in range(len(strides)):
        for factor in (0.7, 1.4):
            changed = np.array(strides)
            changed[index] *= factor
            relaxed = (parts * factor ** -exponents[:, index]).sum()
            assert relaxed == pytest.approx(costs.count(changed), rel=0.12)
    # The stem stands above all, the last convolution below all.
    assert (exponents[0] == 0).all()
    names = [i for i, macs in enumerate(parts) if macs]
    assert (exponents[names[-2]] > 0.7).all()


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.6])
def test_strides_move_to_the_target(ratio):
    model = network((2.0, 3.0))
    target = ratio * count_macs(model)
    macs = StrideCosts(model).move_to(target)
    assert macs == count_macs(model)
    assert macs == pytest.approx(target, rel=0.03)


def test_strides_far_beyond_their_maps_come_back():
    model = network(2.0)
    target = count_macs(model)
    costs = StrideCosts(model)
    costs.assign([60, 1, 60, 1])
    assert costs.move_to(target) == pytest.approx(target, rel=0.03)


def test_counts_leave_the_strides_alone(monkeypatch):
    model = network(2.0)
    costs = StrideCosts(model)
    assigned = []
    for layer in learned_layers(model):
        monkeypatch.setattr(layer.strides, "assign", assigned.append)
    strides = costs.strides
    # Strides count as they would be within their limits.
    assert costs.count(strides * 100) == costs.range()[0]
    costs.exponents(strides)
    assert not assigned
    monkeypatch.undo()
    macs = costs.count(1.3 * strides)
    costs.assign(1.3 * strides)
    assert macs == count_macs(model)


def test_early_strides_move_most():
    model = network(2.0)
    StrideCosts(model).move_to(0.6 * count_macs(model))
    first = keras.ops.convert_to_numpy(model.get_layer("pooling4").strides)
    second = keras.ops.convert_to_numpy(model.get_layer("pooling8").strides)
    assert first.mean() > second.mean() > 2


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 32, 32, 3)), rng.normal(size=(32, 2))


@pytest.mark.parametrize("every", ["epoch", 2])
@pytest.mark.parametrize("options", [{}, {"static_sizes": True}])
def test_fit_ends_at_the_budget(every, options):
    model = network(2.5, **options)
    start = count_macs(model)
    # Strides are to leave the budget within an epoch.
    model.compile(set_stride_rate(keras.optimizers.SGD(0.05), 20), "mse")
    budget = MacsBudget(1.3, every=every)
    x, y = data()
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=3,
        validation_data=(x[:4], y[:4]),
        callbacks=[budget, RefreshSizes()],
        verbose=0,
    ).history
    macs = count_macs(model)
    assert macs == pytest.approx(1.3 * start, rel=0.03)
    assert history["macs"][-1] == macs == budget.macs
    # What was validated is what is kept.
    loss = model.evaluate(x[:4], y[:4], verbose=0)
    assert loss == pytest.approx(history["val_loss"][-1], rel=1e-5)


@pytest.mark.parametrize("every", ["epoch", 2])
def test_a_budget_that_is_approached(every):
    model = network(2.0)
    start = count_macs(model)
    model.compile("sgd", "mse")
    x, y = data()

    def fit(**kwargs):
        budget = MacsBudget(2 * start, every=every, approach=4)
        callbacks = [budget, RefreshSizes()]
        options = {"batch_size": 8, "callbacks": callbacks, "verbose": 0}
        return model.fit(x, y, **options, **kwargs).history["macs"]

    # Equal factors an epoch, also where a training was interrupted.
    macs = [*fit(epochs=2), *fit(initial_epoch=2, epochs=5)]
    expected = [2 ** (1 / 4), 2 ** (2 / 4), 2 ** (3 / 4), 2, 2]
    np.testing.assert_allclose(np.array(macs) / start, expected, rtol=0.06)


def test_several_steps_in_one_call():
    """`every` counts steps, not calls of the training function."""
    model = network(2.0)
    model.compile("sgd", "mse", steps_per_execution=3)
    budget = MacsBudget(1.3, every=4)
    kept = []
    budget._keep = lambda keep=budget._keep: (
        kept.append(int(model.optimizer.iterations)),
        keep(),
    )
    x, y = data()
    options = {"callbacks": [budget, RefreshSizes()], "verbose": 0}
    # Calls of 3, 3 and 2 steps; the last one ends the epoch as well.
    model.fit(x, y, batch_size=4, **options)
    assert kept == [0, 6, 8]


def test_a_ratio_is_one_of_the_new_model(tmp_path):
    """Also where a run goes on, whose operations are fewer by then."""
    targets = []
    for epochs in (1, 2):
        budget = MacsBudget(0.8, input_shape=(16, 16, 1))
        trainer.train(
            dataset=tiny.dataset,
            model=tiny.model,
            workdir=tmp_path,
            num_epochs=epochs,
            callbacks=[budget],
            tensorboard=False,
            verbose=0,
        )
        targets.append(budget.target)
    assert targets[0] == targets[1]


@pytest.mark.parametrize("approach", [-1, float("inf"), float("nan"), "2"])
def test_wrong_approaches_are_an_error(approach):
    with pytest.raises(ValueError, match="`approach` must be a finite number"):
        MacsBudget(1e6, approach=approach)


def test_shared_and_frozen_strides():
    inputs = keras.Input((32, 32, 2))
    x = DiffStride(2, shared_stride=True, ramp="inside", name="shared")(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same")(x)
    x = DiffStride(2, trainable=False, ramp="inside", name="frozen")(x)
    model = keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(x))
    costs = StrideCosts(model)
    assert len(costs.strides) == 1
    target = 1.5 * count_macs(model)
    costs.move_to(target)
    frozen = keras.ops.convert_to_numpy(model.get_layer("frozen").strides)
    assert frozen.tolist() == [2, 2]
    assert count_macs(model) == pytest.approx(target, rel=0.06)


@pytest.mark.parametrize("target", [0, -1, float("nan"), "1", 1e12, 101])
def test_targets_out_of_reach_name_the_range(target):
    model = network()
    model.compile("sgd", "mse")
    fewest, most = StrideCosts(model).range()
    assert fewest < count_macs(model) < most
    with pytest.raises(ValueError, match=f"{fewest:,.0f} to {most:,.0f}"):
        model.fit(*data(), callbacks=[MacsBudget(target)], verbose=0)


def test_models_without_learned_strides_are_refused():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    model.compile("sgd", "mse")
    x = np.ones((2, 8, 8, 1))
    with pytest.raises(ValueError, match="must be built and have DiffStride"):
        model.fit(x, np.ones((2, 64)), callbacks=[MacsBudget(1)], verbose=0)
