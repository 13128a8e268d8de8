"""Batches: latents, cameras and captions of one object stay together, and everything that may be drawn is drawn."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.batches import Batch, LatentSet
from viewfold.data.shards import Sample
from viewfold.errors import InputError

ORBITS, PER_ORBIT = 2, 8
ELEVATION = [[0.0, 10.0], [20.0, 30.0], [40.0, 50.0]]
"""Of each object's orbits, so that a camera tells which object and orbit it is of."""


def sample(number: int) -> Sample:
    """An object whose latents are the codes of their cameras, as if it had been read from a shard."""
    made = Sample(f"object{number}")
    cameras = Cameras.cat([Cameras.orbit(PER_ORBIT, elevation_deg=e, azimuth_deg=7.0) for e in ELEVATION[number]])
    made.__dict__["meta"] = {"captions": [f"{number} a", f"{number} b", f"{number} c"], "render": {"orbits": ORBITS}}
    made.__dict__["cameras"] = cameras
    made.__dict__["latents"] = lambda: cameras.code()[:, :, None, None]
    return made


@pytest.fixture(scope="module")
def latents() -> LatentSet:
    return LatentSet([sample(number) for number in range(3)])


def draw(latents: LatentSet, *, views: int | None, n: int = 400) -> Batch:
    return latents.draw(n, torch.Generator().manual_seed(0), views=views)


def where(codes: Tensor) -> list[list[tuple[int, int, int]]]:
    """Return (object, orbit, place on the orbit) of codes "b v 16" (those of a batch: `codes_of`)."""
    position = codes[..., [3, 7, 11]].double()
    height = position[..., 2].clamp(-1, 1).asin().rad2deg().div(10).round().long()
    azimuth = torch.atan2(position[..., 0], -position[..., 1]).rad2deg() - 7.0
    place = (azimuth * PER_ORBIT / 360).round().long() % PER_ORBIT
    pairs = zip(height.tolist(), place.tolist(), strict=True)
    return [[(h // 2, h % 2, p) for h, p in zip(*pair, strict=True)] for pair in pairs]


def codes_of(batch: Batch) -> Tensor:
    assert batch.cameras is not None
    return batch.cameras.code().unflatten(0, batch.latents.shape[:2])


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_each_latent_lies_beside_its_own_camera(latents: LatentSet, views: int) -> None:
    batch = draw(latents, views=views)
    assert batch.latents.dtype == torch.float32
    assert batch.latents.shape == (400, views, 16, 1, 1)
    torch.testing.assert_close(batch.latents[..., 0, 0], codes_of(batch), atol=1e-3, rtol=0)


@pytest.mark.parametrize("views", [2, 4, 8])
def test_the_views_of_a_draw_go_evenly_about_one_orbit_of_one_object(latents: LatentSet, views: int) -> None:
    batch = draw(latents, views=views)
    for row in where(codes_of(batch)):
        assert len({(thing, orbit) for thing, orbit, _ in row}) == 1
        first = row[0][2]
        assert [place for *_, place in row] == [first + k * PER_ORBIT // views for k in range(views)]
        assert first < PER_ORBIT // views


def test_every_object_orbit_start_and_wording_is_drawn_about_as_often(latents: LatentSet) -> None:
    batch = draw(latents, views=4)
    starts = Counter(row[0] for row in where(codes_of(batch)))
    assert len(starts) == 3 * ORBITS * 2 and min(starts.values()) > 400 / 12 / 2 and max(starts.values()) < 400 / 12 * 2
    wordings = Counter(batch.captions)
    assert len(wordings) == 9 and min(wordings.values()) > 400 / 9 / 2 and max(wordings.values()) < 400 / 9 * 2


@pytest.mark.parametrize("views", [None, 4])
def test_a_caption_is_of_the_object_that_is_seen(latents: LatentSet, views: int | None) -> None:
    batch = draw(latents, views=views)
    seen = [row[0][0] for row in where(batch.latents[..., 0, 0])]
    assert [int(caption[0]) for caption in batch.captions] == seen


def test_pictures_are_drawn_one_by_one_from_all_views(latents: LatentSet) -> None:
    batch = draw(latents, views=None, n=1000)
    assert batch.latents.shape == (1000, 1, 16, 1, 1) and batch.cameras is None
    drawn = Counter(row[0] for row in where(batch.latents[..., 0, 0]))
    assert len(drawn) == 3 * ORBITS * PER_ORBIT and max(drawn.values()) < 1000 / 48 * 2.5


def test_pictures_need_no_cameras() -> None:
    flat = sample(0)
    flat.__dict__["cameras"] = None
    batch = draw(LatentSet([flat]), views=None, n=4)
    assert batch.latents.shape == (4, 1, 16, 1, 1) and batch.cameras is None


@pytest.mark.parametrize("views", [None, 2])
def test_a_draw_moves_its_own_generator_on_and_no_other(latents: LatentSet, views: int | None) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = torch.Generator().manual_seed(3)
    first, second = latents.draw(8, one, views=views), latents.draw(8, one, views=views)
    assert first.captions != second.captions and torch.equal(torch.get_rng_state(), state)
    again = latents.draw(8, torch.Generator().manual_seed(3), views=views)
    assert torch.equal(first.latents, again.latents) and first.captions == again.captions


def test_latents_are_held_in_half_precision_and_counted(latents: LatentSet) -> None:
    assert len(latents) == 3 and {tensor.dtype for tensor in latents.latents} == {torch.float16}


def test_views_that_do_not_divide_an_orbit_are_refused(latents: LatentSet) -> None:
    with pytest.raises(InputError, match="`views` must divide the 8 views of an orbit; got 3"):
        draw(latents, views=3)
    with pytest.raises(InputError, match="`samples` must not be empty"):
        LatentSet([])
