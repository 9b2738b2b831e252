r"""Exports a trained model, and compares what it wrote with the model.

    python -m diffstride.export runs/cifar10 --output_dir exported
    python -m diffstride.export model.keras --formats onnx \
        --input_shape 224 224 3

The learned strides become constants (see `diffstride.freeze`), then the model
is written in each format: `saved_model/` for TensorFlow, `model.tflite` for
LiteRT and `model.onnx`. All take batches of any size. Each file is run, by
TensorFlow, the LiteRT interpreter and ONNX Runtime, on random batches of two
sizes; the largest difference of its outputs is printed, and written to
`parity.json`. The exit status is 1 if one exceeds `--tolerance`, relative to
the largest output if that is over 1. A format that fails is named there with
its error, leaves no file, and makes the exit status 1; the others are written.

It runs on TensorFlow; a model that was trained under JAX loads there. Formats
but TensorFlow's own need packages: `pip install "diffstride[export]"`.
"""

import argparse
import importlib.util
import json
import pathlib
import shutil
import sys
import typing

import keras
import numpy as np
from keras import tree

import diffstride
from diffstride.analysis.keras_graph import sublayers
from diffstride.layers.frame_reduction import BaseFrameReduction

BATCH_SIZES = (1, 3)


def run_saved_model(path, batches):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return [loaded.serve(batch) for batch in batches]


def run_litert(path, batches):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    return [runner(**{name: batch}) for batch in batches]


def run_onnx(path, batches):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    given, *others = session.get_inputs()
    if others:
        raise ValueError(
            "the model must have one input. "
            f"Received: inputs {[x.name for x in (given, *others)]}"
        )
    names = [output.name for output in session.get_outputs()]
    return [
        dict(zip(names, session.run(names, {given.name: batch}), strict=True))
        for batch in batches
    ]


class Format(typing.NamedTuple):
    """A format: its name in Keras, its file, what it needs and what runs it."""

    keras_name: str
    file: str
    modules: tuple
    run: typing.Callable
    oldest_keras: tuple = (3, 12)


FORMATS = {
    "saved_model": Format("tf_saved_model", "saved_model", (), run_saved_model),
    "litert": Format(
        "litert", "model.tflite", ("ai_edge_litert",), run_litert, (3, 13)
    ),
    "onnx": Format(
        "onnx", "model.onnx", ("onnx", "tf2onnx", "onnxruntime"), run_onnx
    ),
}


class ExportError(Exception):
    """What the user can do something about."""


def find_model(path):
    """The file of a model, or of the one in the work directory of a run."""
    path = pathlib.Path(path)
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file() or file.suffix != ".keras":
        raise ExportError(
            "`model` must be a .keras file, or the work directory of a run "
            f"that has ended and left its model.keras. Received: model={path}"
        )
    return file


def is_beyond_keras(wanted):
    """Whether the installed Keras is too old to write a format."""
    installed = tuple(map(int, keras.version().split(".")[:2]))
    return installed < wanted.oldest_keras


def check_packages(formats):
    for name in formats:
        missing = [
            module
            for module in FORMATS[name].modules
            if importlib.util.find_spec(module) is None
        ]
        if missing:
            raise ExportError(
                f"`formats` has '{name}', which needs {', '.join(missing)}: "
                'install it with `pip install "diffstride[export]"`'
            )
        if is_beyond_keras(FORMATS[name]):
            oldest = ".".join(map(str, FORMATS[name].oldest_keras))
            raise ExportError(
                f"`formats` has '{name}', which needs Keras {oldest}: upgrade "
                "Keras, or name other formats. Received: Keras "
                f"{keras.version()}"
            )
    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "Models are exported on TensorFlow, where those trained on another "
            "backend load as well: set KERAS_BACKEND=tensorflow. "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )


def random_batches(model, test_shape=None, seed=0):
    """Batches of several sizes, uniform between -1 and 1."""
    if len(model.inputs) != 1:
        raise ExportError(
            "`model` must have one input. "
            f"Received: a model of {len(model.inputs)} inputs"
        )
    shape = (
        tuple(model.inputs[0].shape[1:]) if test_shape is None else test_shape
    )
    if None in shape:
        raise ExportError(
            "`--test_shape` must be given, as the model takes inputs of any "
            f"size: {shape}"
        )
    generator = np.random.default_rng(seed)
    return [
        generator.uniform(-1, 1, (batch_size, *shape)).astype("float32")
        for batch_size in BATCH_SIZES
    ]


def outputs_of(run):
    """The arrays of a structure of outputs, in the order of their names."""
    return [keras.ops.convert_to_numpy(x) for x in tree.flatten(run)]


