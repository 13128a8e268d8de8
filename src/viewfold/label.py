"""Labels: the metadata of a result's files (fields, comments, a mark); views, pictures and meshes pass them on unread.

`origin` has the label that says which model made a thing; another one has these five methods and is given to `Views`,
`Asset3D` or `save_mesh`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Label(Protocol):
    """What is called when a result is saved."""

    def picture_options(self, suffix: str, *, view: int | None = None) -> dict[str, Any]:
        """Return options of Pillow's `save` for a .png, .webp or .gif; of one of the views, or of all in one file."""
        ...

    def mark(self, rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
        """Return pictures that are laid out or drawn anew with a mark in them, or as they are."""
        ...

    def comment(self) -> str:
        """Return one line for an OBJ or a PLY; "" for none."""
        ...

    def glb_asset(self) -> dict[str, Any]:
        """Return what belongs into a glTF's `asset`, beside the version and the program."""
        ...

    def report(self) -> dict[str, Any]:
        """Return what belongs into the run.json of views and the report of an asset."""
        ...


@dataclass(frozen=True)
class Unlabelled:
    """No metadata."""

    def picture_options(self, suffix: str, *, view: int | None = None) -> dict[str, Any]:
        """Return no options."""
        return {}

    def mark(self, rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
        """Return the pictures as they are."""
        return rgb

    def comment(self) -> str:
        """Return no line."""
        return ""

    def glb_asset(self) -> dict[str, Any]:
        """Return nothing more."""
        return {}

    def report(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


UNLABELLED = Unlabelled()


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a model made a result, for a label that says so."""

    model: str
    """Its name, or the path of its folder."""

    weights_sha256: str
    prompt: str
    seed: int

    given: tuple[int, ...] = ()
    """Places of the views that it did not draw."""

    watermark: bool = False
    """Whether its index asks for the invisible mark."""


def software() -> str:
    """Return our name and version, as files name the program that wrote them."""
    return f"viewfold {sys.modules['viewfold'].__version__}"
