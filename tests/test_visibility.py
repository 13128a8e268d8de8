"""The rasteriser against a search of all faces for each ray, and what it leaves out if it is not asked for."""

from __future__ import annotations

import math

import torch

from viewfold.camera import Cameras
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize


def _soup() -> Mesh:
    """Forty triangles that cross one another, each corner in a colour of its own."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(40, 1, 3, generator=generator) * 0.3
    return Mesh(
        vertices=(centers + torch.randn(40, 3, 3, generator=generator) * 0.15).flatten(0, 1),
        faces=torch.arange(120).view(40, 3),
        vertex_color=torch.rand(120, 3, generator=generator),
    )


def test_every_sample_shows_the_face_that_a_search_of_all_faces_finds() -> None:
    mesh = _soup()
    corners, colors = mesh.vertices.view(40, 3, 3), mesh.vertex_color
    assert colors is not None
    cameras = Cameras.orbit(2, elevation_deg=20.0, azimuth_deg=10.0)
    picture = rasterize(mesh, cameras, size=40, supersample=1, light=None)
    for view in range(2):
        origin, direction = (x[view].reshape(-1, 1, 3).double() for x in cameras.rays(40))
        a, b, c = corners.double().unbind(1)
        # Moller and Trumbore: origin + t direction = a + u (b - a) + v (c - a).
        cross = torch.linalg.cross(direction.expand(-1, 40, -1), (c - a).expand(1600, -1, -1))
        volume = (cross * (b - a)).sum(-1)
        u = (cross * (origin - a)).sum(-1) / volume
        turned = torch.linalg.cross((origin - a).expand(1600, -1, -1), (b - a).expand(1600, -1, -1))
        v = (turned * direction).sum(-1) / volume
        length = torch.where((u >= 0) & (v >= 0) & (u + v <= 1), (turned * (c - a)).sum(-1) / volume, math.inf)
        nearest, face = length.min(dim=1)
        sure = torch.stack([u, v, 1 - u - v]).abs().amin((0, 2)) > 1e-4  # no edge of any face lies near
        hit = nearest.isfinite() & sure
        assert 400 < int(hit.sum()) and int(sure.sum()) > 1400
        assert torch.equal(picture.alpha[view].flatten()[sure] == 1, nearest.isfinite()[sure])
        weight = torch.stack([1 - u - v, u, v], dim=-1)[torch.arange(1600), face][hit].float()
        expected = (colors.view(40, 3, 3)[face[hit]] * weight[..., None]).sum(1)
        torch.testing.assert_close(picture.rgb[view].flatten(1).T[hit], expected, atol=1e-4, rtol=0)


def test_without_shapes_the_colours_are_the_same() -> None:
    soup, front = _soup(), Cameras.orbit(1, elevation_deg=0.0)
    glass = Mesh(
        vertices=torch.tensor([[-0.4, -0.6, -0.4], [0.4, -0.6, -0.4], [0.0, -0.6, 0.4]]),
        faces=torch.tensor([[0, 1, 2]]),
        materials=(Material(color=(0.1, 0.3, 0.9), alpha_mode="blend", opacity=0.6),),
    )
    for mesh in (soup, Mesh.cat([soup, glass])):
        whole = rasterize(mesh, front, size=24)
        bare = rasterize(mesh, front, size=24, shape=False)
        assert torch.equal(whole.rgb, bare.rgb) and torch.equal(whole.alpha, bare.alpha)
        assert bool(whole.depth.any()) and not bool(bare.depth.any() | bare.normal.any())
        assert bare.depth.shape == whole.depth.shape and bare.normal.shape == whole.normal.shape
