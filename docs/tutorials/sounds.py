# %% [markdown]
# # Sounds
#
# A classifier of waveforms: the spectrogram is a layer of the model, and
# DiffRes decides which of its frames to keep.

# %%
import keras
import numpy as np

import diffstride

# %% [markdown]
# A second of noise, with a short chirp somewhere in it, which rises or falls.

# %%
rate = 16000


def chirps(size, seed):
    rng = np.random.default_rng(seed)
    sounds = rng.normal(0, 0.01, (size, rate))
    is_chirp = np.zeros((size, rate), bool)
    labels = rng.integers(0, 2, size)
    time = np.arange(rate // 5) / rate
    for clip, (sound, label) in enumerate(zip(sounds, labels, strict=True)):
        start = rng.integers(0, rate - len(time))
        slope = (1 if label else -1) * 4000
        phase = 2 * np.pi * (1500 * time + slope * (time - 0.1) ** 2 / 2)
        sound[start : start + len(time)] += 0.1 * np.sin(phase)
        is_chirp[clip, start : start + len(time)] = True
    return sounds.astype("float32"), labels, is_chirp


x, y, is_chirp = chirps(256, seed=1)
x_test, y_test, is_chirp_test = chirps(128, seed=2)

# %% [markdown]
# DiffRes reduces 98 frames to 24 and gives three channels: the mean and the
# maximum of the frames that it merged, and where they came from.

# %%
model = keras.Sequential(
    [
        keras.Input((rate,)),
        diffstride.LogMelSpectrogram(num_mels=32),
        diffstride.DiffRes(reduction_rate=0.75, name="diffres"),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
        keras.layers.GlobalMaxPooling2D(),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile(
    keras.optimizers.Adam(3e-3), "binary_crossentropy", metrics=["accuracy"]
)
history = model.fit(x, y, batch_size=32, epochs=8, verbose=0).history
print("guide loss:", np.round(history["guide_loss"], 3))
print("activeness:", np.round(history["activeness"], 3))
print("test accuracy:", model.evaluate(x_test, y_test, verbose=0)[1])

# %% [markdown]
# `activeness` is how much the scores of the frames differ within a clip. To see
# the scores of one clip beside its spectrogram:
#
# ```shell
# python -m diffstride.plot clip model.keras clip.wav --output=clip.png
# ```

# %% [markdown]
# ## When it happens
#
# The same layer in a detector: the network sees 24 frames of each clip, and
# `RestoreFrames` brings its predictions back to the 98 frames of the
# spectrogram, which the labels are for.

# %%
inputs = keras.Input((rate,))
spectrogram = diffstride.LogMelSpectrogram(num_mels=32)(inputs)
merged, warp = diffstride.DiffRes(
    reduction_rate=0.75, features="mean", return_warp=True, name="merge"
)(spectrogram)
features = keras.layers.BatchNormalization(momentum=0.9)(merged)
features = keras.layers.Conv1D(16, 3, padding="same", activation="relu")(
    features
)
events = keras.layers.Dense(1, activation="sigmoid")(features)
detector = keras.Model(inputs, diffstride.RestoreFrames()(events, warp))


def of_frames(is_chirp):
    """Labels of the spectrogram's frames: of the sample in their middle."""
    middles = 200 + 160 * np.arange(98)
    return is_chirp[:, middles, None].astype("float32")


detector.compile(
    keras.optimizers.Adam(3e-3), "binary_crossentropy", metrics=["accuracy"]
)
detector.fit(x, of_frames(is_chirp), batch_size=32, epochs=8, verbose=0)
scores = detector.evaluate(x_test, of_frames(is_chirp_test), verbose=0)
print("frames that are right:", scores[1])

# %% [markdown]
# Where the chirp of a clip begins, in seconds, and when the output frames of
# this clip begin and end.

# %%
print("the chirp begins at", np.argmax(is_chirp_test[0]) / rate)
found = detector.predict(x_test[:1], verbose=0)[0, :, 0] > 0.5
print("it is found at", 0.01 * np.argmax(found))
spectrograms = diffstride.LogMelSpectrogram(num_mels=32)(x_test[:1])
analysis = detector.get_layer("merge").analyze(spectrograms)
edges = 0.01 * keras.ops.convert_to_numpy(analysis["edges"])[0]
print("edges of the output frames:", np.round(edges, 2))
