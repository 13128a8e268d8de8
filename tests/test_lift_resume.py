"""A lift that is stopped anywhere and called again ends in the same numbers as one that was left alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lift_fakes import PerfectPrior, ball, ball_views
from sphere import SphereSettings
from test_ration import SHORTAGES
from test_stopping import terminal  # noqa: F401
from torch import Tensor, nn

from viewfold.camera import Cameras
from viewfold.errors import FitError, InputError, Stopped
from viewfold.lifting import guard
from viewfold.lifting.asset import Asset3D
from viewfold.lifting.backdrop import Backdrop
from viewfold.lifting.distillation import DistilSettings, Refined, distil
from viewfold.lifting.fit import FitSettings
from viewfold.lifting.keeping import Keeper, keeping
from viewfold.lifting.phase import Phase
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.prior import Learnable
from viewfold.lifting.score import ASD, ISM, SDI, SDS, VSD, Reconstruction, Score
from viewfold.lifting.stages import LiftSettings, MeshSettings, lift
from viewfold.lifting.start import FromBlob, begin_blob
from viewfold.scene.grid import GridField, GridSettings
from viewfold.scene.hashfield import HashGridSettings
from viewfold.scene.hashgrid import HashSettings, LevelGrowth
from viewfold.scene.rendering import Rendering
from viewfold.scene.representation import RepresentationSettings
from viewfold.scene.sdf import SdfSettings
from viewfold.views import Views

GRID = GridSettings(resolution=16, samples=16)
HASH = HashGridSettings(
    encoding=HashSettings(levels=6, log2_rows=12, base=4),
    level_growth=LevelGrowth(start=3, first_step=2, every=4),
    samples=16,
    cells=12,
)
STEPS = 12
"""More than lie between two looks at which cells are empty: between them that is old news, which has to be kept."""

SMALL = LiftSettings(
    representation=replace(GRID, resolution=24, samples=24),
    fit=FitSettings(steps=16),
    distil=DistilSettings(steps=4),
    mesh=MeshSettings(resolution=24, faces=200, texture_size=32),
    polish=PolishSettings(steps=3),
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


class Copy:
    """Learns a shift of the prior's noise, which begins at a random one."""

    def __init__(self, prior: LearningPrior, generator: torch.Generator | None) -> None:
        self.prior, self.shift = prior, nn.Parameter(0.1 * torch.randn(3, 1, 1, generator=generator))

    def parameters(self) -> list[nn.Parameter]:
        return [self.shift]

    def predict_noise(self, x: Tensor, t: Tensor, condition: Tensor, cameras: Cameras | None) -> Tensor:
        return self.prior.predict_noise(x, t, condition, cameras) + self.shift


class LearningPrior(PerfectPrior):
    def learner(self, *, rank: int, generator: torch.Generator | None = None) -> Copy:
        return Copy(self, generator)


def prior() -> LearningPrior:
    made = LearningPrior(lambda cameras, size: ball(cameras, size=size, samples=1)[0], image_size=16)
    assert isinstance(made, Learnable)
    return made


def kill_at(stage: str, step: int) -> Callable[[str, int, int], None]:
    def progress(at: str, done: int, total: int) -> None:
        if (at, done) == (stage, step):
            raise Killed

    return progress


def run(kind: RepresentationSettings, score: Score, **options: Any) -> Refined:
    settings = DistilSettings(
        steps=STEPS,
        views=2,
        score=score,
        backdrop=Backdrop(),
        learning_rate=0.3,
        guidance=1.0,
        phases=(Phase(size=16),),
    )
    fitted = begin_blob(FromBlob(), representation=kind, device="cpu")
    generator = torch.Generator().manual_seed(3)
    return distil(fitted, prior(), "a red ball", settings=settings, generator=generator, **options)


