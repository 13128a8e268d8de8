"""The protocol of origin hooks, which check prompts and label results; `origin.hook.Origin` is the default."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from viewfold.label import Label, Made
from viewfold.views import Views


@runtime_checkable
class OriginHook(Protocol):
    """Called once before a flow and once after it; any call may raise PromptError, which the user sees."""

    def check_prompt(self, prompt: str) -> None:
        """Refuse a prompt before anything is drawn."""
        ...

    def sign(self, views: Views, made: Made) -> Views:
        """Return views as they leave `generate`: these, or others in their place, with a label."""
        ...

    def label(self, views: Views, made: Made | None) -> Label:
        """Return the label of an asset that `lift` fitted to views; `made` is None if no model had a hand in it."""
        ...
