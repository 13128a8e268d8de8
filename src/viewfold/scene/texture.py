"""Bake a mesh's texture or vertex colours, from a callable that gives the colour seen at points of the surface.

`surface_color` is that of a field.  The colour of a point of the surface is what a camera looking straight at it
would see: the field composited along the normal, from just outside to just inside.  The mesh may therefore lie a little
off the field's own surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from viewfold.errors import InputError
from viewfold.scene.field import Field
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.surface import decimate
from viewfold.scene.volume import composite

OUTSIDE = 0.02
INSIDE = 0.04
"""The part of the normal along which the field is composited, in world units: about one voxel out and two in."""

N_SAMPLES = 7
ROUGHNESS = 0.9
CHUNK = 2**16
PADDING = 2
"""Texels between charts."""

SeenColor = Callable[[Float[Tensor, "p 3"], Float[Tensor, "p 3"]], Float[Tensor, "p 3"]]
"""From points of a surface and their unit normals to the sRGB colours seen there."""


def bake_vertex_colors(mesh: Mesh, color: SeenColor) -> Mesh:
    """Return the mesh with the sRGB colour seen at every vertex; any texture and other materials are dropped."""
    normals = torch.zeros_like(mesh.vertices).index_add(0, mesh.faces.flatten(), mesh.normals().reshape(-1, 3))
    seen = color(mesh.vertices, torch.nn.functional.normalize(normals, dim=-1))
    material = Material(roughness=ROUGHNESS)
    return replace(mesh, vertex_color=seen, uv=None, face_material=None, materials=(material,))


def bake_texture(mesh: Mesh, color: SeenColor, *, size: int = 512, max_faces: int = 4000) -> Mesh:
    """Unwrap a mesh (xatlas) and paint the sRGB colour seen at its surface into a texture.

    Args:
        mesh: thinned out to `max_faces` first, because unwrapping takes a second for 5,000 faces.
        color: where the mesh lies.
        size: of the texture along each side, 16 to 4096.

    Returns:
        The mesh with `uv` and one textured material; vertices on seams are doubled.

    Raises:
        InputError: a number out of range, or an empty mesh.
    """
    if not 16 <= size <= 4096:
        raise InputError(f"`size` must lie between 16 and 4096; got {size}.")
    if not len(mesh.faces):
        raise InputError("`mesh` must have at least one face to be textured; it is empty.")
    texels = Texels.of(unwrap(decimate(mesh, max_faces=max_faces), size=size), size=size)
    texture = Texture(image=texels.picture(color(texels.points, texels.normals)))
    return replace(texels.mesh, materials=(Material(texture=texture, roughness=ROUGHNESS),))


@dataclass(frozen=True, kw_only=True, eq=False)
class Texels:
    """The texels of an unwrapped mesh that lie on its surface."""

    mesh: Mesh
    """With `uv`."""

    size: int
    row: Int[Tensor, "p"]
    column: Int[Tensor, "p"]
    face: Int[Tensor, "p"]
    weight: Float[Tensor, "p 3"]
    """Of the face's corners; they sum to 1."""

    points: Float[Tensor, "p 3"]
    normals: Float[Tensor, "p 3"]
    """Unit, as the mesh is shaded."""

    @classmethod
    def of(cls, mesh: Mesh, *, size: int) -> Texels:
        """Find the texels of a picture of `size` by `size` whose centres lie in a chart."""
        assert mesh.uv is not None
        row, column, face, weight = rasterize_uv(mesh.uv, mesh.faces, size=size)
        points = (mesh.vertices[mesh.faces[face]] * weight[..., None]).sum(dim=1)
        normals = torch.nn.functional.normalize((mesh.normals()[face] * weight[..., None]).sum(dim=1), dim=-1)
        return cls(
            mesh=mesh, size=size, row=row, column=column, face=face, weight=weight, points=points, normals=normals
        )

    def picture(self, values: Float[Tensor, "p 3"]) -> Float[Tensor, "h w 3"]:
        """Return the texture that holds these values at the texels, and beside the charts those of the nearest one."""
        image = values.new_zeros(self.size, self.size, 3)
        image[self.row, self.column] = values
        painted = torch.zeros(self.size, self.size, dtype=torch.bool, device=image.device)
        painted[self.row, self.column] = True
        return fill_unpainted(image, painted)


