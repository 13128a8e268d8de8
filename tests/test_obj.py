"""OBJ and MTL as other programs write them, and PLY of every kind, on files made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from viewfold.data.render import RenderSettings, render_assets
from viewfold.errors import AssetError
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.polygon import triangulate

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def load(tmp_path: Path, text: str, mtl: str | None = None):
    (tmp_path / "a.obj").write_text(text)
    if mtl is not None:
        (tmp_path / "a.mtl").write_text(mtl)
    return load_mesh(tmp_path / "a.obj")


def area(mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum() / 2)


def test_a_hollow_polygon_keeps_its_notch() -> None:
    """An L of six corners, both ways round, tilted: ears give its area, a fan gives more."""
    flat = np.array([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]], float)
    for start in range(6):
        for way in (1, -1):
            around = np.roll(flat, start, axis=0)[::way]
            points = np.concatenate([around, around[:, :1] * 0.5], axis=1)
            corners, owner = triangulate(points, np.arange(6)[None])
            a, b, c = points[corners].transpose(1, 0, 2)
            normal = np.cross(b - a, c - a)
            assert len(corners) == 4 and (owner == 0).all()
            assert np.linalg.norm(normal, axis=1).sum() / 2 == pytest.approx(3 * np.sqrt(1.25))
            assert np.sign(normal[:, 2]).tolist() == [way] * 4


def test_a_small_hollow_polygon_far_from_the_origin_keeps_its_notch() -> None:
    """Millimetres at 500 km: products of the coordinates themselves hold less than the polygon's area."""
    flat = np.array([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]], float) * 1e-3
    for start in range(6):
        points = np.pad(np.roll(flat, start, axis=0), ((0, 0), (0, 1))) + [5e5, 5e5, 5e5]
        a, b, c = points[triangulate(points, np.arange(6)[None])[0]].transpose(1, 0, 2)
        assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(3e-6, rel=1e-4)


def test_a_ring_joined_by_a_bridge_keeps_its_hole(tmp_path: Path) -> None:
    points = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)]
    text = "".join(f"v {x} {y} 0\n" for x, y in points) + "f " + " ".join(map(str, range(1, 11))) + "\n"
    assert area(load(tmp_path, text)) == pytest.approx(12)


def test_all_forms_of_a_corner_and_indices_from_behind(tmp_path: Path) -> None:
    for face in ("f 1 2 3 4", "f 1/1 2/1 3/1 4/1", "f 1//1 2//1 3//1 4//1", "f 1/1/1 2/1/1 3/1/1 4/1/1",
                 "f -4 -3 -2 -1", "f 1/1 2 3//1 4/1/1", "f 1 2 \\\n 3 4", "\tf 1 2 3 4 # a square"):  # fmt: skip
        mesh = load(tmp_path, f"\ufeff# by hand\r\n{SQUARE}vt 0 0\nvn 0 0 1\nl 1 2\n{face}\r\n")
        assert len(mesh.faces) == 2 and area(mesh) == pytest.approx(1), face


def test_vertex_colours_with_coordinates_and_in_bytes(tmp_path: Path) -> None:
    for red in ("1 0 0", "255 0 0"):
        rows = "".join(f"v {x} {y} 0 {red}\n" for x, y in ((0, 0), (1, 0), (1, 1)))
        mesh = load(tmp_path, rows + "vt 0 0\nvt 1 0\nvt 1 1\nf 1/1 2/2 3/3\n")
        assert mesh.vertex_color.tolist() == [[1.0, 0.0, 0.0]] * 3


def test_a_seventh_number_is_alpha_and_zbrush_paints_in_comments(tmp_path: Path) -> None:
    rows = "".join(f"v {x} {y} 0 1 0 0.5 1\n" for x, y in ((0, 0), (1, 0), (1, 1)))
    assert load(tmp_path, rows + "f 1 2 3\n").vertex_color.tolist() == [[1.0, 0.0, 0.5]] * 3
    painted = SQUARE + "#MRGB ffff0000ff00ff00\n#MRGB ff0000ffffffffff\nf 1 2 3 4\n"
    colors = load(tmp_path, painted).vertex_color.tolist()
    assert sorted(colors) == sorted([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 1.0]])
    with pytest.raises(AssetError, match="3 for 4 vertices"):
        load(tmp_path, painted.replace("ffffffff", ""))


