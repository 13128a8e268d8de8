"""From a field to a closed triangle mesh.

The usual faults of extracted meshes are avoided here: the threshold is searched for, so that the mesh covers the same
pixels as the field's own pictures; what a thin part holds together stays one; floaters and hidden cavities are dropped;
the surface is closed at the border of the box and stays closed when thinned out.  Colour comes later (texture.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.scene.field import BOX_RADIUS, Field, lattice
from viewfold.scene.joining import join_pieces
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.rendering import Rendering
from viewfold.scene.volume import OccupancyGrid, intersect_sphere, render_volume

OPACITY_STEP = 0.02
"""Density becomes the opacity of this length before it is smoothed, so that a huge density inside cannot move the
surface; about one voxel of the default grid."""

N_LEVELS = 64
"""Thresholds tried; one set of pictures serves all of them."""

PLATEAU = 0.003
"""Thresholds whose overlap is this near to the best are as good; the middle one is taken."""

MIN_OPACITY = 0.05
"""A field whose densest place is thinner than this holds no surface."""


@dataclass(frozen=True, kw_only=True)
class SurfaceResult:
    """A mesh, and how closely it matches the field."""

    mesh: Mesh
    threshold: float
    """The density of the surface, per unit length; 0 where that of a distance was taken."""

    silhouette_iou: float
    """Pixels that mesh and field both cover, as a share of those that either covers."""

    components_found: int
    components_kept: int
    watertight: bool

    fine: Mesh | None = None
    """The same before it was thinned out; None where that is not known."""


def extract_surface(
    field: Field,
    *,
    resolution: int = 96,
    threshold: float | None = None,
    renders: Rendering | None = None,
    cameras: Cameras | None = None,
    max_faces: int = 20_000,
    smooth_voxels: float = 0.7,
    smooth_steps: int = 4,
    min_component: float = 0.02,
    device: torch.device | str = "cpu",
) -> SurfaceResult:
    """Extract the surface of a field by marching cubes (Lorensen and Cline 1987), cleaned and closed.

    Args:
        field: density over the box of radius 0.6.
        resolution: nodes along each axis, 8 to 512.
        threshold: density of the surface; None searches for the one whose silhouettes fit `renders` best.
        renders: the field as seen by `cameras`; None renders it.
        cameras: None looks from eight sides.
        max_faces: the mesh is thinned out to this number.
        smooth_voxels: width of the Gaussian that the opacity is smoothed with, in voxels of `resolution`.
        smooth_steps: steps of Taubin smoothing of the mesh, which takes stairs away and keeps the volume.
        min_component: pieces with a smaller share of the area are dropped.
        device: where the field lives.  The mesh is on the CPU.

    Raises:
        InputError: a number out of range, or renders without their cameras.
        FitError: the field is empty or not finite.
    """
    check_extraction(resolution, max_faces)
    if renders is not None and cameras is None:
        raise InputError("`cameras` must be given with `renders`; got None. Pass the cameras that they were made with.")
    if cameras is None:
        cameras = eight_sides(device)
    opacity = _opacity(field, resolution, smooth_voxels, device)
    if renders is None:
        with torch.no_grad():
            renders = render_volume(field, cameras, size=64, occupancy=OccupancyGrid.of(field, device=device))
    covered = renders.alpha[:, 0].detach() > 0.5
    if threshold is None:
        level = _best_level(opacity, cameras, covered)
    else:
        level = -math.expm1(-threshold * OPACITY_STEP)
    if not 0 < level < float(opacity.max()):
        raise FitError(
            f"`threshold` must lie below the field's peak; got an opacity of {level:.3f} where the peak is "
            f"{float(opacity.max()):.3f}. Lower it, or leave it out to search for one."
        )
    return close_surface(
        *march_cubes(join_pieces(opacity, level), level, outside=0.0),
        threshold=-math.log1p(-level) / OPACITY_STEP,
        cameras=cameras,
        covered=covered,
        max_faces=max_faces,
        smooth_steps=smooth_steps,
        min_component=min_component,
    )


def eight_sides(device: torch.device | str = "cpu") -> Cameras:
    """Return the cameras that a mesh is compared with what it was taken from by, unless others are given."""
    return Cameras.at(elevation_deg=[0.0, 30.0] * 4, azimuth_deg=[45.0 * i for i in range(8)]).to(device)


def check_extraction(resolution: int, max_faces: int) -> None:
    """Refuse a grid or a mesh that no surface fits, before anything is sampled.

    Raises:
        InputError: a number out of range.
    """
    if not 8 <= resolution <= 512:
        raise InputError(f"`resolution` must lie between 8 and 512; got {resolution}.")
    if max_faces < 4:
        raise InputError(f"`max_faces` must be at least 4; got {max_faces}.")


def close_surface(
    vertices: np.ndarray,
    faces: np.ndarray,
    *,
    threshold: float,
    cameras: Cameras,
    covered: Bool[Tensor, "v h w"],
    max_faces: int,
    smooth_steps: int,
    min_component: float,
) -> SurfaceResult:
    """Clean what marching cubes found, thin it out, and compare its silhouettes with what was covered.

    Args:
        threshold: to be kept with the result.
        cameras: from which `covered` pixels show more of the object than of the ground.
        max_faces, smooth_steps, min_component: see `extract_surface`.
    """
    faces, found, kept = _keep_components(vertices, faces, min_component)
    vertices, faces = _compact(taubin(vertices, faces, steps=smooth_steps), faces)
    fine = _mesh(vertices, faces)
    mesh = decimate(fine, max_faces=max_faces)
    silhouette = rasterize(mesh, cameras.to("cpu"), size=covered.shape[-1], light=None).alpha[:, 0] > 0.5
    return SurfaceResult(
        mesh=mesh,
        threshold=threshold,
        silhouette_iou=_overlap(silhouette, covered.cpu()),
        components_found=found,
        components_kept=kept,
        watertight=is_watertight(mesh),
        fine=fine,
    )


def is_watertight(mesh: Mesh) -> bool:
    """Say whether every edge lies between exactly two faces that agree on the outside.

    Vertices at the same place count as one, so a texture's seams do not matter.
    """
    _, point = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    return _is_closed(point[mesh.faces].cpu().numpy())


def decimate(mesh: Mesh, *, max_faces: int) -> Mesh:
    """Return the mesh with at most about `max_faces` faces (quadric collapse, Garland and Heckbert 1997).

    Of a closed mesh the result is closed: gentler and gentler collapses are tried, and if none keeps it closed the mesh
    comes back as it was.  Colours and texture coordinates are dropped; decimate first.
    """
    import fast_simplification

    if len(mesh.faces) <= max_faces:
        return mesh
    vertices, faces = mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy()
    must_close = _is_closed(faces)
    for aggression in (5, 3, 1):
        collapsed = fast_simplification.simplify(
            vertices, faces.astype(np.int32), target_count=max_faces, agg=aggression
        )
        fewer, thinned = _compact(collapsed[0], _without_degenerate(collapsed[1].astype(np.int64)))
        if len(thinned) and (not must_close or _is_closed(thinned)):
            return _mesh(fewer, thinned)
    return mesh


def taubin(
    vertices: np.ndarray, faces: np.ndarray, *, steps: int, shrink: float = 0.5, inflate: float = -0.53
) -> np.ndarray:
    """Smooth vertices towards the mean of their neighbours and back, so that the volume stays (Taubin 1995).

    Each step is x <- x + shrink (mean of neighbours - x), then the same with `inflate`, which is negative and larger.
    """
    from scipy.sparse import coo_matrix, diags

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    shape = (len(vertices), len(vertices))
    adjacency = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=shape).tocsr()
    adjacency.data[:] = 1
    mean = diags(1 / np.maximum(np.asarray(adjacency.sum(axis=1))[:, 0], 1)) @ adjacency
    smooth = vertices.astype(np.float64)
    for factor in (shrink, inflate) * steps:
        smooth = smooth + factor * (mean @ smooth - smooth)
    return smooth


@torch.no_grad()
def _opacity(field: Field, resolution: int, smooth_voxels: float, device: torch.device | str) -> Float[Tensor, "z y x"]:
    points = lattice(resolution, device=device)
    density = torch.cat([field.density(chunk) for chunk in points.split(2**19)])
    if not bool(torch.isfinite(density).all()):
        raise FitError(
            "`field` must be finite; its density holds NaN or infinity. Fit again with a lower learning rate."
        )
    opacity = -torch.expm1(-density * OPACITY_STEP).reshape(resolution, resolution, resolution)
    if float(opacity.max()) < MIN_OPACITY:
        raise FitError(
            f"`field` must hold a visible object; its densest place absorbs {float(opacity.max()):.3f} of the light in "
            f"{OPACITY_STEP} units. Fit longer, or from another seed or prompt."
        )
    if smooth_voxels > 0:
        from scipy.ndimage import gaussian_filter

        smooth = gaussian_filter(opacity.cpu().numpy(), smooth_voxels, mode="nearest", truncate=3)
        opacity = torch.from_numpy(smooth).to(opacity.device)
    return opacity


@torch.no_grad()
def _best_level(opacity: Float[Tensor, "z y x"], cameras: Cameras, covered: Bool[Tensor, "v h w"]) -> float:
    """Return the level whose surface covers the same pixels as the field.

        argmax over levels of IoU(largest opacity along the ray > level, covered);  of a plateau, the middle

    A ray meets the surface of a level exactly where the largest opacity along it passes that level, so one picture of
    these maxima holds the silhouettes of every level.
    """
    peak = _peak_along_rays(opacity, cameras, covered.shape[-1])
    if not bool(covered.any()):
        raise FitError(
            "`renders` must show an object; no pixel is more than half covered. Fit longer, or from another seed."
        )
    levels = torch.linspace(0.02, 0.98, N_LEVELS) * float(opacity.max())
    scores = [_overlap(peak > level, covered) for level in levels.tolist()]
    good = [level for level, score in zip(levels.tolist(), scores, strict=True) if score >= max(scores) - PLATEAU]
    return good[len(good) // 2]


def _peak_along_rays(opacity: Float[Tensor, "z y x"], cameras: Cameras, size: int) -> Float[Tensor, "v h w"]:
    resolution = opacity.shape[0]
    origins, directions = (x.reshape(-1, 3) for x in cameras.rays(size))
    near, far = intersect_sphere(origins, directions, radius=BOX_RADIUS)
    hit = (far > near).nonzero()[:, 0]
    fraction = torch.linspace(0, 1, resolution, device=opacity.device)
    peak = torch.zeros_like(near)
    for chunk in hit.split(8192):
        distance = near[chunk, None] + fraction * (far - near)[chunk, None]
        points = torch.addcmul(origins[chunk, None], directions[chunk, None], distance[..., None]) / BOX_RADIUS
        values = functional.grid_sample(opacity[None, None], points[None, None], align_corners=True)
        peak[chunk] = values[0, 0, 0].amax(dim=-1)
    return peak.reshape(len(cameras), size, size)


def _overlap(a: Bool[Tensor, "v h w"], b: Bool[Tensor, "v h w"]) -> float:
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def march_cubes(values: Float[Tensor, "z y x"], level: float, *, outside: float) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and outward faces where values rise above a level; a border of `outside` closes the box."""
    from skimage.measure import marching_cubes

    resolution = values.shape[0]
    volume = np.pad(values.cpu().numpy().transpose(2, 1, 0), 1, constant_values=outside)
    vertices, faces, _, _ = marching_cubes(volume, level=level, allow_degenerate=False)
    vertices = (vertices.astype(np.float64) - 1) * (2 * BOX_RADIUS / (resolution - 1)) - BOX_RADIUS
    faces = faces.astype(np.int64)
    return vertices, faces if _signed_volume(vertices, faces) > 0 else faces[:, ::-1].copy()


