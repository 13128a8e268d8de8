"""Latents read where they lie: the draws of a set in memory, bit for bit; what breaks is named and replaced."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_memory import InMemory
from tiny_shards import SHAPE, write_shards

from viewfold.data import catalog, storage
from viewfold.data.batches import Batch, LatentSet
from viewfold.data.mixture import Source
from viewfold.data.shards import open_shards
from viewfold.errors import AssetError, InputError

WORDS = ("a red mug", "a blue car", "a green chair")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_three(folder: Path, **options: Any) -> Path:
    """Three shards, whose samples do not lie in the order of their uids."""
    for number in range(3):
        write_shards(folder, samples=5, first=5 * number, number=number, orbits=2, caption=WORDS, each=2, **options)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_three(tmp_path / "shards")


def assert_same(one: Batch, other: Batch) -> None:
    assert one.captions == other.captions and one.latents.numpy().tobytes() == other.latents.numpy().tobytes()
    assert (one.cameras is None) == (other.cameras is None)
    if one.cameras is not None and other.cameras is not None:
        assert torch.equal(one.cameras.world_from_camera, other.cameras.world_from_camera)
        assert torch.equal(one.cameras.fov_deg, other.cameras.fov_deg)


@pytest.mark.parametrize("views", [None, 1, 4, 8])
def test_a_draw_is_that_of_a_set_in_memory_bit_for_bit(views: int | None, shards: Path) -> None:
    whole, read = InMemory(open_shards(shards)), LatentSet(shards, views=views)
    assert len(whole) == len(read) == 15
    for seed in range(10):
        one, other = seeded(seed), seeded(seed)
        assert_same(whole.draw(9, one, views=views), read.draw(9, other, views=views))
        assert torch.equal(one.get_state(), other.get_state()), "what is drawn next is the same too"


def test_float32_and_a_sample_that_two_shards_hold_are_drawn_as_before(shards: Path) -> None:
    wide = {f"asset{n}": np.random.default_rng(n).standard_normal((16, *SHAPE)) for n in (0, 3)}
    write_shards(shards, samples=4, orbits=2, number=7, latents={"asset0": wide["asset0"].astype(np.float32), **{
        "asset3": wide["asset3"]}})  # fmt: skip
    whole, read = InMemory(open_shards(shards)), LatentSet(shards, views=4)
    assert len(whole) == len(read) == 15
    assert_same(whole.draw(40, seeded(), views=4), read.draw(40, seeded(), views=4))


def test_a_shard_is_looked_through_once_for_each_content_of_it(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    inner = storage.Local.open
    monkeypatch.setattr(storage.Local, "open", lambda self, path: opened.append(Path(path).name) or inner(self, path))
    first = LatentSet(shards, views=4)
    assert opened == [f"shard-0000{n}.tar" for n in range(3)]
    again = LatentSet(shards, views=4)
    assert len(opened) == 3 and again.fingerprint == first.fingerprint
    assert_same(first.draw(5, seeded(), views=4), again.draw(5, seeded(), views=4))
    write_shards(shards, samples=6, first=5, number=1, orbits=2)
    assert len(LatentSet(shards, views=4)) == 15 and opened[3:] == ["shard-00001.tar"], "one of its uids is shard 2's"
    for table in (Path(os.environ["XDG_CACHE_HOME"]) / "viewfold" / "shards").glob("*.index"):
        table.write_bytes(table.read_bytes()[: -1 - table.stat().st_size // 2])
    assert_same(
        LatentSet(shards, views=4).draw(5, seeded(), views=4), LatentSet(shards, views=4).draw(5, seeded(), views=4)
    )


def test_a_cache_that_cannot_be_written_is_done_without(shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(LatentSet(shards, views=4)) == 15 and (tmp_path / "file").read_text() == ""


def test_remote_shards_are_read_by_byte_ranges_and_draw_the_same(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(f"{shards}/", "/remote/shards", recursive=True)
    try:
        far, near = LatentSet("memory://remote/shards", views=4), LatentSet(shards, views=4)
        assert far.fingerprint == near.fingerprint
        asked: list[int] = []
        inner = type(memory).cat_ranges
        monkeypatch.setattr(
            type(memory), "cat_ranges",
            lambda self, paths, starts, ends, **options: asked.extend(np.subtract(ends, starts))
            or inner(self, paths, starts, ends, **options),
        )  # fmt: skip
        assert_same(far.draw(9, seeded(), views=4), near.draw(9, seeded(), views=4))
        view = 2 * int(np.prod(SHAPE))
        assert len(asked) == 9 and max(asked) <= 8 * view, "of a sample no more than one circle"
        monkeypatch.setattr(storage, "FIRST_PAUSE_S", 0.0)
        failures = iter([OSError("busy")] * 9)
        broken = lambda *a, **o: [next(failures, None) or r for r in inner(*a, **o)]  # noqa: E731
        monkeypatch.setattr(type(memory), "cat_ranges", broken)
        assert_same(far.draw(9, seeded(), views=4), near.draw(9, seeded(), views=4))
        assert far.reader.replaced == 0, "a service that is busy once is asked again"
        memory.rm("/remote/shards/shard-00001.tar")
        far.draw(40, seeded(), views=4)
        assert far.reader.replaced > 0 and all("shard-00001" in reason for reason in far.reader.unread.values())
    finally:
        memory.rm("/remote", recursive=True)


def damage(folder: Path, uid: str, suffix: str = "latents.npy") -> None:
    """Change a byte in every view of a member, and nothing that the disk would tell."""
    (sample,) = (sample for sample in open_shards(folder) if sample.uid == uid)
    path, offset, size = sample.members[suffix]
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[offset + 128 : offset + size : 16] = bytes(b ^ 1 for b in content[offset + 128 : offset + size : 16])
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_sample_that_breaks_later_is_named_counted_and_replaced_by_the_same_one_each_time(shards: Path) -> None:
    sets = [LatentSet(shards, views=4) for _ in range(2)]
    whole = sets[0].draw(60, seeded(), views=4)
    damage(shards, "asset7")
    one, other = (latents.draw(60, seeded(), views=4) for latents in sets)
    assert_same(one, other)
    differ = (one.latents != whole.latents).flatten(1).any(dim=1)
    assert 0 < int(differ.sum()) == sets[1].reader.replaced < 20, "the others of the batch are what they were"
    account = sets[1].account()
    assert account["replaced"] == int(differ.sum()) and list(account["unread"]) == ["asset7"]
    assert "checksum" in account["unread"]["asset7"] and "shard-00001.tar" in account["unread"]["asset7"]
    assert len(sets[1].reader.news()) == 1 and sets[1].reader.news() == []


def test_a_shard_that_was_replaced_meanwhile_is_not_read_by_the_old_offsets(shards: Path) -> None:
    latents = LatentSet(shards, views=4)
    write_shards(shards, samples=5, first=5, number=1, orbits=2, caption="something else entirely, and longer")
    batch = latents.draw(60, seeded(), views=4)
    assert latents.reader.replaced > 0 and set(batch.captions) <= set(WORDS)
    assert all("was changed" in reason for reason in latents.reader.unread.values())


def test_a_disk_that_is_gone_is_not_blamed_on_samples(shards: Path) -> None:
    latents = LatentSet(shards, views=4)
    shutil.rmtree(shards)
    with pytest.raises(AssetError, match=r"shard-0000\d.tar.*nor can 8 others be read"):
        latents.draw(4, seeded(), views=4)


def test_samples_without_latents_are_left_out_and_counted(shards: Path) -> None:
    (shards.parent / "bare.json").write_bytes(open_shards(shards)[0].read("json"))
    with tarfile.open(shards / "shard-00003.tar", "w") as tar:
        tar.add(shards.parent / "bare.json", "bare.json")
    latents = LatentSet(shards, views=4)
    assert len(latents) == 15 and latents.account()["folders"][0]["without_latents"] == 1
    for number in range(3):
        (shards / f"shard-0000{number}.tar").unlink()
    with pytest.raises(AssetError, match="it holds 1 without. Run `viewfold pack` with --latents"):
        LatentSet(shards, views=4)


# Several folders ----------------------------------------------------------------------------------------------------


def test_each_sample_is_drawn_from_a_folder_by_its_weight(tmp_path: Path) -> None:
    for name, word in (("a", "one"), ("b", "two"), ("c", "three")):
        write_shards(tmp_path / name, samples=3, caption=word)
    latents = LatentSet([tmp_path / "a", f"{tmp_path / 'b'}:3", Source(tmp_path / "c", 0.5)], views=4)
    drawn = Counter(latents.draw(4500, seeded(), views=4).captions)
    assert drawn["one"] == pytest.approx(1000, rel=0.15) and drawn["two"] == pytest.approx(3000, rel=0.06)
    assert drawn["three"] == pytest.approx(500, rel=0.2)
    assert [latents.fingerprint[str(n)]["share"] for n in (1, 2, 3)] == pytest.approx([2 / 9, 6 / 9, 1 / 9])
    assert_same(latents.draw(9, seeded(4), views=4), latents.draw(9, seeded(4), views=4))
    alone = LatentSet(f"{tmp_path / 'b'}:0.2", views=4)
    assert alone.fingerprint == LatentSet(tmp_path / "b", views=4).fingerprint, "one folder has no weight"


def test_a_word_is_a_folder_or_a_folder_and_a_weight(tmp_path: Path) -> None:
    assert Source.of("data/a:0.25") == Source("data/a", 0.25) and Source.of("s3://b/x:2") == Source("s3://b/x", 2.0)
    assert Source.of("s3://bucket/x") == Source("s3://bucket/x") and Source.of("C:data") == Source("C:data")
    (tmp_path / "a:3").mkdir()
    assert Source.of(str(tmp_path / "a:3")).weight == 1.0
    for wrong in ("a:0", "a:-1", "a:inf", "a:nan"):
        with pytest.raises(InputError, match="must be a number above 0"):
            Source.of(wrong)


# Moments ------------------------------------------------------------------------------------------------------------


def test_moments_are_sampled_over_grounds_that_the_generator_draws(tmp_path: Path) -> None:
    grounds = (0.0, 0.5, 1.0)
    write_shards(tmp_path / "moments", grounds=grounds, samples=1)
    write_shards(tmp_path / "means", samples=1)
    means = LatentSet(tmp_path / "means", views=4).draw(300, seeded(), views=4)
    latents = LatentSet(tmp_path / "moments", views=4)
    assert latents.moments and latents.posterior == "sample"
    assert latents.fingerprint["posterior"] == "sample" and latents.fingerprint["grounds"] == list(grounds)
    batch = latents.draw(300, seeded(), views=4)
    assert_same(batch, latents.draw(300, seeded(), views=4))
    one = LatentSet(tmp_path / "moments", views=4, posterior="mean", grounds=[0.5])
    settled = one.draw(300, seeded(), views=4)
    torch.testing.assert_close(settled.latents, means.latents + 0.5, atol=2e-3, rtol=0)
    noisy = LatentSet(tmp_path / "moments", views=4, grounds=[0.5]).draw(300, seeded(), views=4)
    off = noisy.latents - settled.latents
    assert float(off.std()) == pytest.approx(np.exp(-2), rel=0.03) and abs(float(off.mean())) < 2e-3
    seen = LatentSet(tmp_path / "moments", views=4, posterior="mean").draw(300, seeded(), views=4)
    assert seen.cameras is not None
    shift = seen.latents[:, :, 0, 0, 0] - seen.cameras.azimuth_deg.unflatten(0, (300, 4)) / 360
    assert torch.equal(shift.round(decimals=1), shift.round(decimals=1)[:, :1].expand(-1, 4)), (
        "an object has one ground"
    )
    assert set(Counter(shift[:, 0].round(decimals=1).tolist())) == {0.0, 0.5, 1.0}


def test_what_shards_do_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    write_shards(tmp_path / "moments", grounds=(0.2, 0.8))
    write_shards(tmp_path / "means", number=1)
    cases: list[tuple[dict[str, Any], str]] = [({"posterior": "sample"}, "posterior"), ({"grounds": [0.5]}, "grounds")]
    for asked, name in cases:
        with pytest.raises(InputError, match=f"`{name}` must be left out.*means alone.*--grounds"):
            LatentSet([tmp_path / "moments", tmp_path / "means"], views=4, **asked)
    with pytest.raises(InputError, match=r"some that are cached, 0.2, 0.8; got 0.5"):
        LatentSet(tmp_path / "moments", views=4, grounds=[0.5])
    mixed = LatentSet([tmp_path / "moments", tmp_path / "means"], views=4)
    assert mixed.posterior == "mean" and mixed.account()["latents"] == "means"
    assert mixed.draw(20, seeded(), views=4).latents.shape == (20, 4, *SHAPE)


# Memory -------------------------------------------------------------------------------------------------------------

MEASURE = """
import json, resource, sys, torch
from viewfold.data.batches import LatentSet
latents = LatentSet(sys.argv[1], views=4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for seed in range(40):
    latents.draw(64, torch.Generator().manual_seed(seed), views=4)
print(json.dumps({"n": len(latents), "opened": before, "drawn": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """Latents of 16,000 samples take 131 MB; what is held of them, 0.4 MB."""
    found = []
    heavy = {f"asset{n}": np.zeros((4, 4, 16, 16), np.float16) for n in range(1000)}
    write_shards(tmp_path / "one", samples=1000, views=4, latents=heavy)
    for count in (2, 16):
        folder = tmp_path / str(count)
        folder.mkdir()
        content = (tmp_path / "one" / "shard-00000.tar").read_bytes()
        for number in range(count):
            name = f"{number:02d}set".encode()  # another uid, of the same length, with the checksum that tar wants
            (folder / f"shard-{number:05d}.tar").write_bytes(_renamed(content, b"asset", name))
        command = [sys.executable, "-c", MEASURE, str(folder)]
        LatentSet(folder, views=4)  # looks them through
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    few, many = found
    assert (few["n"], many["n"]) == (2000, 16000)
    assert many["drawn"] - few["drawn"] < 8 * 1024, "KiB"


def _renamed(tar: bytes, old: bytes, new: bytes) -> bytes:
    difference = sum(new) - sum(old)
    content = bytearray(tar)
    at = 0
    while at + 512 <= len(content) and content[at]:
        header = content[at : at + 512]
        size = int(header[124:135], 8)
        if header.startswith(old):
            header[: len(new)] = new
            header[148:156] = b"%06o\0 " % (int(header[148:154], 8) + difference)
            content[at : at + 512] = header
        at += 512 + -(-size // 512) * 512
    return bytes(content)


def test_the_table_of_a_sample_is_small() -> None:
    assert catalog._TABLE.itemsize <= 32
