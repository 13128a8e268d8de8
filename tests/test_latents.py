"""Cached latents: what makes them must give numbers, and what reads them says what is wrong with which sample."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import tiny_model
from tiny_shards import SHAPE, write_shards

from viewfold.data.batches import LatentSet
from viewfold.data.latents import cache_latents
from viewfold.data.packing import pack
from viewfold.data.shards import open_shards
from viewfold.errors import AssetError, FitError, InputError, OutputError
from viewfold.picture import to_pil
from viewfold.pipeline.moments import encode_moments


def test_an_autoencoder_of_nan_ends_the_packing_and_the_shard_stays(tmp_path: Path) -> None:
    folder = tmp_path / "renders" / "mug"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"captions": ["a mug"]}))
    to_pil(torch.rand(4, 8, 8)).save(folder / "000.webp", lossless=True)
    pack(tmp_path / "renders", tmp_path / "shards")
    shard = tmp_path / "shards" / "shard-00000.tar"
    before = shard.read_bytes()
    with pytest.raises(FitError, match="finite latents; those of mug are not"):
        cache_latents(tmp_path / "shards", lambda pictures: pictures * torch.nan, encoder="a")
    assert shard.read_bytes() == before
    huge = 1e6  # beyond half precision, in which latents are kept
    with pytest.raises(FitError, match="finite latents"):
        cache_latents(tmp_path / "shards", lambda pictures: pictures * huge, encoder="a")


def test_all_samples_that_cannot_be_used_are_counted_and_the_first_named(tmp_path: Path) -> None:
    wrong = {f"asset{n}": np.full((8, *SHAPE), np.nan, np.float16) for n in (1, 2, 3, 4, 5)}
    with pytest.raises(AssetError, match="5 of 6 samples.*`asset1`.*`asset2`.*`asset3`.*and 2 more") as error:
        LatentSet(write_shards(tmp_path, latents=wrong))
    assert "asset4" not in str(error.value)


def test_the_fingerprint_tells_samples_and_encoders_apart(tmp_path: Path) -> None:
    def of(name: str, **options: object) -> dict[str, object]:
        return LatentSet(write_shards(tmp_path / name, **options)).fingerprint  # type: ignore[arg-type]

    base = of("a", encoder="x")
    assert base == of("b", encoder="x") and base["encoders"] == ["x"]
    assert base != of("c", encoder="y") and base != of("d", encoder="x", samples=5)
    assert of("e")["encoders"] == ["unknown"]


def test_a_batch_goes_to_a_device_whole(tmp_path: Path) -> None:
    batch = LatentSet(write_shards(tmp_path)).draw(2, torch.Generator().manual_seed(0), views=4)
    there = batch.to("meta")
    assert there.latents.device.type == "meta" and there.cameras is not None
    assert there.cameras.world_from_camera.device.type == there.cameras.fov_deg.device.type == "meta"
    assert there.captions == batch.captions and batch.latents.device.type == "cpu"


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"captions": "a red mug"}, "a list of texts"), ({"captions": [3]}, "a list of texts"), ({}, "a list of texts"),
        ({"captions": ["a"], "views": [{"fov_deg": 40.0}]}, "poses and lenses"),
        ({"captions": ["a"], "views": [{"world_from_camera": [1.0] * 7, "fov_deg": 40.0}]}, "poses and lenses"),
        ({"captions": ["a"], "views": 3}, "poses and lenses"),
    ],
)  # fmt: skip
def test_captions_are_texts_and_cameras_are_cameras_or_the_sample_is_named(
    meta: dict[str, object], says: str, tmp_path: Path
) -> None:
    shards = write_shards(tmp_path, meta=meta)
    with pytest.raises(AssetError, match=f"`asset0.json` must hold.*{says}"):
        LatentSet(shards, views=4)


def _pack_two(tmp_path: Path, *, damaged: bool) -> Path:
    """Pack a mug and a vase; damage a picture of the vase in the shard."""
    for name in ("mug", "vase"):
        folder = tmp_path / "renders" / name
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(json.dumps({"captions": [f"a {name}"]}))
        to_pil(torch.rand(4, 8, 8)).save(folder / "000.webp", lossless=True)
    pack(tmp_path / "renders", tmp_path / "shards")
    shard = tmp_path / "shards" / "shard-00000.tar"
    if damaged:
        (sample,) = (s for s in open_shards(tmp_path / "shards") if s.uid == "vase")
        _, offset, size = sample.members["000.webp"]
        data = bytearray(shard.read_bytes())
        data[offset : offset + size] = b"x" * size
        shard.write_bytes(data)
    return shard


def test_a_sample_that_cannot_be_read_keeps_its_files_and_is_tried_again(tmp_path: Path) -> None:
    shard = _pack_two(tmp_path, damaged=True)
    for made in (1, 0):  # the mug's are there the second time
        report = cache_latents(shard.parent, lambda pictures: pictures, encoder="a")
        assert [uid for uid, _ in report.failed] == ["vase"] and report.samples == made
    mug, vase = open_shards(shard.parent)
    assert "latents.npy" in mug.members and sorted(vase.members) == ["000.webp", "json"]


def test_a_full_disk_leaves_the_shard_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = _pack_two(tmp_path, damaged=False)
    before = shard.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("viewfold.data.latents.add_member", full)
    with pytest.raises(OutputError, match="(?i)no space left"):
        cache_latents(shard.parent, lambda pictures: pictures, encoder="a")
    assert shard.read_bytes() == before and [p.name for p in shard.parent.glob("*.tar")] == [shard.name]


@pytest.mark.slow
def test_one_process_at_a_time_makes_latents(tmp_path: Path) -> None:
    """Another process holds the folder: this one is refused, and goes on when the other is gone."""
    shard = _pack_two(tmp_path, damaged=False)
    code = (
        "import sys, time; from viewfold.data.inventory import alone\n"
        "with alone(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(shard.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(OutputError, match="one process at a time"):
                cache_latents(shard.parent, lambda pictures: pictures, encoder="a")
        finally:
            other.kill()
    assert cache_latents(shard.parent, lambda pictures: pictures, encoder="a").samples == 2


def two_moments(pictures: torch.Tensor) -> torch.Tensor:
    mean = torch.nn.functional.avg_pool2d(pictures, 8)
    return torch.stack([mean, torch.full_like(mean, -3.0)], dim=1)


def test_moments_are_cached_over_each_ground_and_once_where_none_shows_through(tmp_path: Path) -> None:
    shard = _pack_two(tmp_path, damaged=False)
    plain = tmp_path / "renders" / "wall"
    plain.mkdir()
    (plain / "meta.json").write_text(json.dumps({"captions": ["a wall"]}))
    to_pil(torch.full((3, 8, 8), 0.25)).save(plain / "000.webp", lossless=True)
    pack(tmp_path / "renders", shard.parent)
    cache_latents(shard.parent, lambda pictures: pictures, encoder="a")
    done = cache_latents(shard.parent, two_moments, encoder="a", grounds=[0.0, 0.5, 1.0])
    assert (done.samples, done.failed) == (3, [])
    mug, _, wall = open_shards(shard.parent)
    names = ["moments-000.npy", "moments-050.npy", "moments-100.npy"]
    assert sorted(mug.members) == ["000.webp", "json", *names], "means of before are gone"
    assert sorted(wall.members) == ["000.webp", "json", "moments.npy"]
    low, middle, high = (np.load(io.BytesIO(mug.read(name))) for name in names)
    assert low.shape == (1, 2, 3, 1, 1) and low.dtype == np.float16
    alpha = mug.pictures(background=1.0).mean() - mug.pictures(background=0.0).mean()
    assert float((high - low)[:, 0].mean()) == pytest.approx(float(alpha), abs=2e-3)
    assert np.allclose(middle[:, 0], (low + high)[:, 0] / 2, atol=2e-3) and (high[:, 1] == -3).all()
    assert cache_latents(shard.parent, two_moments, encoder="a", grounds=[0.0, 0.5, 1.0]).skipped == 1
    latents = LatentSet(shard.parent)
    assert latents.moments and latents.draw(30, torch.Generator().manual_seed(0)).latents.shape == (30, 1, 3, 1, 1)
    assert cache_latents(shard.parent, two_moments, encoder="a", grounds=[0.25]).samples == 2, "the wall needs no other"
    assert pack(tmp_path / "renders", shard.parent).kept == 3
    assert "moments-025.npy" in open_shards(shard.parent)[0].members, "and packing again keeps them"


@pytest.mark.parametrize("grounds", [[], [0.5, 0.5], [1.5], [-0.1], [0.505], [float("nan")]])
def test_grounds_are_different_greys_in_hundredths(grounds: list[float], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`grounds` must be"):
        cache_latents(tmp_path, two_moments, encoder="a", grounds=grounds)


def test_what_gives_no_moments_is_refused_and_the_shard_stays(tmp_path: Path) -> None:
    shard = _pack_two(tmp_path, damaged=False)
    before = shard.read_bytes()
    with pytest.raises(FitError, match="`encode` must give 5 axes"):
        cache_latents(shard.parent, lambda pictures: pictures, encoder="a", grounds=[0.5])
    assert shard.read_bytes() == before


def test_the_moments_of_a_model_are_those_that_it_samples_from() -> None:
    model = tiny_model()
    pictures = torch.rand(3, 3, 32, 32)
    mean, logvar = encode_moments(model, pictures).unbind(dim=1)
    torch.testing.assert_close(mean, model.encode(pictures))
    drawn = torch.stack([model.encode(pictures, generator=torch.Generator().manual_seed(n)) for n in range(64)])
    spread = (drawn - mean) / (0.5 * logvar).exp()
    assert float(spread.detach().std()) == pytest.approx(1.0, rel=0.05)


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_makes_latents_loses_nothing(tmp_path: Path) -> None:
    shard = _pack_two(tmp_path, damaged=False)
    before = shard.read_bytes()
    code = (
        "import sys, time; from viewfold.data.latents import cache_latents\n"
        "def encode(pictures): print('began', flush=True); time.sleep(60)\n"
        "cache_latents(sys.argv[1], encode, encoder='a')"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(shard.parent)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "began\n"
        other.kill()
    assert shard.read_bytes() == before
    assert cache_latents(shard.parent, lambda pictures: pictures, encoder="a").samples == 2
    assert sorted(p.name for p in shard.parent.iterdir() if "viewfold" in p.name) == [], "its temporary file is swept"
