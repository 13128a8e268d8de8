"""What a model can draw, as far as it is known: said before anything is drawn.

A worker writes it down when it has loaded a model (models/NAME.json); the server reads it, so that the server needs no
torch.  Of the shipped model the kinds and colours that it was trained on are known; of others at most the words.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewfold.errors import AssetError
from viewfold.store import atomic_write, read_json, write_json

if TYPE_CHECKING:
    from viewfold.pipeline import MultiViewPipeline

N_NEAR = 3
ENDINGS = ("s", "es", "ed", "d", "ing", "er", "y", "ly", "ish", "like")


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What a model can draw."""

    name: str
    image_size: int = 0
    views: int = 4
    lift_views: int | None = None
    steps: int = 0
    guidance: float = 1.0
    negative: str = ""
    kinds: tuple[str, ...] = ()
    """Things that it was trained to draw; empty: not known."""
    nouns: tuple[str, ...] = ()
    """All words for them."""
    colors: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """That its text encoder has whole; empty: not known."""

    def public(self) -> dict[str, Any]:
        """Return what the page is told."""
        return {k: v for k, v in asdict(self).items() if k not in ("words", "nouns")}

    def notes(self, prompt: str, *, subjects: tuple[str, ...] = ()) -> tuple[list[str], bool]:
        """Return what to know about a prompt, and whether it is outside of what the model was trained to draw."""
        said = _words(prompt)
        learned = [
            phrase for phrase in (re.sub(r"^(a|an|the) ", "", _words(subject)) for subject in subjects) if phrase
        ]
        own = {word for phrase in learned for word in phrase.split()}
        lines = [self._unknown(word) for word in dict.fromkeys(said.split()) if word not in own]
        notes = [line for line in lines if line is not None]
        outside = False
        if self.kinds and said:
            outside = not any(re.search(rf"\b{re.escape(noun)}(s|es)?\b", said) for noun in (*self.nouns, *learned))
            if outside:
                notes.append(f"{self.name} was trained to draw other things; nearest: {', '.join(self._near(said))}")
        return notes, outside

    def _unknown(self, word: str) -> str | None:
        if not self.words or len(word) < 2:
            return None
        known = set(self.words)
        if word in known or any(word.endswith(end) and word.removesuffix(end) in known for end in ENDINGS):
            return None
        near = difflib.get_close_matches(word, self.words, n=N_NEAR, cutoff=0.6)
        return f"the model does not know '{word[:40]}'" + (f"; near words: {', '.join(near)}" if near else "")

    def _near(self, said: str) -> list[str]:
        near = [kind for word in said.split() for kind in difflib.get_close_matches(word, self.kinds, n=1, cutoff=0.5)]
        return list(dict.fromkeys([*near, *self.kinds]))[:6]


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W\d_]+", text.lower()))


def describe(name: str, model: MultiViewPipeline) -> Knowledge:
    """Return what a model that is loaded can draw."""
    from viewfold.data.toybox import COLORS, KINDS
    from viewfold.model.text import word_list

    defaults = model.defaults
    trained: dict[str, Any] = {}
    if name == "toybox":
        nouns = {noun for kind in KINDS.values() for noun in kind.nouns}
        trained = {"kinds": tuple(sorted(KINDS)), "nouns": tuple(sorted(nouns)), "colors": tuple(COLORS)}
    return Knowledge(
        name=name,
        image_size=model.image_size,
        lift_views=defaults.lift_views,
        steps=defaults.steps,
        guidance=defaults.guidance,
        negative=defaults.negative,
        words=word_list(model.tokenizer) or (),
        **trained,
    )


def write_knowledge(data: Path, known: Knowledge) -> None:
    """Write it down for the server."""
    with atomic_write(_path(data, known.name)) as temporary:
        write_json(temporary, asdict(known), indent=None)


def read_knowledge(data: Path, name: str) -> Knowledge:
    """Return what is known of a model; little, before a worker has loaded it once."""
    try:
        found = read_json(_path(data, name))
        said: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in found.items()}
        return Knowledge(**said)
    except (AssetError, TypeError):
        return Knowledge(name=name)


def _path(data: Path, name: str) -> Path:
    return data / "models" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.json"
