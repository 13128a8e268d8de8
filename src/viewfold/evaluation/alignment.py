"""Do pictures show their prompts?  CLIP score and CLIP R-precision, with an encoder that looks and reads.

    score       = 100 max(0, cos(picture, prompt)), mean over pictures      Hessel et al., EMNLP 2021; x 100, not x 2.5
    R-precision = share of pictures to which no other prompt of the list    Park et al., NeurIPS 2021; Jain et al.,
                  is nearer than their own                                  CVPR 2022, section 5

Both are means over objects of means over their views: views of one object are no independent measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.evaluation.encoder import Encoded, TextEncoder
from viewfold.evaluation.interval import Figure, mean
from viewfold.evaluation.source import Shown

TEXTS = 256
"""Prompts that are read at once."""


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """How well pictures fit their prompts."""

    encoder: str
    objects: int
    prompts: int
    """Different ones, which R-precision chooses among."""

    score: Figure
    """0 to 100."""

    r_precision: Figure | None
    """0 to 1, chance is 1 / prompts; None of a single prompt."""

    def figures(self) -> dict[str, Figure | None]:
        """Return the figures by labels that name the encoder and the number of prompts."""
        return {
            f"CLIP score ({self.encoder})": self.score,
            f"CLIP R-precision ({self.encoder}, {self.prompts} prompts)": self.r_precision,
        }


class Alignment:
    """Gathers the scores of pictures as they come; holds features of the prompts, not of the pictures."""

    def __init__(self, encoder: TextEncoder, prompts: Sequence[str]) -> None:
        """Read the prompts; those that come twice count once.

        Raises:
            InputError: there is none, or its features are not finite.
        """
        self.encoder, self.prompts = encoder.name, list(dict.fromkeys(prompts))
        if not self.prompts:
            raise InputError("`prompts` must name at least one; there is none.")
        rows = [encoder.encode_text(self.prompts[i : i + TEXTS]) for i in range(0, len(self.prompts), TEXTS)]
        self._texts = _unit(torch.cat(rows), "prompts")
        self._index = {prompt: index for index, prompt in enumerate(self.prompts)}
        self._sums: dict[str, tuple[float, float, int]] = {}

    def add(self, pictures: Sequence[Shown], encoded: Encoded) -> None:
        """Take in the pictures that have a prompt.

        Raises:
            InputError: a prompt is not one of the list, or features of another width than the prompts'.
        """
        told = [index for index, shown in enumerate(pictures) if shown.prompt]
        if not told:
            return
        if strange := next((pictures[i].prompt for i in told if pictures[i].prompt not in self._index), None):
            raise InputError(f"`prompts` must hold every picture's prompt; '{strange:.80}' is missing.")
        features = _unit(encoded.features[told], "pictures")
        if features.shape[1] != self._texts.shape[1]:
            raise InputError(
                f"`encoder` must give features of one width; {self.encoder} gives {features.shape[1]} for pictures and "
                f"{self._texts.shape[1]} for prompts."
            )
        near = features @ self._texts.T
        own = torch.tensor([self._index[pictures[i].prompt] for i in told])
        mine = near.gather(1, own[:, None])
        ties = (near == mine).sum(dim=1)  # a network that sees no difference has found nothing
        hits = (near <= mine).all(dim=1).double() / ties
        for i, score, hit in zip(told, (100 * mine[:, 0].clamp_min(0)).tolist(), hits.tolist(), strict=True):
            subject = pictures[i].subject or pictures[i].name
            scores, found, count = self._sums.get(subject, (0.0, 0.0, 0))
            self._sums[subject] = scores + score, found + hit, count + 1

    @property
    def seen(self) -> int:
        """How many objects with a prompt have come so far."""
        return len(self._sums)

    def result(self) -> Aligned:
        """Return the figures with their intervals over objects.

        Raises:
            InputError: no picture has a prompt.
        """
        if not self._sums:
            raise InputError("`pictures` must have prompts to be compared with; none has one.")
        scores, hits = ([each[i] / each[2] for each in self._sums.values()] for i in (0, 1))
        return Aligned(
            encoder=self.encoder,
            objects=len(scores),
            prompts=len(self.prompts),
            score=mean(scores),
            r_precision=mean(hits) if len(self.prompts) > 1 else None,
        )


def _unit(features: Float[Tensor, "b d"], what: str) -> Float[Tensor, "b d"]:
    rows = features.detach().cpu().double()
    length = rows.norm(dim=1, keepdim=True)
    if not bool(torch.isfinite(length).all()) or not bool((length > 0).all()):
        raise InputError(f"`encoder` must give finite features that have a direction; it does not for some {what}.")
    return rows / length
