"""What a camera sees of a face at a sample: colour, alpha, depth and normal.

What depends on the face alone is worked out once for each face in each view (`_Facets`).  Tensors have their channels
or corners first, "3 p", so that each channel is contiguous, and are gathered one by one: in PyTorch on a CPU that is
ten times as fast as rows of three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from viewfold.scene.harmonic import AnyLight
from viewfold.scene.light import MATT
from viewfold.scene.material import Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.sampling import Pyramid
from viewfold.scene.visibility import edges


@dataclass(frozen=True, eq=False)
class Samples:
    """Some samples of all views' pictures, one after the other."""

    view: Float[Tensor, "p"]
    row: Float[Tensor, "p"]
    column: Float[Tensor, "p"]
    """Whole numbers in float64, which is several times as fast as the division of integers."""

    @classmethod
    def of(cls, at: Int[Tensor, "p"], n_pixels: int) -> Samples:
        """Return the samples at these places of pictures, laid out view by view and row by row."""
        place = at.double()
        middle = place + 0.5  # so that rounding does not matter
        view = (middle / n_pixels**2).floor_()
        line = middle.div_(n_pixels).floor_()
        column = place.sub_(line, alpha=n_pixels)
        return cls(view=view, row=line.sub_(view, alpha=n_pixels), column=column)


@dataclass(frozen=True, eq=False)
class Seen:
    """Samples of faces, one after the other."""

    color: Float[Tensor, "3 p"]
    """Lit, straight, in [0, 1]."""

    alpha: Float[Tensor, "p"] | None
    """None: all of it is solid."""

    depth: Float[Tensor, "p"]
    normal: Float[Tensor, "3 p"] | None
    """In the world, facing the camera; None if neither light nor the caller asked for it."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A mesh from some cameras, with what does not depend on the sample."""

    mesh: Mesh
    normals: Float[Tensor, "3 n"]
    """Unit, of each face's three corners, coordinates first."""

    screen: Float[Tensor, "3 v k"]
    eyes: Float[Tensor, "v 3"]
    n_pixels: int
    light: AnyLight | None
    pyramids: dict[tuple[int, bool], Pyramid] = field(default_factory=dict)
    """Of the textures that were read so far, by identity and by whether their colours are weighed by alpha."""

    def pyramid(self, texture: Texture, *, premultiplied: bool) -> Pyramid:
        """Return the pyramid of a texture of the mesh."""
        key = id(texture), premultiplied
        if key not in self.pyramids:
            self.pyramids[key] = Pyramid(texture, premultiplied=premultiplied)
        return self.pyramids[key]


@dataclass(frozen=True, eq=False)
class _Facets:
    """Faces in views, m of them, and p samples of them."""

    view: Int[Tensor, "m"]
    face: Int[Tensor, "m"]
    corner: Int[Tensor, "3 m"]
    """Vertices of the faces."""

    place: Int[Tensor, "p"] | None
    """Which facet each sample shows; None: each its own."""

    weight: Float[Tensor, "3 p"]
    """Of the corners, in perspective; they sum to 1."""

    turn: Float[Tensor, "m"]
    """1 where a face is turned to the camera, else -1."""

    depths: Float[Tensor, "m"]
    """Product of the depths of the corners."""

    volume: Float[Tensor, "p"]
    """Twice the area of a face in samples is this over `depths`, at the depth of the sample."""

    @classmethod
    def of(cls, subject: Subject, samples: Samples, face: Int[Tensor, "p"]) -> _Facets:
        mesh, screen = subject.mesh, subject.screen
        n_faces, (_, n_views, n_vertices) = len(mesh.faces), screen.shape
        view = samples.view.long()
        place = None
        if n_views * n_faces <= 4 * len(face):
            view, face, place = _distinct(view, face, n_views, n_faces)
        corner = mesh.faces.index_select(0, face).T.contiguous()
        projected = (corner + view * n_vertices).flatten()
        x, y, w = (q.flatten().index_select(0, projected).view(3, -1) for q in screen)
        a, b, c = edges(x, y, w)
        volume = (x * a + y * b + w * c).sum(0)
        turn = (volume <= 0).float().mul_(2).sub_(1)  # rows run downwards: clockwise, if it is turned to the camera
        planes = [
            _spread(k, place).addcmul_(_spread(i, place), samples.column).addcmul_(_spread(j, place), samples.row)
            for i, j, k in zip(a, b, c, strict=True)
        ]
        total = planes[0] + planes[1] + planes[2]
        weight = torch.stack([q.div_(total).float() for q in planes]).clamp_(0, 1)
        weight /= weight[0] + weight[1] + weight[2]
        return cls(view, face, corner, place, weight, turn, w.prod(0), total)

    def some(self, chosen: Int[Tensor, "q"] | None) -> _Facets:
        """Return these of the samples; None: all."""
        if chosen is None:
            return self
        weight = torch.stack([q.index_select(0, chosen) for q in self.weight])
        place = chosen if self.place is None else self.place.index_select(0, chosen)
        volume = self.volume.index_select(0, chosen)
        return _Facets(self.view, self.face, self.corner, place, weight, self.turn, self.depths, volume)

    def spread(self, values: Shaped[Tensor, "m"]) -> Shaped[Tensor, "p"]:
        """Return the values of the samples from those of the facets."""
        return _spread(values, self.place)

    def mix(self, corners: Sequence[Sequence[Float[Tensor, "m"]]]) -> Float[Tensor, "c p"]:
        """Return the values of the samples from those of the facets' corners, channel by channel."""
        out = torch.empty(len(corners), self.weight.shape[1], device=self.weight.device)
        for channel, values in zip(out, corners, strict=True):
            torch.mul(self.spread(values[0]), self.weight[0], out=channel)
            channel.addcmul_(self.spread(values[1]), self.weight[1]).addcmul_(self.spread(values[2]), self.weight[2])
        return out

    def each(self, rows: Sequence[tuple[float, ...]], material: Int[Tensor, "m"] | None) -> Float[Tensor, "c p"]:
        """Return the values of the samples from those of the materials."""
        table = torch.tensor(rows, dtype=torch.float32, device=self.face.device).T.contiguous()
        of_facets = table[:, :1].expand(-1, len(self.face)) if material is None else table.index_select(1, material)
        return torch.stack([self.spread(channel.contiguous()) for channel in of_facets])


