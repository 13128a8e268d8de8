"""Pictures of meshes in plain PyTorch: no OpenGL, any device, fast on one CPU thread.

Triangles are drawn in homogeneous coordinates (Olano & Greer, "Triangle scan conversion using 2D homogeneous
coordinates", 1997): an edge of a triangle is a linear function of the pixel whatever lies behind the camera, so faces
that cross the near plane need no clipping.  Every triangle is cut into rows, every row into the exact run of samples
that it covers, and one scatter keeps the nearest face of each sample.  Nothing here is differentiable.

Samples are averaged in sRGB, premultiplied: pictures are composited on sRGB backgrounds by everything that reads them
(training, volume rendering, PNG viewers), and a filter in linear light would not commute with that.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.light import MATT, Light
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.scene.rendering import Rendering

NEAR = 0.01
"""Nothing closer to the camera than this is drawn (world lengths; objects have a radius of 0.5)."""

_MAX_SIZE = 8192
_FACES_AT_ONCE = 2**18
_SAMPLES_AT_ONCE = 2**22
"""Bounds on working memory: about 0.5 GiB, or 60 bytes a sample of one view where that is more."""


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
        mesh: colour is material x vertex colour x texture; what is smoother than `light.MATT` mirrors the light.
        cameras: any number, on any device.
        size: pixels across and down, 1 to 8192.
        supersample: samples per pixel along each axis, 1 to 8.
        light: None draws the albedo as it is.

    Returns:
        Premultiplied colour, coverage, depth and world normals, on the mesh's device.

    Raises:
        InputError: a number out of range.
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
    n_samples = (size * supersample) ** 2
    step = max(1, min(_FACES_AT_ONCE // max(1, len(mesh.faces)), _SAMPLES_AT_ONCE // n_samples))
    parts = []
    for first in range(0, len(cameras), step):
        some = cameras[first : first + step]
        screen = _project(mesh.vertices, some, size * supersample)
        nearest = _nearest(screen, mesh.faces, size * supersample)
        eyes = some.world_from_camera[:, :3, 3]
        parts.append(_shade(mesh, normals, screen, nearest, eyes, size, supersample, light))
    picture = torch.cat(parts)
    return Rendering(rgb=picture[:, :3], alpha=picture[:, 3:4], depth=picture[:, 4:5], normal=picture[:, 5:])


def _project(vertices: Float[Tensor, "k 3"], cameras: Cameras, n_pixels: int) -> Float[Tensor, "v k 3"]:
    """Return (column * depth, row * depth, depth) in float64, where whole numbers are the centres of samples."""
    pose = cameras.world_from_camera.double()
    local = (vertices.double()[None] - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    depth = -local[..., 2]
    focal = (n_pixels / 2 / (cameras.fov_deg.double().deg2rad() / 2).tan())[:, None]
    center = (n_pixels - 1) / 2
    return torch.stack([local[..., 0] * focal + center * depth, center * depth - local[..., 1] * focal, depth], dim=-1)


def _nearest(screen: Float[Tensor, "v k 3"], faces: Int[Tensor, "f 3"], n_pixels: int) -> Int[Tensor, "p"]:
    """Return, per sample of all views, 0 or (bits of 1 / depth as float32) << 32 | face."""
    nearest = torch.zeros(len(screen) * n_pixels**2, dtype=torch.int64, device=screen.device)
    for start in range(0, len(faces), _FACES_AT_ONCE):
        _draw(nearest, screen, faces[start : start + _FACES_AT_ONCE], start, n_pixels)
    return nearest


def _draw(nearest: Tensor, screen: Tensor, faces: Tensor, first_face: int, n_pixels: int) -> None:
    """Keep the larger key at each sample that the faces cover."""
    # Axes below: corner or edge first, so that each is contiguous; n runs over (view, face) pairs, r over their rows.
    corners = screen.permute(2, 0, 1)[:, :, faces.T]  # xyw v corner f
    x, y, w = (c.permute(1, 0, 2).flatten(1) for c in corners)  # corner n
    infront = (w > NEAR).all(0)
    row = y / w
    top = torch.where(infront, row.amin(0), -1.0).clamp(0, n_pixels).ceil()
    bottom = torch.where(infront, row.amax(0), float(n_pixels)).clamp(-1, n_pixels - 1).floor()
    column = x / w
    inside = (bottom >= top) & (w > NEAR).any(0)
    inside &= ~infront | ((column.amax(0) >= 0) & (column.amin(0) <= n_pixels - 1))
    keep = inside.nonzero()[:, 0]
    if not len(keep):
        return
    x, y, w, top, bottom = x[:, keep], y[:, keep], w[:, keep], top[keep], bottom[keep]
    # Edge i faces corner i: E(column, row) = a column + b row + c.  Written out, not `cross`: a fused multiply-add
    # would spoil E of a shared edge being the exact negative of its neighbour's, which is what leaves no gaps.
    j, k = [1, 2, 0], [2, 0, 1]
    a = y[j] * w[k] - w[j] * y[k]
    b = w[j] * x[k] - x[j] * w[k]
    c = x[j] * y[k] - y[j] * x[k]
    volume = x[0] * a[0] + y[0] * b[0] + w[0] * c[0]
    turn = torch.where(volume < 0, -1.0, 1.0)
    plane = [q.sum(0) / torch.where(volume == 0, math.inf, volume) for q in (a, b, c)]  # 1 / depth
    a = a * turn
    a = torch.where(a == 0, 1e-200, a)  # a level edge: its run starts at -huge or at +huge
    slope, intercept, opens = -(b * turn) / a, -(c * turn) / a, a > 0
    limit = 1 / w.clamp(min=NEAR)
    low, high = torch.where((w > NEAR).all(0), limit.amin(0), 0.0), limit.amax(0)

    n_rows = torch.where(volume == 0, 0, (bottom - top + 1).long())
    for some in _blocks(n_rows):
        pair = torch.arange(some.start, some.stop, device=keep.device).repeat_interleave(n_rows[some])
        begin = n_rows[some].cumsum(0) - n_rows[some] - top[some].long()
        r = torch.arange(len(pair), device=keep.device) - begin[pair - some.start]
        at = slope.index_select(1, pair).mul_(r).add_(intercept.index_select(1, pair))
        opening = opens.index_select(1, pair)
        left = torch.where(opening, at, -1.0).amax(0).clamp_(0, n_pixels).ceil_()
        right = torch.where(opening, float(n_pixels), at).amin(0).clamp_(-1, n_pixels - 1).floor_()
        hit = (right >= left).nonzero()[:, 0]
        pair, r, left, right = pair[hit], r[hit], left[hit], right[hit]
        base = plane[1][pair] * r + plane[2][pair]
        least, most = low[pair], high[pair]
        inv_left = torch.minimum(torch.maximum(plane[0][pair] * left + base, least), most)
        inv_right = torch.minimum(torch.maximum(plane[0][pair] * right + base, least), most)
        count = (right - left).long() + 1
        slant = ((inv_right - inv_left) / (count - 1).clamp(min=1)).float()
        view, face = keep[pair] // len(faces), keep[pair] % len(faces) + first_face
        where = (view * n_pixels + r) * n_pixels + left.long()
        _scatter(nearest, where, count, inv_left.float(), slant, face)


def _scatter(nearest: Tensor, where: Tensor, count: Tensor, inverse: Tensor, slant: Tensor, face: Tensor) -> None:
    """Write runs of samples: `count` of them from `where` on, 1 / depth from `inverse` on by `slant`."""
    for some in _blocks(count):
        n = count[some]
        run = torch.arange(len(n), device=n.device).repeat_interleave(n)
        offset = torch.arange(len(run), device=n.device) - (n.cumsum(0) - n)[run]
        depth = torch.addcmul(inverse[some][run], slant[some][run], offset.float()).clamp_(1e-20, 1 / NEAR)
        key = (depth.view(torch.int32).long() << 32).bitwise_or_(face[some][run])
        nearest.scatter_reduce_(0, offset.add_(where[some][run]), key, "amax")


def _blocks(count: Int[Tensor, "p"]) -> list[slice]:
    """Cut a list into slices whose counts sum to about `_SAMPLES_AT_ONCE` at most."""
    total = count.cumsum(0)
    if not len(count) or int(total[-1]) <= _SAMPLES_AT_ONCE:
        return [slice(0, len(count))]
    marks = torch.arange(_SAMPLES_AT_ONCE, int(total[-1]), _SAMPLES_AT_ONCE, device=count.device)
    cuts = [0, *torch.searchsorted(total, marks).unique().tolist(), len(count)]
    return [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True) if b > a]


def _shade(
    mesh: Mesh,
    normals: Float[Tensor, "f 3 3"],
    screen: Float[Tensor, "v k 3"],
    nearest: Int[Tensor, "p"],
    eyes: Float[Tensor, "v 3"],
    size: int,
    supersample: int,
    light: Light | None,
) -> Float[Tensor, "v 8 h w"]:
    """Return red, green, blue, alpha, depth and normal of each pixel."""
    n_pixels = size * supersample
    at = nearest.nonzero()[:, 0]
    key = nearest[at]
    face = key & 0xFFFFFFFF
    inverse = (key >> 32).int().view(torch.float32)
    view, sample = at // n_pixels**2, at % n_pixels**2
    row, column = sample // n_pixels, sample % n_pixels
    corner = mesh.faces[face]  # p 3
    x, y, w = screen.flatten(0, 1)[corner + (view * screen.shape[1])[:, None]].unbind(-1)
    x, y = x - w * column[:, None], y - w * row[:, None]
    after, before = [1, 2, 0], [2, 0, 1]
    weight = x[:, after] * y[:, before] - y[:, after] * x[:, before]
    total = weight.sum(1, keepdim=True)
    away = total > 0  # rows run downwards, so that a face turned to the camera is clockwise here
    weight = (weight / total).float().clamp_(0, 1)
    weight = weight / weight.sum(1, keepdim=True)

    normal = functional.normalize(_mix(normals[face], weight), dim=1)
    normal = torch.where(away, -normal, normal)
    out = torch.zeros(len(nearest), 8, device=screen.device)
    color = _albedo(mesh, face, corner, weight, w, total)
    if light is not None:
        lit = color * light.shade(normal)
        surface = torch.tensor([(m.roughness, m.metallic) for m in mesh.materials], device=color.device)
        if bool((surface[:, 0] < MATT).any()):  # matt meshes pay nothing
            surface = (
                surface[:1].expand(len(face), 2) if mesh.face_material is None else surface[mesh.face_material[face]]
            )
            some = (surface[:, 0] < MATT).nonzero()[:, 0]
            to_eye = functional.normalize(eyes[view[some]] - _mix(mesh.vertices[corner[some]], weight[some]), dim=1)
            rough, metallic = surface[some].split(1, dim=1)
            lit[some] = light.polish(color[some], normal[some], to_eye, rough, metallic)
        color = lit
    out[at] = torch.cat([color.clamp_(0, 1), torch.ones_like(color[:, :1]), 1 / inverse[:, None], normal], dim=1)
    out = out.view(len(screen), size, supersample, size, supersample, 8)
    pooled = torch.zeros_like(out[:, :, 0, :, 0])
    for i in range(supersample):
        for j in range(supersample):  # several times faster than `sum((2, 4))`
            pooled += out[:, :, i, :, j]
    out = pooled.permute(0, 3, 1, 2)
    covered = out[:, 3:4].clamp(min=1)
    scale = supersample**2
    return torch.cat([out[:, :4] / scale, out[:, 4:5] / covered, out[:, 5:] / scale], dim=1)


def _mix(values: Float[Tensor, "p 3 c"], weight: Float[Tensor, "p 3"]) -> Float[Tensor, "p c"]:
    return (values * weight[..., None]).sum(1)


def _albedo(
    mesh: Mesh, face: Tensor, corner: Tensor, weight: Tensor, depth: Tensor, volume: Tensor
) -> Float[Tensor, "p 3"]:
    """Return material x vertex colour x texture at samples of faces."""
    table = torch.tensor([m.color for m in mesh.materials], dtype=torch.float32, device=face.device)
    material = None if mesh.face_material is None else mesh.face_material[face]
    color = table[:1].expand(len(face), 3).clone() if material is None else table[material]
    if mesh.vertex_color is not None:
        color = color * _mix(mesh.vertex_color[corner], weight)
    if mesh.uv is None:
        return color
    for number, item in enumerate(mesh.materials):
        if item.texture is None:
            continue
        chosen = (
            torch.arange(len(face), device=face.device) if material is None else (material == number).nonzero()[:, 0]
        )
        if len(chosen):
            uv = mesh.uv[corner[chosen]]
            a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
            height, width = item.texture.image.shape[:2]
            texels = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs() * height * width
            samples = (volume[chosen, 0].abs() / depth[chosen].prod(1)).abs().float()
            color[chosen] *= _sample(item, _mix(uv, weight[chosen]), texels / samples.clamp(min=1e-12))
    return color


def _sample(material: Material, uv: Float[Tensor, "p 2"], texels: Float[Tensor, "p"]) -> Float[Tensor, "p 3"]:
    """Read a texture bilinearly, from the level of its pyramid where a sample covers about one texel."""
    assert material.texture is not None
    level = (texels.clamp(min=1).log2() / 2).round().long()
    out = torch.empty(len(uv), 3, device=uv.device)
    image = material.texture.image[..., :3].float()
    for number in range(int(level.max()) + 1):
        chosen = (level == number).nonzero()[:, 0]
        smallest = max(image.shape[:2]) == 1
        if smallest:
            chosen = (level >= number).nonzero()[:, 0]
        if len(chosen):
            out[chosen] = _bilinear(image, uv[chosen])
        if smallest:
            break
        window = (min(2, image.shape[0]), min(2, image.shape[1]))
        image = functional.avg_pool2d(image.permute(2, 0, 1)[None], window)[0].permute(1, 2, 0)
    return out


def _bilinear(image: Float[Tensor, "h w 3"], uv: Float[Tensor, "p 2"]) -> Float[Tensor, "p 3"]:
    height, width = image.shape[:2]
    place = torch.stack([uv[:, 0] * width, (1 - uv[:, 1]) * height], dim=1) - 0.5
    low = place.floor()
    fx, fy = (place - low)[:, :1], (place - low)[:, 1:]
    left, top = low[:, 0].long() % width, low[:, 1].long() % height
    right, bottom = (left + 1) % width, (top + 1) % height
    upper = image[top, left] * (1 - fx) + image[top, right] * fx
    return upper * (1 - fy) + (image[bottom, left] * (1 - fx) + image[bottom, right] * fx) * fy
