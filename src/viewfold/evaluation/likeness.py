"""How like a made object is to the true one: of pictures, and of surfaces in place.

Nothing is aligned first: an object that is turned, moved or of another size is not like.  Knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from viewfold.errors import InputError
from viewfold.evaluation.health import is_closed
from viewfold.scene.mesh import Mesh
from viewfold.scene.rendering import Rendering
from viewfold.scene.texture import rasterize_uv

NEAR = 0.02
"""Distance within which a point of one surface has found the other, in world units: 2 % of the object's diameter."""

N_POINTS = 20_000
"""Points drawn on each surface."""

CELLS = 96
"""Points along the longest side of the box of both, at which inside and outside are told apart."""

LEAST_ERROR = 1e-10
"""Squared error that nothing falls below, so that equal pictures have a finite figure, 100 dB."""


@dataclass(frozen=True, kw_only=True)
class PictureLikeness:
    """Pictures of a made object beside those of the true one, from the same cameras."""

    psnr_db: float
    """-10 log10 of the mean squared error over whole pictures, over one ground."""

    both_psnr_db: float
    """The same over the pixels that both cover by half: colour without outline."""

    outline_iou: float
    """Pixels that both cover by half, as a share of those that either does, over all views together."""


@dataclass(frozen=True, kw_only=True)
class SurfaceLikeness:
    """A surface beside the true one."""

    chamfer: float
    """Mean distance to the other surface, the mean of both ways, in world units."""

    f_score: float
    """Harmonic mean of the shares of each surface that lie within `NEAR` of the other (Knapitsch et al. 2017)."""

    normal_consistency: float
    """Mean |cosine| between the normals of nearest points, the mean of both ways (Mescheder et al. 2019)."""

    volume_iou: float | None
    """What both enclose as a share of what either does; None where one of them is not closed, and encloses nothing."""


def psnr_db(made: Float[Tensor, "*shape"], true: Float[Tensor, "*shape"]) -> float:
    """Return -10 log10(mean |made - true|^2) of pictures in [0, 1]."""
    return float(-10 * (made - true).square().mean().clamp_min(LEAST_ERROR).log10())


def compare_pictures(made: Rendering, true: Rendering, *, ground: float = 0.5) -> PictureLikeness:
    """Compare pictures over a grey ground.

    Raises:
        InputError: nothing is covered in both, so that there is no colour to compare.
    """
    a, b = made.over(ground), true.over(ground)
    inside, outline = made.alpha > 0.5, true.alpha > 0.5
    both = (inside & outline).expand_as(a)
    if not bool(both.any()):
        raise InputError("`made` must overlap `true` somewhere; no pixel is covered in both. Check the cameras.")
    iou = float((inside & outline).sum() / (inside | outline).sum())
    return PictureLikeness(psnr_db=psnr_db(a, b), both_psnr_db=psnr_db(a[both], b[both]), outline_iou=iou)


def compare_surfaces(made: Mesh, true: Mesh, *, seed: int = 0) -> SurfaceLikeness:
    """Compare surfaces by points drawn on them evenly by area; normals without regard to which side is out.

        d_ab     = distance from a point of a to the nearest point of b
        chamfer  = (mean d_ab + mean d_ba) / 2
        f_score  = 2 p r / (p + r),   p = share of d_ab < NEAR,  r = share of d_ba < NEAR

    Parts of the true mesh that nobody can see, inside others, count as well.

    Raises:
        InputError: a mesh without area.
    """
    from scipy.spatial import KDTree

    generator = np.random.default_rng(seed)
    (a, a_normal), (b, b_normal) = (_draw_points(mesh, generator) for mesh in (made, true))
    there, there_at = KDTree(b).query(a)
    back, back_at = KDTree(a).query(b)
    precision, recall = (there < NEAR).mean(), (back < NEAR).mean()
    alike = [
        np.abs((a_normal * b_normal[there_at]).sum(-1)).mean(),
        np.abs((b_normal * a_normal[back_at]).sum(-1)).mean(),
    ]
    return SurfaceLikeness(
        chamfer=float(there.mean() + back.mean()) / 2,
        f_score=float(2 * precision * recall / max(precision + recall, 1e-12)),
        normal_consistency=float(np.mean(alike)),
        volume_iou=volume_iou(made, true) if is_closed(made) and is_closed(true) else None,
    )


def volume_iou(made: Mesh, true: Mesh) -> float:
    """Return the volume that two closed meshes share, divided by that which either encloses.

    Counted at points of a grid, `CELLS` along the longest side of the box of both.  A point is inside where the surface
    winds around it: parts that overlap are one solid, as drawn.
    """
    corners = torch.cat([mesh.vertices[mesh.faces.flatten()].detach().cpu().double() for mesh in (made, true)])
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    step = float((high - low).amax()) / CELLS
    a, b = (_inside(mesh, low, step) for mesh in (made, true))
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def _inside(mesh: Mesh, low: Float[Tensor, "3"], step: float) -> Bool[Tensor, "x y z"]:
    """Return at which points of a grid the winding number along z is not 0.

    Each face that a column of points passes through adds or takes one, by which side of it is out.
    """
    places = ((mesh.vertices.detach().cpu().double() - low) / step)[mesh.faces.cpu()]
    corner = places[..., :2] + torch.tensor([0.0123, 0.0317])  # so that no column runs along an edge
    flat = torch.stack([corner[..., 0], CELLS - corner[..., 1]], dim=-1).flatten(0, 1) / CELLS
    row, column, face, weight = rasterize_uv(flat, torch.arange(len(flat)).reshape(-1, 3), size=CELLS)
    through = (weight > 0).all(dim=1)
    row, column, face, weight = row[through], column[through], face[through], weight[through]
    first, second, third = corner.unbind(dim=1)
    u, v = second - first, third - first
    sign = torch.sign(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).long()[face]
    level = (weight * places[face, :, 2]).sum(dim=1).sub(0.5).ceil().long().clamp(0, CELLS)
    changes = torch.zeros(CELLS, CELLS, CELLS + 1, dtype=torch.long)
    changes.index_put_((column, row, level), -sign, accumulate=True)
    return changes.cumsum(dim=2)[..., :CELLS] != 0


def _draw_points(mesh: Mesh, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return points evenly by area, and the unit normals of their faces."""
    corners = mesh.vertices.detach().cpu().double().numpy()[mesh.faces.cpu().numpy()]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=-1)
    if not area.sum() > 0:
        raise InputError("a mesh must have some area to be compared; it has none.")
    face = generator.choice(len(area), N_POINTS, p=area / area.sum())
    u, v = np.sqrt(generator.random(N_POINTS)), generator.random(N_POINTS)
    weight = np.stack([1 - u, u * (1 - v), u * v], axis=-1)
    return (corners[face] * weight[..., None]).sum(axis=1), normal[face] / np.maximum(area[face, None], 1e-20)
