"""What a fit to some views is compared with, by hand: fits that are told what they look like, and say what they saw."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sphere import Sphere
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.evaluation import likeness
from viewfold.lifting.fit import FitSettings, Fitted
from viewfold.lifting.foreground import Foreground
from viewfold.lifting.observation import Observed
from viewfold.refit import _seen, measure_halves, measure_left_out
from viewfold.scene.rendering import Rendering
from viewfold.scene.surface import SurfaceResult
from viewfold.views import Views

SIZE = 8
PLACES = [3, 0, 6, 1, 7, 2, 5, 4]
"""View i stands at the place PLACES[i] around the object, 45 degrees apart."""

CAMERAS = Cameras.orbit(8)[torch.tensor(PLACES)]
SETTINGS = FitSettings(steps=3)


class Slab(Sphere):
    """Covers columns of every picture in a grey, at one depth; its surface is a ball."""

    def __init__(self, columns: slice, grey: float, depth: float, *, radius: float = 0.3) -> None:
        super().__init__(radius, torch.full((3,), grey))
        self.columns, self.grey, self.depth = columns, grey, depth
        self.drawn: list[tuple[list[float], int, float]] = []
        self.meshed: list[tuple[int, int]] = []

    def render(self, cameras: Cameras, *, size: int, quality: float = 1.0, **how: Any) -> Rendering:
        self.drawn.append((cameras.azimuth_deg.tolist(), size, quality))
        alpha = torch.zeros(len(cameras), 1, size, size)
        alpha[..., self.columns] = 1
        flat = torch.zeros(len(cameras), 3, size, size)
        return Rendering(rgb=flat + self.grey * alpha, alpha=alpha, depth=self.depth * alpha, normal=flat)

    def to_mesh(self, *, resolution: int, max_faces: int) -> SurfaceResult:
        self.meshed.append((resolution, max_faces))
        return super().to_mesh(resolution=resolution, max_faces=max_faces)


class Fits:
    """Stands for `fit`: gives slabs in turn and keeps what it was asked to fit to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slabs: list[Slab]) -> None:
        self.slabs, self.views, self.seeds, self.settings = iter(slabs), [], [], []
        monkeypatch.setattr(likeness, "CELLS", 16)  # nobody asks for the volume
        monkeypatch.setattr("viewfold.refit.inspect", self.inspect)
        monkeypatch.setattr("viewfold.refit.fit", self.fit)

    def inspect(self, views: Views) -> Observed:
        self.views.append(views)
        alpha = torch.ones(len(views), 1, SIZE, SIZE)
        return Observed(
            views=views, foreground=Foreground(background=torch.zeros(len(views), 3), alpha=alpha, certainty=alpha)
        )

    def fit(self, observed: Observed, *, settings: Any, generator: torch.Generator, progress: Any) -> Fitted:
        self.seeds.append(generator.initial_seed())
        self.settings.append(settings)
        if progress is not None:
            progress("fit", 2, 3)
        return Fitted(representation=next(self.slabs), observed=observed, pictures=None, loss=None)

    def fitted_to(self) -> list[set[int]]:
        """The views of each fit, by their greys, which are their numbers in hundredths."""
        return [{round(100 * float(grey)) for grey in views.rgb[:, 0, 0, 0]} for views in self.views]


def numbered(*, alpha: Tensor | None = None) -> Views:
    """Each view is of one grey: its number in hundredths."""
    grey = torch.arange(8)[:, None, None, None] / 100
    return Views(rgb=grey.expand(8, 3, SIZE, SIZE).clone(), cameras=CAMERAS, alpha=alpha)


def psnr(error: float) -> float:
    return -10 * math.log10(error)


def at(*views: int) -> list[float]:
    return CAMERAS.azimuth_deg[list(views)].tolist()


def test_halves_are_every_second_view_around_and_are_compared_from_all_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Slab(slice(0, 4), 0.75, 1.0), Slab(slice(2, 6), 0.25, 1.5, radius=0.35)
    fits, told = Fits(monkeypatch, [one, other]), []
    found = measure_halves(numbered(), settings=SETTINGS, seed=5, progress=lambda *said: told.append(said))
    even = {view for view, place in enumerate(PLACES) if place % 2 == 0}
    assert fits.fitted_to() in ([even, set(range(8)) - even], [set(range(8)) - even, even])
    for views in fits.views:
        which = [round(100 * float(grey)) for grey in views.rgb[:, 0, 0, 0]]
        assert views.cameras.azimuth_deg.tolist() == at(*which), "each with its own camera"
    assert fits.seeds == [5, 5] and fits.settings == [SETTINGS] * 2
    assert told == [("first half", 2, 3), ("second half", 2, 3)]
    assert one.drawn == other.drawn == [(at(*range(8)), SIZE, 2.0)]
    assert one.meshed == other.meshed == [(96, 8000)]
    # Over grey: 0.25 apart in columns 0, 1, 4 and 5, 0.5 in 2 and 3, alike in 6 and 7; two of the six are shared.
    assert found.psnr_db == pytest.approx(psnr((4 * 0.25**2 + 2 * 0.5**2) / 8), abs=1e-4)
    assert found.outline_iou == pytest.approx(2 / 6) and found.depth_gap == pytest.approx(0.5)
    assert found.chamfer == pytest.approx(0.05, abs=0.003) and found.f_score == 0.0, "balls of 0.3 and 0.35"


