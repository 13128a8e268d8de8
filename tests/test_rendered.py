"""What is known of a folder of renders: the manifest, assets that changed, names that two assets share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from test_render_run import SETTINGS, toy

from viewfold.data import rendered
from viewfold.data.manifest import read_manifest
from viewfold.data.render import render_assets
from viewfold.errors import InputError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    for uid in ("one", "two"):
        toy(tmp_path / "assets", uid)
    return tmp_path


def test_the_manifest_says_what_became_of_each_asset_and_how_often_it_failed(place: Path) -> None:
    (place / "assets" / "bad.glb").write_bytes(b"glTF")
    (place / "assets" / "one.json").write_text('{"captions": ["a mug"], "licence": "CC0-1.0", "author": "me"}')
    for _ in range(2):
        render_assets(place / "assets", place / "out", settings=SETTINGS)
    found = read_manifest(place / "out")
    assert {uid: (entry.station, entry.failures) for uid, entry in found.items()} == {
        "bad": ("found", 2), "one": ("rendered", 0), "two": ("rendered", 0)
    }  # fmt: skip
    assert "bad.glb" in str(found["bad"].reason) and found["one"].reason is None
    one = place / "assets" / "one.glb"
    assert (found["one"].source, found["one"].content) == (str(one), hashlib.sha256(one.read_bytes()).hexdigest())
    assert (found["one"].licence, found["one"].author, found["one"].captions) == ("CC0-1.0", "me", ("a mug",))
    assert (found["one"].views, found["one"].faces) == (2 * SETTINGS.orbits, 4)
    assert str(place) not in (place / "out" / "one" / "meta.json").read_text(), "what is published knows no paths"
    toy(place / "assets", "bad")
    render_assets(place / "assets", place / "out", settings=SETTINGS)
    assert (entry := read_manifest(place / "out")["bad"]).station == "rendered" and entry.failures == 0


def test_a_restart_reads_no_meta_json_and_a_lost_manifest_costs_nothing_else(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_assets(place / "assets", place / "out", settings=SETTINGS)
    read, seen = rendered.read_json, []
    monkeypatch.setattr(rendered, "read_json", lambda path: (seen.append(path.parent.name), read(path))[1])
    assert render_assets(place / "assets", place / "out", settings=SETTINGS).skipped == 2 and seen == []
    (place / "out" / "manifest.sqlite").write_bytes(b"x" * 5000)
    assert render_assets(place / "assets", place / "out", settings=SETTINGS).skipped == 2
    assert sorted(seen) == ["one", "two"] and set(read_manifest(place / "out")) == {"one", "two"}


def test_an_asset_that_changed_is_rendered_again_and_one_that_was_touched_is_not(place: Path) -> None:
    render_assets(place / "assets", place / "out", settings=SETTINGS)
    (place / "assets" / "two.glb").touch()
    content = (place / "assets" / "one.glb").read_bytes()
    changed = content.replace(b"viewfold", b"VIEWFOLD") if b"viewfold" in content else content + b"\0\0\0\0"
    (place / "assets" / "one.glb").write_bytes(changed)
    again = render_assets(place / "assets", place / "out", settings=SETTINGS)
    assert (again.done, again.skipped, again.renewed) == (1, 1, 1)
    meta = json.loads((place / "out" / "one" / "meta.json").read_text())
    assert meta["asset"] == {"name": "one.glb", "sha256": hashlib.sha256(changed).hexdigest()}


def test_another_folders_asset_of_the_same_name_does_not_replace_the_first(place: Path) -> None:
    render_assets(place / "assets", place / "out", settings=SETTINGS)
    before = (place / "out" / "one" / "000.webp").read_bytes()
    (place / "more").mkdir()
    toy(place / "more", "one")
    path = place / "more" / "one.glb"
    path.write_bytes(path.read_bytes() + b"\0" * 4)
    report = render_assets(place / "more", place / "out", settings=SETTINGS)
    assert report.done == 0 and str(place / "assets" / "one.glb") in report.failed[0][1]
    assert (place / "out" / "one" / "000.webp").read_bytes() == before
    assert read_manifest(place / "out")["one"].failures == 1
    (place / "assets").rename(place / "gone")
    assert render_assets(place / "more", place / "out", settings=SETTINGS).renewed == 1, "nothing is lost by it now"


def test_other_settings_are_refused_though_the_manifest_knows_the_asset(place: Path) -> None:
    import dataclasses

    render_assets(place / "assets", place / "out", settings=SETTINGS)
    for other in ({"seed": 3}, {"size": 32}):
        with pytest.raises(InputError, match=next(iter(other))):
            render_assets(place / "assets", place / "out", settings=dataclasses.replace(SETTINGS, **other))