def equal(a: Any, b: Any) -> bool:
    """Say whether two states are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize(
    ("kind", "score"),
    [
        (GRID, Reconstruction()),
        (HASH, Reconstruction()),
        (SdfSettings(resolution=16, samples=16), Reconstruction()),
        (SphereSettings(), Reconstruction()),
        *[(GRID, score) for score in (SDS(), SDI(), ISM(), ASD(), VSD())],
    ],
    ids=lambda each: each.kind,
)
def test_a_distillation_that_is_killed_twice_ends_as_one_that_is_not(
    kind: RepresentationSettings, score: Score, tmp_path: Path
) -> None:
    whole = run(kind, score)
    for step in (5, 11):
        with pytest.raises(Killed):
            run(kind, score, keeper=Keeper(tmp_path, every_s=0), progress=kill_at("distil", step))
    steps: list[int] = []
    found = run(kind, score, keeper=Keeper(tmp_path, every_s=0), progress=lambda stage, step, total: steps.append(step))
    assert steps == [11, 12]
    assert equal(found.representation.state(), whole.representation.state())
    assert equal(found.observed.views.rgb, whole.observed.views.rgb)


def test_a_finished_distillation_is_not_made_again(tmp_path: Path) -> None:
    whole = run(GRID, Reconstruction(), keeper=Keeper(tmp_path, every_s=1e9))
    steps: list[int] = []
    found = run(GRID, Reconstruction(), keeper=Keeper(tmp_path), progress=lambda stage, step, total: steps.append(step))
    assert steps == [STEPS] and equal(found.representation.state(), whole.representation.state())


@pytest.mark.parametrize(("most", "returns"), [(0.2, 4), (0.202, 3)], ids=["it ends there", "it goes on"])
def test_returns_to_a_good_state_are_said_and_outlast_a_kill(
    most: float, returns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "collapse_limits", lambda coverage, **_: (0.0, most))
    monkeypatch.setattr(guard.Guard, "SAVE_EVERY", 3)
    notes: list[str] = []
    whole = run(GRID, Reconstruction(), note=notes.append)
    assert whole.rollbacks == len(notes) == returns
    assert notes[0].startswith(f"distil, step 8: the object covered 20.4% of the pictures, more than {most:.1%}; back")
    assert notes[0].endswith("(return 1 of 3).") and notes[3:] == [n for n in notes if n.endswith("(it ends there).")]
    again: list[str] = []
    for step, said in ((4, 0), (9, 2)):
        with pytest.raises(Killed):
            keeper = Keeper(tmp_path, every_s=0)
            run(GRID, Reconstruction(), keeper=keeper, progress=kill_at("distil", step), note=again.append)
        assert len(again) == said
    found = run(GRID, Reconstruction(), keeper=Keeper(tmp_path, every_s=0), note=again.append)
    assert found.rollbacks == whole.rollbacks and again == notes
    assert equal(found.representation.state(), whole.representation.state())


@pytest.mark.parametrize("is_old", [False, True], ids=["today's state", "a state of before"])
@pytest.mark.parametrize("stage", ["fit", "distil"])
def test_how_much_memory_suffices_for_outlasts_a_kill(
    stage: str, is_old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that goes on does not run out again; after an old state, which does not tell, it does, and says so."""
    keeper, settings = Keeper(tmp_path, every_s=0), replace(SMALL, distil=replace(SMALL.distil, views=4))

    def made(**options: Any) -> Asset3D:
        return lift(prior(), "a red ball", views=ball_views(), settings=settings, keeper=keeper, **options)

    asked: list[int] = []
    draws = GridField.render

    def render(self: GridField, cameras: Cameras, **options: Any) -> Rendering:
        """Run out of memory where a graph is kept of more than two views."""
        if torch.is_grad_enabled():
            asked.append(len(cameras))
            if len(cameras) > 2:
                raise SHORTAGES[0]
        return draws(self, cameras, **options)

    monkeypatch.setattr(GridField, "render", render)
    at = ("distil", 0) if stage == "fit" else ("distil", 3)
    with pytest.raises(Killed), pytest.warns(UserWarning, match="memory ran out"):
        made(progress=kill_at(*at))
    for name in ("fit", stage) if is_old else {"fit", stage} - {stage}:
        state = keeper.load(name)
        assert state is not None and state.pop("ration", 0.5) == 0.5
        keeper.save(name, state)
    asked.clear()
    with pytest.warns(UserWarning, match="memory ran out") if is_old else nullcontext():
        report = made().report
    assert (max(asked) > 2) == is_old and report["ration"] == 0.5


# A whole lift -------------------------------------------------------------------------------------------------------


