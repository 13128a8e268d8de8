"""Differentiable pictures of a mesh: gradients reach its colours through interpolation, its vertices by its outlines.

Which face each pixel shows is found without gradient (scene/visibility.py); colour is interpolated with gradient; and
where an outline runs between two pixels' centres, the colours of both are blended by how far it reaches from one to the
other, so that a vertex at the outline has a gradient.  That is the antialiasing of Laine et al., "Modular primitives
for high-performance differentiable rendering", 2020, section 3.4, but outlines are walked edge by edge instead of being
looked for in the faces that pixels show, so that faces smaller than a pixel lose nothing.  Exact for straight outlines.

The mesh is closed and opaque, and colours are at its vertices.  Pictures of any other mesh: scene/rasterize.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.rendering import Rendering
from viewfold.scene.visibility import NEAR, nearest_faces

BEHIND = 0.01
"""An outline is seen where what lies beyond it is further away than this, in world units: creases are no outlines."""

BESIDE = 0.3
"""And where the pixel within it shows a surface that is no further from it along the axis than this."""

_FACE = 2**32 - 1


@dataclass(frozen=True, eq=False)
class Topology:
    """The edges of a mesh, each between two faces."""

    faces: Int[Tensor, "f 3"]

    ends: Int[Tensor, "e 2"]
    """The vertices of an edge, in the order that its first face has them."""

    sides: Int[Tensor, "e 2"]
    """The two faces of an edge."""

    def to(self, device: torch.device | str) -> Topology:
        """Return the same edges on another device."""
        return Topology(faces=self.faces.to(device), ends=self.ends.to(device), sides=self.sides.to(device))

    @classmethod
    def of(cls, faces: Int[Tensor, "f 3"]) -> Topology:
        """Find the edges.

        Raises:
            InputError: the mesh is not closed: an edge has not exactly two faces that agree on the outside.
        """
        n_faces = len(faces)
        ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        face = torch.arange(n_faces, device=faces.device).repeat(3)
        n = int(faces.max()) + 1 if n_faces else 0
        forward, backward = ends[:, 0] * n + ends[:, 1], ends[:, 1] * n + ends[:, 0]
        key, order = forward.sort()
        other, back = backward.sort()
        closed = n_faces > 0 and bool((key == other).all()) and bool((key.diff() > 0).all())
        if not closed:
            raise InputError(
                "`faces` must be those of a closed mesh, every edge between two faces; they are not. Close it first."
            )
        first = ends[order][:, 0] < ends[order][:, 1]  # each edge once
        return cls(faces=faces, ends=ends[order][first], sides=torch.stack([face[order], face[back]], dim=1)[first])


def draw(
    vertices: Float[Tensor, "k 3"],
    colors: Float[Tensor, "k 3"],
    topology: Topology,
    cameras: Cameras,
    *,
    size: int,
    normals: bool = False,
) -> Rendering:
    """Draw a closed mesh in the colours of its vertices, without light; differentiable in vertices and colours.

    Args:
        vertices: world coordinates, in front of all cameras.
        colors: sRGB in [0, 1].
        topology: of its faces, made once.
        cameras: where from, on the same device.
        size: pixels along each side.
        normals: also draw the faces' normals, turned to the camera.

    Returns:
        Colour premultiplied, coverage and normals with blended outlines; depth of what pixels' centres show.

    Raises:
        InputError: a vertex is not in front of a camera.
    """
    screen = _project(vertices, cameras, size)
    if not bool((screen[2].detach() > NEAR).all()):
        raise InputError("`vertices` must lie in front of all cameras; one does not. Move the cameras away.")
    seen = nearest_faces(screen.detach().double(), topology.faces, size)
    covered = seen.nonzero()[:, 0]
    face = seen[covered] & _FACE
    weight, corner, depth = _interpolation(screen, topology.faces[face], covered, size)
    channels = [(colors[corner] * weight[..., None]).sum(dim=1), weight.sum(dim=1, keepdim=True)]
    if normals:
        channels.append(_normals(vertices, topology.faces, cameras, face, covered // size**2))
    image = screen.new_zeros(len(seen), 7 if normals else 4).index_copy(0, covered, torch.cat(channels, dim=1))
    depths = screen.new_zeros(len(seen)).index_copy(0, covered, depth)
    image = _blend_outlines(image, depths.detach(), screen, topology, vertices.detach(), cameras, size)
    image = image.reshape(len(cameras), size, size, -1).permute(0, 3, 1, 2)
    depths = depths.reshape(len(cameras), 1, size, size)
    flat = image[:, 4:] if normals else torch.zeros_like(image[:, :3])
    return Rendering(rgb=image[:, :3], alpha=image[:, 3:4], depth=depths, normal=flat)


def _project(vertices: Float[Tensor, "k 3"], cameras: Cameras, size: int) -> Float[Tensor, "3 v k"]:
    """Return (column * depth, row * depth, depth), where whole numbers are the centres of pixels."""
    pose = cameras.world_from_camera
    local = (vertices[None] - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    depth = -local[..., 2]
    focal = (size / 2 / (cameras.fov_deg.deg2rad() / 2).tan())[:, None]
    center = (size - 1) / 2
    return torch.stack([local[..., 0] * focal + center * depth, center * depth - local[..., 1] * focal, depth])


def _interpolation(
    screen: Float[Tensor, "3 v k"], corner: Int[Tensor, "p 3"], pixel: Int[Tensor, "p"], size: int
) -> tuple[Float[Tensor, "p 3"], Int[Tensor, "p 3"], Float[Tensor, "p"]]:
    """Return the weights of the corners in perspective, the corners, and the depth, of faces at pixels' centres.

        b_i = E_i / sum E,   E_i = x_j y_k - y_j x_k,   (x, y) = (column, row) * depth seen from the pixel's centre

    Source: Olano and Greer 1997.  Counted from the pixel's centre, so that float32 is enough for small faces.
    """
    view = pixel // size**2
    column, row = (pixel % size).to(screen), (pixel // size % size).to(screen)
    x, y, w = (q.flatten()[view[:, None] * screen.shape[2] + corner] for q in screen)
    x, y = x - column[:, None] * w, y - row[:, None] * w
    j, k = [1, 2, 0], [2, 0, 1]
    edge = x[:, j] * y[:, k] - y[:, j] * x[:, k]
    total = edge.sum(dim=1, keepdim=True)
    weight = edge / torch.where(total.abs() < 1e-12, torch.full_like(total, 1e-12), total)
    return weight, corner, (weight * w).sum(dim=1)


def _normals(
    vertices: Tensor, faces: Int[Tensor, "f 3"], cameras: Cameras, face: Int[Tensor, "p"], view: Int[Tensor, "p"]
) -> Float[Tensor, "p 3"]:
    a, b, c = vertices[faces].unbind(1)
    normal = functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-12)[face]
    away = ((a[face] - cameras.position[view]) * normal).sum(dim=-1, keepdim=True)
    return torch.where(away > 0, -normal, normal)


def _outlines(
    topology: Topology, vertices: Float[Tensor, "k 3"], cameras: Cameras
) -> tuple[Int[Tensor, "o"], Int[Tensor, "o 2"]]:
    """Return the view and the ends of each edge between a face that looks at the camera and one that looks away.

    The ends are in the order that the face that looks at the camera has them.
    """
    a, b, c = vertices[topology.faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    toward = (normal * a).sum(dim=-1)[None] < cameras.position @ normal.T  # view, face
    first, second = toward[:, topology.sides[:, 0]], toward[:, topology.sides[:, 1]]
    view, edge = (first != second).nonzero(as_tuple=True)
    ends = topology.ends[edge]
    return view, torch.where(first[view, edge][:, None], ends, ends.flip(1))


def _blend_outlines(
    image: Float[Tensor, "p c"],
    depths: Float[Tensor, "p"],
    screen: Float[Tensor, "3 v k"],
    topology: Topology,
    vertices: Float[Tensor, "k 3"],
    cameras: Cameras,
    size: int,
) -> Float[Tensor, "p c"]:
    """Blend neighbouring pixels where an outline runs between their centres.

    With d the way from the centre of the pixel within to the outline, 0 to 1, the centre of the next pixel being at 1:

        d >= 1/2    outside += (d - 1/2) (inside - outside)
        d <  1/2    inside  += (1/2 - d) (outside - inside)

    Steep outlines are looked for along rows, flat ones along columns, so that each is counted once.
    """
    view, ends = _outlines(topology, vertices, cameras)
    at = view[:, None] * screen.shape[2] + ends
    x, y, w = (q.flatten()[at] for q in screen)
    place = torch.stack([x / w, y / w], dim=1)  # o, (column row), (start end)
    run = place.detach().diff(dim=2)[..., 0]
    steep = run[:, 1].abs() >= run[:, 0].abs()
    blended = image
    for along, chosen in ((0, steep), (1, ~steep)):
        found = _crossings(place[chosen], 1 / w[chosen], run[chosen], view[chosen], along, size)
        blended = blended + _differences(image, depths, found)
    return blended


@dataclass(frozen=True, eq=False)
class _Crossings:
    """Where outlines cross the lines between centres of neighbouring pixels."""

    inside: Int[Tensor, "q"]
    """The pixel on the mesh's side; -1: out of the picture."""

    outside: Int[Tensor, "q"]

    reach: Float[Tensor, "q"]
    """From the centre of `inside`, 0 to 1, with gradient."""

    depth: Float[Tensor, "q"]
    """Of the outline."""


