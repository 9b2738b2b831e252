"""Test set-up: quiet TensorFlow, and marks that depend on the backend."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")
# Most of the time of the tests is XLA's, which compiles programs that run once.
# `XLA_FLAGS= pytest` lets it optimize them as it does for users.
if os.environ.get("KERAS_BACKEND") == "jax":
    # TensorFlow 2.18 does not know the third, and would end there.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false "
        "--xla_cpu_parallel_codegen_split_count=1",
    )
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)

import keras
import pytest

SLOW = pytest.StashKey[set]()
FILES = pytest.StashKey[set]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    # Before those that `-m` does not choose are left out.
    config.stash[FILES] = {item.path.name for item in items}
    config.stash[SLOW] = {
        f"{item.path.name}::{item.originalname}"
        for item in items
        if "slow" in item.keywords and isinstance(item, pytest.Function)
    }
    backend = keras.backend.backend()
    reasons = {}
    if backend != "tensorflow":
        reasons["tensorflow"] = "needs the TensorFlow backend"
        reasons["once"] = "is tested once, on the TensorFlow backend"
    if backend == "torch":
        reasons["compiles"] = "needs a backend that compiles functions"
    for item in items:
        for mark, reason in reasons.items():
            if mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_configure(config):
    """Nothing here outlives the machine, so no test waits for its disk."""
    os.fsync = lambda file: None


def pytest_collection_finish(session):
    """Lets Python search for garbage in what is new alone.

    What is imported stays. What outlived some searches is not searched again,
    because that takes long; a worker ends with about 5 GB.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2000, 20, 10**6)


@pytest.fixture(autouse=True)
def _reset_keras():
    """Fixed seeds; no name counters or dtype policy leak between tests."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    keras.utils.clear_session(free_memory=False)
