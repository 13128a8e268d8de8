"""Where memory runs out, fewer views are rendered at once and the step is done again, with the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lift_fakes import PerfectPrior, ball, ball_views
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import ViewfoldError, is_out_of_memory
from viewfold.lifting.distillation import DistilSettings, distil
from viewfold.lifting.extraction import extract
from viewfold.lifting.fit import FitSettings, Fitted, fit
from viewfold.lifting.observation import observe
from viewfold.lifting.polish import PolishSettings, polish
from viewfold.lifting.ration import Ration
from viewfold.lifting.shading import Shading
from viewfold.lifting.stages import LiftSettings, MeshSettings, lift
from viewfold.scene import meshform
from viewfold.scene.grid import GridField, GridSettings
from viewfold.scene.hashfield import HashGridSettings
from viewfold.scene.hashgrid import HashSettings
from viewfold.scene.rendering import SAMPLED, Rendering
from viewfold.scene.representation import Representation
from viewfold.scene.sdf import SdfSettings

SIX = Cameras.orbit(6, elevation_deg=20)
GRID = GridSettings(resolution=16, samples=16)
HASH = HashGridSettings(encoding=HashSettings(levels=4, log2_rows=10, base=4), samples=24)
SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory"),
    MemoryError(),
]


def solid(points: Tensor) -> tuple[Tensor, Tensor]:
    """A ball of radius 0.35, whose colour is its place."""
    return torch.sigmoid((0.35 - points.norm(dim=-1)) * 40), (points + 0.5).clamp(0, 1)


def short_of_memory(
    monkeypatch: pytest.MonkeyPatch, home: Any, name: str, *, views: int, error: Exception
) -> list[int]:
    """Let a renderer run out of memory above so many views at once; return the list of what it is asked for."""
    asked: list[int] = []
    renders = getattr(home, name)

    def render(*arguments: Any, **options: Any) -> Rendering:
        cameras = next(each for each in arguments if isinstance(each, Cameras))
        asked.append(len(cameras))
        if len(cameras) > views:
            raise error
        return renders(*arguments, **options)

    monkeypatch.setattr(home, name, render)
    return asked


# A rationed picture is the picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [GRID, HASH, SdfSettings(resolution=16, samples=16)],
    ids=["grid", "hash", "sdf"],
)
@pytest.mark.parametrize("normals", [False, True])
def test_parts_are_the_whole_with_its_gradients_and_its_random_numbers(settings: Any, normals: bool) -> None:
    made = settings.begin(solid)
    made.refresh()
    weights = torch.rand(6, 8, 12, 12, generator=torch.Generator().manual_seed(1))

    def look(share: float) -> tuple[Rendering, list[Tensor], Tensor]:
        ration, generator = Ration(), torch.Generator().manual_seed(0)
        ration.share = share
        drawn = ration.of(made).render(SIX, size=12, generator=generator, normals=normals)
        after = generator.get_state()
        seen = (torch.cat([drawn.rgb, drawn.alpha, drawn.depth, drawn.normal], dim=1) * weights).sum()
        if drawn.samples is not None:
            seen = seen + (drawn.samples.weight * drawn.samples.rgb[:, 0] * drawn.samples.pixel).sum() / 100
        parameters = [p for group in made.groups(1.0) for p in group["params"]]
        gradients = torch.autograd.grad(seen, parameters, allow_unused=True)
        assert torch.equal(generator.get_state(), after), "the way back draws no random numbers of others"
        return drawn, [g for g in gradients if g is not None], after

    whole, slopes, state = look(1.0)
    for share in (0.5, 0.25):  # of six: 3 + 3, and one by one
        parts, same, after = look(share)
        assert torch.equal(state, after)
        for name in ("rgb", "alpha", "depth", "normal"):
            torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
        torch.testing.assert_close(same, slopes, rtol=1e-3, atol=1e-4)
        assert (parts.samples is None) == (whole.samples is None) == (not normals)
        if parts.samples is not None and whole.samples is not None:
            assert parts.samples.n_rays == whole.samples.n_rays
            for name in SAMPLED:
                torch.testing.assert_close(getattr(parts.samples, name), getattr(whole.samples, name))


def test_between_the_ways_there_and_back_only_pictures_are_kept() -> None:
    made = GRID.begin(solid)

    def kept(share: float) -> int:
        ration, sizes = Ration(), []
        ration.share = share
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            ration.of(made).render(SIX, size=16).rgb.sum()
        return sum(sizes)

    assert kept(0.5) < kept(1.0) / 100


def test_without_gradients_parts_are_drawn_once() -> None:
    made, ration = GRID.begin(solid), Ration()
    ration.share = 0.5
    with torch.no_grad():
        torch.testing.assert_close(ration.of(made).render(SIX, size=8).rgb, made.render(SIX, size=8).rgb)


# Trying again ---------------------------------------------------------------------------------------------------------


class Blank:
    """Draws nothing, and notes how many views at a time."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def render(self, cameras: Cameras, *, size: int, generator: torch.Generator | None = None, **_: Any) -> Rendering:
        self.asked.append(len(cameras))
        nothing = torch.rand(len(cameras), 1, size, size, generator=generator)
        return Rendering(
            rgb=nothing.expand(-1, 3, -1, -1), alpha=nothing, depth=nothing, normal=nothing.expand(-1, 3, -1, -1)
        )


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
def test_a_step_is_done_again_with_half_as_many_views_and_the_same_random_numbers(error: Exception) -> None:
    ration, blank, generator = Ration(), Blank(), torch.Generator().manual_seed(3)
    failing = [error, error]

    def step() -> Tensor:
        first = torch.rand(2, generator=generator)
        drawn = ration.of(blank).render(SIX, size=2, generator=generator).alpha
        if failing:
            raise failing.pop()
        return torch.cat([first, drawn.flatten()])

    with pytest.warns(UserWarning, match="memory ran out: fewer views") as said:
        result = ration.attempt(step, generator=generator)
    assert blank.asked == [6, 3, 3, 1, 1, 1, 1, 1, 1] and ration.share == 0.25 and len(said) == 1
    assert torch.equal(result, torch.rand(26, generator=torch.Generator().manual_seed(3)))


