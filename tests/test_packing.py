"""Packing by uid: what is new, mended or changed gets into the shards, once; what is there stays, and so do latents."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from test_shards import mean_latents, write_render

from viewfold.data.inventory import alone, refresh_manifest
from viewfold.data.latents import cache_latents
from viewfold.data.manifest import NAME, read_manifest
from viewfold.data.packing import pack
from viewfold.data.selection import Selection
from viewfold.data.shards import open_shards
from viewfold.errors import InputError, OutputError
from viewfold.picture import to_pil


def write_small(
    folder: Path, uid: str, *, views: int = 1, caption: str = "a mug", licence: str = "CC0", **meta: object
) -> None:
    (folder / uid).mkdir(parents=True, exist_ok=True)
    picture = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(sum(uid.encode())))
    for index in range(views):
        to_pil(picture).save(folder / uid / f"{index:03d}.webp", lossless=True, method=0)
    about = {"captions": [caption], "views": None, "licence": licence, "author": "Ann", **meta}
    (folder / uid / "meta.json").write_text(json.dumps(about))


def uids_in(shards: Path) -> list[str]:
    """Every `.json` of every tar, in order of the names, repeats included."""
    found = []
    for shard in sorted(shards.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found += [name.removesuffix(".json") for name in tar.getnames() if name.endswith(".json")]
    return sorted(found)


def test_forty_then_sixty_four_are_sixty_four(tmp_path: Path) -> None:
    """The new ones sort between the old ones."""
    renders, out = tmp_path / "renders", tmp_path / "out"
    for number in range(40):
        write_small(renders, f"{(number * 37) % 64:02d}")
    assert pack(renders, out, samples_per_shard=16).samples == 40
    first = (out / "shard-00000.tar").read_bytes()
    for number in range(40, 64):
        write_small(renders, f"{(number * 37) % 64:02d}")
    report = pack(renders, out, samples_per_shard=16)
    assert (report.samples, report.kept, report.shards, report.removed) == (24, 40, 4, 0)
    assert uids_in(out) == [f"{number:02d}" for number in range(64)]
    assert (out / "shard-00000.tar").read_bytes() == first, "a shard without changes is not touched"
    again = pack(renders, out, samples_per_shard=16)
    assert (again.samples, again.kept, again.skipped) == (0, 64, 4)


def test_a_changed_caption_is_packed_and_keeps_its_latents_and_a_changed_picture_does_not(tmp_path: Path) -> None:
    for number in range(3):
        write_render(tmp_path / "renders", f"asset{number}", value=number / 5)
    out = tmp_path / "out"
    pack(tmp_path / "renders", out)
    cache_latents(out, mean_latents, encoder="mean")
    before = {sample.uid: sample.read("latents.npy") for sample in open_shards(out)}
    path = tmp_path / "renders" / "asset1" / "meta.json"
    path.write_text(path.read_text().replace("a asset1", "a green mug"))
    to_pil(torch.zeros(4, 8, 8)).save(tmp_path / "renders" / "asset2" / "003.webp", lossless=True)
    report = pack(tmp_path / "renders", out)
    assert (report.samples, report.replaced, report.kept) == (2, 2, 1)
    zero, one, two = open_shards(out)
    assert one.meta["captions"][0] == "a green mug"
    assert zero.read("latents.npy") == before["asset0"] and one.read("latents.npy") == before["asset1"]
    assert "latents.npy" not in two.members and float(two.pictures()[3].mean()) == pytest.approx(0.5, abs=0.01)
    assert [entry.latents for entry in read_manifest(out).values()] == [True, True, False]
    assert cache_latents(out, mean_latents, encoder="mean").samples > 0
    assert [entry.station for entry in refresh_manifest(out).values()] == ["latents"] * 3


def test_a_broken_sample_is_counted_each_time_and_packed_once_it_is_mended(tmp_path: Path) -> None:
    write_small(tmp_path / "renders", "good")
    write_small(tmp_path / "renders", "bad")
    picture = tmp_path / "renders" / "bad" / "000.webp"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:20])
    for times in (1, 2):
        assert [uid for uid, _ in pack(tmp_path / "renders", tmp_path / "out").failed] == ["bad"]
        entry = read_manifest(tmp_path / "out")["bad"]
        assert entry.failures == times and "000.webp" in str(entry.reason) and entry.station == "found"
    picture.write_bytes(whole)
    report = pack(tmp_path / "renders", tmp_path / "out")
    assert (report.samples, report.failed, uids_in(tmp_path / "out")) == (1, [], ["bad", "good"])
    entry = read_manifest(tmp_path / "out")["bad"]
    assert (entry.failures, entry.reason, entry.station) == (0, None, "packed")


def test_a_missing_view_and_a_missing_caption_are_named(tmp_path: Path) -> None:
    write_small(tmp_path / "renders", "gap", views=3)
    (tmp_path / "renders" / "gap" / "001.webp").unlink()
    write_render(tmp_path / "renders", "short", value=0.5)
    (tmp_path / "renders" / "short" / "007.webp").unlink()
    write_small(tmp_path / "renders", "mute", captions=[])
    report = pack(tmp_path / "renders", tmp_path / "out")
    assert [uid for uid, _ in report.failed] == ["gap", "mute", "short"] and not list((tmp_path / "out").glob("*.tar"))


@pytest.mark.slow
def test_more_than_999_views_keep_their_order(tmp_path: Path) -> None:
    write_small(tmp_path / "renders", "many", views=1002)
    to_pil(torch.ones(3, 4, 4)).save(tmp_path / "renders" / "many" / "1001.webp", lossless=True)
    assert pack(tmp_path / "renders", tmp_path / "out").samples == 1
    (sample,) = open_shards(tmp_path / "out")
    assert sample.meta["captions"] and len([name for name in sample.members if name.endswith(".webp")]) == 1002
    white = (sample.pictures().mean((1, 2, 3)) > 0.99).nonzero().flatten().tolist()
    assert white == [1001]


def test_what_the_source_lost_stays_until_it_is_pruned(tmp_path: Path) -> None:
    for uid in ("a", "b"):
        write_small(tmp_path / "one", uid)
    write_small(tmp_path / "two", "c")
    pack(tmp_path / "one", tmp_path / "out")
    report = pack(tmp_path / "two", tmp_path / "out")
    assert (report.samples, report.gone, uids_in(tmp_path / "out")) == (1, 2, ["a", "b", "c"])
    report = pack(tmp_path / "two", tmp_path / "out", prune=True)
    assert (report.removed, uids_in(tmp_path / "out")) == (2, ["c"])


def test_samples_that_were_packed_twice_are_mended(tmp_path: Path) -> None:
    for uid in ("a", "b"):
        write_small(tmp_path / "renders", uid)
    pack(tmp_path / "renders", tmp_path / "out")
    (tmp_path / "out" / "shard-00001.tar").write_bytes((tmp_path / "out" / "shard-00000.tar").read_bytes())
    assert pack(tmp_path / "renders", tmp_path / "out").removed == 2
    assert uids_in(tmp_path / "out") == ["a", "b"]


def test_renders_of_different_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_small(tmp_path / "renders", "a", render={"size": 64, "seed": 1})
    write_small(tmp_path / "renders", "b", render={"size": 64, "seed": 2})
    pack(tmp_path / "renders", tmp_path / "out")
    write_small(tmp_path / "renders", "c", render={"size": 128, "seed": 1})
    with pytest.raises(InputError, match="size is 64 and 128"):
        pack(tmp_path / "renders", tmp_path / "out")
    write_small(tmp_path / "other", "d", render={"size": 32})
    with pytest.raises(InputError, match="size is"):
        pack(tmp_path / "other", tmp_path / "out")
    assert uids_in(tmp_path / "out") == ["a", "b"]


def test_the_manifest_is_found_again_from_the_files(tmp_path: Path) -> None:
    for uid in ("a", "b"):
        write_small(tmp_path / "renders", uid, mesh={"faces": 12, "textures": 1, "bounds": [[0, 0, 0], [1, 2, 3]]})
    pack(tmp_path / "renders", tmp_path / "out")
    before, tar = read_manifest(tmp_path / "out"), (tmp_path / "out" / "shard-00000.tar").read_bytes()
    assert before["a"].faces == 12 and before["a"].bounds == (0, 0, 0, 1, 2, 3) and before["a"].licence == "CC0"
    for damage in (None, b"no database at all, but longer than a header of one" * 9):
        (tmp_path / "out" / NAME).unlink() if damage is None else (tmp_path / "out" / NAME).write_bytes(damage)
        assert pack(tmp_path / "renders", tmp_path / "out").kept == 2
        assert read_manifest(tmp_path / "out") == before
        assert (tmp_path / "out" / "shard-00000.tar").read_bytes() == tar


def test_the_selection_counts_its_reasons_takes_out_what_is_there_and_lets_it_in_again(tmp_path: Path) -> None:
    write_small(tmp_path / "renders", "free", caption="a small red mug")
    write_small(tmp_path / "renders", "paid", licence="CC-BY-NC-4.0")
    write_small(tmp_path / "renders", "terse", caption="mug")
    out = tmp_path / "out"
    pack(tmp_path / "renders", out)
    chosen = Selection(licence=("cc0*",), caption_words=2)
    report = pack(tmp_path / "renders", out, selection=chosen)
    assert report.refused == {"licence CC-BY-NC-4.0": 1, "caption too short": 1} and report.removed == 2
    assert uids_in(out) == ["free"] and read_manifest(out)["terse"].reason == "caption too short"
    assert pack(tmp_path / "renders", out, selection=Selection(caption_match="^mug$")).removed == 1
    assert uids_in(out) == ["terse"]
    assert pack(tmp_path / "renders", out).samples == 2 and uids_in(out) == ["free", "paid", "terse"]
    with pytest.raises(InputError, match="regular expression"):
        Selection(caption_match="(")


def test_of_look_alikes_one_is_packed_and_colours_tell(tmp_path: Path) -> None:
    disc = ((torch.linspace(-1, 1, 32)[:, None] ** 2 + torch.linspace(-1, 1, 32) ** 2) < 0.5).float()
    shown = {"red": (0.9, 0.1, 0.1, 1.0), "ruby": (0.88, 0.12, 0.1, 1.0), "blue": (0.1, 0.1, 0.9, 1.0)}
    for uid, color in shown.items():
        write_small(tmp_path / "renders", uid)
        rgba = torch.cat([torch.tensor(color[:3])[:, None, None].expand(3, 32, 32), disc[None]])
        to_pil(rgba).save(tmp_path / "renders" / uid / "000.webp", lossless=True)
    report = pack(tmp_path / "renders", tmp_path / "out", selection=Selection(likeness=4))
    assert uids_in(tmp_path / "out") == ["blue", "red"] and report.refused == {"looks like another": 1}
    assert pack(tmp_path / "renders", tmp_path / "empty", selection=Selection(coverage=0.9)).samples == 0


def test_the_attribution_names_author_licence_and_origin(tmp_path: Path) -> None:
    for uid in ("a", "b"):
        write_small(tmp_path / "renders", uid)
    write_small(tmp_path / "renders", "c", licence="CC-BY-4.0", author="Bo\n# x", source="https://example.org/c")
    pack(tmp_path / "renders", tmp_path / "out")
    text = (tmp_path / "out" / "ATTRIBUTION.md").read_text()
    assert "## CC0\n\n- Ann: 2 samples" in text and "- Bo # x, https://example.org/c: 1 sample" in text


def test_a_full_disk_leaves_the_shards_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path / "renders", "a")
    pack(tmp_path / "renders", tmp_path / "out")
    before = (tmp_path / "out" / "shard-00000.tar").read_bytes()
    write_small(tmp_path / "renders", "b")
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OutputError, match="no space left"):
            pack(tmp_path / "renders", tmp_path / "out")
    assert (tmp_path / "out" / "shard-00000.tar").read_bytes() == before
    assert pack(tmp_path / "renders", tmp_path / "out").samples == 1 and uids_in(tmp_path / "out") == ["a", "b"]


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    write_small(tmp_path / "renders", "a")
    with alone(tmp_path / "out"), pytest.raises(OutputError, match="one process at a time"):
        pack(tmp_path / "renders", tmp_path / "out")


@pytest.mark.slow
def test_a_killed_packing_is_finished_by_the_next(tmp_path: Path) -> None:
    for number in range(60):
        write_render(tmp_path / "renders", f"asset{number:02d}", value=number / 60)
    code = "import sys; from viewfold.data.packing import pack; pack(sys.argv[1], sys.argv[2], samples_per_shard=4)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "renders"), str(tmp_path / "out")])
    until = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("*.tar"))) < 3:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    report = pack(tmp_path / "renders", tmp_path / "out", samples_per_shard=4)
    assert report.kept >= 12 and report.failed == []
    assert uids_in(tmp_path / "out") == [f"asset{number:02d}" for number in range(60)]
    assert not [path for path in (tmp_path / "out").iterdir() if "viewfold-" in path.name]
