# %% [markdown]
# # Learned strides in your own `fit`
#
# A small network on textures. Its classes differ in frequencies along the
# width; along the height all that is fast is noise.

# %%
import keras

import diffstride
from diffstride.data.synthetic import textures

x, y = textures(2048, seed=1)
x_test, y_test = textures(512, seed=2)


def network(downsample):
    """Two stages; `downsample` makes what shrinks the map after each."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 64, -2)(inputs)
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = downsample()(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(8)(x))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


# %% [markdown]
# First with average pooling, whose strides stay at 2.

# %%
model = network(lambda: keras.layers.AveragePooling2D(2))
model.fit(x, y, batch_size=64, epochs=8, verbose=0)
print("average pooling:", model.evaluate(x_test, y_test, verbose=0)[1])

# %% [markdown]
# Then with strides that are learned and start at 2. `RefreshSizes` is for XLA
# and JAX, and does nothing elsewhere. `StrideHistory` records what the strides
# do.

# %%
model = network(lambda: diffstride.DiffStride(2, norm="forward", ramp="inside"))
strides = diffstride.StrideHistory()
model.fit(
    x,
    y,
    batch_size=64,
    epochs=8,
    callbacks=[diffstride.RefreshSizes(), strides],
    verbose=0,
)
print("DiffStride:", model.evaluate(x_test, y_test, verbose=0)[1])
for row in strides.history:
    print(row["epoch"], row["strides"], f"{row['macs']:,} operations")

# %% [markdown]
# `strides.plot("strides.png")` draws them. The summary shows the sizes that the
# network has now, which `model.summary()` does not know:

# %%
diffstride.summary(model)

# %% [markdown]
# Saved, loaded, the same outputs:

# %%
model.save("learned.keras")
loaded = keras.models.load_model("learned.keras")
print("loaded:", loaded.evaluate(x_test, y_test, verbose=0)[1])