def test_at_one_view_it_gives_up_and_says_what_to_do() -> None:
    ration, blank = Ration(), Blank()

    def step() -> None:
        ration.of(blank).render(SIX, size=2)
        raise SHORTAGES[0]

    with pytest.warns(UserWarning), pytest.raises(ViewfoldError, match="picture of one view; it ran out. .* --device"):
        ration.attempt(step)
    assert blank.asked == [6, 3, 3, 1, 1, 1, 1, 1, 1]
    with pytest.raises(ViewfoldError):  # where nothing is rendered, rendering less helps nobody
        Ration().attempt(lambda: (_ for _ in ()).throw(MemoryError()))


def test_other_errors_pass_at_once() -> None:
    assert not is_out_of_memory(RuntimeError("expected all tensors to be on the same device"))
    assert not is_out_of_memory(ValueError("out of memory"))
    times: list[int] = []

    def step() -> None:
        times.append(1)
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        Ration().attempt(step)
    assert len(times) == 1


# The stages -----------------------------------------------------------------------------------------------------------


def fit_ball(ration: Ration | None = None, steps: int = 6) -> Fitted:
    settings, generator = FitSettings(steps=steps), torch.Generator().manual_seed(0)
    return fit(observe(ball_views()), representation=GRID, settings=settings, generator=generator, ration=ration)


def knows_the_ball() -> PerfectPrior:
    return PerfectPrior(lambda cameras, size: ball(cameras, size=size)[0])


def seen(representation: Representation) -> Tensor:
    with torch.no_grad():
        return representation.render(SIX, size=24, quality=2.0).over(0.5)


def test_a_fit_that_runs_out_of_memory_is_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_ball()
    asked = short_of_memory(monkeypatch, GridField, "render", views=1, error=SHORTAGES[0])
    ration = Ration()
    with pytest.warns(UserWarning, match="fewer views"):
        parts = fit_ball(ration)
    monkeypatch.undo()
    assert ration.share == 0.25 and asked[:7] == [4, 2, 1, 1, 1, 1, 1]
    assert parts.loss == pytest.approx(whole.loss, rel=1e-3)
    torch.testing.assert_close(seen(parts.representation), seen(whole.representation), atol=2e-3, rtol=0)


