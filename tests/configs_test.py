"""Every shipped experiment builds, trains a step and is evaluated."""

import contextlib
import pathlib
import re
import wave

import gin
import keras
import numpy as np
import pytest

from diffstride import configurables
from diffstride.analysis.learned_layers import learned_layers
from diffstride.data import audio
from diffstride.data.clips import collect
from diffstride.data.tfds_source import write_tfds
from diffstride.layers import pooling
from diffstride.training import losses_and_metrics, plots

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
COMMAND = "python -m diffstride.train"
EXPERIMENTS = [
    str(path.relative_to(CONFIGS))
    for path in sorted(CONFIGS.rglob("*.gin"))
    if COMMAND in path.read_text()
]
FRAGMENTS = [
    str(path.relative_to(CONFIGS))
    for path in sorted(CONFIGS.rglob("*.gin"))
    if COMMAND not in path.read_text()
]
# Experiments whose network and kind of data are those of another one. They are
# trained in the slow part, and the other one always.
LIKE_ANOTHER = {
    "papers/diffres/fsd50k.gin": "papers/diffres/fsd50k_whole_clips.gin",
    "papers/diffres/nsynth.gin": "papers/diffres/esc50.gin",
    "papers/diffres/nsynth_b0.gin": "papers/diffres/speech_words_b0.gin",
    "papers/diffres/speech_words.gin": "papers/diffres/esc50.gin",
    **{
        f"papers/diffstride/audio_{task}.gin": (
            "papers/diffstride/audio_acoustic_scenes.gin"
        )
        for task in ("birdsong", "nsynth_instrument", "speech_words")
    },
    **{
        f"papers/{name.format(100)}.gin": f"papers/{name.format(10)}.gin"
        for name in (
            "diffstride/cifar{}_densenet",
            "diffstride/cifar{}_diffstride",
            "diffstride/cifar{}_efficientnet",
            "diffstride/release_cifar{}",
            "hybrid/cifar{}",
        )
    },
}
BATCH_SIZE = 4
NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000}
AUDIO_CLASSES = {
    "acoustic_scenes": 10,
    "audioset": 527,
    "birdsong": 2,
    "esc10": 10,
    "esc50": 50,
    "fsd50k": 200,
    "instrument/family": 11,
    "pitch": 128,
    "speech_commands": 12,
    "speech_words": 35,
}

# The same experiment on a small scale: what to bind where something is used.
SMALL = {
    "train.train": ["train.train.num_epochs = 1"],
    "images.tfds_images": [
        f"images.tfds_images.batch_size = {BATCH_SIZE}",
        "images.tfds_images.data_dir = '{data_dir}'",
        "images.tfds_images.name = 'tiny_{name}'",
        "images.tfds_images.image_size = 32",
        "images.tfds_images.cache_dir = None",
    ],
    "audio.tfds_audio": [f"audio.tfds_audio.batch_size = {BATCH_SIZE}"],
    "audio.folder_audio": [
        "audio.folder_audio.folder = '{data_dir}/sounds'",
        f"audio.folder_audio.batch_size = {BATCH_SIZE}",
        "audio.folder_audio.train_steps = 1",
    ],
    "audio.manifest_audio": [
        "audio.manifest_audio.path = '{data_dir}/sounds.csv'",
        f"audio.manifest_audio.batch_size = {BATCH_SIZE}",
        "audio.manifest_audio.train_steps = 1",
    ],
    "arrays.from_arrays": [
        "arrays.from_arrays.data = '{data_dir}/label_maps.npz'",
        f"arrays.from_arrays.batch_size = {BATCH_SIZE}",
        "arrays.from_arrays.crop_padding = 2",
    ],
    "multi_task.multi_task": [
        "audio.tfds_audio.batch_size = 1",
        "acoustic_scenes/audio.tfds_audio.batch_size = 2",
    ],
    "audio_cnn.audio_cnn": [f"audio_cnn.audio_cnn.channels = {6 * [4]}"],
    "audio_tagger.audio_tagger": [
        "audio_tagger.audio_tagger.width_coefficient = 0.1",
        "audio_tagger.audio_tagger.depth_coefficient = 0.1",
        "audio_tagger.audio_tagger.weights = None",
        "audio.tfds_audio.train_steps = 1",
    ],
    "synthetic.synthetic": [
        f"synthetic.synthetic.batch_size = {BATCH_SIZE}",
        f"synthetic.synthetic.num_train = {2 * BATCH_SIZE}",
        "synthetic.synthetic.num_test = 8",
    ],
    "resnet.resnet18": [
        "resnet.resnet18.filters = 4",
        "resnet.resnet18.num_layers = 1",
    ],
    "resnet.resnet18_imagenet": [
        "resnet.resnet18_imagenet.filters = 4",
        "resnet.resnet18_imagenet.num_layers = 1",
    ],
    "resnet.resnet56": [
        "resnet.resnet56.filters = 4",
        "resnet.resnet56.num_layers = 1",
    ],
    "efficientnet.efficientnet": [
        "efficientnet.efficientnet.resize_to = None",
        "efficientnet.efficientnet.width_coefficient = 0.1",
        "efficientnet.efficientnet.depth_coefficient = 0.1",
    ],
    "fast_cnn.fast_cnn": ["fast_cnn.fast_cnn.filters = [4, 4, 4]"],
    "unet.unet": ["unet.unet.filters = [2, 2, 4, 4]"],
    "densenet.densenet": [
        "densenet.densenet.blocks = [1, 1, 1, 1]",
        "densenet.densenet.growth = 4",
    ],
}
# Taken on the small scale only where the experiment binds a number.
SMALL_IF_BOUND = {
    "audio.tfds_audio.train_steps": 1,
    "audio.tfds_audio.window_seconds": 1,
    "STEPS_PER_EPOCH/macro.value": 1,
    "images.tfds_images.num_train_examples": BATCH_SIZE,
}


