"""What is behind the object while it is distilled: one colour for all its views, or a learned one, or the ground."""

from __future__ import annotations

import math

import pytest
import torch

from viewfold.lifting.backdrop import Backdrop, draw_solid
from viewfold.lifting.phase import Phase
from viewfold.lifting.settings import DistilSettings
from viewfold.lifting.studio import Studio
from viewfold.scene.background import Background, spherical_harmonics
from viewfold.scene.grid import GridField, GridSettings

LENS, GROUND = (40.0, 1.7), torch.tensor([0.2, 0.4, 0.6])
GRID = GridSettings(resolution=16, samples=16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def studio(**settings) -> Studio:
    return Studio(DistilSettings(**settings), lens=LENS, ground=GROUND, generator=seeded())


def ball() -> GridField:
    return GridField(resolution=16, settings=GRID)


# Backgrounds ----------------------------------------------------------------------------------------------------------


def corners(pictures: torch.Tensor) -> torch.Tensor:
    return pictures[:, :, 0, 0]


@pytest.mark.parametrize("shared", ["object", "batch"])
def test_a_solid_colour_is_behind_all_views_of_an_object(shared: str) -> None:
    backdrop = Backdrop(solid_share=1.0, shared=shared, learned=False)
    shot = studio(backdrop=backdrop, phases=(Phase(objects=2),)).shoot(
        ball(), step=0, image_size=12, generator=seeded()
    )
    seen = corners(shot.pictures)
    for object_ in (seen[:4], seen[4:]):
        torch.testing.assert_close(object_, object_[:1].expand(4, 3), atol=0.01, rtol=0)
    assert bool((seen[0] - seen[4]).abs().max() < 0.01) == (shared == "batch"), "whose colour it is"
    flat = shot.pictures - shot.rendered.rgb - (1 - shot.rendered.alpha) * shot.pictures[:, :, :1, :1]
    assert flat.abs().max() < 0.01, "one colour over the whole picture"


def test_solid_colours_come_in_as_many_steps_as_their_share_says() -> None:
    generator = seeded()
    for share in (0.0, 0.5, 1.0):
        drawn = [
            draw_solid(Backdrop(solid_share=share), n_objects=1, n_views=4, generator=generator) for _ in range(400)
        ]
        assert sum(color is not None for color in drawn) / 400 == pytest.approx(share, abs=0.08 if share == 0.5 else 0)
    colors = torch.cat([color[:1] for color in drawn if color is not None])[:, :, 0, 0]
    assert colors.min() >= 0 and colors.max() <= 1 and float(colors.mean()) == pytest.approx(0.5, abs=0.05)
    assert colors.std(dim=0).min() > 0.2, "each channel has its own"


def test_other_steps_show_the_learned_background_or_the_ground() -> None:
    ground = studio(backdrop=Backdrop(solid_share=0.0, learned=False))
    assert ground.background is None
    seen = corners(ground.shoot(ball(), step=0, image_size=12, generator=seeded()).pictures)
    torch.testing.assert_close(seen, GROUND.expand(4, 3), atol=0.01, rtol=0)
    learned = studio(backdrop=Backdrop(solid_share=0.0))
    shot = learned.shoot(ball(), step=0, image_size=12, generator=seeded())
    assert learned.background is not None
    expected = learned.background(shot.cameras.rays(12)[1][:, 0, 0])
    torch.testing.assert_close(corners(shot.pictures), expected, atol=0.01, rtol=0)
    shot.pictures.sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in learned.background.parameters())
    assert studio().background is None, "without a backdrop there is nothing to learn"


def test_harmonics_are_orthonormal_over_the_sphere_and_hand_worked_at_the_pole() -> None:
    n = 20_000  # a Fibonacci lattice: nearly even over the sphere
    z = 1 - (2 * torch.arange(n, dtype=torch.float64) + 1) / n
    around = torch.arange(n, dtype=torch.float64) * math.pi * (3 - math.sqrt(5))
    flat = (1 - z.square()).sqrt()
    directions = torch.stack([flat * around.cos(), flat * around.sin(), z], dim=-1)
    basis = spherical_harmonics(directions.float()).double()
    torch.testing.assert_close(basis.T @ basis * 4 * math.pi / n, torch.eye(9, dtype=torch.float64), atol=2e-3, rtol=0)
    pole = spherical_harmonics(torch.tensor([0.0, 0.0, 1.0]))
    by_hand = torch.tensor([0.2821, 0, 0.4886, 0, 0, 0, 0.6308, 0, 0])
    torch.testing.assert_close(pole, by_hand, atol=1e-4, rtol=0)


def test_a_background_is_seeded_begins_grey_and_learns_a_colour() -> None:
    first, again, other = (Background(generator=seeded(seed)) for seed in (0, 0, 1))
    directions = torch.nn.functional.normalize(torch.randn(200, 3, generator=seeded()), dim=-1)
    assert torch.equal(first(directions), again(directions)) and not torch.equal(first(directions), other(directions))
    assert (first(directions) - 0.5).abs().max() < 0.2
    (group,) = first.groups(0.02)
    assert group["lr"] == 0.02 and sum(p.numel() for p in group["params"]) == 9 * 16 + 16 * 16 + 16 * 3
    optimizer, sky = torch.optim.Adam([group]), (directions[:, 2:] > 0).float().expand(-1, 3)
    for _ in range(150):
        optimizer.zero_grad()
        (first(directions) - sky).square().mean().backward()
        optimizer.step()
    assert (first(directions) - sky).abs().mean() < 0.15, "directions are told apart"