def test_corners_of_several_forms_in_one_face(tmp_path: Path) -> None:
    """As many slashes as corners, yet not one each."""
    mesh = load(tmp_path, SQUARE + "vt 0 0\nvt 1 0\nvn 0 0 1\nf 1/1/1 2/2 3\n")
    assert area(mesh) == pytest.approx(0.5)


def test_a_library_with_a_byte_order_mark_and_lines_that_go_on(tmp_path: Path) -> None:
    text = f"mtllib a.mtl\n{SQUARE}usemtl x\nf 1 2 \\ \n3\n"
    assert load(tmp_path, text, "\ufeffnewmtl x\nKd 1 \\\n 0 0\n").materials[0].color == (1.0, 0.0, 0.0)


def test_what_lies_far_from_the_origin_keeps_its_form(tmp_path: Path) -> None:
    rows = "".join(f"v {500000 + x / 1000} 0 {-4500000 + y / 1000}\n" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1)))
    mesh = load(tmp_path, rows + "f 1 2 3 4\n")
    assert area(mesh) == pytest.approx(1e-6, rel=1e-3) and float(mesh.vertices.abs().max()) < 1e-3


@pytest.mark.parametrize("name", [
    "tex.png", "-s 2 3 1 -o 0.5 0 0 -clamp on tex.png", "sub\\tex.png", "C:\\Users\\me\\Tex.PNG", "/elsewhere/tex.png",
    "-bm 1 my tex.png",
])  # fmt: skip
def test_textures_are_found_however_they_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for path in ("tex.png", "sub/tex.png", "my tex.png"):
        Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / path)
    mesh = load(tmp_path, f"mtllib a.mtl\n{SQUARE}vt 0 0\nvt 1 0\nvt 1 1\nusemtl x\nf 1/1 2/2 3/3\n",
                f"newmtl x\nKd 0 0 0\nmap_Kd {name}\n")  # fmt: skip
    material = mesh.materials[0]
    assert material.texture.image[0, 0].tolist() == [1.0, 0.0, 0.0] and material.color == (1.0, 1.0, 1.0)
    clamped = "-clamp" in name
    assert material.texture.wrap == (("clamp", "clamp") if clamped else ("repeat", "repeat"))
    assert mesh.uv.amax(0).tolist() == ([2.5, 3.0] if clamped else [1.0, 1.0])


def test_several_libraries_names_with_spaces_and_what_is_missing(tmp_path: Path) -> None:
    text = f"mtllib gone.mtl\nmtllib a.mtl\n{SQUARE}usemtl dark red\nf 1 2 3\n"
    assert load(tmp_path, text, "newmtl dark red\nKd 0.5 0 0\n").materials[0].color == (0.5, 0.0, 0.0)
    with pytest.raises(AssetError, match=r"materials \(other\) are in `gone.mtl`, which is not there"):
        load(tmp_path, text.replace("dark red", "other"))
    with pytest.raises(AssetError, match="texture `gone.png`, which is not there"):
        load(tmp_path, text, "newmtl dark red\nmap_Kd gone.png\n")


def test_glass_holes_and_light(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[9, 9, 9, 255], [9, 9, 9, 0]]], np.uint8)).save(tmp_path / "leaf.png")
    Image.fromarray(np.full((1, 2, 4), 128, np.uint8)).save(tmp_path / "fog.png")
    mtl = (
        "newmtl a\nd 0.25\nnewmtl b\nTr 0.75\nnewmtl c\nmap_Kd leaf.png\nnewmtl e\nmap_Kd fog.png\nnewmtl f\nKe 1 0 0\n"
    )
    faces = "".join(f"usemtl {name}\nf 1/1 2/1 3/1\n" for name in "abcef")
    a, b, leaf, fog, lamp = load(tmp_path, f"mtllib a.mtl\n{SQUARE}vt 0 0\n{faces}", mtl).materials
    assert [(m.opacity, m.alpha_mode) for m in (a, b)] == [(0.25, "blend")] * 2
    assert (leaf.alpha_mode, fog.alpha_mode, lamp.emission) == ("mask", "blend", (1.0, 0.0, 0.0))


