# %% [markdown]
# # Any model by one call
#
# `learn_strides` takes a trained network with strided convolutions and lets it
# learn its strides, with all weights kept.

# %%
import functools

import keras

import diffstride
from diffstride.data.synthetic import textures

x, y = textures(2048, seed=1)
x_test, y_test = textures(512, seed=2)

layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 64, -2)]
for index, filters in enumerate((8, 16)):
    layers += [
        keras.layers.Conv2D(
            filters, 3, strides=2, padding="same", name=f"stage{index + 1}"
        ),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
    ]
layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8)]
model = keras.Sequential(layers)


def compile_and_fit(model, epochs, *callbacks):
    model.compile(
        diffstride.set_stride_rate(keras.optimizers.Adam(3e-3), 10),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        x,
        y,
        batch_size=64,
        epochs=epochs,
        callbacks=[*callbacks, diffstride.RefreshSizes()],
        verbose=0,
    )
    return model.evaluate(x_test, y_test, verbose=0)[1]


print("strided:", compile_and_fit(model, epochs=4))

# %% [markdown]
# What would a conversion change? A line for each stride, and the operations of
# the whole model if this stride alone is learned:

# %%
diffstride.conversion_summary(model)

# %% [markdown]
# The conversion puts a `DiffStride` layer after each strided convolution, named
# after it. At first it computes what the network computed: with `aliasing=1` a
# DiffStride layer takes every second point, as the stride did.
#
# The textures differ along the width up to nearly the highest frequency, which
# the strided network knows by its aliases alone. A layer learns from the
# frequencies on its ramp. A ramp of 4 frequencies, in place of the 1 that
# `learn_strides` takes, looks farther, and strides that learn at ten times the
# rate get there in time.

# %%
pooling = functools.partial(
    diffstride.DiffStride,
    norm="forward",
    ramp="inside",
    aliasing=1.0,
    smoothness_factor=4.0,
)
learning = diffstride.learn_strides(model, pooling)
before = model.predict(x_test, verbose=0)
after = learning.predict(x_test, verbose=0)
print("largest difference:", abs(before - after).max())

# %% [markdown]
# Train on. `FadeAliasing` lowers the aliasing to zero over the first epochs,
# and strides begin to learn.

# %%
accuracy = compile_and_fit(learning, 6, diffstride.FadeAliasing(epochs=3))
print("trained on:", accuracy)
for name in ("stage1_stride", "stage2_stride"):
    print(name, keras.ops.convert_to_numpy(learning.get_layer(name).strides))
diffstride.summary(learning)

# %% [markdown]
# Back to ordinary layers, with the closest integers, to be trained further:

# %%
strided = diffstride.to_integer_strides(learning)
print([strided.get_layer(f"stage{i}").strides for i in (1, 2)])
print("integers, trained on:", compile_and_fit(strided, epochs=2))
