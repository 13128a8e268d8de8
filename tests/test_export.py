"""Files of meshes: round trips, glTF's rules checked by hand, nothing half-written."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import InputError, OutputError
from viewfold.scene.export import save_mesh
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.vertex import split_normals, to_vertex_colors

CUBE_FACES = [
    [0, 2, 1],
    [1, 2, 3],
    [4, 5, 6],
    [5, 7, 6],
    [0, 1, 4],
    [1, 5, 4],
    [2, 6, 3],
    [3, 6, 7],
    [0, 4, 2],
    [2, 4, 6],
]
CUBE_FACES += [[1, 3, 5], [3, 7, 5]]
COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
DTYPES = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}


def cube(color: tuple[float, float, float], center: tuple[float, float, float]) -> Mesh:
    """A cube of side 0.3, its faces outward."""
    corners = torch.tensor([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)]) * 0.3 - 0.15
    return Mesh(
        vertices=corners + torch.tensor(center), faces=torch.tensor(CUBE_FACES), materials=(Material(color=color),)
    )


@pytest.fixture
def plain() -> Mesh:
    """Two materials, nothing symmetric: red in front and low, blue behind and high."""
    return Mesh.cat([cube((0.8, 0.1, 0.2), (-0.1, -0.3, -0.2)), cube((0.1, 0.3, 0.9), (0.2, 0.2, 0.3))])


@pytest.fixture
def textured() -> Mesh:
    """A square that faces -y, with four colours on it, beside a plain cube."""
    texture = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]], [[0, 0, 1.0], [1.0, 1.0, 0]]])
    texture = texture.repeat_interleave(8, 0).repeat_interleave(8, 1)
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    square = Mesh(
        vertices=torch.stack([corner[:, 0] * 0.5 - 0.4, torch.full((4,), -0.25), corner[:, 1] * 0.5 - 0.2], dim=1),
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uv=corner,
        materials=(Material(texture=Texture(image=texture), roughness=0.9),),
    )
    return Mesh.cat([cube((0.9, 0.5, 0.1), (0.3, 0.0, 0.0)), square])


@pytest.fixture
def colored(plain: Mesh) -> Mesh:
    """Colours at the vertices, a gradient along z."""
    return to_vertex_colors(plain)


def draw(mesh: Mesh) -> torch.Tensor:
    cameras = Cameras.at(elevation_deg=25.0, azimuth_deg=[20.0, 140.0, 260.0])
    return rasterize(mesh, cameras, size=32, light=None).over(0.5)


def read_glb(path: Path) -> tuple[dict[str, Any], bytes]:
    """Take a GLB apart by the rules of glTF 2.0, section 4.4 (binary container)."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    tree = json.loads(data[20 : 20 + size])
    binary_size, kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    assert kind == b"BIN\0" and binary_size % 4 == 0 and 28 + size + binary_size == len(data)
    assert 0 <= binary_size - tree["buffers"][0]["byteLength"] < 4
    return tree, data[28 + size :]


