"""One protocol for what stands for an object: what it promises, held by each kind and by a sphere unlike them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lift_fakes import RADIUS, PerfectPrior, ball, ball_views
from sphere import Sphere, SphereSettings

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError
from viewfold.lifting.descent import make_optimizer
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.fit import FitSettings, Fitted
from viewfold.lifting.guard import MAX_ROLLBACKS, Guard
from viewfold.lifting.observation import observe
from viewfold.lifting.photometric import Photometric
from viewfold.lifting.score import ASD, SDI, SDS, Reconstruction, Score
from viewfold.lifting.stages import LiftSettings, MeshSettings, lift
from viewfold.scene.field import lattice
from viewfold.scene.gaussians import GaussianSettings
from viewfold.scene.grid import GridField, GridSettings
from viewfold.scene.hashfield import HashGridSettings
from viewfold.scene.hashgrid import HashSettings
from viewfold.scene.meshform import MeshFormSettings
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import Representation, RepresentationSettings
from viewfold.scene.sdf import SdfSettings
from viewfold.scene.volume import render_volume

SMALL = HashSettings(levels=6, log2_rows=14, base=8)
KINDS = [
    GridSettings(resolution=24, samples=24),
    SdfSettings(resolution=24, samples=24),
    HashGridSettings(encoding=SMALL, samples=24),
    GaussianSettings(resolution=24),
    MeshFormSettings(resolution=24, faces=600),
    SphereSettings(),
]
CAMERAS = Cameras.orbit(2)


def solid(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A ball of the usual radius, orange."""
    inside = (points.norm(dim=-1) < RADIUS).float()
    return inside, points.new_tensor([0.9, 0.5, 0.1]).expand(len(points), 3)


def prior() -> PerfectPrior:
    return PerfectPrior(lambda cameras, size: ball(cameras, size=size)[0])


def parameters(made: Representation) -> list[torch.Tensor]:
    return [p for group in made.groups(0.1) for p in group["params"]]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.kind)
def made(request: pytest.FixtureRequest) -> Representation:
    return request.param.begin(solid)


def test_all_satisfy_the_protocol(made: Representation) -> None:
    assert isinstance(made, Representation) and all(isinstance(kind, RepresentationSettings) for kind in KINDS)
    assert made.device == torch.device("cpu") and made.to("cpu").is_finite()
    assert all(p.requires_grad and p.is_leaf for p in parameters(made))


