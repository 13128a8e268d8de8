"""A triangle mesh with materials: what assets are, what the lift ends in, what the rasteriser draws.

World z up, front towards -y (docs/conventions.md).  Colours are sRGB.  Files, which have other habits, are read
and made by `interchange`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from viewfold.errors import InputError
from viewfold.scene.material import Material

CREASE_DEG = 40.0
"""Neighbouring faces that differ by more keep a hard edge between them."""

_MAX_FAN = 256
"""Corners shared by more faces than this are shaded flat, which bounds the pairs that `normals` visits."""

_PAIRS_AT_ONCE = 2**22

_HASH = (0x9E3779B97F4A7C1, 0x2545F4914F6CDD1D, 0x369DEA0F31A53F85)
"""Odd multipliers that turn the bits of a position into one number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """Triangles with shared vertices; counter-clockwise faces look outward."""

    vertices: Float[Tensor, "k 3"]
    """World coordinates, float32."""

    faces: Int[Tensor, "f 3"]
    """Indices into `vertices`, int64."""

    vertex_color: Float[Tensor, "k 3"] | None = None
    """sRGB in [0, 1]; None is white."""

    vertex_alpha: Float[Tensor, "k"] | None = None
    """Alpha in [0, 1]; None is 1."""

    uv: Float[Tensor, "k 2"] | None = None
    """Texture coordinates, u right and v up."""

    emission_uv: Float[Tensor, "k 2"] | None = None
    """Of emission textures, where a file gives them coordinates of their own; None is `uv`."""

    face_material: Int[Tensor, "f"] | None = None
    """Index into `materials`; None is 0 throughout."""

    materials: tuple[Material, ...] = (Material(),)

    def __post_init__(self) -> None:
        n_vertices, n_faces = len(self.vertices), len(self.faces)
        if self.vertices.shape != (n_vertices, 3) or self.faces.shape != (n_faces, 3):
            raise InputError(
                f"`vertices` and `faces` must have 3 columns; got {tuple(self.vertices.shape)} and "
                f"{tuple(self.faces.shape)}."
            )
        for name, value, expected in (
            ("vertex_color", self.vertex_color, (n_vertices, 3)),
            ("vertex_alpha", self.vertex_alpha, (n_vertices,)),
            ("uv", self.uv, (n_vertices, 2)),
            ("emission_uv", self.emission_uv, (n_vertices, 2)),
            ("face_material", self.face_material, (n_faces,)),
        ):
            if value is not None and tuple(value.shape) != expected:
                raise InputError(f"`{name}` must have the shape {expected}; got {tuple(value.shape)}.")
        if not bool(torch.isfinite(self.vertices).all()):
            raise InputError("`vertices` must be finite; they hold NaN or infinity.")
        for name, index, limit in (
            ("faces", self.faces, n_vertices),
            ("face_material", self.face_material, len(self.materials)),
        ):
            if index is not None and index.numel() and not (0 <= int(index.min()) and int(index.max()) < limit):
                raise InputError(f"`{name}` must lie in [0, {limit}); got {int(index.min())} to {int(index.max())}.")
        if not self.materials:
            raise InputError("`materials` must hold at least one material; got none.")

    def to(self, device: torch.device | str) -> Mesh:
        """Return the same mesh on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            vertices=self.vertices.to(device),
            faces=self.faces.to(device),
            vertex_color=move(self.vertex_color),
            vertex_alpha=move(self.vertex_alpha),
            uv=move(self.uv),
            emission_uv=move(self.emission_uv),
            face_material=move(self.face_material),
            materials=tuple(material.to(device) for material in self.materials),
        )

    @classmethod
    def cat(cls, meshes: Sequence[Mesh]) -> Mesh:
        """Join meshes into one; materials of equal numbers (and the same texture objects) become one."""
        if not meshes:
            raise InputError("`meshes` must hold at least one mesh; got none.")
        index: dict[tuple[object, ...], int] = {}
        materials: list[Material] = []
        faces, face_materials, start = [], [], 0
        for mesh in meshes:
            local = []
            for material in mesh.materials:
                if material.key not in index:
                    index[material.key] = len(materials)
                    materials.append(material)
                local.append(index[material.key])
            faces.append(mesh.faces + start)
            lookup = torch.tensor(local, device=mesh.faces.device)
            face_materials.append(lookup[mesh.material_index()])
            start += len(mesh.vertices)
        return cls(
            vertices=torch.cat([mesh.vertices for mesh in meshes]),
            faces=torch.cat(faces),
            vertex_color=_joined(
                [(m.vertex_color, m.vertices.new_ones(m.vertices.shape, dtype=torch.float32)) for m in meshes]
            ),
            vertex_alpha=_joined(
                [(m.vertex_alpha, m.vertices.new_ones(len(m.vertices), dtype=torch.float32)) for m in meshes]
            ),
            uv=_joined([(m.uv, _no_uv(m)) for m in meshes]),
            emission_uv=_joined([(m.emission_uv, _no_uv(m) if m.uv is None else m.uv) for m in meshes]),
            face_material=torch.cat(face_materials),
            materials=tuple(materials),
        )

    def material_index(self) -> Int[Tensor, "f"]:
        """Return `face_material`, zeros where it is None."""
        return torch.zeros_like(self.faces[:, 0]) if self.face_material is None else self.face_material

    def transform(self, matrix: Float[Tensor, "4 4"]) -> Mesh:
        """Return the mesh under an affine map (a mirror turns the faces round, so that they still look outward)."""
        matrix = matrix.to(self.vertices)
        mirrored = bool(torch.linalg.det(matrix[:3, :3].cpu()) < 0)
        faces = self.faces.flip(1) if mirrored else self.faces
        return replace(self, vertices=self.vertices @ matrix[:3, :3].T + matrix[:3, 3], faces=faces)

    def visible(self) -> Bool[Tensor, "f"]:
        """Return which faces can be seen at all: helpers that are wholly transparent cannot."""
        sheer = torch.tensor([m.alpha_mode != "opaque" for m in self.materials], device=self.faces.device)
        clear = torch.tensor([_is_clear(m) for m in self.materials], device=self.faces.device)
        index = self.material_index()
        hidden = clear[index]
        if self.vertex_alpha is not None:
            hidden = hidden | (sheer[index] & (self.vertex_alpha[self.faces] == 0).all(1))
        return ~hidden

    def fit_sphere(self, radius: float = 0.5) -> Mesh:
        """Return the mesh with the bounding box of what can be seen centred at the origin, just inside the sphere."""
        if not len(self.faces):
            raise InputError("`mesh` must have at least one face to be fitted; it is empty.")
        seen = self.faces[self.visible()]
        if not len(seen):
            raise InputError("`mesh` must have a face that can be seen to be fitted; all of them are invisible.")
        used = self.vertices[seen.flatten().unique()].double()
        center = (used.amin(0) + used.amax(0)) / 2
        extent = float((used - center).norm(dim=-1).max())
        if extent == 0:
            raise InputError("`mesh` must have an extent to be fitted; all of its vertices coincide.")
        return replace(
            self,
            vertices=((self.vertices.double() - center) * (radius / extent)).float(),
        )

    def face_normals(self) -> Float[Tensor, "f 3"]:
        """Return unit normals of the faces (zero where a face has no area)."""
        return torch.nn.functional.normalize(self._areas(), dim=-1, eps=1e-20)

    def _areas(self) -> Float[Tensor, "f 3"]:
        """Return the normals of the faces, as long as twice their areas."""
        a, b, c = (self.vertices.index_select(0, corner) for corner in self.faces.unbind(1))
        return torch.linalg.cross(b - a, c - a)

    def normals(self, *, crease_deg: float = CREASE_DEG) -> Float[Tensor, "f 3 3"]:
        """Return a unit normal per corner of each face, smooth except across edges sharper than `crease_deg`.

        A corner averages the faces about its point that lie within the angle of its own face, by their area.  Points
        are matched by position, so that seams of texture or material do not show.
        """
        # Rows are taken with `index_select`, which is several times as fast as brackets on a CPU.
        area = self._areas()
        flat = torch.nn.functional.normalize(area, dim=-1, eps=1e-20)
        # One number per position (`unique` of rows is ten times slower); adding 0.0 makes -0.0 equal 0.0.
        bits = (self.vertices.float() + 0.0).contiguous().view(torch.int32).long()
        _, point = (bits * torch.tensor(_HASH, device=bits.device)).sum(1).unique(return_inverse=True)
        corner_point = point.index_select(0, self.faces.flatten())
        order = corner_point.argsort()
        count = torch.bincount(corner_point, minlength=int(point.max()) + 1 if len(point) else 0)
        start = count.cumsum(0) - count
        fan = torch.where(count > _MAX_FAN, 0, count)[corner_point]
        total = torch.zeros(len(corner_point), 3, device=fan.device)
        step = max(1, _PAIRS_AT_ONCE // max(1, int(fan.max()) if len(fan) else 1))
        for begin in range(0, len(corner_point), step):
            some = fan[begin : begin + step]
            first = torch.arange(len(some), device=fan.device).repeat_interleave(some)
            offset = torch.arange(len(first), device=fan.device) - (some.cumsum(0) - some).index_select(0, first)
            first += begin
            of_point = start.index_select(0, corner_point.index_select(0, first))
            other = order.index_select(0, of_point.add_(offset)) // 3
            likeness = flat.index_select(0, first // 3).mul_(flat.index_select(0, other)).sum(-1)
            near = (likeness >= np.cos(np.deg2rad(crease_deg))).nonzero()[:, 0]
            beside = area.index_select(0, other.index_select(0, near))
            total.index_add_(0, first.index_select(0, near), beside)
        smooth = torch.nn.functional.normalize(total, dim=-1, eps=1e-20).reshape(-1, 3, 3)
        lost = (smooth.square().sum(-1, keepdim=True) < 0.5).expand_as(smooth)
        return torch.where(lost, flat[:, None].expand_as(smooth), smooth)


def _is_clear(material: Material) -> bool:
    """Return whether a material lets all light through: alpha 0, or less than a mask's threshold."""
    least = material.alpha_cutoff if material.alpha_mode == "mask" else 0.0
    clear = material.opacity < least or material.opacity == 0 == least
    return material.alpha_mode != "opaque" and clear


def _joined(values: Sequence[tuple[Tensor | None, Tensor]]) -> Tensor | None:
    """Join (value, what stands for a missing one); None if all are missing."""
    if all(value is None for value, _ in values):
        return None
    return torch.cat([instead if value is None else value for value, instead in values])


def _no_uv(mesh: Mesh) -> Float[Tensor, "k 2"]:
    return mesh.vertices.new_zeros(len(mesh.vertices), 2, dtype=torch.float32)