def read_accessor(tree: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    accessor = tree["accessors"][index]
    view = tree["bufferViews"][accessor["bufferView"]]
    dtype, width = np.dtype(DTYPES[accessor["componentType"]]), COMPONENTS[accessor["type"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    assert start % dtype.itemsize == 0
    assert accessor.get("byteOffset", 0) + accessor["count"] * width * dtype.itemsize <= view["byteLength"]
    values = np.frombuffer(binary, dtype, accessor["count"] * width, start).reshape(-1, width)
    if "min" in accessor:
        np.testing.assert_array_equal(values.min(0), np.array(accessor["min"], dtype))
        np.testing.assert_array_equal(values.max(0), np.array(accessor["max"], dtype))
    return values


@pytest.mark.parametrize("kind", ["plain", "textured", "colored"])
@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_a_saved_mesh_loads_and_looks_the_same(
    kind: str, suffix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mesh: Mesh = request.getfixturevalue(kind)
    path = save_mesh(mesh, tmp_path / f"thing{suffix}")
    loaded = load_mesh(path)
    corners, wanted = loaded.vertices[loaded.faces].flatten(0, 1), mesh.vertices[mesh.faces].flatten(0, 1)
    torch.testing.assert_close(corners.amin(0), wanted.amin(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(corners.amax(0), wanted.amax(0), atol=1e-5, rtol=0)
    assert len(loaded.faces) == len(mesh.faces)
    if (kind, suffix) == ("textured", ".ply"):
        return  # four colours at four corners cannot hold a picture; their average is tested below
    torch.testing.assert_close(draw(loaded), draw(mesh), atol=0.012, rtol=0)


@pytest.mark.parametrize("kind", ["plain", "textured", "colored"])
def test_a_glb_keeps_the_rules_of_gltf(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    mesh: Mesh = request.getfixturevalue(kind)
    tree, binary = read_glb(save_mesh(mesh, tmp_path / "thing.glb"))
    assert tree["asset"]["version"] == "2.0"
    n_faces = 0
    for part in tree["meshes"]:
        for primitive in part["primitives"]:
            attributes = {name: read_accessor(tree, binary, i) for name, i in primitive["attributes"].items()}
            assert "min" in tree["accessors"][primitive["attributes"]["POSITION"]]
            np.testing.assert_allclose(np.linalg.norm(attributes["NORMAL"], axis=1), 1, atol=1e-5)
            indices = read_accessor(tree, binary, primitive["indices"])[:, 0]
            assert len(indices) % 3 == 0 and int(indices.max()) < len(attributes["POSITION"])
            n_faces += len(indices) // 3
            material = tree["materials"][primitive["material"]]
            assert material["doubleSided"] is True
            assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
            assert ("baseColorTexture" in material["pbrMetallicRoughness"]) == ("TEXCOORD_0" in attributes)
    assert n_faces == len(mesh.faces)
    for image in tree.get("images", []):
        view = tree["bufferViews"][image["bufferView"]]
        assert binary[view["byteOffset"] :][:8] == b"\x89PNG\r\n\x1a\n"


def test_a_glb_stands_upright_and_faces_plus_z(plain: Mesh, tmp_path: Path) -> None:
    import trimesh

    scene = trimesh.load_scene(save_mesh(plain, tmp_path / "thing.glb"))
    low, high = plain.vertices.amin(0).tolist(), plain.vertices.amax(0).tolist()
    np.testing.assert_allclose(scene.bounds, [[low[0], low[2], -high[1]], [high[0], high[2], -low[1]]], atol=1e-6)


def test_a_factor_in_a_glb_is_linear_light(plain: Mesh, tmp_path: Path) -> None:
    tree, _ = read_glb(save_mesh(plain, tmp_path / "thing.glb"))
    assert {m["pbrMetallicRoughness"]["baseColorFactor"][3] for m in tree["materials"]} == {1.0}
    factors = sorted(m["pbrMetallicRoughness"]["baseColorFactor"][0] for m in tree["materials"])
    assert factors[1] == pytest.approx(((0.8 + 0.055) / 1.055) ** 2.4, abs=0.005)


def test_a_cube_gets_hard_edges_and_a_fine_ball_stays_smooth() -> None:
    box, normals = split_normals(cube((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    assert len(box.vertices) == 24
    assert (normals.abs().amax(-1) > 0.999).all()
    angle = torch.arange(32) * (math.tau / 32)
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    tube = torch.cat([torch.cat([ring, torch.full((32, 1), z)], dim=1) for z in (0.0, 1.0)])
    i, j = torch.arange(32), (torch.arange(32) + 1) % 32
    faces = torch.cat([torch.stack([i, j, i + 32], 1), torch.stack([j, j + 32, i + 32], 1)])
    round_one, normals = split_normals(Mesh(vertices=tube, faces=faces))
    outward = round_one.vertices * torch.tensor([1.0, 1.0, 0.0])
    assert ((normals * outward).sum(-1) > 0.99).all()


def test_each_part_of_an_obj_keeps_its_own_texture_coordinates(textured: Mesh, tmp_path: Path) -> None:
    import trimesh

    scene = trimesh.load_scene(save_mesh(textured, tmp_path / "thing.obj"), process=False)
    square = next(part for part in scene.geometry.values() if len(part.faces) == 2)
    np.testing.assert_allclose(square.visual.uv, [[0, 0], [1, 0], [1, 1], [0, 1]])
    np.testing.assert_allclose(square.vertices[2], [0.1, 0.3, 0.25], atol=1e-6)  # (0.1, -0.25, 0.3) of ours


def test_an_obj_brings_its_materials_and_pictures(textured: Mesh, tmp_path: Path) -> None:
    save_mesh(textured, tmp_path / "my thing.obj")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my thing.obj", "my_thing.mtl", "my_thing_1.png"]
    assert "map_Kd my_thing_1.png" in (tmp_path / "my_thing.mtl").read_text()
    assert "mtllib my_thing.mtl" in (tmp_path / "my thing.obj").read_text()


def test_a_texture_becomes_colours_where_a_file_holds_no_pictures(textured: Mesh) -> None:
    """Row 0 of the picture is its top: red and green above, blue and yellow below."""
    colored = to_vertex_colors(textured)
    assert colored.vertex_color is not None and colored.uv is None and len(colored.materials) == 1
    square = colored.vertices[:, 1] == -0.25
    assert len(square.nonzero()) == 4
    corners = (colored.vertices[square] > torch.tensor([-0.15, 0.0, 0.05]))[:, [0, 2]].tolist()
    got = {(right, up): tuple(c) for (right, up), c in zip(corners, colored.vertex_color[square].tolist(), strict=True)}
    assert got == {
        (False, True): (1.0, 0.0, 0.0),
        (True, True): (0.0, 1.0, 0.0),
        (False, False): (0.0, 0.0, 1.0),
        (True, False): (1.0, 1.0, 0.0),
    }
    assert (colored.vertex_color[~square] == torch.tensor([0.9, 0.5, 0.1])).all()


def test_a_ply_has_the_colours_of_the_texture_at_the_right_corners(textured: Mesh, tmp_path: Path) -> None:
    import trimesh

    part = trimesh.load(save_mesh(textured, tmp_path / "thing.ply"), process=False)
    corner = np.argmin(np.linalg.norm(part.vertices - [0.1, -0.25, 0.3], axis=1))
    np.testing.assert_allclose(part.visual.vertex_colors[corner][:3], [0, 255, 0])
    corner = np.argmin(np.linalg.norm(part.vertices - [-0.4, -0.25, -0.2], axis=1))
    np.testing.assert_allclose(part.visual.vertex_colors[corner][:3], [0, 0, 255])


def test_colour_texture_and_vertex_colour_multiply_and_a_texture_repeats() -> None:
    texture = torch.tensor([[[1.0, 0.5, 0.5], [0.2, 0.2, 0.2]]])  # one row: left and right
    mesh = Mesh(
        vertices=torch.rand(3, 3),
        faces=torch.tensor([[0, 1, 2]]),
        uv=torch.tensor([[0.2, 0.5], [0.9, 0.5], [1.3, -0.5]]),
        vertex_color=torch.tensor([[1.0, 1, 1], [0.5, 1, 1], [1, 1, 0.5]]),
        materials=(Material(color=(0.5, 1.0, 1.0), texture=Texture(image=texture), roughness=0.3, metallic=0.6),),
    )
    colored = to_vertex_colors(mesh)
    expected = torch.tensor([[0.5, 0.5, 0.5], [0.05, 0.2, 0.2], [0.5, 0.5, 0.25]])
    torch.testing.assert_close(colored.vertex_color, expected)
    assert (colored.materials[0].roughness, colored.materials[0].metallic) == (0.3, 0.6)
    assert colored.materials[0].color == (1.0, 1.0, 1.0) and torch.equal(colored.vertices, mesh.vertices)


def read_obj(path: Path) -> dict[str, list[list[str]]]:
    """The lines of an OBJ by their keyword."""
    lines: dict[str, list[list[str]]] = {}
    for line in path.read_text().splitlines():
        keyword, *rest = line.split()
        lines.setdefault(keyword, []).append(rest)
    return lines


@pytest.mark.parametrize("kind", ["plain", "textured"])
def test_the_normals_of_an_obj_stand_on_its_faces(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    lines = read_obj(save_mesh(request.getfixturevalue(kind), tmp_path / "thing.obj"))
    points, normals = (np.array(lines[k], float) for k in ("v", "vn"))
    assert lines["f"]
    for face in lines["f"]:
        corners = [[int(n) - 1 for n in corner.split("/") if n] for corner in face]
        a, b, c = (points[corner[0]] for corner in corners)
        upright = np.cross(b - a, c - a)
        for corner in corners:
            np.testing.assert_allclose(normals[corner[-1]], upright / np.linalg.norm(upright), atol=1e-5)


def test_a_ply_keeps_our_frame_and_its_normals_stand_on_its_faces(plain: Mesh, tmp_path: Path) -> None:
    import trimesh

    part = trimesh.load(save_mesh(plain, tmp_path / "thing.ply"), process=False)
    np.testing.assert_allclose(part.bounds, [plain.vertices.amin(0).numpy(), plain.vertices.amax(0).numpy()], atol=1e-6)
    stored = part.vertex_normals[part.faces].mean(1)
    np.testing.assert_allclose(stored, part.face_normals, atol=1e-5)


def test_the_normals_of_a_glb_stand_on_its_faces(plain: Mesh, tmp_path: Path) -> None:
    tree, binary = read_glb(save_mesh(plain, tmp_path / "thing.glb"))
    for primitive in tree["meshes"][0]["primitives"]:
        points, normals = (read_accessor(tree, binary, primitive["attributes"][n]) for n in ("POSITION", "NORMAL"))
        for face in read_accessor(tree, binary, primitive["indices"])[:, 0].reshape(-1, 3).astype(int):
            a, b, c = points[face]
            upright = np.cross(b - a, c - a)
            np.testing.assert_allclose(normals[face], [upright / np.linalg.norm(upright)] * 3, atol=1e-4)


def test_a_glb_says_of_each_buffer_what_it_holds_and_of_each_part_its_finish(tmp_path: Path, colored: Mesh) -> None:
    shiny = (Material(roughness=0.25, metallic=0.75),)
    mesh = Mesh(vertices=colored.vertices, faces=colored.faces, vertex_color=colored.vertex_color, materials=shiny)
    tree, _ = read_glb(save_mesh(mesh, tmp_path / "thing.glb"))
    (primitive,) = tree["meshes"][0]["primitives"]
    targets = {
        tree["bufferViews"][tree["accessors"][i]["bufferView"]]["target"] for i in primitive["attributes"].values()
    }
    assert targets == {34962}
    assert tree["bufferViews"][tree["accessors"][primitive["indices"]]["bufferView"]]["target"] == 34963
    finish = tree["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert (finish["roughnessFactor"], finish["metallicFactor"]) == (0.25, 0.75)


def test_the_library_of_an_obj_holds_each_colour_and_finish(tmp_path: Path) -> None:
    mesh = cube((0.25, 0.5, 1.0), (0.0, 0.0, 0.0))
    mesh = Mesh(
        vertices=mesh.vertices,
        faces=mesh.faces,
        materials=(Material(color=(0.25, 0.5, 1.0), roughness=0.3, metallic=0.9),),
    )
    assert save_mesh(mesh, str(tmp_path / "a.obj")) == tmp_path / "a.obj"
    library = (tmp_path / "a.mtl").read_text().splitlines()
    assert library == ["newmtl a_0", "Kd 0.25 0.5 1", "Ks 0 0 0", "illum 1", "Pr 0.3", "Pm 0.9"]


def test_an_obj_whose_colour_is_at_its_vertices_has_no_library(colored: Mesh, tmp_path: Path) -> None:
    lines = read_obj(save_mesh(colored, tmp_path / "a.obj"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.obj"] and "mtllib" not in lines and "usemtl" not in lines
    assert {len(row) for row in lines["v"]} == {6}
    low = min(lines["v"], key=lambda row: float(row[1]))  # y is up
    assert [float(x) for x in low[3:]] == pytest.approx([0.8, 0.1, 0.2])


def test_saving_again_replaces_the_file_and_leaves_nothing_else(plain: Mesh, tmp_path: Path) -> None:
    for _ in range(2):
        save_mesh(plain, tmp_path / "deep" / "thing.glb")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["thing.glb"]


def test_an_unknown_suffix_lists_the_known_ones(plain: Mesh, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.glb, \.obj, \.ply, \.stl, \.usdz; got 'thing.fbx'"):
        save_mesh(plain, tmp_path / "thing.fbx")
    with pytest.raises(InputError, match="at least one face"):
        save_mesh(Mesh(vertices=plain.vertices, faces=plain.faces[:0]), tmp_path / "thing.glb")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_an_output_error(plain: Mesh, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        save_mesh(plain, tmp_path / "file" / "thing.glb")