def test_it_begins_as_the_guess(made: Representation) -> None:
    picture = made.render(CAMERAS, size=16)
    assert picture.alpha[:, 0, 8, 8].min() > 0.9 and picture.alpha[:, 0, 0, 0].max() < 0.1
    torch.testing.assert_close(picture.rgb[0, :, 8, 8], torch.tensor([0.9, 0.5, 0.1]), atol=0.05, rtol=0)
    seen = made.surface_color(torch.tensor([[0.0, 0.0, 0.2]]), torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(seen[0], torch.tensor([0.9, 0.5, 0.1]), atol=0.05, rtol=0)


def test_what_is_restored_is_what_was_there(made: Representation) -> None:
    """In place: an optimiser made before goes on with the same parameters."""
    made.refresh()
    kept, before, same = made.snapshot(), made.render(CAMERAS, size=8).rgb.detach(), parameters(made)
    with torch.no_grad():
        for p in same:
            p.mul_(float("nan"))
    assert not made.is_finite() and not bool(made.prior_loss().isfinite())
    made.restore(kept)
    assert made.is_finite() and torch.equal(made.render(CAMERAS, size=8).rgb, before)
    assert all(a is b for a, b in zip(parameters(made), same, strict=True))


def test_what_is_not_finite_in_any_one_parameter_shows(made: Representation) -> None:
    """At the corner of the scene too, where nothing is drawn."""
    kept = made.snapshot()
    for p in parameters(made):
        with torch.no_grad():
            p.flatten()[:1].fill_(float("nan"))
        assert not made.is_finite() and not bool(made.prior_loss().isfinite())
        made.restore(kept)
        assert made.is_finite() and bool(made.prior_loss().isfinite())


def test_detail_keeps_the_picture_and_refuses_the_snapshot_of_another(made: Representation) -> None:
    made.refresh()
    before = made.render(CAMERAS, size=16).rgb.detach()
    made.set_detail(0.5)
    kept, half = made.snapshot(), [p.numel() for p in parameters(made)]
    assert float((made.render(CAMERAS, size=16).rgb.detach() - before).abs().mean()) < 0.05
    made.set_detail(1.0)
    if [p.numel() for p in parameters(made)] != half:
        with pytest.raises(InputError, match="`snapshot` must be of the detail"):
            made.restore(kept)


def test_a_step_against_the_gradient_brings_the_picture_nearer(made: Representation) -> None:
    """Of all parameters, at the rates of their groups, towards a smaller and darker ball."""
    target = Sphere(0.3, torch.tensor([0.5, 0.2, 0.1])).render(CAMERAS, size=16)
    optimizer, losses = make_optimizer(made, 0.1), []
    for _ in range(12):
        seen = made.render(CAMERAS, size=16)
        pairs = ((seen.rgb, target.rgb), (seen.alpha, target.alpha))
        losses.append(sum(((a - b.detach()).square().mean() for a, b in pairs), torch.zeros(())))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
        made.constrain()
        made.refresh()
    assert float(losses[-1].detach()) < 0.75 * float(losses[0].detach())


def test_a_guard_needs_no_more_than_the_protocol(made: Representation) -> None:
    """Each group keeps its own share of the rate; what goes wrong comes back, and not for ever."""
    kept = made.snapshot()
    guard = Guard(made, coverage=0.2, learning_rate=0.1)
    own = [group["lr"] for group in made.groups(0.1) for _ in group["params"]]
    before = [p.detach().clone() for p in parameters(made)]
    assert guard.step(sum((p.sum() for p in parameters(made)), torch.zeros(())), coverage=0.2, decay=0.5)
    for old, p, rate in zip(before, parameters(made), own, strict=True):
        assert float((old - p.detach()).abs().max()) == pytest.approx(0.5 * rate, rel=1e-3)  # Adam's first step
    for _ in range(MAX_ROLLBACKS):
        assert not guard.step(made.prior_loss() * float("nan"), coverage=0.2)
    with pytest.raises(FitError, match="NaN"):
        guard.step(made.prior_loss() * float("nan"), coverage=0.2)
    made.restore(kept)


def test_a_gradient_that_is_nan_in_one_parameter_alone_is_noticed() -> None:
    made = SphereSettings().begin(solid)
    guard = Guard(made, coverage=0.2, learning_rate=0.1)
    made.color.register_hook(lambda gradient: gradient * float("nan"))
    assert not guard.step(made.prior_loss(), coverage=0.2) and made.is_finite()


@pytest.mark.parametrize("score", [Reconstruction(), SDS(), SDI(), ASD()], ids=lambda score: score.kind)
def test_the_prior_alone_finds_the_radius_of_a_sphere(score: Score) -> None:
    """Distillation without a fit or pictures: nothing of it knows what it changes."""
    observed = observe(ball_views())
    wrong = Sphere(0.2, torch.tensor([0.5, 0.5, 0.5]))
    fitted = Fitted(representation=wrong, observed=observed, pictures=Photometric.of(observed), loss=0.0)
    settings = DistilSettings(score=score, steps=40, learning_rate=0.2, photometric_weight=0.0, guidance=1.0)
    refined = distil(fitted, prior(), "a ball", settings=settings, generator=torch.Generator().manual_seed(0))
    assert refined.representation is wrong and refined.rollbacks == 0
    assert float(wrong.radius.detach()) == pytest.approx(RADIUS, abs=0.02)
    assert wrong.color.argmax() == 0 and wrong.calls.count("constrain") == 40 and wrong.calls[-1] == "refresh"


def test_a_lift_makes_files_of_a_sphere(tmp_path) -> None:
    settings = LiftSettings(
        representation=SphereSettings(),
        fit=FitSettings(steps=40),
        distil=DistilSettings(steps=4),
        mesh=MeshSettings(resolution=32, faces=400, texture_size=64),
    )
    asset = lift(prior(), "a red ball", views=ball_views(), settings=settings)
    sphere = asset.representation
    assert isinstance(sphere, Sphere) and float(sphere.radius.detach()) == pytest.approx(RADIUS, abs=0.02)
    assert asset.report["silhouette_iou"] > 0.9
    drawn, true = asset.render(ball_views().cameras, size=32).over(0.5), ball_views().rgb
    assert float(-10 * (drawn - true).square().mean().log10()) > 25, "the views' colours, which one sphere cannot have"
    assert asset.report["settings"]["representation"] == {"shrink": 0.7, "kind": "sphere"}
    assert [c for c in sphere.calls if c.startswith("detail")] == ["detail 0.5", "detail 1"]
    assert sphere.calls[-1] == "render at 2", "the check looks twice as closely"
    asset.save(tmp_path / "ball.glb", turntable=False)


# The grid's own -------------------------------------------------------------------------------------------------------


def test_half_the_detail_is_half_the_nodes_and_half_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def recorded(*args, n_samples: int, **options) -> Rendering:
        asked.append(n_samples)
        return render_volume(*args, n_samples=n_samples, **options)

    monkeypatch.setattr("viewfold.scene.grid.render_volume", recorded)
    grid = GridSettings(resolution=24, samples=48).begin(solid, detail=0.5)
    nodes = [grid.resolution]
    grid.render(CAMERAS, size=8)
    for detail in (1.0, 0.25):
        grid.set_detail(detail)
        nodes.append(grid.resolution)
        grid.render(CAMERAS, size=8, quality=2.0)
    assert asked == [24, 96, 24] and nodes == [12, 24, 8], "no coarser than eight nodes"


def test_a_guess_stands_at_the_nodes() -> None:
    grid = GridSettings(resolution=9).begin(solid)
    inside, rgb = solid(lattice(9))
    density, color = grid(lattice(9))
    assert bool((density[inside == 1] > 75).all()) and bool((density[inside == 0] < 0.01).all())
    torch.testing.assert_close(color, rgb, atol=1e-4, rtol=0)


def test_a_refresh_moves_with_the_grid_and_hardly_changes_a_picture() -> None:
    grid = GridField(resolution=16)
    everywhere = grid.render(CAMERAS, size=16).rgb
    grid.refresh()
    skipped = grid.render(CAMERAS, size=16).rgb
    torch.testing.assert_close(skipped, everywhere, atol=0.02, rtol=0)  # a fog that is called empty absorbs 1 % a step
    assert not torch.equal(skipped, everywhere)
    assert all(buffer.device.type == "meta" for buffer in grid.to("meta").buffers()) and list(grid.buffers())
    assert "occupied" not in grid.state_dict()


def test_density_is_kept_where_it_can_be_undone() -> None:
    grid = GridField(resolution=4)
    with torch.no_grad():
        grid.grid[0, 0, 0, 0, :2] = torch.tensor([-40.0, 40.0])
        grid.grid[0, 1] = 40.0
    grid.constrain()
    assert grid.snapshot()[0, 0, 0, 0, :2].tolist() == [-9.0, 5.0] and bool((grid.snapshot()[0, 1] == 40.0).all())


def test_area_is_counted_per_volume_and_weights_are_the_settings_own() -> None:
    """A solid half space at any resolution: opacity changes once in n - 1 pairs along x, and weighs n / (n - 1) / 3."""
    for n in (8, 16):
        only_area = GridSettings(resolution=n, area_weight=0.5, color_weight=0.0)
        grid = GridField(resolution=n, blob_radius=0, settings=only_area)
        with torch.no_grad():
            grid.grid[0, 0] = -60.0
            grid.grid[0, 0, :, :, n // 2 :] = 60.0
            grid.grid[0, 1:, :, :, n // 2 :] = 3.0
        assert float(grid.prior_loss().detach()) == pytest.approx(0.5 * n / (n - 1) / 3, rel=1e-4)
        grid.settings = replace(only_area, area_weight=0.0, color_weight=2.0)
        assert float(grid.prior_loss().detach()) == pytest.approx(2.0 * 3.0 / (n - 1) / 3, rel=1e-4)


def test_what_cannot_be_is_refused() -> None:
    grid = GridSettings(resolution=16).begin(solid)
    kept = grid.snapshot()
    grid.set_detail(0.5)
    with pytest.raises(InputError, match="`snapshot` must be of the detail"):
        grid.restore(kept)
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match="`detail` must lie above 0"):
            grid.set_detail(share)
    with pytest.raises(InputError, match="`samples` must lie between 8 and 1024"):
        GridSettings(samples=4)


def test_a_grid_that_goes_back_to_a_snapshot_looks_again_where_it_is_empty() -> None:
    grid = GridSettings(resolution=24, samples=24).begin(solid)
    full = grid.snapshot()
    with torch.no_grad():
        grid.grid[:, :1] = -9.0
    grid.refresh()
    grid.restore(full)
    assert grid.render(CAMERAS, size=16).alpha[:, 0, 8, 8].min() > 0.9


def test_distillation_asks_for_the_prompt_before_the_negative_and_adds_the_representations_own_loss() -> None:
    asked: list[list[str]] = []
    losses: list[torch.Tensor] = []

    class Listening(PerfectPrior):
        def condition(self, prompts: list[str]) -> torch.Tensor:
            asked.append(list(prompts))
            return super().condition(prompts)

    class Implausible(Sphere):
        def prior_loss(self) -> torch.Tensor:
            losses.append(1e3 * (self.radius - 0.1).square().sum())
            return losses[-1]

    observed = observe(ball_views())
    made = Implausible(0.3, torch.tensor([0.9, 0.1, 0.1]))
    fitted = Fitted(representation=made, observed=observed, pictures=Photometric.of(observed), loss=0.0)
    settings = DistilSettings(steps=3, negative="ugly", photometric_weight=0.0)
    distil(fitted, Listening(lambda cameras, size: ball(cameras, size=size)[0]), "a red ball", settings=settings)
    assert asked == [["a red ball", "ugly"]] and len(losses) >= settings.steps
    assert float(losses[-1].detach()) < float(losses[0].detach()), "it is descended too"


def test_coverage_counts_beside_colour_as_its_weight_says(made: Representation) -> None:
    pictures = Photometric.of(observe(ball_views(size=16)))
    light, even, heavy = (
        float(replace(pictures, alpha_weight=weight).loss(made, generator=torch.Generator().manual_seed(0)).detach())
        for weight in (0.0, 1.0, 3.0)
    )
    assert even > light and heavy - light == pytest.approx(3 * (even - light), rel=1e-4)
