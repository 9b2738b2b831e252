"""What gin has read: bindings, where they stand, and what can use them.

A binding is known by a key: its scope, the full name of what it configures, and
the parameter. A macro `NAME = 1` has the key `("NAME", "gin.macro", "value")`.
"""

import collections
import inspect
import io
import os
from typing import NamedTuple

import gin
from gin import config_parser

MACRO = "gin.macro"


class Source(NamedTuple):
    """Where a binding stands: a line of a file, or the command line."""

    file: str | None
    line: int

    def __str__(self):
        return f"{self.file}:{self.line}" if self.file else "the command line"


class Reading:
    """The bindings of gin files, and then those of the command line.

    Gin itself keeps the last value of each parameter alone.

    Args:
        files: paths, looked for where gin looks.
        bindings: strings like `"train.train.num_epochs = 10"`.

    Attributes:
        sources: dict from the key of a binding to the `Source` of its value.
        compositions: list of dicts from key to value: what each file binds
            together with those that it includes, what the first files of the
            run bind together, and, as the last one, all.
    """

    def __init__(self, files=(), bindings=()):
        self.sources = {}
        self.compositions = []
        together = {}
        for path in files:
            together |= self._read_file(path)
            self.compositions.append(dict(together))
        together |= self._read(io.StringIO("\n".join(bindings)), None)
        self.compositions.append(together)

    def is_of_command_line(self, key):
        return key in self.sources and self.sources[key].file is None

    def is_used_in_part(self, key):
        """Whether a part of the files, taken alone, uses a binding."""
        return any(key in used(part) for part in self.compositions[:-1])

    def _read_file(self, path):
        for prefix in gin.config._LOCATION_PREFIXES:
            full_path = os.path.join(prefix, path)
            for read, exists in gin.config._FILE_READERS:
                if exists(full_path):
                    with read(full_path) as file:
                        values = self._read(file, full_path)
                    self.compositions.append(values)
                    return values
        raise FileNotFoundError(path)

    def _read(self, file, path):
        values = {}
        delegate = gin.config.ParserDelegate()
        with gin.config._parse_scope() as context:
            for statement in config_parser.ConfigParser(file, delegate):
                if isinstance(statement, config_parser.BindingStatement):
                    key = _key(statement, context)
                    values[key] = statement.value
                    line = statement.location.line_num
                    self.sources[key] = Source(path, line)
                elif isinstance(statement, config_parser.IncludeStatement):
                    values |= self._read_file(statement.filename)
                elif isinstance(statement, config_parser.ImportStatement):
                    context.process_import(statement)
        return values


def _key(statement, context):
    scope, selector, parameter, *_ = statement
    if not parameter:
        return (f"{scope}/{selector}" if scope else selector), MACRO, "value"
    configurable = context.get_configurable(selector)
    if configurable is None:
        raise ValueError(f"Nothing has the name '{selector}'.")
    return scope, configurable.selector, parameter


def parse_key(binding):
    """The key of a single binding, such as `"train.train.seed = 3"`."""
    delegate = gin.config.ParserDelegate()
    with gin.config._parse_scope() as context:
        parser = config_parser.ConfigParser(binding, delegate)
        return _key(next(parser), context)


def bound():
    """All bindings in effect, from key to value."""
    return {
        (scope, selector, parameter): value
        for (scope, selector), parameters in gin.config._CONFIG.items()
        for parameter, value in parameters.items()
    }


def name(key):
    """What messages call a binding."""
    scope, selector, parameter = key
    if selector == MACRO:
        return scope
    return f"{scope}/{selector}.{parameter}".removeprefix("/")


def used(values):
    """Keys of the bindings that a run could use, as far as names tell.

    These are those of `train.train`, of what they refer to, and so on.

    Args:
        values: dict from key to value.
    """
    parameters = collections.defaultdict(set)
    for _, selector, parameter in values:
        parameters[selector].add(parameter)
    found, seen, calls = set(), set(), [("", "train.train")]
    while calls:
        call = calls.pop()
        if call in seen:
            continue
        seen.add(call)
        scope, selector = call
        for parameter in parameters[selector]:
            key = innermost(values, selector, parameter, scope)
            if key is not None:
                found.add(key)
                calls += _calls(values, values[key], scope, found)
        if selector.startswith("resnet."):
            # Variants take what is bound to `resnet.Resnet`.
            calls.append((scope, "resnet.Resnet"))
    return found


def _calls(values, value, scope, found):
    """What a value refers to, with the scopes, also through macros."""
    for reference in gin.config.iterate_references({"": {"": value}}):
        inner, selector = reference.config_key
        if selector != MACRO:
            yield inner or scope, selector
        elif (inner, MACRO, "value") in values:
            key = (inner, MACRO, "value")
            found.add(key)
            yield from _calls(values, values[key], scope, found)


def innermost(values, selector, parameter, scope):
    """The key of the binding that a call in a scope reads, or None."""
    parts = scope.split("/") if scope else []
    for length in range(len(parts), -1, -1):
        key = ("/".join(parts[:length]), selector, parameter)
        if key in values:
            return key
    return None


def unread():
    """Keys of the bindings that nothing called so far has read."""
    values, read = bound(), set()
    for (scope, selector), parameters in gin.config._OPERATIVE_CONFIG.items():
        for parameter in parameters:
            read.add(innermost(values, selector, parameter, scope))
    return sorted(set(values) - read)


def was_called(selector):
    """Whether something with this name has been called so far."""
    return any(called == selector for _, called in gin.config._OPERATIVE_CONFIG)


def resolve(value):
    """A value of a binding, with macros replaced by what they stand for."""
    while isinstance(value, gin.config.ConfigurableReference):
        scope, selector = value.config_key
        if selector != MACRO:
            break
        value = gin.config._CONFIG.get((scope, MACRO), {}).get("value")
    return value


def resolved_name(value):
    """The full name of what a value refers to, or None."""
    value = resolve(value)
    is_reference = isinstance(value, gin.config.ConfigurableReference)
    return value.configurable.selector if is_reference else None


def defaults(configurable):
    """Parameters and their defaults, of a class those of its bases too.

    Args:
        configurable: a function or a class.

    Returns:
        Dict from name to default, `inspect.Parameter.empty` if there is none.
    """
    functions = [configurable]
    if inspect.isclass(configurable):
        functions = [
            base.__init__
            for base in reversed(inspect.getmro(configurable))
            if "__init__" in vars(base) and base is not object
        ]
    return {
        name: parameter.default
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "args", "kwargs")
    }
