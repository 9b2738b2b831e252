import keras

from diffstride.analysis.keras_graph import sublayers

layers = keras.layers


def test_sublayers_come_in_order_of_the_calls():
    inner = keras.Sequential(
        [layers.Conv2D(2, 1, name="b"), layers.ReLU(name="c")], name="inner"
    )
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(2, 1, name="a"),
            inner,
            layers.Conv2D(2, 1, name="d"),
        ]
    )
    names = [layer.name for layer in sublayers(model)]
    names = [name for name in names if not name.startswith("input")]
    assert names == ["a", "inner", "b", "c", "d"]


def test_a_layer_that_knows_its_owner_is_no_endless_loop():
    owner, part = layers.Dense(1), layers.Dense(1)
    owner.part, part.owner = part, owner
    assert sublayers(owner) == [part, owner]
