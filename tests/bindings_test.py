"""What files and the command line bind, and what of it a run can use."""

import gin
import pytest

from diffstride import configurables
from diffstride.bindings import reading
from diffstride.bindings.configuration import GinConfiguration
from diffstride.configurables import parse
from diffstride.validation import ConfigError

pytestmark = pytest.mark.once

QUICKSTART = ["quickstart.gin"]


@pytest.fixture(autouse=True)
def _clear_config():
    yield
    gin.clear_config()


def unread():
    return [reading.name(key) for key in reading.unread()]


def test_scopes():
    parse(
        [],
        [
            "schedules.cosine.peak = 1.0",
            "a/schedules.cosine.peak = 2.0",
            "a/b/schedules.cosine.warmup_epochs = 1",
            "c/schedules.cosine.peak = 3.0",
        ],
    )
    cosine = gin.get_configurable("schedules.cosine")
    with gin.config_scope("a/b"):
        cosine(10, 4)
    assert unread() == ["schedules.cosine.peak", "c/schedules.cosine.peak"]
    cosine(10, 4, peak=5.0)  # The caller's value, not the bound one.
    assert "schedules.cosine.peak" in unread()
    cosine(10, 4)
    assert unread() == ["c/schedules.cosine.peak"]


@pytest.mark.parametrize(
    "files, bindings, let_off",
    [
        (["quickstart.gin", "pooling/strided.gin"], [], "pooling.DiffStride."),
        (
            ["papers/diffstride/cifar10.gin"],
            ["train.train.learning_rate = @schedules.cosine"],
            "`schedules.piecewise.values` (",
        ),
        (
            ["papers/diffstride/cifar10.gin"],
            ["train.train.optimizer = @optimizers.Adam"],
            "`optimizers.SGD.momentum` (",
        ),
        (
            ["papers/diffstride/cifar10.gin"],
            ["train.train.model = @resnet.resnet56"],
            "`resnet.resnet18.weight_decay` (",
        ),
        (["modern.gin", "pooling/spectral.gin"], [], "pooling.DiffStride.ramp"),
    ],
)
def test_what_an_override_makes_useless_is_a_warning(
    files, bindings, let_off, caplog
):
    parse(files, bindings)
    configurables.check_bindings()
    assert "Without effect in this run" in caplog.text
    assert let_off in caplog.text and ".gin:" in caplog.text


@pytest.mark.parametrize(
    "bindings, culprit",
    [
        (["schedules.cosine.peak = 1.0"], "`schedules.cosine.peak`."),
        (["SOME_MACRO = 1"], "`SOME_MACRO`."),
        (
            ["a/pooling.DiffStride.norm = 'ortho'"],
            "`a/pooling.DiffStride.norm`",
        ),
        (
            ["POOLING = None", "pooling.DiffStride.ramp = 'inside'"],
            "`pooling.DiffStride.ramp`.",
        ),
    ],
)
def test_what_the_command_line_binds_must_be_used(bindings, culprit):
    parse(QUICKSTART, bindings)
    with pytest.raises(ConfigError) as error:
        configurables.check_bindings()
    assert f"Nothing in this run asks for: {culprit}" in str(error.value)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, *lines):
        (tmp_path / name).write_text("\n".join(lines))
        return name

    return write


def test_a_file_that_binds_to_no_purpose_by_itself_is_wrong(write):
    dead = "losses.BinaryCrossentropy.label_smoothing = 0.1"
    file = write("mine.gin", "include 'quickstart.gin'", dead)
    for bindings in ([], ["train.train.num_epochs = 1"]):
        parse([file], bindings)
        with pytest.raises(ConfigError, match=r"smoothing` \(mine.gin:2\)"):
            configurables.check_bindings()
    # What the file includes may become useless through the file itself.
    parse([write("mine.gin", "include 'quickstart.gin'", "POOLING = None")])
    configurables.check_bindings()


def test_what_is_handed_over_but_never_called(write, caplog):
    file = write(
        "mine.gin",
        "train.train.learning_rate = @schedules.cosine",
        "schedules.cosine.peak = 1.0",
        "optimizers.SGD.momentum = 0.9",
        "train.train.optimizer = @optimizers.SGD",
    )
    parse([file])
    gin.get_configurable("optimizers.SGD")(learning_rate=0.1)
    configurables.operative_config()
    assert unread() == [
        "schedules.cosine.peak",
        "train.train.learning_rate",
        "train.train.optimizer",
    ]
    parse([file], ["schedules.cosine.peak = 2.0"])
    with pytest.raises(ConfigError, match="asks for: `schedules.cosine.peak`"):
        configurables.operative_config()
    # The caller has a value of its own, whatever else is bound.
    parse([write("mine.gin", "optimizers.SGD.learning_rate = 0.2")])
    gin.get_configurable("optimizers.SGD")(learning_rate=0.1)
    with pytest.raises(ConfigError, match=r"rate` \(mine.gin:1\)"):
        configurables.operative_config()


