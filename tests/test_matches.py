"""Key points of neighbouring views: on textured things true views agree and damaged ones do not; lines by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.cli.measuring import in_words
from viewfold.errors import InputError, MissingExtraError
from viewfold.evaluation.consistency import find_coverage
from viewfold.evaluation.damage import turned
from viewfold.evaluation.matches import LEAST_PX, epipolar_distance, match, measure_matches
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

CAMERAS = Cameras.orbit(12, elevation_deg=15)[[0, 1, 2]]


@pytest.fixture(scope="module")
def speckled() -> Mesh:
    """A ball with specks: something to recognise everywhere."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.42)
    generator = torch.Generator().manual_seed(0)
    return Mesh(
        vertices=torch.tensor(ball.vertices, dtype=torch.float32),
        faces=torch.tensor(ball.faces, dtype=torch.int64),
        vertex_color=torch.rand(len(ball.vertices), 3, generator=generator),
    )


def drawn(mesh: Mesh, cameras: Cameras = CAMERAS) -> Tensor:
    return rasterize(mesh, cameras, size=LEAST_PX).over(0.5)


def test_true_views_of_a_textured_thing_agree_and_damaged_ones_do_not(speckled: Mesh) -> None:
    pytest.importorskip("pycolmap")
    true = drawn(speckled)
    covers = torch.ones_like(true[:, :1])
    found = measure_matches(true, CAMERAS, coverage=covers)
    assert (found.pairs, found.with_matches) == (2, 2) and found.agreeing == 1.0 and found.matches > 50
    assert found.median_px is not None and found.median_px < 1.0
    moved = true.clone()
    moved[1] = true[1].roll(8, dims=-2)
    off = measure_matches(moved, CAMERAS, coverage=covers)
    assert off.median_px is not None and off.median_px > 3 and off.agreeing == 0.0
    wrong = measure_matches(drawn(speckled, turned(CAMERAS, azimuth_deg=0.0)).flip(0), CAMERAS, coverage=covers)
    assert wrong.agreeing < 1.0, "first and last exchanged"
    plain = Mesh(vertices=speckled.vertices, faces=speckled.faces)
    bare = measure_matches(drawn(plain), CAMERAS, coverage=covers)
    assert bare.with_matches == 0 and bare.median_px is None and bare.agreeing == 0.0
    beside = measure_matches(true, CAMERAS, coverage=0 * covers)
    assert beside.matches == 0, "key points beside the object are left out"


def test_pictures_without_a_key_point_have_no_matches_and_no_verdict() -> None:
    pytest.importorskip("pycolmap")
    flat = torch.full((3, 3, LEAST_PX, LEAST_PX), 0.5)
    found = measure_matches(flat, CAMERAS, coverage=torch.ones_like(flat[:, :1]))
    assert (found.matches, found.with_matches, found.median_px, found.agreeing) == (0.0, 0, None, 0.0)


def test_the_command_matches_key_points_when_asked(
    speckled: Mesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycolmap")
    Views(rgb=drawn(speckled), cameras=CAMERAS).save(tmp_path / "large", turntable=False)
    assert main(["evaluate", str(tmp_path / "large"), "--matches", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["matches"]["agreeing"] == 1.0 and "key points    2 of 2 pairs agree" in in_words(record)


def test_small_pictures_and_a_missing_package_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = torch.full((3, 3, 64, 64), 0.5)
    Views(rgb=small, cameras=CAMERAS).save(tmp_path / "small", turntable=False)
    assert main(["evaluate", str(tmp_path / "small"), "--matches"]) == 3
    assert "512 pixels or more" in capsys.readouterr().err
    with pytest.raises(InputError, match="two or more; got 1"):
        measure_matches(small[:1], CAMERAS[[0]], coverage=small[:1, :1])
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    large = torch.full((3, 3, LEAST_PX, LEAST_PX), 0.5)
    with pytest.raises(MissingExtraError, match=r"viewfold\[matches\]"):
        measure_matches(large, CAMERAS, coverage=find_coverage(large))


def test_points_of_the_world_lie_on_each_others_lines_and_moved_ones_do_not() -> None:
    points = torch.tensor([[0.1, -0.2, 0.3], [-0.3, 0.1, 0.0], [0.2, 0.2, -0.25]])
    pair = CAMERAS[[0, 2]]
    seen, _ = pair.project(points)
    assert float(epipolar_distance(pair, seen[0], seen[1]).max()) < 0.01
    up = seen.clone()
    up[1, :, 1] += 10 / 256  # ten pixels of 512, across the lines of cameras side by side
    off = epipolar_distance(pair, up[0], up[1])
    assert off.tolist() == pytest.approx([10.0] * 3, rel=0.15)
    both = epipolar_distance(pair[[1, 0]], up[1], up[0])
    assert both.tolist() == pytest.approx(off.tolist(), rel=1e-4), "either way round"


def test_matches_are_mutual_and_clear() -> None:
    one = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    other = torch.tensor([[1.05, 0.0], [0.0, 0.1], [9.0, 9.0], [5.0, 5.9], [5.9, 5.0]])
    assert match(one, other).tolist() == [[0, 1], [1, 0]], "the third has two that are as near"
    assert match(one[:1], other).tolist() == [] and match(one, other[:1]).tolist() == []
    assert match(torch.tensor([[0.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.0, 0.0], [5.0, 5.0]])).tolist() == [[0, 0]]
