"""Names and shapes of the weights of every model, as they were recorded.

A change of these makes saved weights unusable, so it must be seen. If it is
meant, record them anew:

    python tests/golden_test.py
"""

import functools
import json
import pathlib

import keras
import pytest

from diffstride import (
    DiffRes,
    DiffStride,
    FixedSpectralPooling,
    LocalImportancePooling,
    PolyphasePooling,
    SpaceToDepth,
)
from diffstride.models.audio_cnn import audio_cnn
from diffstride.models.audio_tagger import audio_tagger
from diffstride.models.densenet import densenet
from diffstride.models.efficientnet import efficientnet
from diffstride.models.fast_cnn import fast_cnn
from diffstride.models.resnet import (
    resnet18,
    resnet18_imagenet,
    resnet56,
)
from diffstride.models.unet import unet

FOLDER = pathlib.Path(__file__).parent / "golden"
IMAGES = {"input_shape": (32, 32, 3), "num_output_classes": 10}
MODELS = {
    "resnet18": functools.partial(resnet18, **IMAGES),
    "resnet56": functools.partial(resnet56, **IMAGES),
    "resnet18_imagenet": resnet18_imagenet,
    "densenet": functools.partial(densenet, **IMAGES),
    "efficientnet": functools.partial(efficientnet, **IMAGES),
    "unet": functools.partial(unet, **IMAGES),
    "fast_cnn": fast_cnn,
    "audio_cnn": functools.partial(audio_cnn, 10),
    "audio_tagger": functools.partial(
        audio_tagger, "b0", 10, frame_reduction=DiffRes, reduction_rate=0.5
    ),
}
POOLINGS = {
    "strided": None,
    "spectral": FixedSpectralPooling,
    "diffstride": DiffStride,
}
# Rivals with weights, which a residual block has two of.
WITH_WEIGHTS = {
    "lip": LocalImportancePooling,
    "spd": SpaceToDepth,
    "polyphase_learned": functools.partial(PolyphasePooling, choice="learned"),
}


def poolings_of(model):
    return POOLINGS | (WITH_WEIGHTS if model == "resnet18" else {})


def weights_of(builder, pooling_cls):
    # Weights without values, because their shapes are enough.
    with keras.StatelessScope(initialize_variables=False):
        model = builder(pooling_cls=pooling_cls)
        return {w.path: "x".join(map(str, w.shape)) for w in model.weights}


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_those_recorded(model):
    recorded = json.loads((FOLDER / f"{model}.json").read_text())
    for name, pooling_cls in poolings_of(model).items():
        keras.utils.clear_session(free_memory=False)
        made = weights_of(MODELS[model], pooling_cls)
        assert made == recorded[name], f"{name}: see {__file__} to record anew"


def write():
    FOLDER.mkdir(exist_ok=True)
    for model, builder in MODELS.items():
        recorded = {}
        for name, pooling_cls in poolings_of(model).items():
            keras.utils.clear_session(free_memory=False)
            recorded[name] = weights_of(builder, pooling_cls)
        path = FOLDER / f"{model}.json"
        path.write_text(json.dumps(recorded, indent=0) + "\n")
        print(path)


if __name__ == "__main__":
    write()