@pytest.mark.parametrize(
    "binding, message",
    [
        (
            "images.tfds_images.flip = 'no'",
            "flip` must be True or False",
        ),
        ("optimizers.SGD.nesterov = 1", "nesterov` must be True or False"),
        (
            "train.train.deterministic = %YES",
            "istic` must be True or False",
        ),
        ("train.train.num_epochs = '3'", "num_epochs` must be a number"),
    ],
)
def test_types_are_checked_before_anything_is_made(binding, message):
    with pytest.raises(ConfigError, match=message):
        parse([], ["YES = 'yes'", binding])


def configuration(*lines):
    return GinConfiguration("\n".join(lines))


def test_configurations_that_mean_the_same(caplog):
    new = configuration(
        "# Parameters for train:",
        "train.train.num_epochs = 5",
        "train.train.seed = 0",  # A default.
        "train.train.devices = ['CPU:0']",
        "optimizers.SGD.momentum = 0.5",
        "resnet18.pooling_cls = %POOLING",
        "POOLING = @pooling.DiffStride",
        "resnet18.strides = [1, 2]",
    )
    same = [
        "train.num_epochs = 5",
        "train.train.devices = None",
        "train.train.optimizer = @optimizers.SGD",
        "SGD.momentum = 0.5",
        "resnet.resnet18.pooling_cls = @DiffStride",
        "resnet.resnet18.strides = \\",
        "    (1,",
        "     2)",
    ]
    assert new.differences("\n".join(same)) == []
    other = same + ["pooling.DiffStride.norm = 'forward'", "train.seed = 1"]
    other[0] = "train.num_epochs = 7"
    assert new.differences("\n".join(other)) == [
        "there: pooling.DiffStride.norm = 'forward'",
        "now:   pooling.DiffStride.norm = 'backward'",
        "there: train.train.num_epochs = 7",
        "now:   train.train.num_epochs = 5",
        "there: train.train.seed = 1",
        "now:   train.train.seed = 0",
    ]
    free = ("num_epochs", "norm", "seed")
    assert new.differences("\n".join(other), free) == []
    # A version that had a parameter more.
    older = [*same, "resnet.resnet18.that_was = 3"]
    assert new.differences("\n".join(older)) == []
    assert "`resnet.resnet18.that_was` is no parameter any more" in caplog.text
    # What is unknown as a whole is compared line by line.
    assert "there: lost.function.x = 1" in new.differences(
        "lost.function.x = 1"
    )


def fails(layer):
    raise ValueError(
        "`strides` must be finite numbers of 1 or more. Received: strides=[0]"
    )


@pytest.mark.parametrize(
    "call, bindings, message",
    [
        (
            lambda: gin.get_configurable("pooling.DiffStride")(),
            ["pooling.DiffStride.smoothness_factor = -1"],
            "`smoothness_factor` must be a finite number of 0 or more. "
            "Received: smoothness_factor=-1 "
            "(`pooling.DiffStride.smoothness_factor = -1`, the command line)",
        ),
        (
            lambda: gin.get_configurable("schedules.cosine")(num_epochs=3),
            ["train.train.learning_rate = @schedules.cosine"],
            "Nothing binds `steps_per_epoch` of `cosine`. "
            "(`train.train.learning_rate = @schedules.cosine`, "
            "the command line)",
        ),
    ],
)
def test_an_error_is_one_sentence_with_the_binding(
    call, bindings, message, tmp_path
):
    parse([], bindings)
    with pytest.raises(SystemExit) as error:
        with configurables.errors_in_sentences(tmp_path / "run"):
            call()
    kind, _, text = str(error.value.code).partition(": ")
    text, _, log = text.partition("\nThe traceback: ")
    assert kind in ("ValueError", "TypeError") and text == message
    assert log == str(tmp_path / "run" / "error.log")
    traceback = (tmp_path / "run" / "error.log").read_text()
    assert traceback.startswith("Traceback (most recent call last)")


def test_errors_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file" / "run", None):
        with pytest.raises(SystemExit, match="ValueError: .*\n.*\n+Traceback"):
            with configurables.errors_in_sentences(workdir):
                fails(None)
