# %% [markdown]
# # Any model by one call
#
# `learn_strides` takes a trained network with strided convolutions and lets it
# learn its strides, with all weights kept.

# %%
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


def compile_and_fit(model, epochs):
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        x,
        y,
        batch_size=64,
        epochs=epochs,
        callbacks=[diffstride.RefreshSizes()],
        verbose=0,
    )
    return model.evaluate(x_test, y_test, verbose=0)[1]


print("strided:", compile_and_fit(model, epochs=4))

# %% [markdown]
# The conversion puts a `DiffStride` layer after each strided convolution, named
# after it. A conversion changes what the network computes, because a low-pass
# filter stands where a convolution used to skip points. So train on.

# %%
learning = diffstride.learn_strides(model)
print("trained on:", compile_and_fit(learning, epochs=4))
for name in ("stage1_stride", "stage2_stride"):
    print(name, keras.ops.convert_to_numpy(learning.get_layer(name).strides))
diffstride.summary(learning)

# %% [markdown]
# Back to ordinary layers, with the closest integers, to be trained further:

# %%
strided = diffstride.to_integer_strides(learning)
print([strided.get_layer(f"stage{i}").strides for i in (1, 2)])
print("integers, trained on:", compile_and_fit(strided, epochs=2))