def test_depths_count_where_both_cover_by_more_than_half(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fading(Slab):
        """Its last column is half covered."""

        def render(self, cameras: Cameras, *, size: int, **how: Any) -> Rendering:
            made = super().render(cameras, size=size, **how)
            made.alpha[..., self.columns.stop - 1] = 0.5
            made.depth[..., self.columns.stop - 1] = 9.0
            return made

    slabs: list[Slab] = [Fading(slice(0, 4), 0.75, 1.0), Slab(slice(0, 8), 0.75, 1.25)]
    for either in (slabs, slabs[::-1]):
        fits = Fits(monkeypatch, either)
        assert measure_halves(numbered()).depth_gap == pytest.approx(0.25)
        assert fits.seeds == [0, 0] and fits.settings == [None, None], "by default"


def test_views_are_left_out_evenly_around_and_seen_from_their_own_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    order = sorted(range(8), key=lambda view: at(view)[0])
    slabs = [Slab(slice(0, columns), 0.25, 1.0) for columns in (8, 4, 6, 2)]
    fits, told = Fits(monkeypatch, slabs), []
    alpha = torch.zeros(8, 1, SIZE, SIZE)
    alpha[..., :4] = 1
    views = numbered(alpha=alpha)
    found = measure_left_out(views, most=4, settings=SETTINGS, seed=3, progress=lambda *said: told.append(said))
    left = order[::2]
    assert fits.fitted_to() == [set(range(8)) - {view} for view in left]
    assert all(part.alpha is not None and part.alpha.shape == (7, 1, SIZE, SIZE) for part in fits.views)
    assert told == [(f"without view {view}", 2, 3) for view in left]
    assert fits.seeds == [3] * 4 and fits.settings == [SETTINGS] * 4
    assert [slab.drawn for slab in slabs] == [[(at(view), SIZE, 2.0)] for view in left]
    errors = []
    for view, columns in zip(left, (8, 4, 6, 2), strict=True):
        made, seen = torch.full((SIZE,), 0.5), torch.full((SIZE,), 0.5)
        made[:columns], seen[:4] = 0.25, view / 100
        errors.append(float((made - seen).square().mean()))
    dbs = [psnr(error) for error in errors]
    assert found.psnr_db == pytest.approx(sum(dbs) / 4, abs=1e-4)
    assert found.worst_psnr_db == pytest.approx(min(dbs), abs=1e-4) and found.worst_view == left[dbs.index(min(dbs))]
    assert found.outline_iou == pytest.approx((4 / 8 + 4 / 4 + 4 / 6 + 2 / 4) / 4) and found.n == 4


def test_of_fewer_views_than_may_be_left_out_each_is_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, wanted in ((8, 5), (5, 5), (1, 1)):
        fits = Fits(monkeypatch, [Slab(slice(0, 4), 0.25, 1.0) for _ in range(5)])
        five = Views(rgb=numbered().rgb[:5], cameras=CAMERAS[[0, 1, 2, 3, 4]])
        found = measure_left_out(five, most=most)
        assert found.n == wanted and {len(views) for views in fits.views} == {4}
        assert len({frozenset(views) for views in fits.fitted_to()}) == wanted
    assert fits.settings == [None] and fits.seeds == [0]


def test_no_fit_is_begun_where_there_are_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(monkeypatch, [])
    with pytest.raises(InputError, match="to be halved; got 7"):
        measure_halves(Views(rgb=numbered().rgb[:7], cameras=CAMERAS[list(range(7))]))
    assert not fits.views


@pytest.mark.parametrize("ground", [0.9, 0.1])
def test_a_view_is_seen_without_the_ground_that_it_stood_on(ground: float) -> None:
    """Though it covers most of the picture, all but its border."""
    rgb = torch.full((2, 3, SIZE, SIZE), ground)
    rgb[1, :, 1:7, 1:7] = torch.tensor([0.6, 0.5, 0.4])[:, None, None]
    seen = _seen(Views(rgb=rgb, cameras=CAMERAS[[0, 1]]), 1)
    inside = torch.zeros(1, 1, SIZE, SIZE)
    inside[..., 1:7, 1:7] = 1
    assert torch.equal(seen.alpha, inside) and seen.depth.shape == seen.alpha.shape and not seen.depth.any()
    wanted = torch.where(inside > 0, rgb[[1]], torch.tensor(0.5))
    assert torch.allclose(seen.over(0.5), wanted, atol=1e-6) and float(seen.rgb.min()) >= 0
