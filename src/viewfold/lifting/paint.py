"""The stage that colours the mesh: a texture of what the views show, without the light that they show it in.

Where views see a texel, they colour it, each as far as it can be trusted (lifting/reprojection.py).  Where they hardly
do, the representation's own colour is mixed in.  What no view sees is diffused from its neighbours on the surface
(lifting/inpainting.py), or, where the representation was distilled and so knows better, has its colour.  Light is
divided out where it is known or can be told (lifting/light.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.lifting.extraction import Extracted
from viewfold.lifting.finish import Finish, read_finish
from viewfold.lifting.inpainting import inpaint
from viewfold.lifting.light import Estimate, Found, Lighting, find_light
from viewfold.lifting.observation import Observed
from viewfold.lifting.reprojection import Lookout, agree
from viewfold.scene.light import Light
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.representation import Representation
from viewfold.scene.texture import Texels, unwrap

CHUNK = 2**15
"""Texels that are looked up in all views together."""

BEHIND = 0.002
"""Weight of the representation's colour, beside about 0.6 of a view that looks at a texel squarely from the usual
distance: it counts where views see next to nothing."""

LEAST = 0.001
"""Texels that views see with less weight than this, all together, are not seen."""


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    """How the mesh is coloured."""

    light: Lighting | None = None
    """What is known of the light in the views: all of it; that they share one, which is to be found; or nothing, so
    that it stays in the colours.  None is what the model says of its views, and `Estimate()` where nobody says."""

    def resolved(self, *, known: bool) -> PaintSettings:
        """Return the settings with what a model knows of the light in its views, where they say nothing."""
        return replace(self, light=Light() if known else Estimate()) if self.light is None else self


@dataclass(frozen=True, kw_only=True, eq=False)
class Painted:
    """A mesh with its colours, and what it was taken from; on the CPU."""

    mesh: Mesh
    representation: Representation
    observed: Observed

    found: Found = field(default_factory=lambda: Found(light=None, how="painted in (unlit)"))
    """The light that was divided out of its colours: drawn in it, the mesh looks like the views."""


def paint(
    extracted: Extracted,
    *,
    size: int = 512,
    settings: PaintSettings | None = None,
    prompt: str = "",
    distilled: bool = False,
) -> Painted:
    """Unwrap the mesh and colour it; this and all that follows is on the CPU.

    Args:
        size: of the texture along each side, 16 to 8192.
        settings: see `PaintSettings`.
        prompt: may name a finish, which becomes the material's roughness and metal.
        distilled: whether the representation knows what sides that no view shows look like; otherwise their colours are
            diffused from their neighbours.

    Raises:
        InputError: `size` out of range.
    """
    if not 16 <= size <= 8192:
        raise InputError(f"`size` must lie between 16 and 8192; got {size}.")
    representation, finish = extracted.representation.to("cpu"), read_finish(prompt)
    texels = Texels.of(unwrap(extracted.surface.mesh.to("cpu"), size=size), size=size)
    behind = representation.surface_color(texels.points, texels.normals)
    lookout = Lookout.of(extracted.observed, texels.mesh)
    lighting = None if settings is None else settings.light
    found = _find_light(lighting or Estimate(), lookout, texels)
    color, weight = _seen(lookout, texels, found, finish)
    bare, _ = found.albedo(behind, texels.normals)
    color = (weight[:, None] * color + BEHIND * bare) / (weight[:, None] + BEHIND)
    if not distilled:
        color = inpaint(texels.points, texels.normals, color, weight > LEAST, bare)
    is_lit = found.light is not None
    material = Material(
        texture=Texture(image=texels.picture(color.clamp(0, 1))),
        lit=is_lit,
        roughness=finish.roughness,
        metallic=finish.metallic,
    )
    mesh = replace(texels.mesh, materials=(material,))
    return Painted(mesh=mesh, representation=representation, observed=extracted.observed, found=found)


def _seen(
    lookout: Lookout, texels: Texels, found: Found, finish: Finish
) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p"]]:
    """Return what the views say of the texels without the light, and how much weight they have together."""
    colors, weights = [], []
    for points, normals in zip(texels.points.split(CHUNK), texels.normals.split(CHUNK), strict=True):
        sightings = lookout.look(points, normals)
        bare, trust = found.albedo(sightings.color, normals, sightings.to_eye, finish)
        colors.append(agree(bare, trust * sightings.weight))
        weights.append((trust * sightings.weight).sum(0))
    return torch.cat(colors), torch.cat(weights)


def _find_light(lighting: Lighting, lookout: Lookout, texels: Texels) -> Found:
    """Return the light; what is estimated looks at as many texels as it takes."""
    step = max(1, len(texels.points) // CHUNK)
    points, normals = texels.points[::step], texels.normals[::step]
    sightings = lookout.look(points, normals)
    return find_light(lighting, agree(sightings.color, sightings.weight), normals, sightings.weight.sum(0))