def test_there_are_experiments():
    assert "quickstart.gin" in EXPERIMENTS


@pytest.mark.parametrize("experiment", LIKE_ANOTHER)
def test_what_is_slow_is_like_another(experiment):
    assert experiment in EXPERIMENTS
    assert LIKE_ANOTHER[experiment] not in LIKE_ANOTHER
    parts = []
    for name in (experiment, LIKE_ANOTHER[experiment]):
        configurables.parse([name])
        parts.append(
            [
                str(gin.query_parameter(f"train.train.{part}"))
                for part in ("dataset", "model", "loss", "optimizer")
                if bound(f"train.train.{part}") is not None
            ]
        )
    assert parts[0] == parts[1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Sets of TFDS with as many classes as the real ones."""
    directory = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    for name, num_classes in NUM_CLASSES.items():
        splits = {
            split: (
                rng.integers(0, 256, (BATCH_SIZE, 32, 32, 3), "uint8"),
                rng.integers(0, num_classes, BATCH_SIZE),
            )
            for split in ("train", "test")
        }
        write_tfds(directory, f"tiny_{name}", splits, num_classes)
    write_label_maps(directory)
    write_sounds(directory)
    return directory


def write_label_maps(directory):
    """A file of arrays and a set of TFDS, with the labels that configs name."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH_SIZE, 32, 32, 3), "uint8")
    maps = rng.integers(0, 12, (BATCH_SIZE, 32, 32), "uint8")
    np.savez(
        directory / "label_maps.npz",
        **{f"x_{split}": images for split in ("train", "test")},
        **{f"y_{split}": maps for split in ("train", "test")},
    )
    splits = {split: (images, 1 + maps % 3) for split in ("train", "test")}
    write_tfds(directory, "tiny_oxford_iiit_pet", splits, 3)


def write_sounds(directory):
    """Half a second of noise in ten files of two classes, and a list."""
    lines = ["path,label,split"]
    for index in range(10):
        label = "cat" if index % 2 else "dog"
        path = directory / "sounds" / label / f"{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(index).bytes(16000))
        lines.append(f"{path},{label},{'test' if index < 2 else 'train'}")
    (directory / "sounds.csv").write_text("\n".join(lines))


@pytest.fixture(autouse=True)
def _eagerly(monkeypatch):
    """One step is not worth a compilation, nor a plot."""
    monkeypatch.setattr(plots, "plot_strides", lambda *args: False)
    compile_model = keras.Model.compile
    monkeypatch.setattr(
        keras.Model,
        "compile",
        lambda self, **kwargs: compile_model(self, **kwargs, run_eagerly=True),
    )
    yield
    gin.clear_config()


class TinyClips:
    """Two short sounds of every split, with the classes of the real set."""

    splits = ("fold1", "fold2")

    def __init__(self, name, data_dir, label, **kwargs):
        classes = AUDIO_CLASSES[label if name == "nsynth" else name]
        self.class_names = list(map(str, range(classes)))
        tags = name in ("audioset", "fsd50k")
        self.labels = ([0], [0, 1]) if tags else (0, 1)

    def read(self, split):
        sounds = np.random.default_rng(0).integers(-9999, 9999, (2, 16000))
        examples = zip(sounds.astype("int16"), self.labels, strict=True)
        return collect(examples, self.class_names)

    def warn_of_overlap(self, train_split, test_split):
        pass


@pytest.fixture(autouse=True)
def _tiny_sounds(monkeypatch):
    monkeypatch.setattr(audio, "TFDSClips", TinyClips)


def bound(parameter):
    with contextlib.suppress(ValueError):
        return gin.query_parameter(parameter)


def train_a_step(files, workdir, data_dir, more=()):
    configurables.parse(files)
    text = gin.config_str()
    name = bound("images.tfds_images.name")
    bindings = [
        binding.format(data_dir=data_dir, name=name)
        for selector, small in SMALL.items()
        if selector == "train.train" or f"@{selector}\n" in text
        for binding in small
    ]
    for name, value in SMALL_IF_BOUND.items():
        if isinstance(bound(name), int):
            bindings.append(f"{name} = {value}")
    if bound("images.tfds_images.mixup_pairs"):
        # Two images make an example.
        bindings.append(f"images.tfds_images.batch_size = {BATCH_SIZE // 2}")
    configurables.parse(files, [*bindings, *more])
    return gin.get_configurable("train.train")(
        workdir=workdir, config=configurables.operative_config, verbose=0
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in LIKE_ANOTHER
        else name
        for name in EXPERIMENTS
    ],
)
@pytest.mark.filterwarnings("ignore:Even though")
def test_experiment_trains_a_step(experiment, tmp_path, data_dir):
    history = train_a_step([experiment], tmp_path, data_dir)
    assert len(history) == 1
    assert all(np.isfinite(history[0][name]) for name in ("loss", "val_loss"))
    assert (tmp_path / "model.keras").exists()