def largest_difference(runs, expected):
    differences = [
        np.abs(got - wanted).max()
        for run, wanted_run in zip(runs, expected, strict=True)
        for got, wanted in zip(
            outputs_of(run), outputs_of(wanted_run), strict=True
        )
    ]
    return float(np.max(differences))  # NaN if one of them is, unlike `max`.


def set_reduction_rate(model, reduction_rate):
    """Sets the share of frames that the layers of a model do without."""
    layers = [
        layer
        for layer in sublayers(model)
        if isinstance(layer, BaseFrameReduction)
    ]
    if not layers:
        raise ExportError(
            "`--reduction_rate` needs a model with a layer that reduces "
            f"frames, such as DiffRes. Received: model '{model.name}'"
        )
    for layer in layers:
        layer.reduction_rate = reduction_rate


def export(
    model,
    output_dir,
    formats=tuple(FORMATS),
    input_shape=None,
    test_shape=None,
    dtype="float32",
    seed=0,
    reduction_rate=None,
):
    """Freezes a model, writes it in all formats and runs what it wrote.

    Returns:
        A dict with the sizes and the differences of each file from the outputs
        of the frozen model, and of that from the outputs of the model. A format
        that failed has an error instead.
    """
    if reduction_rate is not None:
        set_reduction_rate(model, reduction_rate)
    output_dir = pathlib.Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    frozen = diffstride.freeze(model, input_shape, dtype)
    batches = random_batches(frozen, test_shape, seed)
    expected = [frozen.predict_on_batch(batch) for batch in batches]
    runs = [model.predict_on_batch(batch) for batch in batches]
    report = {
        "batch_shapes": [list(batch.shape) for batch in batches],
        "largest_output": max(
            float(np.abs(x).max()) for x in outputs_of(expected)
        ),
        "freezing": largest_difference(runs, expected),
        "formats": {},
    }
    for name in formats:
        path = output_dir / FORMATS[name].file
        try:
            report["formats"][name] = export_format(
                frozen, name, path, batches, expected
            )
        # Converters raise errors of many classes.
        except Exception as error:
            remove(path)
            message = f"{type(error).__name__}: {error}"
            report["formats"][name] = {"path": str(path), "error": message}
    return report


def export_format(frozen, name, path, batches, expected):
    """Writes a model in one format, and runs what was written."""
    remove(path)
    frozen.export(path, format=FORMATS[name].keras_name, verbose=False)
    files = path.rglob("*") if path.is_dir() else [path]
    return {
        "path": str(path),
        "bytes": sum(file.stat().st_size for file in files),
        "difference": largest_difference(
            FORMATS[name].run(path, batches), expected
        ),
    }


def remove(path):
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def print_report(report):
    print(f"largest output {report['largest_output']:.3g}; differences:")
    print(f"{'freezing':12s} {report['freezing']:8.1e}")
    for name, row in exported(report).items():
        print(
            f"{name:12s} {row['difference']:8.1e} "
            f"{row['bytes'] / 1e6:8.2f} MB  {row['path']}"
        )


def exported(report):
    """The rows of the formats that did not fail."""
    rows = report["formats"].items()
    return {name: row for name, row in rows if "error" not in row}


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help=".keras file, or work directory of a run")
    parser.add_argument("--output_dir", default="exported")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=list(FORMATS)
    )
    parser.add_argument(
        "--input_shape",
        nargs="+",
        type=int,
        help="shape of an example, for a model that takes any size",
    )
    parser.add_argument(
        "--test_shape",
        nargs="+",
        type=int,
        help="shape of the random examples, where sizes remain unknown",
    )
    parser.add_argument(
        "--reduction_rate",
        type=float,
        help="share of frames that DiffRes does without, where it is not that "
        "of the model",
    )
    parser.add_argument("--dtype", default="float32", help="of all layers")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv=None):
    arguments = parse_arguments(argv)
    try:
        file = find_model(arguments.model)
        check_packages(arguments.formats)
        report = export(
            keras.saving.load_model(file, compile=False),
            arguments.output_dir,
            arguments.formats,
            arguments.input_shape,
            arguments.test_shape,
            arguments.dtype,
            arguments.seed,
            arguments.reduction_rate,
        )
    except (ExportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = {"model": str(file), "tolerance": arguments.tolerance, **report}
    path = pathlib.Path(arguments.output_dir) / "parity.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print_report(report)
    limit = arguments.tolerance * max(1, report["largest_output"])
    errors = [
        f"format '{name}' failed with {row['error']}"
        for name, row in report["formats"].items()
        if "error" in row
    ] + [
        f"a difference exceeds {limit:.1e} in format '{name}'"
        for name, row in exported(report).items()
        if not row["difference"] <= limit
    ]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