def lifted(keeper: Keeper | None = None, **options: Any) -> Asset3D:
    def sample(seed: int) -> Views:
        return ball_views() if keeper is None else keeper.views(f"first-{seed}", ball_views)

    return lift(prior(), "a red ball", sample=sample, settings=SMALL, keeper=keeper, **options)


@pytest.fixture(scope="module")
def whole() -> Asset3D:
    return lifted()


def outcome(asset: Asset3D) -> dict[str, Any]:
    """Return all that a file would hold; seconds and memory are what they are."""
    report = {k: v for k, v in asset.report.items() if k not in ("seconds", "peak_memory_mib")}
    drawn = asset.render(Cameras.orbit(2), size=32).rgb  # with the texture on
    return {"k": asset.mesh.vertices, "f": asset.mesh.faces, "uv": asset.mesh.uv, "rgb": drawn, "report": report}


@pytest.mark.parametrize(
    ("stage", "step", "every_s"),
    [("fit", 5, 60.0), ("distil", 0, 60.0), ("distil", 3, 0.0), ("distil", 3, 60.0), ("polish", 2, 60.0)],
)
def test_a_lift_that_is_killed_at_any_stage_makes_the_same_asset(
    stage: str, step: int, every_s: float, whole: Asset3D, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        lifted(Keeper(tmp_path, every_s=every_s), progress=kill_at(stage, step))
    assert equal(outcome(lifted(Keeper(tmp_path, every_s=every_s))), outcome(whole))


def test_the_seed_that_showed_an_object_is_kept_with_the_fit(tmp_path: Path) -> None:
    """The first views show nothing; a fit that failed has drawn nothing that the next one would draw."""

    def sample(seed: int) -> Views:
        views = ball_views()
        return views if seed == 1 else replace(views, rgb=torch.full_like(views.rgb, 0.5))

    options = {"sample": sample, "settings": SMALL, "seed": 0}
    expected = lift(prior(), "a red ball", **options)
    with pytest.raises(Killed):
        lift(prior(), "a red ball", **options, keeper=Keeper(tmp_path), progress=kill_at("distil", 1))
    found = lift(prior(), "a red ball", **options, keeper=Keeper(tmp_path))
    assert found.report["seed"] == 1 and equal(outcome(found), outcome(expected))


def test_other_views_than_those_of_the_fit_are_refused(tmp_path: Path) -> None:
    """A watermark that was switched off, say: the views that were kept are not yet marked."""
    with pytest.raises(Killed):
        lifted(Keeper(tmp_path), progress=kill_at("distil", 0))
    views = ball_views()
    changed = replace(views, rgb=(views.rgb + 1e-6).clamp(0, 1))
    with pytest.raises(InputError, match="`out` must be resumed with the views .* begun with"):
        lift(prior(), "a red ball", views=changed, settings=SMALL, keeper=Keeper(tmp_path))


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_lift_after_the_step_with_its_state(
    kind: signal.Signals, code: int, whole: Asset3D, tmp_path: Path
) -> None:
    steps: list[int] = []

    def interrupt(stage: str, step: int, total: int) -> None:
        if stage == "distil":
            steps.append(step)
            if step == 1 and len(steps) == 2:
                signal.raise_signal(kind)

    with pytest.raises(Stopped) as stop, keeping(tmp_path / "ball.lift") as keeper:
        lifted(keeper, progress=interrupt)
    assert stop.value.exit_code == code and stop.value.saved and steps == [0, 1]
    with keeping(tmp_path / "ball.lift") as keeper:
        found = lifted(keeper, progress=interrupt)
        keeper.clear()
    assert steps == [0, 1, 2, 3, 4] and equal(outcome(found), outcome(whole))
    assert not list(tmp_path.iterdir())


def test_a_lift_that_failed_for_good_leaves_nothing(tmp_path: Path) -> None:
    def sample(seed: int) -> Views:
        return keeper.views(f"first-{seed}", lambda: replace(ball_views(), rgb=torch.full((4, 3, 32, 32), 0.5)))

    with pytest.raises(FitError), keeping(tmp_path / "ball.lift") as keeper:
        lift(prior(), "a red ball", sample=sample, settings=SMALL, keeper=keeper)
    assert not list(tmp_path.iterdir())
