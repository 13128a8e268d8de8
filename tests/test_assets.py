"""Writing toys to disk: round trips, idempotence, several processes, failures that do not end the run."""

import json

import numpy as np
import pytest
import trimesh

from viewfold.data import assets as module
from viewfold.data.assets import asset_record, write_asset, write_assets
from viewfold.data.toybox import COLORS, Asset, Group, sample_asset, sample_group, sample_toy
from viewfold.errors import InputError, OutputError
from viewfold.scene.color import linear_from_srgb
from viewfold.scene.meshfile import load_mesh


def test_a_written_glb_holds_the_same_toy_with_one_material_a_colour(tmp_path):
    asset = Asset.of("robot", "cyan", "orange", seed=4)
    assert write_asset(asset, tmp_path)
    scene = trimesh.load(tmp_path / f"{asset.uid}.glb")
    mesh = asset.mesh()
    assert len(scene.geometry) == len(mesh.materials)
    assert sum(len(g.faces) for g in scene.geometry.values()) == len(mesh.faces)
    bounds = mesh.vertices.numpy()
    y_up = np.stack([bounds[:, 0], bounds[:, 2], -bounds[:, 1]], -1)  # glTF's frame
    np.testing.assert_allclose(scene.bounds, [y_up.min(0), y_up.max(0)], atol=1e-5)
    factors = [np.array(g.visual.material.baseColorFactor)[:3] / 255 for g in scene.geometry.values()]
    for name in ("cyan", "orange"):
        expected = linear_from_srgb(np.array(COLORS[name]))
        assert min(np.abs(factor - expected).max() for factor in factors) < 0.01


def test_the_card_says_all_that_is_needed_to_make_the_toy_again(tmp_path):
    asset = sample_asset(3, held_out=True)
    write_asset(asset, tmp_path)
    card = json.loads((tmp_path / f"{asset.uid}.json").read_text())
    assert card == asset_record(asset)
    assert Asset(card["kind"], tuple(tuple(pair) for pair in card["colors"]), card["seed"], card["finish"]) == asset
    assert card["licence"] == "CC0-1.0" and card["held_out"] is True and card["captions"][0] == asset.captions[0]


def test_a_group_is_written_like_a_toy_and_its_card_names_its_things(tmp_path):
    group = sample_group(5)
    assert write_asset(group, tmp_path) and not write_asset(group, tmp_path)
    card = json.loads((tmp_path / f"{group.uid}.json").read_text())
    things = tuple(Asset(t["kind"], tuple(tuple(p) for p in t["colors"]), 5, t["finish"]) for t in card["things"])
    assert Group(things, tuple(card["relations"]), card["seed"]) == group
    assert len(load_mesh(tmp_path / f"{group.uid}.glb").faces) == len(group.mesh().faces)


def test_a_second_run_skips_what_is_complete_and_makes_what_is_missing(tmp_path):
    seen = []
    first = write_assets(tmp_path, count=4, seed=10, progress=lambda done, total: seen.append((done, total)))
    assert (first.written, first.skipped, first.failures) == (4, 0, ()) and seen[-1] == (4, 4)
    assert len(list(tmp_path.iterdir())) == 8
    victim = tmp_path / f"{sample_toy(12).uid}.json"
    victim.unlink()
    again = write_assets(tmp_path, count=4, seed=10)
    assert (again.written, again.skipped) == (1, 3) and victim.is_file()


def test_held_out_assets_are_written_only_on_request(tmp_path):
    write_assets(tmp_path / "train", count=3)
    write_assets(tmp_path / "test", count=3, held_out=True)
    held = {f.name: json.loads(f.read_text())["held_out"] for f in tmp_path.glob("*/*.json")}
    assert all(json.loads(f.read_text())["held_out"] is False for f in (tmp_path / "train").glob("*.json"))
    assert sum(held.values()) == 3


def test_a_failing_asset_is_named_and_the_rest_are_written(tmp_path, monkeypatch):
    genuine = module.sample_toy

    def fragile(seed: int, *, held_out: bool = False) -> Asset | Group:
        if seed == 1:
            raise RuntimeError("out of clay")
        return genuine(seed, held_out=held_out)

    monkeypatch.setattr(module, "sample_toy", fragile)
    report = write_assets(tmp_path, count=3)
    assert report.written == 2 and report.failures == ((1, "RuntimeError: out of clay"),)
    assert "1 failed" in str(report) and "seed 1: RuntimeError: out of clay" in str(report)
    assert len(list(tmp_path.iterdir())) == 4


def test_an_interrupted_write_leaves_no_file_under_the_final_name(tmp_path, monkeypatch):
    def interrupt(asset: Asset) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "asset_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_assets(tmp_path, count=1)
    assert [f.suffix for f in tmp_path.iterdir()] == [".glb"]
    monkeypatch.undo()
    assert write_assets(tmp_path, count=1).written == 1


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2)
    one, two = (write_assets(tmp_path / str(n), count=4, workers=n) for n in (1, 2))
    assert one.written == two.written == 4
    for path in sorted((tmp_path / "1").iterdir()):
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_numbers_out_of_range_and_a_file_in_the_way_are_refused(tmp_path):
    for wrong in ({"count": 0}, {"count": 1, "seed": -1}, {"count": 1, "workers": 0}):
        with pytest.raises(InputError, match="must be"):
            write_assets(tmp_path, **wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        write_assets(tmp_path / "file", count=1)


def test_a_full_disk_ends_the_run_at_once(tmp_path, monkeypatch):
    calls = []

    def full(asset, folder):
        calls.append(asset)
        raise OutputError("`x` cannot be written: no space left on device.")

    monkeypatch.setattr(module, "write_asset", full)
    with pytest.raises(OutputError, match="no space"):
        write_assets(tmp_path, count=5)
    assert len(calls) == 1
