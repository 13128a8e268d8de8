"""Pictures of meshes in plain PyTorch: no OpenGL, any device, fast on one CPU thread.

`visibility` says which face each sample sees, `shading` in what colour; here samples become pixels.  Surfaces that can
be seen through are peeled, nearest first, in front of the solid ones.  Nothing here is differentiable.

Samples are averaged in sRGB, premultiplied: pictures are composited on sRGB backgrounds by everything that reads them
(training, volume rendering, PNG viewers), and a filter in linear light would not commute with that.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.harmonic import AnyLight
from viewfold.scene.light import Light
from viewfold.scene.mesh import Mesh
from viewfold.scene.rendering import Rendering
from viewfold.scene.shading import Samples, Seen, Subject, shade
from viewfold.scene.visibility import nearest_faces

LAYERS = 8
"""Surfaces that can be seen through, one behind the other, that are drawn; those behind more are left out."""

_MAX_SIZE = 8192
_FACES_AT_ONCE, _SAMPLES_AT_ONCE = 2**18, 2**19
"""Of the views that are drawn together: bounds on working memory, or one view where that is more."""

_SHADED_AT_ONCE = 2**16
"""Samples; what is done with them stays in a processor's cache."""

_GONE = 1 / 512
"""What lets less light through hides what is behind it."""


@torch.no_grad()
def rasterize(
    mesh: Mesh,
    cameras: Cameras,
    *,
    size: int,
    supersample: int = 2,
    light: AnyLight | None = Light(),  # noqa: B008
    shape: bool = True,
) -> Rendering:
    """Draw a mesh from each camera; both sides of a face are drawn and lit.

    Args:
        mesh: see `Material` for its colour; what is smoother than `light.MATT` mirrors the light.  Of surfaces that can
            be seen through, the `LAYERS` nearest count.
        cameras: any number, on any device.
        size: pixels across and down, 1 to 8192.
        supersample: samples per pixel along each axis, 1 to 8.
        light: None draws the albedo as it is.
        shape: whether to work out depth and normals; they are zeros otherwise.

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
        on_cpu = mesh.to("cpu"), cameras.to("cpu")
        return rasterize(*on_cpu, size=size, supersample=supersample, light=light, shape=shape).to(device)
    cameras = cameras.to(device)
    normals = mesh.normals().flatten(0, 1).T.contiguous()
    solid, sheer = _sorted_faces(mesh)
    n_pixels = size * supersample
    step = max(1, min(_FACES_AT_ONCE // max(1, len(mesh.faces)), _SAMPLES_AT_ONCE // n_pixels**2))
    colors, surfaces, pyramids = [], [], {}
    for first in range(0, len(cameras), step):
        some = cameras[first : first + step]
        screen = _project(mesh.vertices, some, n_pixels)
        subject = Subject(mesh, normals, screen, some.world_from_camera[:, :3, 3], n_pixels, light, pyramids)
        picture = _Picture(len(some), size, supersample, device, shape=shape)
        behind = nearest_faces(screen, mesh.faces, n_pixels, among=solid)
        _draw_solid(picture, subject, behind, None if sheer is None else _peel(picture, subject, behind, sheer))
        color, surface = (q.view(4, len(some), size, size).transpose(0, 1) for q in picture.means())
        colors.append(color)
        surfaces.append(surface)
    color, surface = torch.cat(colors), torch.cat(surfaces)
    return Rendering(rgb=color[:, :3], alpha=color[:, 3:], depth=surface[:, :1], normal=surface[:, 1:])


def _sorted_faces(mesh: Mesh) -> tuple[Int[Tensor, "f"] | None, Int[Tensor, "g"] | None]:
    """Return the faces that hide what is behind them (None: all), and those that may not (None: there are none)."""
    see_through = [material.alpha_mode != "opaque" for material in mesh.materials]
    if not any(see_through):
        return None, None
    is_sheer = torch.tensor(see_through, device=mesh.faces.device)[mesh.material_index()]
    return (~is_sheer).nonzero()[:, 0], is_sheer.nonzero()[:, 0]


class _Picture:
    """Sums over the samples of each pixel of all views: colour, alpha; depth, normal and number of surfaces."""

    def __init__(self, n_views: int, size: int, supersample: int, device: torch.device, *, shape: bool) -> None:
        self.size, self.supersample, self.shape = size, supersample, shape
        n = n_views * size**2
        self.color = torch.zeros(4, n, device=device)
        self.surface = torch.zeros(5, n if shape else 0, device=device)

    def add(self, pixel: Int[Tensor, "p"], seen: Seen, share: Float[Tensor, "p"] | None = None) -> None:
        """Add what is seen at samples in these pixels, as much of it as `share` says."""
        for total, channel in zip(self.color, seen.color, strict=False):
            total.scatter_add_(0, pixel, channel if share is None else channel * share)
        self.color[3].scatter_add_(0, pixel, torch.ones_like(seen.depth) if share is None else share)

    def add_surface(self, pixel: Int[Tensor, "p"], depth: Float[Tensor, "p"], normal: Float[Tensor, "3 p"]) -> None:
        """Add the one surface that counts at samples in these pixels."""
        for total, channel in zip(self.surface, (depth, *normal, torch.ones_like(depth)), strict=True):
            total.scatter_add_(0, pixel, channel)

    def pixels(self, samples: Samples) -> Int[Tensor, "p"]:
        """Return the number of each sample's pixel, view by view and row by row."""
        place = samples.view * self.size
        if self.supersample == 1:
            row, column = samples.row, samples.column
        else:
            row, column = ((q + 0.5).div_(self.supersample).floor_() for q in (samples.row, samples.column))
        return place.add_(row).mul_(self.size).add_(column).long()

    def means(self) -> tuple[Float[Tensor, "4 n"], Float[Tensor, "4 n"]]:
        """Return red, green, blue and alpha; depth and normal; premultiplied."""
        scale = self.supersample**2
        color = self.color.div_(scale)
        if not self.shape:
            return color, color.new_zeros(()).expand_as(color)
        surface, count = self.surface[:4], self.surface[4].clamp_(min=1)
        surface /= count
        surface[1:] *= color[3]
        return color, surface