def test_the_configuration_of_the_release_is_what_ran():
    """Its learning rate, data and network by its own code, not by its words."""
    configurables.parse(["papers/diffstride/release_cifar10.gin"])
    schedule = gin.query_parameter("train.train.learning_rate")
    schedule = schedule.scoped_configurable_fn()
    steps = [0, 400, 401, 18_000, 18_001, 32_000, 32_001, 77_999]
    rates = [0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose([float(schedule(s)) for s in steps], rates)
    assert bound("train.train.num_epochs") * 195 == 78_000
    assert bound("images.tfds_images.batch_size") == 128
    for name, value in {
        "shuffle_buffer": 1000,
        "mixup_pairs": True,
        "mixup_alpha": 0.2,
        "label_smoothing": 0.0,
        "crop_padding": 0,
        "flip": False,
        "normalize": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    }.items():
        assert bound(f"images.tfds_images.{name}") == value
    model = gin.get_configurable("resnet.resnet18")(filters=4)
    head = model.layers[-1]
    assert head.activation is keras.activations.softmax
    for regularizer in (head.kernel_regularizer, head.bias_regularizer):
        assert float(regularizer.l2) == pytest.approx(5e-4)
    learned = [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, pooling.DiffStride)
    ]
    assert len(learned) == 4 and learned[0].startswith("stem")
    assert not losses_and_metrics.cross_entropy(model, 10).from_logits
    optimizer = keras.optimizers.SGD(schedule)
    config = optimizer.get_config()["learning_rate"]
    assert config["module"] == "keras.optimizers.schedules"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_header_has_the_command_of_this_file(experiment):
    text = (CONFIGS / experiment).read_text()
    header = text[: text.index("\n\n")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"--gin_file=configs/{experiment}" in header
    assert re.search(r"--workdir=\S+", header)


@pytest.mark.parametrize(
    "config, slots, activated_shortcut",
    [
        ("papers/diffstride/release_cifar10.gin", "stem 2 3 4", False),
        ("papers/diffstride/release_cifar100.gin", "stem 2 3 4", False),
        ("papers/hybrid/cifar10.gin", "stem 2 3 4", False),
        ("papers/hybrid/cifar100.gin", "stem 2 3 4", False),
        ("papers/diffstride/cifar10.gin", "2 3 4", False),
        ("papers/diffstride/cifar100_diffstride.gin", "2 3 4", False),
        ("modern.gin", "1 2 3 4", True),
        ("studies/cifar10_small.gin", "1 2 3 4", True),
        ("studies/textures.gin", "1 2 3", True),
        ("quickstart.gin", "1 2 3", True),
    ],
)
def test_which_resnet18_a_config_trains(config, slots, activated_shortcut):
    filters = "resnet.resnet18.filters = 2"
    configurables.parse([config, "pooling/diffstride.gin"], [filters])
    with keras.StatelessScope(initialize_variables=False):
        model = gin.get_configurable("resnet.resnet18")(input_shape=(32, 32, 3))
    names = [
        "stem_pooling" if slot == "stem" else f"block{slot}_layer1_pooling"
        for slot in slots.split()
    ]
    assert [layer.name for layer in learned_layers(model)] == names
    block = model.get_layer("block2")
    assert block.layers[0].activated_shortcut == activated_shortcut


@pytest.mark.parametrize(
    "experiment, files, bindings, order",
    [
        ("quickstart.gin", [], [], "after"),
        ("modern.gin", [], [], "before"),
        ("quickstart.gin", ["pooling/before.gin"], [], "before"),
        ("modern.gin", ["pooling/strided.gin"], [], "before"),
        ("quickstart.gin", [], ["POOLING_ORDER = 'before'"], "before"),
        ("modern.gin", [], ["resnet18.pooling_order = 'after'"], "after"),
        (
            "modern.gin",
            [],
            [f"resnet18.pooling_order = {4 * ['after']}"],
            "after",
        ),
    ],
)
def test_one_binding_sets_the_order_of_pooling(
    experiment, files, bindings, order
):
    small = ["resnet18.filters = 2", "resnet18.num_layers = 1", *bindings]
    configurables.parse([experiment, *files], small)
    with keras.StatelessScope(initialize_variables=False):
        model = gin.get_configurable("resnet.resnet18")(input_shape=(32, 32, 3))
    assert not configurables.useless(bindings)
    (layer,) = model.get_layer("block2").layers
    assert layer.pooling_order == order


@pytest.mark.parametrize(
    "fragment",
    [
        name
        for name in FRAGMENTS
        if "pooling_cls = %POOLING" in (CONFIGS / name).read_text()
    ],
)
def test_the_order_of_pooling_reaches_every_model(fragment):
    configurables.parse([fragment, "pooling/spectral.gin"])
    model = gin.query_parameter("train.train.model").selector
    order = gin.query_parameter(f"{model}.pooling_order")
    assert repr(order) == "%POOLING_ORDER"
    # Everywhere as published. A U-Net is published with pooling in front.
    published = "before" if model == "unet.unet" else "after"
    assert gin.query_parameter("%POOLING_ORDER") == published


def in_no_experiment(fragment):
    return not any(
        f"include '{fragment}'" in (CONFIGS / experiment).read_text()
        for experiment in EXPERIMENTS
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "model",
    [
        name
        for name in FRAGMENTS
        if name.startswith("models/")
        and in_no_experiment(name)
        # It needs maps of labels.
        and name != "models/unet.gin"
    ],
)
@pytest.mark.filterwarnings("ignore:Even though")
def test_other_model_learns_its_strides(model, tmp_path, data_dir):
    files = [
        "base.gin",
        "datasets/synthetic.gin",
        model,
        "pooling/diffstride.gin",
    ]
    history = train_a_step(files, tmp_path, data_dir)
    assert history[0]["strides"]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "pooling_file",
    [
        name
        for name in FRAGMENTS
        if name.startswith("pooling/") and in_no_experiment(name)
    ],
)
def test_other_pooling_trains_a_step(pooling_file, tmp_path, data_dir):
    files = [
        "base.gin",
        "datasets/synthetic.gin",
        "models/resnet18.gin",
        pooling_file,
    ]
    (row,) = train_a_step(files, tmp_path, data_dir)
    assert np.isfinite([row["loss"], row["val_loss"]]).all()


