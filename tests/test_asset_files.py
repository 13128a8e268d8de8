"""The files of one asset: which they are, how they are called, how it stands, and that they are of one asset alone."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_export import cube, read_glb, read_obj

from viewfold.camera import Cameras
from viewfold.cli import main
from viewfold.errors import InputError, OutputError
from viewfold.lifting import check
from viewfold.lifting.asset import Asset3D, check_place
from viewfold.scene.export import part_name, save_mesh
from viewfold.scene.gaussian.splatfile import read_splats
from viewfold.scene.gaussians import GaussianSettings
from viewfold.scene.grid import GridField
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.obj_writer import companions
from viewfold.scene.standing import Standing
from viewfold.views import Views


def pictured(value: float, number: int) -> Mesh:
    """A box of so many materials, each with a texture of one grey."""
    box = cube((1.0, 1.0, 1.0), (0.1, -0.1, 0.2))
    materials = tuple(Material(texture=Texture(image=torch.full((2, 2, 3), value))) for _ in range(number))
    return replace(box, uv=torch.rand(8, 2), face_material=torch.arange(len(box.faces)) % number, materials=materials)


def asset(value: float = 0.5, *, number: int = 2, prompt: str = "a Red mug, old") -> Asset3D:
    views = Views(rgb=torch.rand(1, 3, 8, 8), cameras=Cameras.orbit(1))
    mesh = pictured(value, number)
    return Asset3D(mesh=mesh, representation=GridField(resolution=4), views=views, prompt=prompt, report={"seed": 1})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Sets -----------------------------------------------------------------------------------------------------------------


def test_over_an_older_set_nothing_of_it_is_left_and_of_others_all(tmp_path: Path) -> None:
    asset(0.5, number=3).save(tmp_path / "mug.obj")
    older = {"mug.obj", "mug.mtl", "mug_0.png", "mug_1.png", "mug_2.png", "mug.webp", "mug.json"}
    assert contents(tmp_path).keys() == older
    for name in ("mug_7.png", "mugs.webp", "mug.txt"):
        (tmp_path / name).write_text("somebody else's")
    asset(0.7, number=1).save(tmp_path / "mug.obj", turntable=False)
    others = {"mug_7.png", "mugs.webp", "mug.txt"}
    assert contents(tmp_path).keys() == {"mug.obj", "mug.mtl", "mug_0.png", "mug.json"} | others
    report = json.loads((tmp_path / "mug.json").read_text())
    assert (report["prompt"], report["turntable"], report["seed"]) == ("a Red mug, old", None, 1)


def test_a_turntable_that_no_report_names_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mug.webp").write_text("somebody else's")
    (tmp_path / "mug.json").write_text('{"turntable": "../mug.webp"}')
    asset().save(tmp_path / "mug.glb", turntable=False)
    assert (tmp_path / "mug.webp").read_text() == "somebody else's"


def test_a_mesh_alone_takes_the_pictures_of_the_one_before_with_it(tmp_path: Path) -> None:
    save_mesh(pictured(0.5, 3), tmp_path / "my mug.obj")
    assert companions(tmp_path / "my mug.obj") == ("my_mug.mtl", "my_mug_0.png", "my_mug_1.png", "my_mug_2.png")
    save_mesh(pictured(0.5, 1), tmp_path / "my mug.obj")
    assert contents(tmp_path).keys() == {"my mug.obj", "my_mug.mtl", "my_mug_0.png"}
    colored = replace(cube((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), vertex_color=torch.rand(8, 3))
    save_mesh(colored, tmp_path / "my mug.obj")
    assert contents(tmp_path).keys() == {"my mug.obj"}


def test_files_that_somebody_elses_obj_names_are_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "mug.obj").write_text("mtllib shared.mtl\nmtllib mug.mtl\n")
    (tmp_path / "mug.mtl").write_text("newmtl a\nmap_Kd wood.png\nmap_Kd ../mug_0.png\nmap_Ke mug_1_glow.png\n")
    assert companions(tmp_path / "mug.obj") == ("mug.mtl", "mug_1_glow.png")
    assert companions(tmp_path / "none.obj") == ()


@pytest.mark.parametrize("suffix", [".obj", ".glb"])
def test_a_rename_that_fails_leaves_the_older_set_whole(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset(0.5, number=3).save(tmp_path / f"mug{suffix}")
    before, real = contents(tmp_path), os.replace
    for failing in {path.name for path in tmp_path.iterdir()} - {"mug_1.png", "mug_2.png"}:

        def replace_but(*paths: Any, failing: str = failing) -> None:
            if Path(paths[1]) == tmp_path / failing and Path(paths[0]).parent.name == "ready":
                raise OSError(errno.ENOSPC, "as a test says")
            real(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_but)
            with pytest.raises(OutputError, match=r"mug.* cannot be written: no space left"):
                asset(0.7, number=1).save(tmp_path / f"mug{suffix}")
        assert contents(tmp_path) == before


def test_what_cannot_be_drawn_or_written_leaves_the_older_set_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset().save(tmp_path / "mug.glb")
    before = contents(tmp_path)
    monkeypatch.setattr(Asset3D, "_save_turntable", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asset(0.7).save(tmp_path / "mug.glb")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("place", ["mug.glb", "mug.webp", "mug.json"])
def test_a_place_that_is_taken_is_refused_before_the_work(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir()
    with pytest.raises(OutputError, match=rf"{place}` cannot be written: it is a folder"):
        check_place(tmp_path / "mug.glb")
    check_place(tmp_path / "other" / "mug.glb")


def test_before_the_work_a_set_that_was_killed_half_way_is_completed(tmp_path: Path) -> None:
    asset(0.5).save(tmp_path / "mug.glb")
    child = os.fork()
    if not child:
        real = os.replace
        os.replace = lambda *p: os.kill(os.getpid(), 9) if str(p[1]) == str(tmp_path / "mug.glb") else real(*p)
        asset(0.9).save(tmp_path / "mug.glb")
        os._exit(0)
    os.waitpid(child, 0)
    check_place(tmp_path / "mug.glb")
    image = load_mesh(tmp_path / "mug.glb").materials[0].texture
    assert image is not None and float(image.image.mean()) == pytest.approx(0.9, abs=0.01)
    assert contents(tmp_path).keys() == {"mug.glb", "mug.webp", "mug.json"}


# Names ----------------------------------------------------------------------------------------------------------------


def test_parts_and_materials_are_called_after_the_prompt(tmp_path: Path) -> None:
    tree, _ = read_glb(asset().save(tmp_path / "x.glb"))
    assert tree["nodes"][0]["name"] == tree["meshes"][0]["name"] == "a_Red_mug_old"
    assert [material["name"] for material in tree["materials"]] == ["a_Red_mug_old_0", "a_Red_mug_old_1"]
    lines = read_obj(asset().save(tmp_path / "x.obj"))
    assert lines["o"] == [["a_Red_mug_old"]] and lines["usemtl"] == [["a_Red_mug_old_0"], ["a_Red_mug_old_1"]]
    assert "newmtl a_Red_mug_old_1\n" in (tmp_path / "x.mtl").read_text()
    assert len(load_mesh(tmp_path / "x.obj").materials) == 2
    assert read_obj(save_mesh(pictured(0.5, 1), tmp_path / "two words.obj"))["o"] == [["two_words"]]


def test_names_are_plain_words_of_any_alphabet() -> None:
    asked = ["a red mug", "../a\nb\\c", "кружка 茶", "!!", "x" * 60 + " y", "ab" * 23 + "a b"]
    assert [part_name(name) for name in asked] == ["a_red_mug", "a_b_c", "кружка_茶", "mesh", "x" * 48, "ab" * 23 + "a"]


def test_a_name_of_any_alphabet_is_read_again(tmp_path: Path) -> None:
    for suffix in (".obj", ".glb"):
        assert len(load_mesh(save_mesh(pictured(0.5, 2), tmp_path / f"x{suffix}", name="кружка 茶")).faces) == 12


# Size and place -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_every_kind_of_file_stands_as_asked(suffix: str, tmp_path: Path) -> None:
    import trimesh

    standing = Standing(height=0.12, origin="base")
    path = replace(asset(), standing=standing).save(tmp_path / f"mug{suffix}", turntable=False)
    bounds = trimesh.load_scene(path).bounds * (0.001 if suffix == ".stl" else 1)
    expected = [[-0.06, -0.06, 0.0], [0.06, 0.06, 0.12]]
    if suffix in (".glb", ".obj"):  # y up
        expected = [[-0.06, 0.0, -0.06], [0.06, 0.12, 0.06]]
    assert bounds == pytest.approx(torch.tensor(expected).numpy(), abs=1e-5)


@pytest.mark.slow
def test_the_figures_of_a_report_are_of_the_file_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thing that is exported in another size measures the same, because its file is brought back before; one whose
    file stands elsewhere than it should measures badly."""
    grid = GridField(resolution=24, blob_radius=0.3)
    box = grid.to_mesh(resolution=24, max_faces=500).mesh
    asked = {"ground": torch.tensor([0.5, 0.5, 0.5]), "lens": (40.0, 1.7)}
    plain = check.measure_export(box, grid, **asked)
    tall = check.measure_export(box, grid, **asked, standing=Standing(height=2.5, origin="base"))
    assert plain["silhouette_iou"] > 0.9
    assert tall == pytest.approx(plain, abs=0.02)
    monkeypatch.setattr(check, "save_mesh", lambda mesh, path: save_mesh(box, path))
    wrong = check.measure_export(box, grid, **asked, standing=Standing(height=2.5, origin="base"))
    assert wrong["silhouette_iou"] < 0.5


