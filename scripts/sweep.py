#!/usr/bin/env python3
"""`python -m diffstride.sweep`, from a checkout."""

import pathlib
import runpy
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
runpy.run_module("diffstride.sweep", run_name="__main__", alter_sys=True)