def _crossings(
    place: Float[Tensor, "o 2 2"],
    inverse: Float[Tensor, "o 2"],
    run: Float[Tensor, "o 2"],
    view: Int[Tensor, "o"],
    along: int,
    size: int,
) -> _Crossings:
    """Return the crossings of some outlines with rows (`along` 0) or columns (1) of pixels."""
    across = 1 - along
    start, end = place[:, across].detach().unbind(1)
    low = torch.minimum(start, end).ceil().clamp(min=0)
    last = (torch.maximum(start, end).ceil() - 1).clamp(max=size - 1)  # a line at its end belongs to the next outline
    count = (last - low + 1).clamp(min=0).long()
    outline = torch.arange(len(count), device=count.device).repeat_interleave(count)
    line = low[outline] + (torch.arange(len(outline), device=count.device) - (count.cumsum(0) - count)[outline])
    first, last = place[outline, across].unbind(1)
    share = (line - first) / (last - first)
    position = place[outline, along, 0] + share * (place[outline, along, 1] - place[outline, along, 0])
    depth = 1 / (inverse[outline, 0] + share * (inverse[outline, 1] - inverse[outline, 0])).detach()
    before = position.detach().floor()
    # Faces that look at the camera run counter-clockwise as they are seen, so the mesh lies on an outline's left: below
    # one that runs to the left, rows counting downwards, and right of one that runs down.
    forward = run[outline, across] > 0 if along == 0 else run[outline, across] < 0
    inside, outside = torch.where(forward, before + 1, before), torch.where(forward, before, before + 1)
    reach = torch.where(forward, before + 1 - position, position - before)
    within = (before >= 0) & (before + 1 <= size - 1)
    stride, step = (1, size) if along == 0 else (size, 1)
    base = view[outline] * size**2 + line.long() * step
    return _Crossings(
        inside=torch.where(within, base + inside.long() * stride, -1),
        outside=torch.where(within, base + outside.long() * stride, -1),
        reach=reach,
        depth=depth,
    )


