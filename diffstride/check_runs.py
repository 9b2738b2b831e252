"""Checks the configurations of many runs in one process, before any starts.

`python -m diffstride.sweep` asks for it. Standard input is a JSON list of
objects with `files` and `bindings`, as `--gin_file` and `--gin_param` give
them; standard output is a JSON list with the `error` of each, or null, and with
its `useless` bindings, which are of nothing that the run refers to.
"""

import json
import sys

from diffstride import configurables
from diffstride.validation import ConfigError


def check(files, bindings):
    """What is wrong with a configuration, and which bindings it cannot use."""
    try:
        configurables.parse(files, bindings)
        configurables.check_complete()
        useless = configurables.useless(bindings)
        configurables.parse(files, [b for b in bindings if b not in useless])
        configurables.check_bindings()
        return {"error": None, "useless": useless}
    except ConfigError as error:
        return {"error": str(error), "useless": []}


if __name__ == "__main__":
    print(json.dumps([check(**request) for request in json.load(sys.stdin)]))
