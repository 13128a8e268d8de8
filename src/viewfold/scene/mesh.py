"""A triangle mesh with materials: what assets are, what the lift ends in, what the rasteriser draws.

World z up, front towards -y (docs/conventions.md).  glTF and OBJ files are y up and face +z; loading and `to_trimesh`
turn between the two.  Colours here are sRGB; glTF's factors and vertex colours are linear and are converted likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from viewfold.errors import AssetError, InputError
from viewfold.scene.meshfile import open_scene

if TYPE_CHECKING:
    import trimesh

Convention = Literal["glb", "obj", "ply"]

CREASE_DEG = 40.0
"""Neighbouring faces that differ by more keep a hard edge between them."""

_MAX_FAN = 256
"""Corners shared by more faces than this are shaded flat, which bounds the pairs that `normals` visits."""

_PAIRS_AT_ONCE = 2**22

_HASH = (0x9E3779B97F4A7C1, 0x2545F4914F6CDD1D, 0x369DEA0F31A53F85)
"""Odd multipliers that turn the bits of a position into one number."""

_Y_UP_FROM_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """The surface of a set of faces; colour, texture and vertex colour multiply."""

    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """sRGB in [0, 1]."""

    texture: Float[Tensor, "h w 3"] | None = None
    """sRGB in [0, 1]; row 0 is the top, where v is 1; it repeats outside [0, 1]."""

    roughness: float = 0.8
    """glTF's roughness, 0 to 1; kept for files, our own rasteriser is diffuse."""

    metallic: float = 0.0
    """glTF's metallic, 0 to 1; kept for files."""

    def _key(self) -> tuple[object, ...]:
        return (
            self.color,
            self.roughness,
            self.metallic,
            None if self.texture is None else id(self.texture),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """Triangles with shared vertices; counter-clockwise faces look outward."""

    vertices: Float[Tensor, "k 3"]
    """World coordinates, float32."""

    faces: Int[Tensor, "f 3"]
    """Indices into `vertices`, int64."""

    vertex_color: Float[Tensor, "k 3"] | None = None
    """sRGB in [0, 1]; None is white."""

    uv: Float[Tensor, "k 2"] | None = None
    """Texture coordinates, u right and v up."""

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
            ("uv", self.uv, (n_vertices, 2)),
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

        return Mesh(
            vertices=self.vertices.to(device),
            faces=self.faces.to(device),
            vertex_color=move(self.vertex_color),
            uv=move(self.uv),
            face_material=move(self.face_material),
            materials=tuple(replace(m, texture=move(m.texture)) for m in self.materials),
        )

    @classmethod
    def cat(cls, meshes: Sequence[Mesh]) -> Mesh:
        """Join meshes into one; materials of equal numbers (and the same texture object) become one."""
        if not meshes:
            raise InputError("`meshes` must hold at least one mesh; got none.")
        index: dict[tuple[object, ...], int] = {}
        materials: list[Material] = []
        vertices, faces, colors, uvs, face_materials, start = [], [], [], [], [], 0
        has_color, has_uv = (any(getattr(m, name) is not None for m in meshes) for name in ("vertex_color", "uv"))
        for mesh in meshes:
            local = []
            for material in mesh.materials:
                if material._key() not in index:
                    index[material._key()] = len(materials)
                    materials.append(material)
                local.append(index[material._key()])
            vertices.append(mesh.vertices)
            faces.append(mesh.faces + start)
            colors.append(torch.ones_like(mesh.vertices) if mesh.vertex_color is None else mesh.vertex_color)
            uvs.append(torch.zeros_like(mesh.vertices[:, :2]) if mesh.uv is None else mesh.uv)
            lookup = torch.tensor(local, device=mesh.faces.device)
            face_materials.append(lookup[mesh.material_index()])
            start += len(mesh.vertices)
        return cls(
            vertices=torch.cat(vertices),
            faces=torch.cat(faces),
            vertex_color=torch.cat(colors) if has_color else None,
            uv=torch.cat(uvs) if has_uv else None,
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

    def fit_sphere(self, radius: float = 0.5) -> Mesh:
        """Return the mesh with its bounding box centred at the origin, scaled so that it just fits in the sphere."""
        if not len(self.faces):
            raise InputError("`mesh` must have at least one face to be fitted; it is empty.")
        used = self.vertices[self.faces.flatten().unique()].double()
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
        a, b, c = self.vertices[self.faces].unbind(1)
        return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-20)

    def normals(self, *, crease_deg: float = CREASE_DEG) -> Float[Tensor, "f 3 3"]:
        """Return a unit normal per corner of each face, smooth except across edges sharper than `crease_deg`.

        A corner averages the faces about its point that lie within the angle of its own face, by their area.  Points
        are matched by position, so that seams of texture or material do not show.
        """
        flat = self.face_normals()
        a, b, c = self.vertices[self.faces].unbind(1)
        area = torch.linalg.cross(b - a, c - a)
        # One number per position (`unique` of rows is ten times slower); adding 0.0 makes -0.0 equal 0.0.
        bits = (self.vertices.float() + 0.0).contiguous().view(torch.int32).long()
        _, point = (bits * torch.tensor(_HASH, device=bits.device)).sum(1).unique(return_inverse=True)
        corner_point = point[self.faces].flatten()
        order = corner_point.argsort()
        count = torch.bincount(corner_point, minlength=int(point.max()) + 1 if len(point) else 0)
        start = count.cumsum(0) - count
        fan = torch.where(count > _MAX_FAN, 0, count)[corner_point]
        total = torch.zeros(len(corner_point), 3, device=fan.device)
        step = max(1, _PAIRS_AT_ONCE // max(1, int(fan.max()) if len(fan) else 1))
        for begin in range(0, len(corner_point), step):
            some = fan[begin : begin + step]
            first = torch.arange(len(some), device=fan.device).repeat_interleave(some)
            offset = torch.arange(len(first), device=fan.device) - (some.cumsum(0) - some)[first]
            first += begin
            other = order[start[corner_point[first]] + offset] // 3
            near = (flat[first // 3] * flat[other]).sum(-1) >= np.cos(np.deg2rad(crease_deg))
            total.index_add_(0, first[near], area[other[near]])
        smooth = torch.nn.functional.normalize(total, dim=-1, eps=1e-20).reshape(-1, 3, 3)
        lost = (smooth.square().sum(-1, keepdim=True) < 0.5).expand_as(smooth)
        return torch.where(lost, flat[:, None].expand_as(smooth), smooth)

    def to_trimesh(self, *, convention: Convention = "glb") -> trimesh.Scene:
        """Return a trimesh scene with one geometry per material in use.

        `convention` is the kind of file it is for: "glb" (y up, linear colours), "obj" (y up, sRGB) or "ply" (z up,
        sRGB).
        """
        import trimesh
        from PIL import Image
        from trimesh.visual import ColorVisuals, TextureVisuals
        from trimesh.visual.material import PBRMaterial

        scene = trimesh.Scene()
        index = self.material_index()
        for number, material in enumerate(self.materials):
            faces = self.faces[index == number]
            if not len(faces):
                continue
            used, faces = faces.unique(return_inverse=True)
            color = None if self.vertex_color is None else self.vertex_color[used].cpu().numpy()
            if convention == "glb":
                base = linear_from_srgb(np.array(material.color))
                color = None if color is None else linear_from_srgb(color)
            else:
                base = np.array(material.color)
            pbr = PBRMaterial(
                name=f"material_{number}",
                baseColorFactor=np.append(base, 1.0),
                roughnessFactor=material.roughness,
                metallicFactor=material.metallic,
                doubleSided=True,
            )
            if material.texture is not None:
                pixels = (material.texture.clamp(0, 1) * 255).round().byte().cpu().numpy()
                pbr.baseColorTexture = Image.fromarray(pixels)
            uv = None if self.uv is None or material.texture is None else self.uv[used].cpu().numpy()
            if convention == "ply" or (color is not None and uv is None):  # PLY knows no materials
                color = np.ones((len(used), 3)) if color is None else color
                visual: Any = ColorVisuals(vertex_colors=_bytes(color * base * _texels(material, uv)))
            else:
                visual = TextureVisuals(uv=uv, material=pbr)
            vertices = self.vertices[used].cpu().numpy()
            geometry = trimesh.Trimesh(
                vertices=vertices,
                faces=faces.cpu().numpy(),
                visual=visual,
                process=False,
            )
            scene.add_geometry(geometry, node_name=f"part_{number}", geom_name=f"part_{number}")
        if convention != "ply":
            scene.apply_transform(_Y_UP_FROM_Z_UP)
        return scene


def _texels(material: Material, uv: np.ndarray | None) -> np.ndarray:
    """Return the nearest texel of each vertex, 1 without a texture."""
    if material.texture is None or uv is None:
        return np.ones(1)
    height, width = material.texture.shape[:2]
    row = np.floor((1 - uv[:, 1]) * height).astype(np.int64) % height
    return material.texture.cpu().numpy()[row, np.floor(uv[:, 0] * width).astype(np.int64) % width]


def _bytes(color: np.ndarray) -> np.ndarray:
    rgb = np.clip(np.rint(color * 255), 0, 255).astype(np.uint8)
    return np.concatenate([rgb, np.full_like(rgb[:, :1], 255)], axis=1)


def linear_from_srgb(color: np.ndarray) -> np.ndarray:
    """Decode sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(color <= 0.04045, color / 12.92, ((np.maximum(color, 0) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(color: np.ndarray) -> np.ndarray:
    """Encode linear light in [0, 1] as sRGB (IEC 61966-2-1)."""
    return np.where(
        color <= 0.0031308,
        color * 12.92,
        1.055 * np.maximum(color, 0) ** (1 / 2.4) - 0.055,
    )


def load_mesh(path: str | Path) -> Mesh:
    """Read a GLB, OBJ or PLY file; every material stays a material (see the module for frames and colours).

    Raises:
        AssetError: the file is missing, damaged, empty, too large, or refers to something outside of its folder.
    """
    path = Path(path)
    scene = open_scene(path)
    suffix = path.suffix.lower()
    try:
        parts = []
        for node in scene.graph.nodes_geometry:
            matrix, name = scene.graph[node]
            if len(getattr(scene.geometry[name], "faces", ())):
                part = _from_trimesh(scene.geometry[name], is_linear=suffix == ".glb")
                parts.append(part.transform(torch.tensor(np.array(matrix), dtype=torch.float32)))
        mesh = Mesh.cat(parts)
        return mesh if suffix == ".ply" else mesh.transform(torch.tensor(_Y_UP_FROM_Z_UP.T, dtype=torch.float32))
    except Exception as error:
        raise AssetError(f"`{path}` cannot be used: {str(error)[:300]} Export it again.") from error


def _from_trimesh(part: Any, *, is_linear: bool) -> Mesh:
    visual, vertices, faces = part.visual, np.asarray(part.vertices), np.asarray(part.faces)
    decode = srgb_from_linear if is_linear else np.asarray
    material, uv, color = Material(), None, None
    if visual.kind == "texture":
        material = _read_material(visual.material, decode)
        uv = None if visual.uv is None or len(visual.uv) != len(vertices) else np.asarray(visual.uv)[:, :2]
        color = visual.vertex_attributes.get("color")
    elif visual.kind == "vertex":
        color = visual.vertex_colors
    elif visual.kind == "face":
        color = np.repeat(visual.face_colors, 3, axis=0)
        vertices, faces = vertices[faces.ravel()], np.arange(faces.size).reshape(-1, 3)
    if color is not None:
        color = np.asarray(color)[:, :3]
        color = color / np.iinfo(color.dtype).max if color.dtype.kind in "ui" else np.clip(color, 0, 1)
        color = torch.tensor(decode(color), dtype=torch.float32)
    return Mesh(
        vertices=torch.tensor(vertices, dtype=torch.float32),
        faces=torch.tensor(faces, dtype=torch.int64),
        vertex_color=color,
        uv=None if uv is None else torch.tensor(uv, dtype=torch.float32).nan_to_num(0.0, 0.0, 0.0),
        materials=(material,),
    )


def _read_material(source: Any, decode: Callable[[np.ndarray], np.ndarray]) -> Material:
    pbr = hasattr(source, "baseColorFactor")
    factor, image = (
        (source.baseColorFactor, source.baseColorTexture) if pbr else (source.diffuse, getattr(source, "image", None))
    )
    # An MTL file with a texture often says black or grey beside it; readers show the texture as it is.
    plain = factor is None or (image is not None and not pbr)
    red, green, blue = (1.0, 1.0, 1.0) if plain else decode(np.asarray(factor)[:3] / 255.0).tolist()
    roughness, metallic = (getattr(source, name, None) for name in ("roughnessFactor", "metallicFactor"))
    return Material(
        color=(red, green, blue),
        texture=None if image is None else torch.tensor(np.asarray(image.convert("RGB"))).float() / 255,
        roughness=0.8 if roughness is None else float(roughness),
        metallic=0.0 if metallic is None else float(metallic),
    )