def unwrap(mesh: Mesh, *, size: int) -> Mesh:
    """Return the mesh cut into charts that lie side by side in the unit square, with room for `size` texels a side."""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy().astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = size, PADDING, True
    atlas.generate(pack_options=pack)
    source, faces, uv = atlas[0]
    device = mesh.vertices.device
    return Mesh(
        vertices=mesh.vertices[torch.from_numpy(source.astype(np.int64)).to(device)],
        faces=torch.from_numpy(faces.astype(np.int64)).to(device),
        uv=torch.from_numpy(uv.astype(np.float32)).to(device),
    )


@torch.no_grad()
def surface_color(field: Field, points: Float[Tensor, "p 3"], normals: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
    """Return the sRGB colour seen by looking at surface points against their unit normals.

    Where the field is too thin to see there, its colour at the point itself.
    """
    delta = (OUTSIDE + INSIDE) / N_SAMPLES
    offset = OUTSIDE - (torch.arange(N_SAMPLES, device=points.device) + 0.5) * delta
    colors = []
    for at, normal in zip(points.split(CHUNK), normals.split(CHUNK), strict=True):
        along = at[:, None] + offset[None, :, None] * normal[:, None]
        density, rgb = field(along.reshape(-1, 3))
        weight = composite(density.reshape(-1, N_SAMPLES), delta)[0][..., None]
        total = weight.sum(dim=1)
        seen = (weight * rgb.reshape(-1, N_SAMPLES, 3)).sum(dim=1) / total.clamp(min=1e-6)
        colors.append(torch.where(total > 0.01, seen, field(at)[1]))
    return torch.cat(colors) if colors else points.new_zeros(0, 3)


def rasterize_uv(
    uv: Float[Tensor, "k 2"], faces: Int[Tensor, "f 3"], *, size: int
) -> tuple[Int[Tensor, "p"], Int[Tensor, "p"], Int[Tensor, "p"], Float[Tensor, "p 3"]]:
    """Return row, column, face and barycentric weights of every texel whose centre lies in a face.

    Row 0 is the top, where v is 1.
    """
    corner = torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=-1)[faces] * size - 0.5
    low = corner.amin(dim=1).ceil().long().clamp(0, size - 1)
    extent = (corner.amax(dim=1).floor().long().clamp(0, size - 1) - low + 1).clamp(min=0)
    count = extent[:, 0] * extent[:, 1]
    face = torch.arange(len(faces), device=uv.device).repeat_interleave(count)
    place = torch.arange(len(face), device=uv.device) - (count.cumsum(0) - count)[face]
    column = low[face, 0] + place % extent[face, 0]
    row = low[face, 1] + place // extent[face, 0]
    a, b, c = corner[face].unbind(1)
    at = torch.stack([column, row], dim=-1).to(corner.dtype)
    area = _cross(b - a, c - a)
    weight = torch.stack([_cross(b - at, c - at), _cross(c - at, a - at), _cross(a - at, b - at)], dim=-1)
    weight = weight / torch.where(area.abs() < 1e-12, torch.ones_like(area), area)[:, None]
    inside = (weight >= -1e-5).all(dim=-1) & (area.abs() >= 1e-12)
    return row[inside], column[inside], face[inside], weight[inside]


def fill_unpainted(image: Float[Tensor, "h w 3"], painted: Bool[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Give every unpainted texel the colour of the nearest painted one, so that no seam bleeds at any mip level."""
    from scipy.ndimage import distance_transform_edt

    if not bool(painted.any()):
        return image
    nearest = distance_transform_edt(~painted.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(np.asarray(nearest)).long().to(image.device)
    return image[rows, columns]


def _cross(a: Float[Tensor, "p 2"], b: Float[Tensor, "p 2"]) -> Float[Tensor, "p"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
