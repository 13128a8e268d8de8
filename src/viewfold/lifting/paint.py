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
from viewfold.lifting.light import Bare, Estimate, Found, Lighting, find_light
from viewfold.lifting.observation import Observed
from viewfold.lifting.reprojection import Lookout, agree
from viewfold.scene.light import Light
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.relief import bake_relief
from viewfold.scene.representation import Representation
from viewfold.scene.texture import Texels, unwrap

CHUNK = 2**15
"""Texels that are looked up in all views together."""

BEHIND = 0.001
"""Weight of the representation's colour, beside about 0.6 of a view that looks at a texel squarely from the usual
distance: it counts where views see next to nothing."""

UNSEEN = 0.5
"""Grey of a given mesh that no view sees anything of."""

LEAST = 0.01
"""Texels that views see with less weight than this, all together, are not seen."""


@dataclass(frozen=True, kw_only=True)
class PaintSettings:
    """How the mesh is coloured."""

    light: Lighting | None = None
    """What is known of the light in the views: all of it; that they share one, which is to be found; nothing, so that
    it stays in the colours; or that there is none.  None is what the model says of its views, and `Estimate()` where
    nobody says."""

    relief: bool = False
    """Whether the surface before it was thinned out is kept as a normal map.  At 4,000 faces of a 96^3 grid fitted to
    16 views, that is no nearer to the truth than the mesh's own normals (`benchmarks/paint.py`)."""

    def resolved(self, *, known: bool, bare: bool = False) -> PaintSettings:
        """Return the settings with what is known where they say nothing.

        Args:
            known: whether the views are the model's, and lit as `Light()` does.
            bare: whether the colours hold no light, because a distillation lit them.
        """
        if self.light is not None:
            return self
        return replace(self, light=Bare() if bare else Light() if known else Estimate())


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
    from_views: bool = True,
) -> Painted:
    """Unwrap the mesh and colour it; this and all that follows is on the CPU.

    Args:
        size: of the texture along each side, 16 to 8192.
        settings: see `PaintSettings`.
        prompt: may name a finish, which becomes the material's roughness and metal.
        distilled: whether the representation knows what sides that no view shows look like; otherwise their colours are
            diffused from their neighbours.
        from_views: False where the pictures are of the representation itself, whose colours then are those of the mesh.

    Raises:
        InputError: `size` out of range.
    """
    representation, finish = extracted.representation.to("cpu"), read_finish(prompt)
    texels = _unwrapped(extracted.surface.mesh, size)
    lighting, own = (settings or PaintSettings()).light or Estimate(), representation.surface_color(*texels.shape)
    if from_views:
        lookout = Lookout.of(extracted.observed, texels.mesh)
        found = _find_light(lighting, lookout, texels)
        color = _from_views(lookout, texels, found, finish, own=found.albedo(own, texels.normals)[0], ask=distilled)
    else:
        found = find_light(lighting, own, texels.normals, torch.ones_like(own[:, 0]))
        color = found.albedo(own, texels.normals)[0]
    fine = extracted.surface.fine
    relief = None if fine is None or settings is None or not settings.relief else bake_relief(texels, fine.to("cpu"))
    mesh = _colored(texels, color, found, finish, relief=relief)
    return Painted(mesh=mesh, representation=representation, observed=extracted.observed, found=found)


def paint_given(
    mesh: Mesh, observed: Observed, *, size: int = 512, settings: PaintSettings | None = None, prompt: str = ""
) -> tuple[Mesh, Found]:
    """Unwrap a mesh that somebody gave, and colour it by the views alone; arguments and errors as those of `paint`.

    Returns:
        The mesh with one material, its vertices doubled where charts meet; and the light that was divided out.
    """
    texels, finish = _unwrapped(mesh, size), read_finish(prompt)
    lookout = Lookout.of(observed, texels.mesh)
    found = _find_light((settings or PaintSettings()).light or Estimate(), lookout, texels)
    own = torch.full_like(texels.points, UNSEEN)
    return _colored(texels, _from_views(lookout, texels, found, finish, own=own, ask=False), found, finish), found


def _unwrapped(mesh: Mesh, size: int) -> Texels:
    if not 16 <= size <= 8192:
        raise InputError(f"`size` must lie between 16 and 8192; got {size}.")
    return Texels.of(unwrap(mesh.to("cpu"), size=size), size=size)


def _colored(
    texels: Texels, color: Float[Tensor, "p 3"], found: Found, finish: Finish, *, relief: Texture | None = None
) -> Mesh:
    """Return the mesh with its one material."""
    material = Material(
        texture=Texture(image=texels.picture(color.clamp(0, 1))),
        normal_texture=relief,
        lit=found.is_lit,
        roughness=finish.roughness,
        metallic=finish.metallic,
    )
    return replace(texels.mesh, materials=(material,))


def _from_views(
    lookout: Lookout, texels: Texels, found: Found, finish: Finish, *, own: Float[Tensor, "p 3"], ask: bool
) -> Float[Tensor, "p 3"]:
    """Return the texels' colours without the light: the views', and behind them the representation's `own`.

    Where no view sees them: their neighbours', or if `ask`, the representation's.
    """
    colors, weights = [], []
    for points, normals in zip(texels.points.split(CHUNK), texels.normals.split(CHUNK), strict=True):
        sightings = lookout.look(points, normals)
        bare, trust = found.albedo(sightings.color, normals, sightings.to_eye, finish)
        colors.append(agree(bare, trust * sightings.weight))
        weights.append((trust * sightings.weight).sum(0))
    weight = torch.cat(weights)
    color = (weight[:, None] * torch.cat(colors) + BEHIND * own) / (weight[:, None] + BEHIND)
    return color if ask else inpaint(texels.points, texels.normals, color, weight > LEAST, own)


def _find_light(lighting: Lighting, lookout: Lookout, texels: Texels) -> Found:
    """Return the light; what is estimated looks at as many texels as it takes."""
    step = max(1, len(texels.points) // CHUNK)
    points, normals = texels.points[::step], texels.normals[::step]
    sightings = lookout.look(points, normals)
    return find_light(lighting, agree(sightings.color, sightings.weight), normals, sightings.weight.sum(0))
