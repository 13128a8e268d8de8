"""Pictures of meshes in plain PyTorch: no OpenGL, any device, fast on one CPU thread.

`visibility` says which face each sample sees, `shading` in what colour; here samples become pixels.  Surfaces that can
be seen through are peeled, nearest first, in front of the solid ones.  Nothing here is differentiable.

Samples are averaged in sRGB, premultiplied: pictures are composited on sRGB backgrounds by everything that reads them
(training, volume rendering, PNG viewers), and a filter in linear light would not commute with that.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.light import Light
from viewfold.scene.mesh import Mesh
from viewfold.scene.rendering import Rendering
from viewfold.scene.shading import Subject, shade
from viewfold.scene.visibility import nearest_faces

LAYERS = 8
"""Surfaces that can be seen through, one behind the other, that are drawn; those behind more are left out."""

_MAX_SIZE = 8192
_FACES_AT_ONCE, _SAMPLES_AT_ONCE = 2**18, 2**19
"""Of the views that are drawn together: bounds on working memory, or one view where that is more."""

_GONE = 1 / 512
"""What lets less light through hides what is behind it."""


@torch.no_grad()
def rasterize(
    mesh: Mesh,
    cameras: Cameras,
    *,
    size: int,
    supersample: int = 2,
    light: Light | None = Light(),  # noqa: B008
) -> Rendering:
    """Draw a mesh from each camera; both sides of a face are drawn and lit.

    Args:
        mesh: see `Material` for its colour; what is smoother than `light.MATT` mirrors the light.  Of surfaces that can
            be seen through, the `LAYERS` nearest count.
        cameras: any number, on any device.
        size: pixels across and down, 1 to 8192.
        supersample: samples per pixel along each axis, 1 to 8.
        light: None draws the albedo as it is.

    Returns:
        Premultiplied colour, coverage, depth and world normals, on the mesh's device.  Depth and normal are those of
        the nearest surface that hides at least half of what is behind it, or else of the solid one, or the nearest.

    Raises:
        InputError: a number out of range.
        AssetError: its faces lie on one another too often to be drawn.
    """
    if not 1 <= supersample <= 8 or not 1 <= size <= _MAX_SIZE or size * supersample > 2 * _MAX_SIZE:
        raise InputError(
            f"`size` must lie between 1 and {_MAX_SIZE} and `supersample` between 1 and 8, with a product of at most "
            f"{2 * _MAX_SIZE}; got {size} and {supersample}."
        )
    device = mesh.vertices.device
    if device.type == "mps":  # no float64 there
        return rasterize(mesh.to("cpu"), cameras.to("cpu"), size=size, supersample=supersample, light=light).to(device)
    cameras = cameras.to(device)
    normals = mesh.normals()
    solid, sheer = _sorted_faces(mesh)
    n_pixels = size * supersample
    step = max(1, min(_FACES_AT_ONCE // max(1, len(mesh.faces)), _SAMPLES_AT_ONCE // n_pixels**2))
    parts = []
    for first in range(0, len(cameras), step):
        some = cameras[first : first + step]
        screen = _project(mesh.vertices, some, n_pixels)
        subject = Subject(mesh, normals, screen, some.world_from_camera[:, :3, 3], n_pixels, light)
        nearest = nearest_faces(screen, mesh.faces, n_pixels, among=solid)
        drawn = _solid(subject, nearest) if sheer is None else _peeled(subject, nearest, sheer)
        parts.append(_pooled(drawn.view(len(screen), size, supersample, size, supersample, 9)))
    picture = torch.cat(parts)
    return Rendering(rgb=picture[:, :3], alpha=picture[:, 3:4], depth=picture[:, 4:5], normal=picture[:, 5:])


def _sorted_faces(mesh: Mesh) -> tuple[Int[Tensor, "f"] | None, Int[Tensor, "g"] | None]:
    """Return the faces that hide what is behind them (None: all), and those that may not (None: there are none)."""
    see_through = [material.alpha_mode != "opaque" for material in mesh.materials]
    if not any(see_through):
        return None, None
    is_sheer = torch.tensor(see_through, device=mesh.faces.device)[mesh.material_index()]
    return (~is_sheer).nonzero()[:, 0], is_sheer.nonzero()[:, 0]


def _solid(subject: Subject, nearest: Int[Tensor, "p"]) -> Float[Tensor, "p 9"]:
    """Return colour, alpha, depth, normal and whether there is a surface, of samples of solid faces."""
    at = nearest.nonzero()[:, 0]
    seen = shade(subject, at, nearest[at])
    out = torch.zeros(len(nearest), 9, device=nearest.device)
    one = torch.ones_like(seen.depth[:, None])
    out[at] = torch.cat([seen.color, one, seen.depth[:, None], seen.normal, one], dim=1)
    return out


def _peeled(subject: Subject, behind: Int[Tensor, "p"], sheer: Int[Tensor, "g"]) -> Float[Tensor, "p 9"]:
    """Return the same with surfaces that can be seen through in front, composited from the nearest on."""
    out = torch.zeros(len(behind), 9, device=behind.device)
    passes = torch.ones(len(behind), device=behind.device)
    limit = torch.full_like(behind, torch.iinfo(torch.int64).max)
    first = torch.zeros(len(behind), 4, device=behind.device)  # depth and normal of the nearest surface of any alpha
    for _ in range(LAYERS):
        layer = nearest_faces(subject.screen, subject.mesh.faces, subject.n_pixels, among=sheer, within=(behind, limit))
        at = layer.nonzero()[:, 0]
        if not len(at):
            break
        seen = shade(subject, at, layer[at], sheer=True)
        assert seen.alpha is not None
        share = (passes[at] * seen.alpha)[:, None]
        out[at, :3] += share * seen.color
        out[at, 3:4] += share
        surface = torch.cat([seen.depth[:, None], seen.normal], dim=1)
        fresh = (first[at, 0] == 0) & (seen.alpha > 0)
        first[at[fresh]] = surface[fresh]
        hides = (seen.alpha >= 0.5) & (out[at, 8] == 0)
        out[at[hides], 4:8], out[at[hides], 8] = surface[hides], 1.0
        passes[at] *= 1 - seen.alpha
        limit = torch.where(passes > _GONE, layer, 0)  # 0: nothing lies behind, or nothing of it can be seen
    at = ((behind > 0) & (passes > 0)).nonzero()[:, 0]
    seen = shade(subject, at, behind[at])
    out[at, :3] += passes[at, None] * seen.color
    out[at, 3] += passes[at]
    bare = at[out[at, 8] == 0]
    mine = out[at, 8] == 0
    out[bare, 4:8] = torch.cat([seen.depth[:, None], seen.normal], dim=1)[mine]
    out[bare, 8] = 1.0
    thin = (out[:, 8] == 0) & (first[:, 0] > 0)
    out[thin, 4:8], out[thin, 8] = first[thin], 1.0
    return out


def _pooled(samples: Float[Tensor, "v h s w r 9"]) -> Float[Tensor, "v 8 h w"]:
    """Return red, green, blue, alpha, depth and normal of each pixel from those of its samples."""
    supersample = samples.shape[2]
    pooled = torch.zeros_like(samples[:, :, 0, :, 0])
    for i in range(supersample):
        for j in range(supersample):  # several times faster than `sum((2, 4))`
            pooled += samples[:, :, i, :, j]
    pooled = pooled.permute(0, 3, 1, 2)
    surfaces, scale = pooled[:, 8:].clamp(min=1), supersample**2
    alpha = pooled[:, 3:4]
    normal = pooled[:, 5:8] / surfaces * alpha  # premultiplied
    return torch.cat([pooled[:, :4] / scale, pooled[:, 4:5] / surfaces, normal / scale], dim=1)


def _project(vertices: Float[Tensor, "k 3"], cameras: Cameras, n_pixels: int) -> Float[Tensor, "v k 3"]:
    """Return (column * depth, row * depth, depth) in float64, where whole numbers are the centres of samples."""
    pose = cameras.world_from_camera.double()
    local = (vertices.double()[None] - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    depth = -local[..., 2]
    focal = (n_pixels / 2 / (cameras.fov_deg.double().deg2rad() / 2).tan())[:, None]
    center = (n_pixels - 1) / 2
    return torch.stack([local[..., 0] * focal + center * depth, center * depth - local[..., 1] * focal, depth], dim=-1)
