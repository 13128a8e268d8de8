"""Batches: latents, cameras and captions of one object stay together, and everything that may be drawn is drawn."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_shards import as_npy
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.batches import Batch, LatentSet
from viewfold.errors import InputError

ORBITS, PER_ORBIT = 2, 8
ELEVATION = [[0.0, 10.0], [20.0, 30.0], [40.0, 50.0]]
"""Of each object's orbits, so that a camera tells which object and orbit it is of."""


def write(folder: Path, things: Sequence[int] = (0, 1, 2), *, posed: bool = True) -> Path:
    """Write a shard of objects whose latents are the codes of their cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "shard-00000.tar", "w") as tar:
        for number in things:
            circles = [Cameras.orbit(PER_ORBIT, elevation_deg=e, azimuth_deg=7.0) for e in ELEVATION[number]]
            cameras = Cameras.cat(circles)
            views = [{"world_from_camera": pose, "fov_deg": 40.0}
                     for pose in cameras.world_from_camera.flatten(1).tolist()]  # fmt: skip
            meta = {"captions": [f"{number} a", f"{number} b", f"{number} c"], "render": {"orbits": ORBITS},
                    "views": views if posed else None}  # fmt: skip
            codes = cameras.code()[:, :, None, None].half().numpy()
            for suffix, content in (("json", json.dumps(meta).encode()), ("latents.npy", as_npy(codes))):
                member = tarfile.TarInfo(f"object{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> LatentSet:
    return LatentSet(write(tmp_path_factory.mktemp("shards")))


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


def test_pictures_need_no_cameras(tmp_path: Path) -> None:
    batch = draw(LatentSet(write(tmp_path, [0], posed=False)), views=None, n=4)
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


def test_views_that_do_not_divide_an_orbit_are_refused(latents: LatentSet) -> None:
    with pytest.raises(InputError, match="`views` must divide the 8 views of an orbit; got 3"):
        draw(latents, views=3)
    with pytest.raises(InputError, match="`folders` must name at least one"):
        LatentSet([])
