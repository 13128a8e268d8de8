"""Shards and batches: what goes in comes out, in an order that only the seed decides."""

from __future__ import annotations

import errno
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.data.batches import LatentSet
from viewfold.data.latents import cache_latents
from viewfold.data.packing import pack
from viewfold.data.pictures import emoji_name, import_emoji
from viewfold.data.shards import open_shards
from viewfold.errors import AssetError, InputError, OutputError
from viewfold.picture import to_pil

ORBITS, VIEWS = 2, 4


def write_render(folder: Path, uid: str, *, value: float) -> None:
    (folder / uid).mkdir(parents=True)
    cameras = Cameras.orbit(ORBITS * VIEWS)
    views = [{"world_from_camera": pose, "fov_deg": 40.0} for pose in cameras.world_from_camera.flatten(1).tolist()]
    meta = {"captions": [f"a {uid}", uid], "views": views, "render": {"orbits": ORBITS}}
    (folder / uid / "meta.json").write_text(json.dumps(meta))
    for index in range(ORBITS * VIEWS):
        rgba = torch.full((4, 8, 8), value)
        rgba[3] = index / 10
        to_pil(rgba).save(folder / uid / f"{index:03d}.webp", lossless=True)


def mean_latents(pictures: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(pictures, 8).repeat(1, 2, 1, 1)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(5):
        write_render(tmp_path / "renders", f"asset{number}", value=number / 5)
    pack(tmp_path / "renders", tmp_path / "shards", samples_per_shard=2)
    return tmp_path / "shards"


def test_a_sample_comes_back_with_its_pictures_and_cameras(shards: Path) -> None:
    samples = open_shards(shards)
    assert [sample.uid for sample in samples] == [f"asset{number}" for number in range(5)]
    pictures = samples[4].pictures(background=0.5)
    expected = 0.8 * 0.3 + 0.5 * 0.7
    assert pictures.shape == (8, 3, 8, 8) and pictures[3].mean().item() == pytest.approx(expected, abs=0.01)
    cameras = samples[4].cameras
    assert cameras is not None
    assert torch.allclose(cameras.world_from_camera, Cameras.orbit(ORBITS * VIEWS).world_from_camera, atol=1e-6)


def test_shards_are_plain_webdataset_tars(shards: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    with (shards / "shard-00000.tar").open("rb") as stream:
        members = [{**member, "__url__": "shard"} for member in tar_file_iterator(stream)]
    first = next(iter(group_by_keys(members)))
    assert first["__key__"] == "asset0"
    assert json.loads(first["json"])["captions"][0] == "a asset0" and "007.webp" in first


def test_packing_again_keeps_finished_shards(shards: Path, tmp_path: Path) -> None:
    (shards / "shard-00001.tar").unlink()
    report = pack(tmp_path / "renders", shards, samples_per_shard=2)
    assert (report.samples, report.shards, report.kept) == (2, 3, 3)


def test_a_damaged_picture_costs_its_sample_only(tmp_path: Path) -> None:
    for number in range(3):
        write_render(tmp_path / "renders", f"asset{number}", value=0.1)
    (tmp_path / "renders" / "asset1" / "003.webp").write_bytes(b"RIFF")
    report = pack(tmp_path / "renders", tmp_path / "shards")
    assert report.samples == 2 and [uid for uid, _ in report.failed] == ["asset1"]
    assert [sample.uid for sample in open_shards(tmp_path / "shards")] == ["asset0", "asset2"]


def test_a_truncated_shard_is_named(shards: Path) -> None:
    content = (shards / "shard-00002.tar").read_bytes()
    (shards / "shard-00002.tar").write_bytes(content[: len(content) // 3])
    with pytest.raises(AssetError, match="shard-00002"):
        for sample in open_shards(shards):
            sample.pictures()


def test_members_that_leave_the_folder_are_refused(shards: Path) -> None:
    with tarfile.open(shards / "shard-00009.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../evil.json"))
    with pytest.raises(AssetError, match="unusable member"):
        open_shards(shards)


def test_latents_are_cached_once_and_read_back(shards: Path) -> None:
    assert cache_latents(shards, mean_latents, encoder="mean").samples == 5
    assert cache_latents(shards, mean_latents, encoder="mean").skipped == 3
    latents = open_shards(shards)[2].latents()
    assert latents.shape == (8, 6, 1, 1)
    assert latents[5].mean().item() == pytest.approx(0.4 * 0.5 + 0.5 * 0.5, abs=0.01)


def test_latents_of_another_encoder_are_made_again(shards: Path) -> None:
    cache_latents(shards, mean_latents, encoder="mean")
    done = cache_latents(shards, lambda pictures: 2 * mean_latents(pictures), encoder="twice the mean")
    assert (done.samples, done.skipped) == (5, 0)
    latents = open_shards(shards)[2].latents()
    assert latents[5].mean().item() == pytest.approx(2 * (0.4 * 0.5 + 0.5 * 0.5), abs=0.02)


def test_a_batch_holds_evenly_spaced_views_of_one_circle(shards: Path) -> None:
    cache_latents(shards, mean_latents, encoder="mean")
    latents = LatentSet(shards)
    batch = latents.draw(16, torch.Generator().manual_seed(0), views=2)
    assert batch.latents.shape == (16, 2, 6, 1, 1) and batch.cameras is not None
    azimuth = batch.cameras.azimuth_deg.unflatten(0, (16, 2))
    apart = (azimuth[:, 1] - azimuth[:, 0]) % 180
    assert torch.allclose(apart, torch.full((16,), 90.0), atol=1e-2), (
        "views two apart of eight on the circle are 90 degrees"
    )


def test_the_generator_alone_decides_a_batch(shards: Path) -> None:
    cache_latents(shards, mean_latents, encoder="mean")
    latents = LatentSet(shards)
    one, two, three = (latents.draw(6, torch.Generator().manual_seed(seed), views=4) for seed in (1, 1, 2))
    assert one.captions == two.captions and torch.equal(one.latents, two.latents)
    assert one.captions != three.captions


def test_a_picture_batch_has_one_view_and_no_camera(shards: Path) -> None:
    cache_latents(shards, mean_latents, encoder="mean")
    batch = LatentSet(shards).draw(3, torch.Generator().manual_seed(0))
    assert batch.latents.shape == (3, 1, 6, 1, 1) and batch.cameras is None


def test_packing_and_caching_count_and_tell_how_far_they_are(tmp_path: Path) -> None:
    for number in range(5):
        write_render(tmp_path / "renders", f"asset{number}", value=number / 5)
    (tmp_path / "renders" / "unfinished").mkdir()
    seen: list[tuple[int, int]] = []
    out = tmp_path / "shards"
    report = pack(tmp_path / "renders", out, samples_per_shard=2, progress=lambda *at: seen.append(at))
    assert (report.samples, report.shards, report.skipped, report.failed) == (5, 3, 0, [])
    assert seen == [(n, 5) for n in range(1, 6)]
    assert [p.name for p in sorted(out.glob("*.tar"))] == [f"shard-0000{n}.tar" for n in range(3)]
    with tarfile.open(out / "shard-00001.tar") as tar:
        assert {name.split(".")[0] for name in tar.getnames()} == {"asset2", "asset3"}
    seen.clear()
    done = cache_latents(out, mean_latents, encoder="mean", progress=lambda *at: seen.append(at))
    assert (done.samples, done.shards, done.skipped, done.failed) == (5, 3, 0, []) and seen == [(1, 3), (2, 3), (3, 3)]


def test_a_sample_with_a_dot_or_without_pictures_is_left_out_by_name(tmp_path: Path) -> None:
    for uid in ("good", "b.d", "bare"):
        write_render(tmp_path / "renders", uid, value=0.5)
    for picture in (tmp_path / "renders" / "bare").glob("*.webp"):
        picture.unlink()
    report = pack(tmp_path / "renders", tmp_path / "shards")
    assert report.samples == 1 and [uid for uid, _ in report.failed] == ["b.d", "bare"]
    assert "dot" in report.failed[0][1] and "no pictures" in report.failed[1][1]


def test_latents_are_those_of_the_pictures_on_their_ground_and_of_a_damaged_one_there_are_none(tmp_path: Path) -> None:
    for uid in ("good", "bad"):
        write_render(tmp_path / "renders", uid, value=0.25)
    pack(tmp_path / "renders", tmp_path / "shards")
    (shard,) = (tmp_path / "shards").glob("*.tar")
    sample = open_shards(tmp_path / "shards")[0]
    assert sample.uid == "bad"
    _, offset, size = sample.members["003.webp"]
    content = bytearray(shard.read_bytes())
    content[offset : offset + size] = bytes(size)
    shard.write_bytes(content)
    grounds: list[torch.Tensor] = []
    done = cache_latents(
        tmp_path / "shards", lambda x: (grounds.append(x), mean_latents(x))[1], encoder="e", background=1.0
    )
    assert done.samples == 1 and [uid for uid, _ in done.failed] == ["bad"] and "003.webp" in done.failed[0][1]
    assert float(grounds[0][3].mean()) == pytest.approx(0.25 * 0.3 + 1.0 * 0.7, abs=0.01)
    bad, good = open_shards(tmp_path / "shards")  # what cannot be read keeps its pictures
    assert good.latents().dtype == torch.float32 and sorted(bad.members) == sorted(sample.members)


def test_a_picture_without_alpha_is_laid_on_nothing_and_views_keep_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "renders" / "plain"
    folder.mkdir(parents=True)
    for index in range(3):
        to_pil(torch.full((3, 8, 8), index / 5)).save(folder / f"{index:03d}.webp", lossless=True)
    (folder / "meta.json").write_text(json.dumps({"captions": ["x"], "views": None}))
    pack(tmp_path / "renders", tmp_path / "shards")
    (sample,) = open_shards(tmp_path / "shards")
    assert sample.pictures().mean((1, 2, 3)).tolist() == pytest.approx([0, 0.2, 0.4])
    assert sample.cameras is None and sample.orbits == 1


def test_members_are_read_whole_or_not_at_all_and_files_are_closed(shards: Path) -> None:
    sample = open_shards(shards)[4]
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(5):
        assert sample.read("json") == json.dumps(sample.meta).encode()
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    with pytest.raises(AssetError, match=r"`asset4` has no member 'latents.npy'; it has \['000.webp'"):
        sample.latents()
    path, offset, _ = sample.members["007.webp"]
    path.write_bytes(path.read_bytes()[: offset + 10])
    with pytest.raises(AssetError, match=r"is cut short at `asset4.007.webp`"):
        sample.read("007.webp")


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"captions": []}'])
def test_a_sample_must_say_what_it_shows(shards: Path, content: bytes) -> None:
    with tarfile.open(shards / "shard-00009.tar", "w") as tar:
        member = tarfile.TarInfo("zz.json")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(AssetError, match=r"`zz\.json`"):
        _ = open_shards(shards)[-1].meta


def test_an_array_that_would_run_code_is_refused(shards: Path, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with tarfile.open(shards / "shard-00009.tar", "w") as tar:
        tar.add(tmp_path / "a.npy", "zz.latents.npy")
    with pytest.raises(AssetError, match="zz.latents.npy.*allow_pickle=False"):
        open_shards(shards)[-1].latents()


def test_nothing_to_pack_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="viewfold render"):
        pack(tmp_path, tmp_path / "shards")
    with pytest.raises(InputError, match="viewfold pack"):
        open_shards(tmp_path)


def test_emoji_are_named_by_their_code_point(tmp_path: Path) -> None:
    assert emoji_name("1f68b") == "tram car" and emoji_name("2615-fe0f") == "hot beverage"
    assert emoji_name("1f468-200d-1f373") is None and emoji_name("readme") is None
    to_pil(torch.rand(4, 32, 32)).save(tmp_path / "1f68b.png")
    to_pil(torch.rand(3, 32, 32)).save(tmp_path / "2615.png")
    (tmp_path / "1f697.png").write_bytes(b"broken")
    report = import_emoji(tmp_path, tmp_path / "out", size=8, without=frozenset({"beverage"}))
    assert (report.done, report.skipped, [name for name, _ in report.failed]) == (1, 1, ["1f697.png"])
    assert json.loads((tmp_path / "out/emoji-1f68b/meta.json").read_text())["captions"][0] == "tram car"


def test_a_full_disk_is_not_blamed_on_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    renders = tmp_path / "more" / "sample"
    renders.mkdir(parents=True)
    to_pil(torch.zeros(3, 4, 4)).save(renders / "000.webp")
    (renders / "meta.json").write_text('{"captions": ["x"]}')
    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(OutputError, match="no space left"):
        pack(renders.parent, tmp_path / "packed")
    assert not list((tmp_path / "packed").glob("*.tar"))
