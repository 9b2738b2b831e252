"""What is wrong with a sweep, in one sentence."""


class SweepError(ValueError):
    """A sweep that cannot be made; the message names the culprit."""


def require(condition, name, must, value):
    """Complains about a value of a sweep file where a condition fails."""
    if not condition:
        raise SweepError(f"`{name}` must be {must}. Received: {name}={value!r}")


def all_of(kind, values):
    """Whether this is a list of a kind; true and false are no integers."""
    return isinstance(values, list) and all(type(v) is kind for v in values)


def require_keys(name, table, needed, others=()):
    require(isinstance(table, dict), name, "a table", table)
    known = [*needed, *others]
    if unknown := sorted(set(table) - set(known)):
        raise SweepError(f"unknown keys {unknown}; {name} has {known}")
    if missing := [key for key in needed if key not in table]:
        raise SweepError(f"{missing} must be given; {name} has {known}")
