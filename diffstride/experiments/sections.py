"""The sections of a sweep file that its report reads."""

from diffstride.experiments.errors import (
    SweepError,
    all_of,
    require,
    require_keys,
)


def read_published(sections, axes):
    """The section `[published]`, or the sections `[[published]]`, as a list.

    Raises an error if a published number belongs to no choice.
    """
    sections = sections if isinstance(sections, list) else [sections]
    for section in sections:
        _check_published(section, axes)
    metrics = [section["metric"] for section in sections]
    require(
        len(set(metrics)) == len(metrics),
        "published.metric",
        "another one in each section",
        metrics,
    )
    return sections


def _check_published(section, axes):
    require_keys(
        "[published]",
        section,
        ("metric", "rows", "values"),
        ("columns", "source"),
    )
    for key in ("metric", "rows", "source"):
        text = section.get(key, "")
        require(isinstance(text, str), key, "a string", text)
    _require_axes(section, axes)
    values, count = section["values"], None
    require(isinstance(values, dict), "published.values", "a table", values)
    labels = [choice.label for choice in axes[section["rows"]]]
    if "columns" in section:
        count = len(axes[section["columns"]])
    for row, texts in values.items():
        if row not in labels:
            raise SweepError(
                f"the rows of `published.values` must be among {labels}. "
                f"Received: {row!r}"
            )
        name = f"published.values.{row}"
        if count is None:
            require(isinstance(texts, str), name, "a string", texts)
        else:
            require(
                all_of(str, texts) and len(texts) == count,
                name,
                f"a list of {count} strings, one for each column",
                texts,
            )


def check_report(section, axes):
    """Raises an error if the section asks for what a report cannot do."""
    keys = ("title", "rows", "columns", "metrics", "series")
    require_keys("[report]", section, (), keys)
    title = section.get("title", "")
    require(isinstance(title, str), "title", "a string", title)
    for key in ("metrics", "series"):
        names = section.get(key, [])
        require(all_of(str, names), key, "a list of strings", names)
    _require_axes(section, axes)


def _require_axes(section, axes):
    """Raises an error unless rows and columns are different axes."""
    rows, columns = section.get("rows", []), section.get("columns")
    rows = rows if isinstance(rows, list) else [rows]
    named = [("rows", row) for row in rows]
    if columns is not None:
        named.append(("columns", columns))
    for key, axis in named:
        require(axis in list(axes), key, f"an axis, one of {list(axes)}", axis)
    require(columns not in rows, "columns", "no axis of the rows", columns)