def _spread(values: Shaped[Tensor, "m"], place: Int[Tensor, "p"] | None) -> Shaped[Tensor, "p"]:
    return values.clone() if place is None else values.index_select(0, place)


def _distinct(
    view: Tensor, face: Tensor, n_views: int, n_faces: int
) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"], Int[Tensor, "p"]]:
    """Return the views and faces of the different facets among those of samples, and which each sample shows."""
    pair = view.mul_(n_faces).add_(face)
    present = torch.zeros(n_views * n_faces, dtype=torch.int64, device=pair.device)
    present.scatter_(0, pair, 1)
    which = present.nonzero()[:, 0]
    return which // n_faces, which % n_faces, present.cumsum(0).sub_(1).index_select(0, pair)


def shade(
    subject: Subject, samples: Samples, key: Int[Tensor, "p"], *, sheer: bool = False, normals: bool = True
) -> Seen:
    """Return what is seen at samples of the faces in the keys of `nearest_faces`; with alpha if `sheer`."""
    inverse = (key >> 32).int().view(torch.float32)
    facets = _Facets.of(subject, samples, key & 0xFFFFFFFF)
    color, alpha = _surface(subject, facets, sheer=sheer)
    normal = None
    if normals or subject.light is not None:
        rows = facets.face * 3
        normal = facets.mix(
            [[axis.index_select(0, rows + i).mul_(facets.turn) for i in range(3)] for axis in subject.normals]
        )
        normal *= normal.square().sum(0).clamp_(min=1e-24).rsqrt_()
    if subject.light is not None:
        assert normal is not None
        color = _lit(color, normal, facets, subject, subject.light)
    return Seen(color.clamp_(0, 1), alpha, inverse.reciprocal(), normal)


def _lit(
    color: Float[Tensor, "3 p"], normal: Float[Tensor, "3 p"], facets: _Facets, subject: Subject, light: AnyLight
) -> Float[Tensor, "3 p"]:
    """Return the colours in the light; what is not `lit` keeps its own."""
    mesh = subject.mesh
    lit = color * light.shade(normal.T).T
    material = None if mesh.face_material is None else mesh.face_material.index_select(0, facets.face)
    if any(m.roughness < MATT for m in mesh.materials):  # matt meshes pay nothing
        surface = facets.each([(m.roughness, m.metallic) for m in mesh.materials], material)
        chosen = (surface[0] < MATT).nonzero()[:, 0]
        color_, normal_, surface = (_take(q, chosen) for q in (color, normal, surface))
        some = facets.some(chosen)
        eye, place = subject.eyes.T.index_select(1, facets.view), mesh.vertices.T
        to_eye = some.mix(
            [
                [e - axis.index_select(0, c) for c in facets.corner]
                for e, axis in zip(eye, place.contiguous(), strict=True)
            ]
        )
        to_eye *= to_eye.square().sum(0).clamp_(min=1e-24).rsqrt_()
        polished = light.polish(color_.T, normal_.T, to_eye.T, surface[:1].T, surface[1:].T).T
        for i in range(3):
            lit[i].scatter_(0, chosen, polished[i])
    if any(not m.lit for m in mesh.materials):
        is_lit = facets.each([(float(m.lit),) for m in mesh.materials], material)
        lit = torch.where(is_lit > 0, lit, color)
    return lit