@pytest.mark.tensorflow
@pytest.mark.parametrize("frames", ["diffres", "avg_pool"])
def test_diffres_shows_in_the_history(frames, tmp_path, data_dir):
    files = ["studies/esc10_small.gin", f"frames/{frames}.gin"]
    (row,) = train_a_step(files, tmp_path, data_dir)
    assert "val_loss" in row and "val_activeness" not in row
    shown = {"guide_loss", "activeness"} <= set(row)
    assert shown == (frames == "diffres")


@pytest.mark.parametrize(
    "frames", [name for name in FRAGMENTS if name.startswith("frames/")]
)
def test_frames_are_bound(frames):
    configurables.parse(["studies/esc10_small.gin", frames])
    layer = bound("FRAMES/macro.value")
    assert layer.configurable.module == "diffres"


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "frames", [name for name in FRAGMENTS if name.startswith("frames/")]
)
@pytest.mark.parametrize(
    "experiment", [name for name in EXPERIMENTS if name.endswith("_b0.gin")]
)
def test_any_fragment_of_frames_goes_with_any_experiment(experiment, frames):
    configurables.parse(
        [experiment, frames],
        SMALL["audio_tagger.audio_tagger"][:3],
    )
    model = gin.get_configurable("audio_tagger.audio_tagger")(
        num_output_classes=3, input_shape=(16000,)
    )
    reduced = model.get_layer("frame_reduction").output.shape[1]
    whole = model.get_layer("frame_reduction").input.shape[1]
    # A rate of 0.25, of the recipe of the paper.
    expected = whole if frames == "frames/all.gin" else round(0.75 * whole)
    assert reduced == expected


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "frontend", [name for name in FRAGMENTS if name.startswith("frontends/")]
)
@pytest.mark.parametrize("model", ["audio_cnn", "audio_tagger"])
def test_any_front_end_goes_with_any_model(frontend, model):
    """With SpecAugment, and with DiffRes on the scale of the front end."""
    files = [f"models/{model}.gin", "pooling/strided.gin"]
    tagger = "audio_tagger.audio_tagger"
    bindings = ["NUM_BANDS = 12"]
    if model == "audio_tagger":
        files = ["papers/diffres/recipe_b0.gin", "frames/diffres.gin"]
        bindings += SMALL[tagger][:2]
        bindings += [f"{tagger}.augmentation = @spec_augment.SpecAugment"]
    configurables.parse([*files, frontend], bindings)
    built = gin.get_configurable(f"{model}.{model}")(
        num_output_classes=3, input_shape=(16000,)
    )
    layer = built.get_layer("frontend")
    assert layer.output.shape[1:] == (98, 12, 1)
    is_log = frontend in ("frontends/mel.gin", "frontends/td_fbanks.gin")
    if frontend != "frontends/mel_pcen.gin":
        assert layer.log_scale == is_log
    if model == "audio_tagger":
        assert built.get_layer("frame_reduction").log_scale == is_log
    outputs = built(np.zeros((2, 16000), "float32"))
    assert np.isfinite(outputs).all()