def test_the_command_line_refuses_what_cannot_stand_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lift", "a mug", "--height", "-1", "--model", "nowhere", "--out", str(tmp_path / "a.glb")]) == 2
    assert "`--height` must be a positive number of metres; got -1" in capsys.readouterr().err
    assert main(["lift", "a mug", "--model", "nowhere", "--out", str(tmp_path / "a.fbx")]) == 2
    assert ".glb, .obj, .ply, .stl, .usdz; got 'a.fbx'" in capsys.readouterr().err


# Splats ---------------------------------------------------------------------------------------------------------------


def made_of_gaussians(prompt: str = "a mug") -> Asset3D:
    def solid(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (points.norm(dim=-1) < 0.3).float(), torch.full_like(points, 0.7)

    return replace(asset(prompt=prompt), representation=GaussianSettings(resolution=12).begin(solid))


def test_splats_belong_to_the_set_and_stand_as_the_mesh_does(tmp_path: Path) -> None:
    path = tmp_path / "mug.glb"
    made = made_of_gaussians()
    made.save(path, splats=True)
    assert contents(tmp_path).keys() == {"mug.glb", "mug.webp", "mug.json", "mug.splats.ply"}
    assert json.loads((tmp_path / "mug.json").read_text())["splats"] == "mug.splats.ply"
    before = read_splats(tmp_path / "mug.splats.ply")
    torch.testing.assert_close(before.mean, made.representation.export().mean)
    replace(made, standing=Standing(height=2.0, origin="base")).save(path, splats=True)
    after = read_splats(tmp_path / "mug.splats.ply")
    matrix = Standing(height=2.0, origin="base").matrix(made.mesh).float()
    torch.testing.assert_close(after.mean, before.mean @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-5, rtol=0)
    torch.testing.assert_close(after.log_scale - before.log_scale, torch.full_like(before.mean, matrix[0, 0].log()))
    made.save(path)
    assert contents(tmp_path).keys() == {"mug.glb", "mug.webp", "mug.json"}, "those of before go with their set"


def test_splats_of_what_has_none_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`splats` must be left out for what is made of none"):
        asset().save(tmp_path / "mug.glb", splats=True)
    with pytest.raises(InputError, match="`splats` must come with a mesh"):
        made_of_gaussians().save(tmp_path / "mug.webp", splats=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mug.splats.ply").mkdir()
    with pytest.raises(OutputError, match="mug.splats.ply"):
        check_place(tmp_path / "mug.glb", splats=True)
