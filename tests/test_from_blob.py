"""A lift that begins with a blob needs no views: the prior alone decides, and the report says so."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from lift_fakes import PerfectPrior, ball, ball_views, overlap
from second_device import on, second_device
from sphere import Sphere, SphereSettings

from viewfold.camera import Cameras
from viewfold.diffusion.schedule import Anneal
from viewfold.errors import InputError
from viewfold.lifting.backdrop import Backdrop
from viewfold.lifting.descent import OptimizerSettings, make_optimizer
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.guard import Guard, collapse_limits
from viewfold.lifting.phase import Phase
from viewfold.lifting.presets import MVDREAM, MVDREAM_REDUCED
from viewfold.lifting.regularizer import Regularizer
from viewfold.lifting.shading import Shading
from viewfold.lifting.stages import LiftSettings, MeshSettings, lift
from viewfold.lifting.start import FromBlob, begin_blob
from viewfold.scene.background import Background
from viewfold.scene.blob import Blob
from viewfold.scene.field import lattice
from viewfold.scene.grid import GridField, GridSettings
from viewfold.scene.hashfield import HashGridSettings
from viewfold.scene.hashgrid import HashSettings

GRID = GridSettings(resolution=24, samples=24)
SMALL = LiftSettings(
    start=FromBlob(radius=0.2),
    representation=GRID,
    distil=DistilSettings(steps=40, learning_rate=0.3, guidance=1.0),
    mesh=MeshSettings(resolution=32, faces=400, texture_size=64),
)
WHOLE = DistilSettings(
    steps=6,
    phases=(Phase(size=12, objects=2), Phase(from_step=3)),
    backdrop=Backdrop(solid_share=0.3),
    shading=Shading(albedo_steps=1, shaded_share=1.0),
    regularizer=Regularizer(orientation=Anneal(start=1.0, end=9.0, steps=3), opacity=0.1, sparsity=0.1, z_variance=0.1),
    optimizer=OptimizerSettings(eps=1e-15, weight_decay=0.01, last_rate=1.0),
)
"""Every part of the paper's method at once."""


