#!/usr/bin/env python3
"""Makes a Keras file of a ResNet-18 or -56 that the 2022 release trained.

    python scripts/convert_release.py /tmp/resnet18/ckpts model.keras \
        --strides "1, 1, 2, 2, 2" --pooling DiffStride

The first path is the SavedModel that the release wrote after each epoch. Both
models then compute a random batch, and the largest difference is printed; the
exit status is 1 if it exceeds 1e-4. (What was trained on a GPU has its channels
first, and computes on a GPU only.)
"""

import argparse
import collections
import re
import sys
from itertools import zip_longest

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

import diffstride
from diffstride.analysis.keras_graph import sublayers
from diffstride.models import resnet

# `residual_layer_1/conv2d_4/kernel`, or `conv2d/kernel` outside of residual
# layers. The numbers count in the order in which the release made its layers.
NAME = re.compile(
    r"(?:(residual_layer)(?:_(\d+))?/)?[a-z0-9_]+?(?:_(\d+))?/"
    r"(kernel|bias|gamma|beta|moving_mean|moving_variance|strides)$"
)


def kind(weights):
    """What has these weights, a dict from their names."""
    if "kernel" not in weights:
        return "normalization" if "gamma" in weights else "strides"
    shape = tuple(weights["kernel"].shape)
    if len(shape) == 2:
        return "classifier"
    return "shortcut" if shape[:2] == (1, 1) else "convolution"


def read_release(directory):
    """Weights of a list of layers: outside of residual layers, then in each."""
    reader = tf.train.load_checkpoint(f"{directory}/variables/variables")
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    found = collections.defaultdict(lambda: collections.defaultdict(dict))
    for attribute in (a for node in graph.nodes for a in node.attributes):
        key, match = attribute.checkpoint_key, NAME.search(attribute.full_name)
        if match and "optimizer" not in key:
            owner, owner_number, number, name = match.groups()
            layers = found[owner is not None, int(owner_number or 0)]
            layer = int(number or 0), match[0].removesuffix(name)
            layers[layer][name] = reader.get_tensor(key)
    return [[w for _, w in sorted(found[o].items())] for o in sorted(found)]


def load_release(model, directory):
    """Sets a model of `diffstride.models.resnet` to weights of the release."""
    residual = [
        x for x in sublayers(model) if isinstance(x, resnet.ResidualLayer)
    ]
    others = [x for x in model.layers if not isinstance(x, resnet.ResnetBlock)]
    owners = [others, *map(sublayers, residual)]
    release = read_release(directory)
    for layers, theirs in zip_longest(owners, release, fillvalue=()):
        ours = [{w.name: w for w in x.weights} for x in layers if x.weights]
        if "strides" not in map(kind, ours):
            # Fixed spectral pooling has weights in the release alone.
            theirs = [w for w in theirs if kind(w) != "strides"]
        # Layers of one kind keep their order.
        ours, theirs = sorted(ours, key=kind), sorted(theirs, key=kind)
        for weights, values in zip_longest(ours, theirs, fillvalue={}):
            if shapes(weights) != shapes(values):
                raise ValueError(
                    "`model` must be the network that was trained. Received: "
                    f"{shapes(weights)}, where it has {shapes(values)}"
                )
            for name, weight in weights.items():
                weight.assign(values[name])


def shapes(weights):
    return {name: tuple(value.shape) for name, value in weights.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("saved_model")
    parser.add_argument("output")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--strides")
    parser.add_argument("--pooling", default="DiffStride", help="class or None")
    parser.add_argument("--output_activation", default="softmax")
    args = parser.parse_args()
    infer = tf.saved_model.load(args.saved_model).signatures["serving_default"]
    ((name, spec),) = infer.structured_input_signature[1].items()
    (outputs,) = infer.structured_outputs.values()
    model = getattr(resnet, args.model)(
        args.strides,
        num_output_classes=outputs.shape[-1],
        output_activation=args.output_activation,
        pooling_cls=getattr(diffstride, args.pooling, None),
        input_shape=tuple(spec.shape[1:]),
    )
    load_release(model, args.saved_model)
    model.save(args.output)
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
    (theirs,) = infer(**{name: tf.constant(x, "float32")}).values()
    difference = np.abs(np.asarray(model(x)) - theirs.numpy()).max()
    print(f"{args.output}: the outputs differ by {difference:.1e} at most")
    return int(not difference <= 1e-4)


if __name__ == "__main__":
    sys.exit(main())
