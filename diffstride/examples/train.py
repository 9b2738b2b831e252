"""The import path of the 2022 release. `training.trainer` has the function."""

from diffstride.training.trainer import train

__all__ = ["train"]
