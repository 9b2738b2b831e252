"""Errors of a sweep, each in one sentence."""


class SweepError(ValueError):
    """A sweep cannot be made. The message names the part that is wrong."""


def require(condition, name, must, value):
    """Raises a SweepError about a value unless a condition holds."""
    if not condition:
        raise SweepError(f"`{name}` must be {must}. Received: {name}={value!r}")


def all_of(kind, values):
    """Whether `values` is a list of this kind; booleans are no integers."""
    return isinstance(values, list) and all(type(v) is kind for v in values)


def require_keys(name, table, needed, others=()):
    require(isinstance(table, dict), name, "a table", table)
    known = [*needed, *others]
    if unknown := sorted(set(table) - set(known)):
        raise SweepError(f"unknown keys {unknown}; {name} has {known}")
    if missing := [key for key in needed if key not in table]:
        raise SweepError(f"{missing} must be given; {name} has {known}")
