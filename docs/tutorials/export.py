# %% [markdown]
# # Export
#
# `freeze` makes a model in which the learned strides are constants: no weights
# for them, sizes that are known, the same outputs. It goes wherever Keras goes.

# %%
import keras
import numpy as np

import diffstride

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(8, 3, padding="same"),
        diffstride.DiffStride((1.6, 2.7), norm="forward", ramp="inside"),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    ]
)
frozen = diffstride.freeze(model)
print(model.layers[1].output.shape, "->", frozen.layers[2].output.shape)

x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
difference = np.abs(np.asarray(model(x)) - np.asarray(frozen(x))).max()
print("largest difference:", difference)

# %% [markdown]
# A frozen model is saved like any other, and XLA compiles it on every backend.

# %%
frozen.save("frozen.keras")
loaded = keras.models.load_model("frozen.keras")
loaded.compile(jit_compile=True)
print(np.abs(loaded.predict(x, verbose=0) - np.asarray(frozen(x))).max())

# %% [markdown]
# On TensorFlow, `export` writes a SavedModel. `python -m diffstride.export`
# also writes LiteRT and ONNX, and compares the outputs of each with those of
# the model.

# %%
if keras.backend.backend() == "tensorflow":
    frozen.export("exported", verbose=False)
    served = keras.layers.TFSMLayer("exported", call_endpoint="serve")
    print(np.abs(np.asarray(served(x)) - np.asarray(frozen(x))).max())