def _keep_components(vertices: np.ndarray, faces: np.ndarray, min_share: float) -> tuple[np.ndarray, int, int]:
    """Drop pieces with a small share of the area, and cavities that nobody can see (pieces turned inside out)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(vertices), len(vertices)))
    piece = connected_components(graph, directed=False)[1][faces[:, 0]]
    _, piece = np.unique(piece, return_inverse=True)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.bincount(piece, np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2)
    volume = np.bincount(piece, np.einsum("fi,fi->f", a, np.cross(b, c)) / 6)
    outer = volume > 0
    keep = outer & (area >= min_share * area[outer].sum())
    keep[np.argmax(np.where(outer, area, -1))] = True
    return faces[keep[piece]], int(outer.sum()), int(keep.sum())


def _compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)


def _without_degenerate(faces: np.ndarray) -> np.ndarray:
    """Drop faces with a repeated corner, and pairs of faces folded onto each other."""
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    _, same, count = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
    return faces[count[same.reshape(-1)] == 1]


def _is_closed(faces: np.ndarray) -> bool:
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    if not len(edges) or (edges[:, 0] == edges[:, 1]).any():
        return False
    limit = edges.max() + 1
    forward = np.sort(edges[:, 0] * limit + edges[:, 1])
    backward = np.sort(edges[:, 1] * limit + edges[:, 0])
    return bool((np.diff(forward) > 0).all() and (forward == backward).all())


def _signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


def _mesh(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    return Mesh(
        vertices=torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)),
        faces=torch.from_numpy(np.ascontiguousarray(faces, dtype=np.int64)),
    )