def test_a_distillation_that_runs_out_of_memory_is_the_distillation(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DistilSettings(steps=3, shading=Shading(albedo_steps=0))

    def distilled(ration: Ration) -> Tensor:
        prior = PerfectPrior(lambda cameras, size: ball(cameras, size=size)[0])
        generator = torch.Generator().manual_seed(0)
        return seen(
            distil(fit_ball(), prior, "a", settings=settings, generator=generator, ration=ration).representation
        )

    before, whole, ration = seen(fit_ball().representation), distilled(Ration()), Ration()

    draws = GridField.render

    def render(self: GridField, cameras: Cameras, **options: Any) -> Rendering:
        """Let the fit before it alone, which asks for no normals."""
        if torch.is_grad_enabled() and len(cameras) > 2 and options["normals"]:
            raise SHORTAGES[0]
        return draws(self, cameras, **options)

    monkeypatch.setattr(GridField, "render", render)
    with pytest.warns(UserWarning, match="fewer views"):
        parts = distilled(ration)
    monkeypatch.undo()
    assert ration.share == 0.5
    torch.testing.assert_close(parts, whole, atol=2e-3, rtol=0)
    assert float((whole - before).abs().max()) > 0.02, "the distillation must do something to be compared"


def test_a_polish_that_runs_out_of_memory_is_the_polish(monkeypatch: pytest.MonkeyPatch) -> None:
    refined = distil(fit_ball(), knows_the_ball(), "a", settings=DistilSettings(steps=0))
    extracted = extract(refined, settings=MeshSettings(resolution=20, faces=200))
    settings = PolishSettings(steps=5)
    whole = polish(extracted, settings=settings).surface.mesh.vertices
    # of `draw`, cameras are the fourth argument
    asked = short_of_memory(monkeypatch, meshform, "draw", views=2, error=SHORTAGES[0])
    ration = Ration()
    with pytest.warns(UserWarning, match="fewer views"):
        parts = polish(extracted, settings=settings, ration=ration).surface.mesh.vertices
    assert ration.share == 0.5 and asked[0] == 4 and set(asked[1:]) == {2}
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)
    assert float((whole - extracted.surface.mesh.vertices).norm(dim=-1).max()) > 1e-3


@pytest.mark.slow
def test_a_lift_says_in_its_report_how_much_was_rendered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LiftSettings(
        representation=GRID,
        fit=FitSettings(steps=6),
        polish=PolishSettings(steps=1),
        mesh=MeshSettings(resolution=24, faces=200, texture_size=32),
    )
    draws = GridField.render

    def render(self: GridField, cameras: Cameras, **options: Any) -> Rendering:
        if torch.is_grad_enabled() and len(cameras) > 1:
            raise SHORTAGES[1]
        return draws(self, cameras, **options)

    monkeypatch.setattr(GridField, "render", render)
    prior = knows_the_ball()
    with pytest.warns(UserWarning, match="fewer views"):
        report = lift(prior, "a ball", views=ball_views(), settings=settings).report
    assert report["ration"] == 0.25 and '"ration": 0.25' in json.dumps(report)
    monkeypatch.undo()
    assert lift(prior, "a ball", views=ball_views(), settings=settings).report["ration"] == 1.0


PROGRAM = """
import resource, torch
from lift_fakes import ball_views
from viewfold.lifting.fit import FitSettings, fit
from viewfold.lifting.observation import observe
from viewfold.lifting.ration import Ration
from viewfold.scene.grid import GridSettings

torch.set_num_threads(1)

def loss(size, ration):
    seen, generator = observe(ball_views(size=size, n_views=8)), torch.Generator().manual_seed(0)
    how = {"representation": GridSettings(samples=64), "settings": FitSettings(steps=2), "ration": ration}
    return fit(seen, generator=generator, **how).loss

loss(16, None)  # all libraries are loaded
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 300 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
ration = Ration()
short = loss(160, ration)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
whole = Ration()
print(short, loss(160, whole), ration.share, whole.share)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems bound no address space, or not so")
def test_where_the_system_gives_no_more_memory_a_fit_goes_on() -> None:
    """No fake: torch's own allocator is refused what the pictures of eight views take."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert ran.returncode == 0, ran.stderr
    short, whole, share, full = map(float, ran.stdout.split())
    assert short == pytest.approx(whole, rel=1e-4) and share in (0.5, 0.25, 0.125) and full == 1.0
    assert ran.stderr.count("memory ran out") == 1
