# %% [markdown]
# # A first layer
#
# What a DiffStride layer does to an image, and how its stride gets a gradient.

# %%
import keras
import numpy as np
from matplotlib import cbook, pyplot

import diffstride

photograph = pyplot.imread(
    cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
)
image = photograph.mean(axis=-1)[20:532:4, 40:552:4].astype("float32") / 255
print(image.shape)

# %% [markdown]
# The layer shrinks the image by its strides. They need not be integers: a
# stride of 1.5 along the height makes 85 of 128 rows.

# %%
layer = diffstride.DiffStride((1.5, 3), norm="forward", ramp="inside")
smaller = np.asarray(layer(image[np.newaxis, :, :, np.newaxis]))[0, :, :, 0]

figure, panels = pyplot.subplots(1, 2)
for panel, shown in zip(panels, (image, smaller), strict=True):
    panel.imshow(shown, cmap="gray", vmin=0, vmax=1)
    panel.set_title(f"{shown.shape[0]} x {shown.shape[1]}")
pyplot.show()

# %% [markdown]
# Every second point of an image is not a smaller image: fine stripes come out
# as coarse ones, which were never there. This is aliasing. The layer drops what
# is too fine instead.

# %%
stripes = np.cos(0.93 * np.pi * np.arange(128))[np.newaxis, :].repeat(128, 0)
stripes = stripes.astype("float32")
layer = diffstride.DiffStride(2, norm="forward", ramp="inside")
pooled = np.asarray(layer(stripes[np.newaxis, :, :, np.newaxis]))[0, :, :, 0]
print("every second point:", np.abs(stripes[::2, ::2]).mean())
print("DiffStride:        ", np.abs(pooled).mean())

# %% [markdown]
# The strides are a weight. In a model, `fit` changes them with all others. Here
# the task is to tell fine vertical stripes from none: a stride of 3 along the
# width would lose them, and the model finds out.

# %%
rng = np.random.default_rng(0)
labels = rng.integers(0, 2, 256)
waves = np.cos(0.6 * np.pi * np.arange(32) + rng.uniform(0, 6, (256, 1)))
x = (
    rng.normal(0, 0.7, (256, 32, 32, 1))
    + (labels[:, None] * waves)[:, None, :, None]
)
model = keras.Sequential(
    [
        keras.Input((32, 32, 1)),
        keras.layers.Conv2D(8, 3, padding="same"),
        diffstride.DiffStride(2.5, norm="forward", ramp="inside"),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile(
    keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["accuracy"]
)
strides = diffstride.StrideHistory()
model.fit(
    x,
    labels,
    epochs=15,
    callbacks=[diffstride.RefreshSizes(), strides],
    verbose=0,
)
(name,) = strides.history[0]["strides"]
for row in strides.history[::5]:
    print(row["epoch"], row["strides"][name], row["sizes"][name])

# %% [markdown]
# The stride along the height has nothing to lose and rises, the one along the
# width falls.
