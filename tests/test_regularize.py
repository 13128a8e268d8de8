"""What a plausible representation looks like, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.scene.grid import GridField
from viewfold.scene.regularize import binary_entropy, orientation, sparsity, total_variation, unevenness, z_variance
from viewfold.scene.rendering import RaySamples


def test_total_variation_of_a_step_is_its_height_over_the_pairs_of_cells() -> None:
    grid = torch.zeros(1, 1, 4, 4, 4)
    assert float(total_variation(grid)) == 0
    grid[..., 2:] = 3.0  # one of three pairs along x
    assert float(total_variation(grid)) == pytest.approx(3.0 / 3 / 3)


def test_unevenness_of_three_vertices_in_a_row() -> None:
    """0, 1 and 5 are off the mean of their neighbours by 1, 1.5 and 4; the second column is even."""
    values = torch.tensor([[0.0, 2.0], [1.0, 2.0], [5.0, 2.0]], requires_grad=True)
    loss = unevenness(values, torch.tensor([[0, 1], [2, 1]]))
    assert float(loss.detach()) == pytest.approx((1 + 1.5**2 + 16) / 3)
    (slope,) = torch.autograd.grad(loss, values)
    assert slope[:, 0].tolist() == pytest.approx([(-2 + 1.5) / 3, (2 - 3 - 8) / 3, (8 + 1.5) / 3])
    assert not bool(slope[:, 1].any())


def test_entropy_and_sparsity_prefer_clear_and_empty_pictures() -> None:
    half, clear = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, 1, 2, 2)
    assert float(binary_entropy(half)) == pytest.approx(0.6931, abs=1e-4)
    assert float(binary_entropy(clear)) < 0.01
    assert float(sparsity(clear)) == pytest.approx(0.1) and float(sparsity(half)) > 0.5


def samples_of(**known: torch.Tensor | int) -> RaySamples:
    """Return samples of which only some numbers matter."""
    n = max(len(x) for x in known.values() if isinstance(x, torch.Tensor))
    rest = {name: torch.zeros(n, 3) for name in ("rgb", "position", "normal", "direction")}
    rest |= {"pixel": torch.zeros(n, dtype=torch.long), "distance": torch.zeros(n)}
    return RaySamples(**{**rest, "n_rays": 1, **known})  # type: ignore[arg-type]


def test_orientation_is_a_sum_over_samples_of_two_hand_worked_rays() -> None:
    """One ray passes a back (cosine 1) in front of a front (cosine -1), the other a surface seen at 60 degrees."""
    ray = torch.tensor([0.0, 1.0, 0.0])
    weight = torch.tensor([0.5, 0.3, 0.8], requires_grad=True)
    normal = torch.stack([ray, -ray, torch.tensor([0.75**0.5, 0.5, 0.0])]).requires_grad_()
    samples = samples_of(weight=weight, normal=normal, direction=ray.expand(3, 3), n_rays=2)
    loss = orientation(samples)
    assert float(loss.detach()) == pytest.approx((0.5 * 1 + 0.3 * 0 + 0.8 * 0.25) / 2)
    loss.backward()
    assert weight.grad is None, "a surface must turn, not fade"
    assert normal.grad is not None
    torch.testing.assert_close(normal.grad @ ray, torch.tensor([0.5, 0.0, 0.8 * 0.5]))


def test_orientation_is_at_home_in_a_render() -> None:
    """The samples of a render sum to its pictures; of a ball hardly any that light reaches turns its back."""
    ball, cameras = GridField(resolution=24), Cameras.orbit(4, elevation_deg=20, azimuth_deg=45)
    with torch.no_grad():
        rendered = ball.render(cameras, size=32, normals=True)
    samples = rendered.samples
    assert samples is not None and 0 < samples.n_rays <= int((rendered.alpha > 0).sum())
    torch.testing.assert_close(samples.weight.sum(), rendered.alpha.sum(), rtol=1e-4, atol=0)
    seen = (samples.weight[:, None] * samples.normal).sum(dim=0)
    torch.testing.assert_close(seen, rendered.normal.sum(dim=(0, 2, 3)), rtol=1e-3, atol=0.5)
    assert float((samples.normal * samples.direction).sum(-1) @ samples.weight) < 0
    flipped = replace(samples, direction=-samples.direction)
    assert float(orientation(samples)) < 0.1 * float(orientation(flipped))
    assert ball.render(cameras, size=8).samples is None


def test_variance_of_distance_of_hand_worked_rays() -> None:
    """Two rays see two samples each, a third is too thin to count; the weights' own sum does not matter."""
    samples = samples_of(
        pixel=torch.tensor([0, 0, 2, 2, 3]),
        weight=torch.tensor([0.5, 0.5, 0.6, 0.2, 0.3]),
        distance=torch.tensor([1.0, 2.0, 1.0, 3.0, 9.0]).requires_grad_(),
    )
    alpha = torch.tensor([1.0, 0.0, 0.8, 0.3]).reshape(1, 1, 2, 2)
    first, second = 0.25, 0.75 * 0.5**2 + 0.25 * 1.5**2  # about the means 1.5 and 1.5
    assert float(z_variance(samples, alpha).detach()) == pytest.approx((first + second) / 2)
    assert float(z_variance(samples, torch.zeros_like(alpha)).detach()) == 0, "no pixel is covered, and nothing is NaN"


def test_a_sharp_surface_is_less_thick_than_fog() -> None:
    cameras = Cameras.orbit(2)
    thick = []
    for value in (5.0, -2.0):
        ball = GridField(resolution=24)
        with torch.no_grad():
            ball.grid[:, :1] = torch.where(ball.grid[:, :1] > 0, value, -9.0)
            rendered = ball.render(cameras, size=24, normals=True)
        assert rendered.samples is not None
        thick.append(float(z_variance(rendered.samples, rendered.alpha)))
    assert thick[0] < 0.5 * thick[1]


def test_samples_of_a_render_composite_to_its_picture() -> None:
    """Colour, distance and place of each sample are its pixel's: what lights samples relies on that."""
    ball, cameras = GridField(resolution=24), Cameras.orbit(3, elevation_deg=20)
    with torch.no_grad():
        ball.grid[:, 1:] = torch.randn(ball.grid[:, 1:].shape, generator=torch.Generator().manual_seed(0))
        rendered = ball.render(cameras, size=16, normals=True)
    samples = rendered.samples
    assert samples is not None
    picture = torch.zeros(3 * 16 * 16, 3).index_add(0, samples.pixel, samples.weight[:, None] * samples.rgb)
    torch.testing.assert_close(picture.reshape(3, 16, 16, 3).permute(0, 3, 1, 2), rendered.rgb)
    origins, directions = (x.reshape(-1, 3)[samples.pixel] for x in cameras.rays(16))
    torch.testing.assert_close(directions, samples.direction)
    torch.testing.assert_close(origins + samples.distance[:, None] * directions, samples.position)
