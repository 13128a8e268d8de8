"""What a camera sees of a face at a sample: colour, alpha, depth and normal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from viewfold.scene.light import MATT, Light
from viewfold.scene.material import Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.sampling import sample_texture


@dataclass(frozen=True, eq=False)
class Seen:
    """Samples of faces, one after the other."""

    color: Float[Tensor, "p 3"]
    """Lit, straight, in [0, 1]."""

    alpha: Float[Tensor, "p"] | None
    """None: all of it is solid."""

    depth: Float[Tensor, "p"]
    normal: Float[Tensor, "p 3"]
    """In the world, facing the camera."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A mesh from some cameras, with what does not depend on the sample."""

    mesh: Mesh
    normals: Float[Tensor, "f 3 3"]
    """Unit, of each face's corners."""

    screen: Float[Tensor, "v k 3"]
    eyes: Float[Tensor, "v 3"]
    n_pixels: int
    light: Light | None


def shade(subject: Subject, at: Int[Tensor, "p"], key: Int[Tensor, "p"], *, sheer: bool = False) -> Seen:
    """Return what is seen at samples `at` of the faces in the keys of `nearest_faces`; with alpha if `sheer`."""
    mesh, screen, n_pixels = subject.mesh, subject.screen, subject.n_pixels
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

    normal = functional.normalize(_mix(subject.normals[face], weight), dim=1)
    normal = torch.where(away, -normal, normal)
    color, alpha = _surface(mesh, face, corner, weight, w, total, sheer=sheer)
    if subject.light is not None:
        place = (mesh, face, corner, weight, view)
        color = _lit(color, normal, place, subject.eyes, subject.light)
    return Seen(color.clamp_(0, 1), alpha, 1 / inverse, normal)


def _lit(
    color: Float[Tensor, "p 3"],
    normal: Float[Tensor, "p 3"],
    place: tuple[Mesh, Tensor, Tensor, Tensor, Tensor],
    eyes: Float[Tensor, "v 3"],
    light: Light,
) -> Float[Tensor, "p 3"]:
    """Return the colours in the light; what is not `lit` keeps its own."""
    mesh, face, corner, weight, view = place
    lit = color * light.shade(normal)
    if any(m.roughness < MATT for m in mesh.materials):  # matt meshes pay nothing
        surface = torch.tensor([(m.roughness, m.metallic) for m in mesh.materials], device=color.device)
        surface = surface[:1].expand(len(face), 2) if mesh.face_material is None else surface[mesh.face_material[face]]
        some = (surface[:, 0] < MATT).nonzero()[:, 0]
        to_eye = functional.normalize(eyes[view[some]] - _mix(mesh.vertices[corner[some]], weight[some]), dim=1)
        rough, metallic = surface[some].split(1, dim=1)
        lit[some] = light.polish(color[some], normal[some], to_eye, rough, metallic)
    if any(not m.lit for m in mesh.materials):
        plain = torch.tensor([not m.lit for m in mesh.materials], device=color.device)
        lit = torch.where(plain[mesh.material_index()[face]][:, None], color, lit)
    return lit


def _surface(
    mesh: Mesh, face: Tensor, corner: Tensor, weight: Tensor, depth: Tensor, volume: Tensor, *, sheer: bool
) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p"] | None]:
    """Return material x vertex colour x texture + emission, and alpha if it is asked for."""
    material = None if mesh.face_material is None else mesh.face_material[face]
    color = _per_material([m.color for m in mesh.materials], material, face)
    alpha = None
    if sheer:
        alpha = _per_material([(m.opacity,) for m in mesh.materials], material, face)[:, 0]
        if mesh.vertex_alpha is not None:
            alpha = alpha * (mesh.vertex_alpha[corner] * weight).sum(1)
    if mesh.vertex_color is not None:
        color = color * _mix(mesh.vertex_color[corner], weight)
    for number, item in enumerate(mesh.materials):
        glows = any(item.emission)
        if item.texture is None and not glows:
            continue
        chosen = _all(face) if material is None else (material == number).nonzero()[:, 0]
        if not len(chosen):
            continue
        area = (volume[chosen, 0].abs() / depth[chosen].prod(1)).abs().float().clamp(min=1e-12)
        if item.texture is not None and mesh.uv is not None:
            texel = _read(item.texture, mesh.uv, corner[chosen], weight[chosen], area, sheer=sheer)
            color[chosen] *= texel[:, :3]
            if alpha is not None and texel.shape[1] == 4:
                alpha[chosen] *= texel[:, 3]
        if glows:
            glow = color.new_tensor([item.emission])
            uv = mesh.uv if mesh.emission_uv is None else mesh.emission_uv
            if item.emission_texture is not None and uv is not None:
                glow = glow * _read(item.emission_texture, uv, corner[chosen], weight[chosen], area)[:, :3]
            color[chosen] = (color[chosen] + glow).clamp_(max=1)
    if alpha is None:
        return color, None
    cutoffs = [(m.alpha_cutoff if m.alpha_mode == "mask" else -1.0,) for m in mesh.materials]
    cutoff = _per_material(cutoffs, material, face)[:, 0]
    return color, torch.where(cutoff >= 0, (alpha >= cutoff).to(alpha), alpha.clamp(0, 1))


def _per_material(rows: list[tuple[float, ...]], material: Tensor | None, face: Tensor) -> Float[Tensor, "p c"]:
    table = torch.tensor(rows, dtype=torch.float32, device=face.device)
    return table[:1].expand(len(face), table.shape[1]).clone() if material is None else table[material]


def _read(
    texture: Texture,
    uv: Float[Tensor, "k 2"],
    corner: Int[Tensor, "p 3"],
    weight: Float[Tensor, "p 3"],
    samples: Float[Tensor, "p"],
    *,
    sheer: bool = False,
) -> Float[Tensor, "p c"]:
    """Read a texture where its texels over samples of the face say how finely."""
    place = uv[corner]
    a, b = place[:, 1] - place[:, 0], place[:, 2] - place[:, 0]
    height, width = texture.image.shape[:2]
    texels = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs() * height * width
    return sample_texture(texture, _mix(place, weight), texels / samples, premultiplied=sheer)


def _all(face: Tensor) -> Tensor:
    return torch.arange(len(face), device=face.device)


def _mix(values: Float[Tensor, "p 3 c"], weight: Float[Tensor, "p 3"]) -> Float[Tensor, "p c"]:
    return (values * weight[..., None]).sum(1)