@pytest.mark.tensorflow
def test_filters_have_a_learning_rate_of_their_own(tmp_path, data_dir):
    files = ["studies/speech_small.gin", "frontends/leaf_efficient.gin"]
    files.append("pooling/strided.gin")
    bindings = ["train.train.filter_rate = 0.0"]
    train_a_step(files, tmp_path, data_dir, bindings)
    model = keras.saving.load_model(tmp_path / "model.keras")
    layer = model.get_layer("frontend")
    fresh = type(layer).from_config(layer.get_config())
    fresh.build((None, None))
    stays = {
        weight.name: np.array_equal(weight.numpy(), other.numpy())
        for weight, other in zip(layer.weights, fresh.weights, strict=True)
    }
    assert stays == {
        "log_center_frequencies": True,
        "log_bandwidths": True,
        "pooling_widths": True,
        "gain": False,
        "bias": False,
        "power": False,
        "smoothing": False,
    }


@pytest.mark.parametrize(
    "dataset", [name for name in FRAGMENTS if name.startswith("datasets/")]
)
def test_data_set_is_bound(dataset):
    configurables.parse([dataset])
    loader = gin.query_parameter("train.train.dataset")
    assert loader.configurable.module in (
        "arrays",
        "audio",
        "images",
        "multi_task",
        "synthetic",
    )
