#!/usr/bin/env python3
"""`python -m diffstride.report`, from a checkout."""

import pathlib
import runpy
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
runpy.run_module("diffstride.report", run_name="__main__", alter_sys=True)
