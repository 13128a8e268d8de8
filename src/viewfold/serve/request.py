"""What may be asked for: the bodies of requests, bounded before anything is done with them.

Unknown fields and wrong types are refused, and so is what no model could draw; whether a model knows a prompt's words
is the worker's to say.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from viewfold.serve.job import is_id

PROMPT_CHARACTERS = 1_000
"""The 77 tokens of the largest text encoder take some 400."""

MAX_VIEWS, MAX_TRIES, MAX_STEPS, MAX_PICTURES, MAX_SUBJECTS = 16, 8, 100, 32, 4

MAX_TRAINING_STEPS = 1_000

MAX_SEED = 2**31 - 1

Quality = Literal["views", "draft", "standard", "high"]

QUALITIES: dict[Quality, str] = {
    "views": "Pictures only",
    "draft": "3D, quick: few views",
    "standard": "3D: many views",
    "high": "3D, slow: many views, then distilled",
}

_CONTROL = frozenset({"Cc", "Cs", "Cn", "Co"})
_SPACES = "\t\n\r"


def _is_plain(text: str) -> str:
    """Refuse controls and halves of characters, which no keyboard types and no file name or log should hold."""
    bad = next((c for c in text if unicodedata.category(c) in _CONTROL and c not in _SPACES), None)
    if bad is not None:
        raise ValueError(f"must hold no control characters; got U+{ord(bad):04X}")
    return text


def _says_something(text: str) -> str:
    if not text.strip():
        raise ValueError("must say something; got an empty text")
    return text


def _name(text: str) -> str:
    if not is_id(text):
        raise ValueError("must be a name that the server gave")
    return text


Text = Annotated[str, Field(max_length=PROMPT_CHARACTERS), AfterValidator(_is_plain)]
Prompt = Annotated[Text, AfterValidator(_says_something)]
Name = Annotated[str, Field(max_length=64), AfterValidator(_name)]
Model = Annotated[str, Field(min_length=1, max_length=128)]


class Asked(BaseModel):
    """A body: nothing that is not listed, nothing of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Make(Asked):
    """Views of what a prompt says and, unless they are all that is wanted, a 3D asset of them."""

    kind: Literal["make"]
    prompt: Prompt
    negative: Text | None = None
    model: Model = "toybox"
    views: int | None = Field(None, ge=1, le=MAX_VIEWS)
    """None: 4 pictures, or as many as the quality fits an asset to."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    tries: int = Field(1, ge=1, le=MAX_TRIES)
    quality: Quality = "standard"
    guidance: float | None = Field(None, ge=0, le=100, strict=False)
    steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    subjects: list[Name] = Field(default_factory=list, max_length=MAX_SUBJECTS)
    """Jobs that learned something, whose names the prompt may use."""

    @model_validator(mode="after")
    def _choose_among_several(self) -> Make:
        if self.tries > 1 and self.views == 1:
            raise ValueError("`tries` must be 1 for a single view, which agrees with no other")
        if len(set(self.subjects)) != len(self.subjects):
            raise ValueError("`subjects` must be different ones")
        return self

    @property
    def title(self) -> str:
        return " ".join(self.prompt.split())


class Personalize(Asked):
    """Teach the model one thing from pictures of it."""

    kind: Literal["personalize"]
    pictures: list[Name] = Field(min_length=1, max_length=MAX_PICTURES)
    subject: Prompt = Field(max_length=80)
    class_: Prompt = Field(alias="class", max_length=80)
    model: Model = "toybox"
    seed: int = Field(0, ge=0, le=MAX_SEED)
    steps: int | None = Field(None, ge=1, le=MAX_TRAINING_STEPS)

    @property
    def title(self) -> str:
        return " ".join(self.subject.split())


Request = Annotated[Make | Personalize, Field(discriminator="kind")]


class Check(Asked):
    """A prompt, to be looked at before it is drawn."""

    prompt: Text
    model: Model = "toybox"


class Token(Asked):
    """What lets somebody in from another address."""

    token: str = Field(max_length=256)
