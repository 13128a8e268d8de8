"""The figures of an exported file, worked by hand on a haze that covers whole pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sphere import Sphere

from viewfold.camera import Cameras
from viewfold.lifting.check import CHECK_SIZE, CHECK_VIEWS, measure_export
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.rendering import Rendering

GROUND = torch.tensor([51.0, 102, 153]) / 255
TETRAHEDRON = Mesh(
    vertices=torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.3,
    faces=torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]),
    vertex_color=GROUND.expand(4, 3),
)


class Haze(Sphere):
    """Covers 0.75 of every pixel in one colour, and keeps the cameras."""

    def render(self, cameras: Cameras, *, size: int, quality: float = 1.0, **how: Any) -> Rendering:
        self.seen, self.quality = cameras, quality
        covered = torch.full((len(cameras), 1, size, size), 0.75)
        flat = torch.zeros_like(covered)
        rgb = (covered * self.color[:, None, None]).detach()
        return Rendering(rgb=rgb, alpha=covered, depth=flat, normal=flat.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("off", [0.0, 0.2])
def test_error_is_over_the_ground_and_silhouettes_are_shares_of_their_union(off: float) -> None:
    """A haze in the ground's colour and a mesh in the ground's colour are nowhere to be told apart."""
    haze = Haze(0.3, GROUND + off)
    measured = measure_export(TETRAHEDRON, haze, ground=GROUND, lens=(30.0, 3.0))
    expected = -10 * torch.tensor(max((0.75 * off) ** 2, 1e-10)).log10()
    assert measured["rerender_psnr_db"] == pytest.approx(float(expected), abs=0.05)
    torch.testing.assert_close(haze.seen.fov_deg, torch.full((CHECK_VIEWS,), 30.0))
    torch.testing.assert_close(haze.seen.position.norm(dim=-1), torch.full((CHECK_VIEWS,), 3.0))
    assert haze.quality == 2
    covered = rasterize(TETRAHEDRON, haze.seen, size=CHECK_SIZE, light=None).alpha > 0.5
    assert measured["silhouette_iou"] == pytest.approx(float(covered.float().mean()), abs=1e-3)
    assert 0.02 < measured["silhouette_iou"] < 0.6
