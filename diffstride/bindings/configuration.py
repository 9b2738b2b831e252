"""Two configurations of gin: whether they mean the same."""

import inspect

import gin
from absl import logging

from diffstride.bindings.reading import MACRO, Reading, defaults, name
from diffstride.training.workdir import Configuration

# Parameters that tell how a run is made, shown and kept, not what comes out.
_FREE_TO_CHANGE = {
    "cache_dir",
    "checkpoint_steps",
    "data_dir",
    "deterministic",
    "devices",
    "eval_checkpoint",
    "jit_compile",
    "keep_checkpoints",
    "pictures_every",
    "shift_consistency",
    "shift_consistency_every",
    "tensorboard",
    "test_flips",
    "verbose",
    "workers",
}


class GinConfiguration(Configuration):
    """A configuration that knows which bindings mean the same."""

    def differences(self, earlier, free=()):
        """What to tell about another configuration, line by line.

        A value that only one of the two has is compared with the default of the
        parameter. So a run goes on with a later version of this package that
        has more parameters.
        """
        try:
            old, new = _meaning(earlier), _meaning(self.text)
        except (ValueError, SyntaxError):
            return super().differences(earlier)
        lines = []
        for key in sorted(old.keys() | new.keys()):
            if key[-1] in {*free, *_FREE_TO_CHANGE}:
                continue
            default = _default(key)
            if key not in new and default is _UNKNOWN:
                logging.warning(
                    "`%s` is no parameter any more; it was %s.",
                    name(key),
                    old[key],
                )
                continue
            before, now = old.get(key, default), new.get(key, default)
            if before != now:
                for when, value in (("there:", before), ("now:  ", now)):
                    if value not in (_UNKNOWN, inspect.Parameter.empty):
                        lines.append(f"{when} {name(key)} = {value!r}")
        return lines


_UNKNOWN = object()


def _default(key):
    """The default of a parameter, or `_UNKNOWN` if there is no such one."""
    _, selector, parameter = key
    configurable = gin.config._REGISTRY[selector].wrapped
    return _plain(defaults(configurable).get(parameter, _UNKNOWN), {})


class _Name(str):
    """What a reference refers to; its representation is that of a gin file."""

    def __repr__(self):
        return str(self)


def _meaning(text):
    """The values of a configuration, without macros and short names."""
    values = Reading(bindings=[text]).compositions[-1]
    return {
        key: _plain(value, values)
        for key, value in values.items()
        if key[1] != MACRO
    }


def _plain(value, values):
    """A value in which names stand for references, and no macro is left."""
    if isinstance(value, gin.config.ConfigurableReference):
        scope, selector = value.config_key
        if selector == MACRO:
            return _plain(values.get((scope, MACRO, "value")), values)
        path = f"{scope}/{selector}".removeprefix("/")
        return _Name(f"@{path}" + "()" * value._evaluate)
    if isinstance(value, (list, tuple)):
        return [_plain(each, values) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each, values) for name, each in value.items()}
    if inspect.isclass(value) or inspect.isfunction(value):
        registered = gin.config._INVERSE_REGISTRY.get(value)
        return _Name(f"@{registered.selector}") if registered else value
    return value