def _take(values: Float[Tensor, "c p"], chosen: Int[Tensor, "q"]) -> Float[Tensor, "c q"]:
    return torch.stack([channel.index_select(0, chosen) for channel in values])


def _surface(
    subject: Subject, facets: _Facets, *, sheer: bool
) -> tuple[Float[Tensor, "3 p"], Float[Tensor, "p"] | None]:
    """Return material x vertex colour x texture + emission, and alpha if it is asked for."""
    mesh = subject.mesh
    material = None if mesh.face_material is None else mesh.face_material.index_select(0, facets.face)
    color = facets.each([m.color for m in mesh.materials], material)
    alpha = None
    if sheer:
        alpha = facets.each([(m.opacity,) for m in mesh.materials], material)[0]
        if mesh.vertex_alpha is not None:
            alpha *= facets.mix(_at_corners(mesh.vertex_alpha[:, None], facets))[0]
    if mesh.vertex_color is not None:
        color *= facets.mix(_at_corners(mesh.vertex_color, facets))
    number_of = None if material is None else facets.spread(material)
    for number, item in enumerate(mesh.materials):
        glows = any(item.emission)
        if item.texture is None and not glows:
            continue
        chosen = None if number_of is None else (number_of == number).nonzero()[:, 0]
        if chosen is not None and not len(chosen):
            continue
        some = facets.some(chosen)
        if item.texture is not None and mesh.uv is not None:
            texel = _read(subject, item.texture, mesh.uv, some, sheer=sheer)
            _change(color, chosen, lambda old, i, texel=texel: old * texel[i])
            if alpha is not None and len(texel) == 4:
                _change(alpha[None], chosen, lambda old, _, texel=texel: old * texel[3])
        if glows:
            glow = color.new_tensor(item.emission)[:, None]
            uv = mesh.uv if mesh.emission_uv is None else mesh.emission_uv
            if item.emission_texture is not None and uv is not None:
                glow = glow * _read(subject, item.emission_texture, uv, some)[:3]
            _change(color, chosen, lambda old, i, glow=glow: (old + glow[i]).clamp_(max=1))
    if alpha is None:
        return color, None
    cutoffs = [(m.alpha_cutoff if m.alpha_mode == "mask" else -1.0,) for m in mesh.materials]
    cutoff = facets.each(cutoffs, material)[0]
    return color, torch.where(cutoff >= 0, (alpha >= cutoff).to(alpha), alpha.clamp(0, 1))


def _change(
    values: Float[Tensor, "c p"], chosen: Int[Tensor, "q"] | None, new: Callable[[Tensor, int], Tensor]
) -> None:
    """Put the new values of the old ones, channel by channel, in their place."""
    for i, channel in enumerate(values):
        if chosen is None:
            channel.copy_(new(channel, i))
        else:
            channel.scatter_(0, chosen, new(channel.index_select(0, chosen), i))


def _at_corners(values: Float[Tensor, "k c"], facets: _Facets) -> list[list[Float[Tensor, "m"]]]:
    """Return the values at the facets' corners, channel by channel."""
    return [[channel.index_select(0, c) for c in facets.corner] for channel in values.T.contiguous()]


def _read(
    subject: Subject, texture: Texture, uv: Float[Tensor, "k 2"], facets: _Facets, *, sheer: bool = False
) -> Float[Tensor, "c p"]:
    """Read a texture where its texels over samples of the face say how finely."""
    place = _at_corners(uv, facets)
    (u0, u1, u2), (v0, v1, v2) = place
    height, width = texture.image.shape[:2]
    texels = ((u1 - u0) * (v2 - v0) - (v1 - v0) * (u2 - u0)).abs() * height * width
    samples = facets.volume.abs().div_(facets.spread(facets.depths)).abs_().float().clamp_(min=1e-12)
    pyramid = subject.pyramid(texture, premultiplied=sheer)
    u, v = facets.mix(place)
    return pyramid.read(u, v, facets.spread(texels).div_(samples))