def _differences(image: Float[Tensor, "p c"], depths: Float[Tensor, "p"], found: _Crossings) -> Float[Tensor, "p c"]:
    """Return what the crossings that can be seen add to the pixels; of several between two centres the outermost."""
    seen = _visible(depths, found)
    inside, outside, reach = found.inside[seen], found.outside[seen], found.reach[seen]
    near, far = image[inside], image[outside]
    to_outside = (reach - 0.5).clamp(min=0)[:, None] * (near - far)
    to_inside = (0.5 - reach).clamp(min=0)[:, None] * (far - near)
    nothing = torch.zeros_like(image)
    return nothing.index_add(0, outside, to_outside).index_add(0, inside, to_inside)


@torch.no_grad()
def _visible(depths: Float[Tensor, "p"], found: _Crossings) -> Bool[Tensor, "q"]:
    inside, outside = depths[found.inside], depths[found.outside]
    seen = (found.inside >= 0) & (inside > 0) & ((inside - found.depth).abs() < BESIDE)
    seen &= (outside == 0) | (outside > found.depth + BEHIND)
    key = found.inside * 2 + (found.outside > found.inside)
    key = torch.where(seen, key, 0)
    reach = torch.where(seen, found.reach, -1.0)
    furthest = torch.full((2 * len(depths),), -1.0, device=depths.device)
    furthest.scatter_reduce_(0, key.clamp(min=0), reach, "amax")
    return seen & (reach >= furthest[key.clamp(min=0)])
