"""Packaging of diffstride."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
README = (HERE / "README.md").read_text()
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (HERE / "diffstride" / "__init__.py").read_text(),
    re.MULTILINE,
).group(1)

AUDIO = ["array_record>=0.5", "soundfile>=0.12.1", "soxr>=0.4"]
DOCS = [
    "ipykernel>=6",
    "matplotlib>=3.8.4",
    "mkdocs>=1.6",
    "mkdocs-jupyter>=0.25",
    "mkdocs-material>=9.5",
    "mkdocstrings[python]>=0.26",
]
EXPORT = [
    "ai-edge-litert>=1.2",
    "onnx>=1.17",
    "onnxruntime>=1.20",
    "tf2onnx>=1.16.1",
]
# Several processes that train together need this version.
JAX = ["jax>=0.5.3"]
PLOT = ["matplotlib>=3.8.4"]
RAY = ["ray>=2.9"]
TENSORBOARD = ["tensorboard>=2.18"]

setup(
    name="diffstride",
    version=VERSION,
    description="Learned strides and learned temporal resolution for Keras.",
    # Pictures are files of the checkout, which an index of packages lacks.
    long_description=re.sub(r"!\[[^]]*\]\(docs/[^)]*\)\n", "", README),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    author="The diffstride authors",
    url="https://arxiv.org/abs/2202.01653",
    project_urls={
        "Learned strides": "https://arxiv.org/abs/2202.01653",
        "Learned temporal resolution": "https://arxiv.org/abs/2210.01719",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="keras tensorflow jax pooling strides spectrogram",
    packages=[
        *find_packages(include=["diffstride", "diffstride.*"]),
        "diffstride.packaged.configs",
    ],
    # `configs/` stands at the top of a checkout, and travels in the wheel.
    package_dir={"diffstride.packaged.configs": "configs"},
    package_data={
        "diffstride": ["py.typed", "examples/*.gin"],
        "diffstride.packaged.configs": ["**/*.gin", "**/*.toml"],
    },
    install_requires=[
        "absl-py>=2.0",
        "gin-config>=0.5",
        # TFDS imports it on every Python, and asks for it on old ones only.
        "importlib-resources>=6",
        "keras>=3.12",
        # Older versions compute float32 scalars in float64.
        "numpy>=2.0",
        "tensorflow>=2.18",
        "tensorflow-datasets>=4.9.7",
        # Sweep files are TOML, which Python reads by itself from 3.11 on.
        "tomli>=2; python_version < '3.11'",
    ],
    extras_require={
        "audio": AUDIO,
        "docs": DOCS,
        "export": EXPORT,
        "gpu": ["tensorflow[and-cuda]>=2.18"],
        "jax": JAX,
        "plot": PLOT,
        "ray": RAY,
        "tensorboard": TENSORBOARD,
        "test": [
            *AUDIO,
            *EXPORT,
            *JAX,
            *PLOT,
            *TENSORBOARD,
            "librosa>=0.10.2",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.9",
            "scikit-learn>=1.5",
        ],
    },
)
