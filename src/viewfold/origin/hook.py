"""The default origin hook of `generate` and `lift`: it checks the prompt before, and labels and marks the result after.

Above views, below the flows; neither views nor meshes know of it.  A service writes one of its own with these three
methods (`pipeline.hook.OriginHook`), or gives `Origin` a `Safety` of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from viewfold.label import UNLABELLED, Label, Made
from viewfold.origin.record import Record, cleaned, comment, given_places, glb_extras, payload, picture_fields, record
from viewfold.origin.safety import PROMPT_GUARD, Safety
from viewfold.origin.watermark import MIN_EDGE, embed
from viewfold.views import Views


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The default: a record in every file of what a model made, its mark if it has one, and a check of prompts."""

    watermark: bool | None = None
    """Whether pictures that are drawn carry the invisible mark.  None: as the model's index says, and none on pictures
    below 48 px, which cannot carry it."""

    safety: Safety | None = PROMPT_GUARD
    """Asked about the prompt before and the pictures after; None asks nobody."""

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError before anything is drawn if `safety` refuses."""
        if self.safety is not None:
            self.safety.check_prompt(prompt)

    def sign(self, views: Views, made: Made) -> Views:
        """Return views as they leave: checked, marked where they were drawn, with the record in `run` and the label.

        Raises:
            PromptError: `safety` refuses the pictures.
            InputError: `watermark` is True, and they are too small.
        """
        rgb = views.rgb if self.safety is None else self.safety.check_pictures(views.rgb)
        is_small = self.watermark is None and min(rgb.shape[-2:]) < MIN_EDGE
        label = RecordLabel(_record(made, watermark=self._wants_mark(made) and not is_small))
        number = payload(label.record)
        if number is not None:
            marked = embed(rgb, number)
            marked[list(made.given)] = rgb[list(made.given)]
            rgb = marked
        return replace(views, rgb=rgb, run={**views.run, **label.report()}, label=label)

    def label(self, views: Views, made: Made | None) -> Label:
        """Return the label of a thing that was fitted to views, and that a model had a hand in (`made`) or not.

        Without a model the views alone decide: what was fitted to renders or photographs claims nothing.
        """
        if made is not None:
            return RecordLabel(_record(made, watermark=self._wants_mark(made)))
        found = cleaned(views.run.get("provenance")) or {}
        if self.watermark is False:
            found.pop("watermark", None)
        return label_of(found)

    def _wants_mark(self, made: Made) -> bool:
        return made.watermark if self.watermark is None else self.watermark


ORIGIN = Origin()


@dataclass(frozen=True)
class RecordLabel:
    """A record of provenance as a label: in the fields of every file, and as a mark in sheets and turntables."""

    record: Record

    def picture_options(self, suffix: str, *, view: int | None = None) -> dict[str, Any]:
        """Return the record as fields; none for a view that no model drew."""
        given = view is not None and view in given_places(self.record)
        return {} if given else picture_fields(self.record, suffix=suffix)

    def mark(self, rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
        """Return marked pictures if the record has a mark, and they are large enough to carry it."""
        number = payload(self.record)
        return rgb if number is None or min(rgb.shape[-2:]) < MIN_EDGE else embed(rgb, number)

    def comment(self) -> str:
        """Return the record in a line."""
        return comment(self.record)

    def glb_asset(self) -> dict[str, Any]:
        """Return the record in glTF's `extras`."""
        return glb_extras(self.record)

    def report(self) -> dict[str, Any]:
        """Return the record under its name."""
        return {"provenance": self.record}


def label_of(found: object) -> Label:
    """Return the label of what a run.json, a report or a stranger's file calls a record; none if it is none."""
    known, given = cleaned(found), given_places(found)
    if known is None:
        return UNLABELLED
    return RecordLabel({**known, "given": given} if given else known)


def relabelled(views: Views) -> Views:
    """Return loaded views with the label that their run.json tells, the mark of their sheet included."""
    return replace(views, label=label_of(views.run.get("provenance")))


def _record(made: Made, *, watermark: bool) -> Record:
    found = record(
        model=made.model,
        weights_sha256=made.weights_sha256,
        prompt=made.prompt,
        seed=made.seed,
        watermark=watermark,
    )
    return {**found, "given": list(made.given)} if made.given else found
