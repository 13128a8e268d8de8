"""Texture a mesh that somebody gave: views are drawn over pictures of its shape, and painted on it.

    place   the mesh in the middle of the scene, in grey
    draw    its pictures, lit, become views of what the prompt says (a callable makes them)
    paint   the views' colours as a texture, by visibility and without their light (lifting/paint.py)

Draw and paint are repeated: the second round begins with the colours of the first and takes less of them away, so that
the views come to agree.  The shape never changes.  Knows nothing of how views are drawn.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError, PromptError
from viewfold.ground import distance_to
from viewfold.lifting.asset import Asset3D
from viewfold.lifting.descent import Progress
from viewfold.lifting.foreground import Foreground
from viewfold.lifting.observation import Observed
from viewfold.lifting.paint import PaintSettings, paint_given
from viewfold.lifting.survey import Survey
from viewfold.scene.framing import Framing
from viewfold.scene.light import Light
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.standing import Standing
from viewfold.scene.surface import decimate
from viewfold.views import GROUND, Views

GREY = 0.5
"""Albedo of a mesh that nothing was painted on."""

APART = 0.2
"""Colours nearer to the ground's than this (Euclidean, sRGB) may be the ground."""

LEAST_CERTAIN = 0.04
"""What a pixel of the ground's own colour counts."""

MOST_FACES = 100_000
"""Unwrapping takes a second for 5,000 faces, and more than in proportion for many."""


@runtime_checkable
class Redraw(Protocol):
    """Draws the object of some views anew."""

    def __call__(self, views: Views, *, strength: float) -> Views:
        """Return opaque pictures over `GROUND`, from the same cameras and with the same outlines.

        Args:
            views: pictures with alpha.
            strength: how much of their colours is taken away, above 0 to 1.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class RetextureSettings:
    """How a given mesh is textured."""

    strengths: tuple[float, ...] = (0.95, 0.8)
    """Of the rounds: how much of the pictures is taken away before they are drawn anew."""

    survey: Survey = field(default_factory=Survey)
    """Which views are drawn; all at once."""

    faces: int | None = None
    """The mesh is thinned out to this number; None leaves it as it is."""

    texture_size: int = 512
    """Texels along each side."""

    paint: PaintSettings = field(default_factory=PaintSettings)
    standing: Standing = field(default_factory=Standing)
    """How it stands in its file; where nothing is said, as it did in its own."""

    def __post_init__(self) -> None:
        if not self.strengths or not all(0 < strength <= 1 for strength in self.strengths):
            raise InputError(f"`strengths` must be one or more numbers above 0, and 1 at most; got {self.strengths}.")
        if self.faces is not None and not 4 <= self.faces <= MOST_FACES:
            raise InputError(f"`faces` must lie between 4 and {MOST_FACES}; got {self.faces}.")
        if not 16 <= self.texture_size <= 8192:
            raise InputError(f"`texture_size` must lie between 16 and 8192; got {self.texture_size}.")


def retexture(
    mesh: Mesh,
    prompt: str,
    *,
    redraw: Redraw,
    cameras: Cameras,
    size: int,
    settings: RetextureSettings | None = None,
    progress: Progress | None = None,
) -> Asset3D:
    """Return a mesh with a texture of what the prompt says, its shape as it was.

    Its own colours, materials and texture coordinates go; faces that cannot be seen at all go too, with a warning.  In
    its file it stands where it stood.

    Args:
        mesh: z up, front towards -y, of any size; open or closed.
        prompt: what it is to be; may name a finish.
        redraw: see `Redraw`.
        cameras: of the views, looking at the origin, around a sphere of radius 0.5.
        size: of the views, in pixels.
        settings: see `RetextureSettings`.
        progress: called with (stage, step, total); the stage here is texture.

    Raises:
        PromptError: an empty prompt.
        InputError: a mesh without faces or extent, or with more than `MOST_FACES`.
    """
    settings = settings or RetextureSettings()
    if not prompt.strip():
        raise PromptError("`prompt` must say what to make; it is empty.")
    report: Progress = progress or (lambda stage, step, total: None)
    framing = Framing.of(mesh, "sphere")
    shape = framing.apply(_seen(mesh))
    if settings.faces is not None:
        shape = decimate(shape, max_faces=settings.faces)
    if len(shape.faces) > MOST_FACES:
        raise InputError(f"`mesh` must have at most {MOST_FACES} faces; it has {len(shape.faces)}. Thin it by `faces`.")
    rounds, seconds = len(settings.strengths), {"generate": 0.0, "texture": 0.0}
    colored, light, how, views = replace(shape, materials=(Material(color=(GREY, GREY, GREY)),)), Light(), "", None
    for number, strength in enumerate(settings.strengths):
        started = time.perf_counter()
        shown = rasterize(colored, cameras, size=size, light=light)
        straight = (shown.rgb / shown.alpha.clamp_min(1e-4)).clamp(0, 1)
        views = redraw(Views(rgb=straight, alpha=shown.alpha, cameras=cameras, prompt=prompt), strength=strength)
        drawn = time.perf_counter()
        seconds["generate"] += drawn - started
        report("texture", number, rounds)
        colored, found = paint_given(
            shape, _observed(views, shown.alpha), size=settings.texture_size, settings=settings.paint, prompt=prompt
        )
        light, how = found.light, found.how
        report("texture", number + 1, rounds)
        seconds["texture"] += time.perf_counter() - drawn
    assert views is not None
    final = rasterize(colored, cameras, size=size, light=light)
    covered = (final.alpha > 0.5).expand_as(final.rgb)
    error = (final.over(GROUND) - views.rgb)[covered].square().mean().clamp_min(1e-10)
    return Asset3D(
        mesh=colored,
        representation=None,
        views=views,
        prompt=prompt,
        standing=replace(settings.standing, framing=framing),
        report={
            "views_psnr_db": round(float(-10 * error.log10()), 2),
            "faces": len(shape.faces),
            "light": how,
            "start": "mesh",
            "seconds": {name: round(spent, 2) for name, spent in seconds.items()},
            "settings": asdict(settings),
        },
    )


def _seen(mesh: Mesh) -> Mesh:
    """Return the shape alone, without faces that nobody sees."""
    visible = mesh.visible()
    if not bool(visible.all()):
        hidden = int((~visible).sum())
        warnings.warn(f"`mesh`: {hidden} faces are wholly transparent and are left out", stacklevel=3)
    return Mesh(vertices=mesh.vertices, faces=mesh.faces[visible])


def _observed(views: Views, alpha: Float[Tensor, "v 1 h w"]) -> Observed:
    """Return views whose outlines are those of the shape; what has the ground's colour within them counts little.

    Where the prior believes in another shape it draws the ground, which is no colour of the object.  An object that is
    grey has that colour everywhere, and nothing else to be told by.
    """
    background = views.rgb.new_full((len(views), 3), GROUND)
    apart = distance_to(background, views.rgb) / APART
    certainty = LEAST_CERTAIN + (1 - LEAST_CERTAIN) * apart.clamp(0, 1).square()
    return Observed(views=views, foreground=Foreground(background=background, alpha=alpha, certainty=certainty))
