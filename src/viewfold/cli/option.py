"""Options: how one looks in --help where no value of its own is the default, and which of them were given."""

from __future__ import annotations

import re
from typing import Any

from tyro.conf import arg


def unset(metavar: str, *, name: str | None = None) -> Any:
    """Annotate an option that is None unless given; its line of help says what happens then, instead of `None`."""
    return arg(metavar=metavar, help_behavior_hint="", name=name)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were set on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def slug(prompt: str) -> str:
    """Return a short name for files: `A red mug!` -> `a-red-mug`."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")
    return words[:48].rstrip("-") or "untitled"