def _draw_solid(
    picture: _Picture, subject: Subject, nearest: Int[Tensor, "p"], left: tuple[Tensor, Tensor] | None
) -> None:
    """Add samples of solid faces; `left` says how much of each passes, and whether it has its surface already."""
    seen_at_all = nearest if left is None else nearest * (left[0] > 0)
    for at in seen_at_all.nonzero()[:, 0].split(_SHADED_AT_ONCE):
        samples = Samples.of(at, subject.n_pixels)
        seen = shade(subject, samples, nearest.index_select(0, at), normals=picture.shape)
        pixel = picture.pixels(samples)
        picture.add(pixel, seen, None if left is None else left[0].index_select(0, at))
        if seen.normal is None or not picture.shape:
            continue
        if left is None:
            picture.add_surface(pixel, seen.depth, seen.normal)
        else:
            bare = (~left[1][at]).nonzero()[:, 0]
            picture.add_surface(pixel[bare], seen.depth[bare], seen.normal[:, bare])


def _peel(
    picture: _Picture, subject: Subject, behind: Int[Tensor, "p"], sheer: Int[Tensor, "g"]
) -> tuple[Float[Tensor, "p"], Bool[Tensor, "p"]] | None:
    """Add surfaces that can be seen through, from the nearest on; return what passes, and where a surface is added."""
    passes = torch.ones(len(behind), device=behind.device)
    found = torch.zeros_like(passes, dtype=torch.bool)
    limit = torch.full_like(behind, torch.iinfo(torch.int64).max)
    first = torch.zeros(4, len(behind) if picture.shape else 0, device=behind.device)  # surfaces of any alpha
    for depth in range(LAYERS):
        layer = nearest_faces(subject.screen, subject.mesh.faces, subject.n_pixels, among=sheer, within=(behind, limit))
        layer_at = layer.nonzero()[:, 0]
        if not len(layer_at):
            if not depth:
                return None
            break
        for at in layer_at.split(_SHADED_AT_ONCE):
            samples = Samples.of(at, subject.n_pixels)
            seen, pixel = shade(subject, samples, layer[at], sheer=True, normals=picture.shape), picture.pixels(samples)
            assert seen.alpha is not None
            picture.add(pixel, seen, passes[at] * seen.alpha)
            passes[at] *= 1 - seen.alpha
            if picture.shape:
                _note(picture, at, pixel, seen, first, found)
        limit = torch.where(passes > _GONE, layer, 0)  # 0: nothing lies behind, or nothing of it can be seen
    if picture.shape:
        at = (~found & (first[0] > 0) & ((behind == 0) | (passes <= 0))).nonzero()[:, 0]
        pixel = picture.pixels(Samples.of(at, subject.n_pixels))
        picture.add_surface(pixel, first[0, at], first[1:, at])
    return passes, found


def _note(
    picture: _Picture, at: Tensor, pixel: Tensor, seen: Seen, first: Float[Tensor, "4 q"], found: Bool[Tensor, "q"]
) -> None:
    """Add the surfaces that hide what is behind, where none was; keep those of any alpha in `first`, where none was."""
    assert seen.alpha is not None and seen.normal is not None
    surface = torch.cat([seen.depth[None], seen.normal])
    fresh = (first[0, at] == 0) & (seen.alpha > 0)
    first[:, at[fresh]] = surface[:, fresh]
    hides = (seen.alpha >= 0.5) & ~found[at]
    picture.add_surface(pixel[hides], seen.depth[hides], seen.normal[:, hides])
    found[at[hides]] = True


def _project(vertices: Float[Tensor, "k 3"], cameras: Cameras, n_pixels: int) -> Float[Tensor, "3 v k"]:
    """Return (column * depth, row * depth, depth) in float64, where whole numbers are the centres of samples."""
    pose = cameras.world_from_camera.double()
    local = (vertices.double()[None] - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    depth = -local[..., 2]
    focal = (n_pixels / 2 / (cameras.fov_deg.double().deg2rad() / 2).tan())[:, None]
    center = (n_pixels - 1) / 2
    return torch.stack([local[..., 0] * focal + center * depth, center * depth - local[..., 1] * focal, depth])
