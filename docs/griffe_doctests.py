"""Lets the reference show the examples of docstrings as code."""

import re

import griffe


class Doctests(griffe.Extension):
    """Puts what begins with `>>>`, up to an empty line, between fences."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^>>> .*(?:\n.*\S.*)*",
                lambda example: f"```pycon\n{example[0]}\n```",
                obj.docstring.value,
                flags=re.MULTILINE,
            )