@pytest.mark.parametrize(("text", "message"), [
    ("v 0 0 0\n", "at least one face"),
    (SQUARE + "f 1 2 9\n", "vertex 9 of 4"),
    (SQUARE + "f 1 2 x\n", "no index"),
    (SQUARE + "f 0 1 2\n", "vertex 0 of 4"),
    ("v 0 0 nan\nv 1 0 0\nv 1 1 0\nf 1 2 3\n", "NaN or infinity"),
    ("v 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 3\n", "holds 2 numbers"),
    (SQUARE + "curv 0 1 1 2\nf 1 2 3\n", "`curv`, which is not read"),
])  # fmt: skip
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=message):
        load(tmp_path, text)


def ply(tmp_path: Path, header: str, body: bytes):
    (tmp_path / "a.ply").write_bytes(f"ply\n{header}end_header\n".encode() + body)
    return load_mesh(tmp_path / "a.ply")


@pytest.mark.parametrize(("kind", "order"), [("ascii", ""), ("binary_little_endian", "<"), ("binary_big_endian", ">")])
@pytest.mark.parametrize(
    ("color", "dtype", "most"), [("uchar", "u1", 255), ("ushort", "u2", 65535), ("float", "f4", 1)]
)
def test_a_ply_of_every_order_and_colours_of_every_width(
    kind: str, order: str, color: str, dtype: str, most: int, tmp_path: Path
) -> None:
    header = (f"format {kind} 1.0\nelement vertex 5\nproperty double x\nproperty float y\nproperty float z\n"
              f"property {color} red\nproperty {color} green\nproperty {color} blue\n"
              "element face 2\nproperty list uchar int vertex_indices\n")  # fmt: skip
    points = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (2, 0, 0)]
    channels = (most, most // 2 if most > 1 else 0.5, 0)
    faces = [(4, 0, 1, 2, 3), (3, 1, 4, 2)]
    if not order:
        rows = [f"{x} {y} {z} {channels[0]} {channels[1]} {channels[2]}" for x, y, z in points]
        body = "\n".join([*rows, *(" ".join(map(str, face)) for face in faces)]).encode()
    else:
        vertex = np.dtype([("x", order + "f8"), ("yz", order + "f4", 2), ("c", order + dtype, 3)])
        body = np.array([(x, (y, z), channels) for x, y, z in points], vertex).tobytes()
        body += b"".join(bytes([n]) + np.array(corners, order + "i4").tobytes() for n, *corners in faces)
    mesh = ply(tmp_path, header, body)
    assert len(mesh.faces) == 3 and area(mesh) == pytest.approx(1.5)
    torch.testing.assert_close(mesh.vertex_color[0], torch.tensor([1.0, 0.5, 0.0]), atol=3e-3, rtol=0)


def test_a_ply_of_points_is_refused_and_one_with_a_texture_at_its_corners_is_read(tmp_path: Path) -> None:
    vertices = "format ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    with pytest.raises(AssetError, match="points alone"):
        ply(tmp_path, vertices, b"0 0 0\n1 0 0\n1 1 0\n")
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "t.png")
    header = vertices.replace("1.0\n", "1.0\ncomment TextureFile t.png\n", 1)
    header += "element face 1\nproperty list uchar int vertex_indices\nproperty list uchar float texcoord\n"
    mesh = ply(tmp_path, header, b"0 0 0\n1 0 0\n1 1 0\n3 0 1 2 6 0 0 1 0 1 1\n")
    assert mesh.uv[mesh.faces[0]].tolist() == [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]] and mesh.materials[0].texture


def test_a_material_that_no_library_holds_is_white_and_said_and_none_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    text = f"mtllib a.mtl\n{SQUARE}usemtl red\nf 1 2 3\nusemtl glass\nf 1 3 4\nusemtl (null)\nf 1 2 4\n"
    (tmp_path / "a.obj").write_text(text)
    with pytest.warns(UserWarning, match=r"a.obj`: no library of it holds its materials glass, which are white"):
        mesh = load_mesh(tmp_path / "a.obj")
    assert sorted(material.color for material in mesh.materials) == [(1.0, 0.0, 0.0), (1.0, 1.0, 1.0)]
    report = render_assets(tmp_path, tmp_path / "out", settings=RenderSettings(size=16, orbits=1, views=1))
    assert report.failed == [] and len(report.remarks) == 1 and report.remarks[0].startswith("`a.obj`: no library")
    assert str(tmp_path) not in (tmp_path / "out" / "a" / "meta.json").read_text(), "what is published knows no paths"
