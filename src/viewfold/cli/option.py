"""How an option looks in --help where no value of its own is the default: its kind, and what the line under it says."""

from __future__ import annotations

from typing import Any

from tyro.conf import arg


def unset(metavar: str, *, name: str | None = None) -> Any:
    """Annotate an option that is None unless given; its line of help says what happens then, instead of `None`."""
    return arg(metavar=metavar, help_behavior_hint="", name=name)
