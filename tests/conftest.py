"""Test set-up: quiet TensorFlow, and marks that depend on the backend."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")
# Most of the time of the tests is XLA's, which compiles programs that run once.
# `XLA_FLAGS= pytest` lets it optimize them as it does for users.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)

import keras
import pytest


def pytest_collection_modifyitems(items):
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


@pytest.fixture(autouse=True)
def _reset_keras():
    """Fixed seeds; no name counters or dtype policy leak between tests."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    keras.utils.clear_session(free_memory=False)