class RedBall(PerfectPrior):
    """Knows the ball from any camera, for any number of objects."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(lambda cameras, size: ball(cameras.to("cpu"), size=size)[0].to(device))
        self.device = torch.device(device)
        self.alphas_cumprod = self.alphas_cumprod.to(device)

    def condition(self, prompts):
        return super().condition(prompts).to(self.device)

    def predict_noise(self, x, t, condition, cameras):
        assert cameras is not None and all(on(self.device, given) for given in (x, t, condition))
        level = self.alphas_cumprod[t][:, None, None, None, None]
        known = self.encode(self.draw(cameras.per_object(*x.shape[:2]), self.image_size)).unflatten(0, x.shape[:2])
        return (x - level.sqrt() * known) / (1 - level).sqrt()


def blob(device: torch.device | str = "cpu"):
    return begin_blob(FromBlob(radius=0.25), representation=GRID, device=device)


# The blob -------------------------------------------------------------------------------------------------------------


def test_a_grid_begins_with_the_blobs_own_law_and_anything_else_is_asked_for_points() -> None:
    made = GRID.begin(Blob(radius=0.25), detail=0.5)
    assert made.resolution == 12 and made.detail == 0.5
    expected = (10 * (1 - lattice(12).norm(dim=-1) / 0.25)).clamp(min=-8)
    torch.testing.assert_close(made.grid[0, 0].flatten(), expected)
    inside, rgb = Blob(radius=0.2)(torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0, 0.4, 0]]))
    torch.testing.assert_close(inside, torch.tensor([1.0, 0.5, 0.0]), atol=1e-4, rtol=0)
    assert bool((rgb == 0.5).all())
    sphere = SphereSettings(shrink=1.0).begin(Blob(radius=0.25))
    assert float(sphere.radius.detach()) == pytest.approx(0.25, abs=0.03)
    with pytest.raises(InputError, match="`radius`"):
        Blob(radius=0)
    with pytest.raises(InputError, match="`fov_deg`"):
        FromBlob(fov_deg=0)


def test_what_stands_for_the_views_of_a_blob_are_its_own_pictures() -> None:
    began = blob()
    assert began.pictures is None and began.loss is None
    assert began.observed.lens == (pytest.approx(40), pytest.approx(1.717, abs=1e-3))
    assert began.observed.ground.tolist() == [0.5] * 3
    truth = began.representation.render(began.observed.views.cameras, size=64, quality=2.0)
    assert overlap(began.observed.foreground.alpha, truth.alpha) == 1
    torch.testing.assert_close(began.observed.opaque(), truth.over(0.5).detach(), atol=1e-4, rtol=0)


# The flow -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_ball_comes_of_a_blob_with_no_views_given() -> None:
    """Nothing is sampled, observed or fitted, and what is delivered shows what came out, not what it began with."""
    stages: set[str] = set()

    def sample(seed: int):
        raise AssertionError("views were sampled")

    made = lift(
        RedBall(), "a red ball", sample=sample, settings=SMALL, progress=lambda stage, *_: stages.add(stage), seed=3
    )
    assert stages == {"distil", "mesh", "texture", "check"}
    report = json.loads(json.dumps(made.report))
    assert report["start"] == "blob" and report["fit_loss"] is None and report["seed"] == 3
    assert report["settings"]["start"] == {"radius": 0.2, "fov_deg": 40.0, "kind": "blob"}
    unseen = Cameras.orbit(4, elevation_deg=20, azimuth_deg=45)
    drawn, (truth, alpha) = made.render(unseen, size=32), ball(unseen, size=32)
    assert overlap(drawn.alpha, alpha) > 0.8
    assert float((drawn.over(0.5) - truth).abs().mean()) < 0.05
    assert float((made.views.over() - ball(made.views.cameras, size=64)[0]).abs().mean()) < 0.05


def test_views_are_refused_where_they_have_no_use_and_the_report_of_a_fit_says_that_too() -> None:
    with pytest.raises(InputError, match="`views` must be None for a start from a blob"):
        lift(RedBall(), "a red ball", views=ball_views(), settings=SMALL)
    with pytest.raises(InputError, match="`views` must be given"):
        lift(RedBall(), "a red ball")


@pytest.mark.parametrize("settings", [MVDREAM, MVDREAM_REDUCED], ids=["whole", "reduced"])
def test_presets_from_a_blob_are_json(settings: LiftSettings) -> None:
    assert json.loads(json.dumps(asdict(settings)))["start"]["kind"] == "blob"


@pytest.mark.slow
def test_every_part_of_the_paper_runs_together_and_the_seed_decides_it() -> None:
    first, again, other = (
        distil(blob(), RedBall(), "a", settings=WHOLE, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert first.rollbacks == 0 and first.representation.is_finite()
    assert torch.equal(first.representation.snapshot(), again.representation.snapshot())
    assert not torch.equal(first.representation.snapshot(), other.representation.snapshot())
    assert not torch.equal(first.observed.views.rgb, blob().observed.views.rgb), "it shows what it became"


@pytest.mark.slow
def test_it_runs_on_the_papers_representation_too() -> None:
    small = HashGridSettings(encoding=HashSettings(levels=4, log2_rows=10, base=4), samples=24, density_scale=2.0)
    began = begin_blob(FromBlob(radius=0.25), representation=small, device="cpu")
    before = began.representation.render(Cameras.orbit(2), size=12).rgb.detach()
    settings = replace(WHOLE, learning_rate=1.0)
    refined = distil(began, RedBall(), "a", settings=settings, generator=torch.Generator().manual_seed(0))
    assert refined.rollbacks == 0 and refined.representation.is_finite()
    after = refined.representation.render(Cameras.orbit(2), size=12).rgb.detach()
    assert float((after - before).abs().max()) > 0.01


def test_regularisers_are_descended_beside_the_score() -> None:
    def coverage(regularizer: Regularizer) -> float:
        settings = DistilSettings(steps=8, learning_rate=1.0, guidance=1.0, regularizer=regularizer)
        refined = distil(blob(), RedBall(), "a", settings=settings, generator=torch.Generator().manual_seed(0))
        return float(refined.observed.foreground.alpha.mean())

    assert coverage(Regularizer(sparsity=1e3)) < 0.5 * coverage(Regularizer())


@pytest.mark.slow
def test_on_a_second_device_it_is_the_same() -> None:
    def run(device: torch.device) -> torch.Tensor:
        refined = distil(blob(device), RedBall(device), "a", settings=WHOLE, generator=torch.Generator().manual_seed(0))
        assert on(device, refined.observed.views.rgb)
        return refined.representation.to("cpu").snapshot()

    expected = run(torch.device("cpu"))
    with second_device() as device:
        torch.testing.assert_close(run(device), expected, atol=2e-3, rtol=0)


# The guard and the optimiser ------------------------------------------------------------------------------------------


def test_without_silhouettes_only_nothing_and_everything_count_as_collapsed() -> None:
    assert collapse_limits(None, most=0.6) == (0.002, pytest.approx(0.57))
    for share, healthy in ((0.003, True), (0.56, True), (0.001, False), (0.58, False)):
        grid = GridField(resolution=4)
        guard = Guard(grid, coverage=None, most=0.6, learning_rate=0.1)
        assert guard.step(grid.grid.sum(), coverage=share) == healthy
    wrong = replace(blob(), representation=Sphere(0.05, torch.tensor([0.5, 0.5, 0.5])))
    refined = distil(wrong, RedBall(), "a", settings=DistilSettings(steps=2), generator=torch.Generator())
    assert refined.rollbacks == 0, "a thin thing is no collapse: no silhouette says that it is more"


def test_a_background_is_stepped_at_its_own_rate_and_taken_back_with_the_object() -> None:
    grid, behind = GridField(resolution=4), Background(generator=torch.Generator().manual_seed(0))
    guard = Guard(grid, coverage=0.2, learning_rate=0.1, background=behind, background_rate=0.3)
    before = [p.detach().clone() for p in behind.parameters()]
    sky = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert guard.step(grid.grid.sum() + behind(sky).sum(), coverage=0.2, decay=0.5)
    moved = torch.cat([(p.detach() - old).abs().flatten() for p, old in zip(behind.parameters(), before, strict=True)])
    assert float(moved.max()) == pytest.approx(0.1 * 0.3 * 0.5, rel=1e-2)  # Adam's first step
    assert not guard.step(grid.grid.sum() * float("nan") + behind(sky).sum(), coverage=0.2)
    assert all(torch.equal(p, old) for p, old in zip(behind.parameters(), before, strict=True))


def test_decay_of_weights_takes_its_share_beside_adams_step() -> None:
    """AdamW by hand, first step: p (1 - rate decay) - rate sign(gradient)."""
    for settings, expected in ((OptimizerSettings(), 1.9), (OptimizerSettings(weight_decay=0.5), 2 * 0.95 - 0.1)):
        sphere = Sphere(0.3, torch.tensor([2.0, 2.0, 2.0]))
        optimizer = make_optimizer(sphere, 0.1, settings)
        sphere.color.sum().backward()
        optimizer.step()
        torch.testing.assert_close(sphere.color.detach(), torch.full((3,), expected))
    made = make_optimizer(sphere, 0.1, OptimizerSettings(betas=(0.5, 0.6), eps=1e-3))
    assert (made.defaults["betas"], made.defaults["eps"]) == ((0.5, 0.6), 1e-3)
    for wrong in ({"betas": (0.9, 1.0)}, {"eps": -1.0}, {"weight_decay": 2.0}, {"last_rate": -0.1}):
        with pytest.raises(InputError, match=f"`{next(iter(wrong))}` must"):
            OptimizerSettings(**wrong)


@pytest.mark.parametrize("last", [0.2, 1.0])
def test_the_rate_falls_to_what_is_left_at_the_last_step(monkeypatch: pytest.MonkeyPatch, last: float) -> None:
    decays: list[float] = []

    def step(self, loss, *, coverage, decay):
        decays.append(decay)
        return True

    monkeypatch.setattr(Guard, "advance", step)
    settings = DistilSettings(steps=5, optimizer=OptimizerSettings(last_rate=last))
    distil(blob(), RedBall(), "a", settings=settings, generator=torch.Generator().manual_seed(0))
    assert decays == pytest.approx([1 + (last - 1) * i / 5 for i in range(5)])
