"""glTF by other writers: every feature of the standard that decides what is seen, on files made by hand."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glb import Glb
from PIL import Image

from viewfold import limits
from viewfold.errors import AssetError
from viewfold.scene.meshfile import load_mesh

TRIANGLE = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]
SQUARE = [[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
UV = [[0.0, 1], [1, 1], [1, 0], [0, 0]]


def y_up(mesh: Any) -> torch.Tensor:
    """The vertices in glTF's frame."""
    x, y, z = mesh.vertices.unbind(1)
    return torch.stack([x, z, -y], dim=1)


def triangle(glb: Glb, **more: Any) -> dict[str, Any]:
    return {"attributes": {"POSITION": glb.add(TRIANGLE)}, **more}


def picture(color: Any = ((255, 0, 0), (0, 255, 0))) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array([color], np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def textured(glb: Glb, **texture_info: Any) -> dict[str, Any]:
    glb.tree["images"] = [{"bufferView": glb.view(picture()), "mimeType": "image/png"}]
    glb.tree.setdefault("textures", [{"source": 0}])
    glb.tree["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **texture_info}}}]
    attributes = {"POSITION": glb.add(SQUARE), "TEXCOORD_0": glb.add(UV)}
    return {"attributes": attributes, "indices": glb.add([0, 1, 2, 0, 2, 3], "u1"), "material": 0}


def load(glb: Glb, tmp_path: Path) -> Any:
    return load_mesh(glb.save(tmp_path / "a.glb"))


@pytest.mark.parametrize(("mode", "corners", "faces"), [
    (4, [0, 1, 2, 0, 2, 3], [[0, 1, 2], [0, 2, 3]]),
    (5, [0, 1, 3, 2], [[0, 1, 3], [1, 2, 3]]),
    (6, [0, 1, 2, 3], [[0, 1, 2], [0, 2, 3]]),
])  # fmt: skip
def test_triangles_strips_and_fans_with_indices_and_without(
    mode: int, corners: list[int], faces: list[list[int]], tmp_path: Path
) -> None:
    for indexed in (True, False):
        glb = Glb()
        points = SQUARE if indexed else [SQUARE[i] for i in corners]
        primitive: dict[str, Any] = {"attributes": {"POSITION": glb.add(points)}, "mode": mode}
        if indexed:
            primitive["indices"] = glb.add(corners, "u2")
        glb.nodes({"mesh": glb.mesh(primitive)})
        mesh = load(glb, tmp_path)
        expected = torch.tensor(SQUARE)[torch.tensor(faces)]
        corner = y_up(mesh)[mesh.faces]
        turned = {tuple(map(tuple, face.roll(i, 0).tolist())) for face in expected for i in range(3)}
        assert len(corner) == 2 and all(tuple(map(tuple, face.tolist())) in turned for face in corner)


def test_sparse_accessors_replace_and_stand_alone(tmp_path: Path) -> None:
    glb = Glb()
    values = {"bufferView": glb.view(np.array([[5, 6, 7]], "<f4").tobytes())}
    sparse = {"count": 1, "indices": {"bufferView": glb.view(b"\2"), "componentType": 5121}, "values": values}
    whole = glb.add(TRIANGLE, sparse=sparse)
    glb.tree["accessors"].append({"componentType": 5126, "count": 3, "type": "VEC3", "sparse": sparse})
    glb.nodes({"mesh": glb.mesh({"attributes": {"POSITION": whole}}, {"attributes": {"POSITION": whole + 1}})})
    found = y_up(load(glb, tmp_path))
    torch.testing.assert_close(
        found, torch.tensor([[0.0, 0, 0], [1, 0, 0], [5, 6, 7], [0, 0, 0], [0, 0, 0], [5, 6, 7]])
    )


@pytest.mark.parametrize(("dtype", "most"), [("i1", 127), ("u1", 255), ("i2", 32767), ("u2", 65535)])
def test_normalised_and_plain_integers_as_positions_and_texture_coordinates(
    dtype: str, most: int, tmp_path: Path
) -> None:
    glb = Glb()
    part = textured(glb)
    part["attributes"]["TEXCOORD_0"] = glb.add(np.array(UV) * most, dtype, normalized=True)
    part["attributes"]["POSITION"] = glb.add(np.array(SQUARE) * 3, dtype)
    glb.nodes({"mesh": glb.mesh(part)})
    mesh = load(glb, tmp_path)
    torch.testing.assert_close(mesh.uv, torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]))
    torch.testing.assert_close(y_up(mesh), torch.tensor(SQUARE) * 3)


@pytest.mark.parametrize(("dtype", "most"), [("f4", 1), ("u1", 255), ("u2", 65535)])
@pytest.mark.parametrize("width", [3, 4])
def test_vertex_colours_of_every_type_are_linear(dtype: str, most: int, width: int, tmp_path: Path) -> None:
    glb = Glb()
    linear = np.array([[0.2, 1, 0, 0.5], [0.2, 1, 0, 1], [0.2, 1, 0, 0]])[:, :width]
    color = glb.add(np.rint(linear * most) if most > 1 else linear, dtype, normalized=most > 1)
    glb.nodes({"mesh": glb.mesh(triangle(glb) | {"attributes": {"POSITION": glb.add(TRIANGLE), "COLOR_0": color}})})
    mesh = load(glb, tmp_path)
    torch.testing.assert_close(mesh.vertex_color[0], torch.tensor([0.4845, 1.0, 0.0]), atol=2e-3, rtol=0)
    if width == 4:
        torch.testing.assert_close(mesh.vertex_alpha, torch.tensor([0.5, 1, 0]), atol=3e-3, rtol=0)
    else:
        assert mesh.vertex_alpha is None


def test_texture_transform_sets_of_coordinates_and_samplers(tmp_path: Path) -> None:
    """Offset, quarter turn and scale as in the extension's own matrix; TEXCOORD_1 by the extension's texCoord."""
    moved = {"offset": [0.5, 0.25], "rotation": math.pi / 2, "scale": [2, 3], "texCoord": 1}
    glb = Glb()
    glb.tree["extensionsRequired"] = ["KHR_texture_transform"]
    glb.tree["textures"] = [{"source": 0, "sampler": 0}]
    glb.tree["samplers"] = [{"wrapS": 33071, "wrapT": 33648, "magFilter": 9728}]
    part = textured(glb, extensions={"KHR_texture_transform": moved})
    other = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    part["attributes"]["TEXCOORD_1"] = glb.add(other)
    glb.nodes({"mesh": glb.mesh(part)})
    mesh = load(glb, tmp_path)
    u, v = 2 * other[:, 0], 3 * other[:, 1]
    expected = np.stack([v + 0.5, 1 - (-u + 0.25)], axis=1)
    torch.testing.assert_close(mesh.uv, torch.from_numpy(expected).float())
    texture = mesh.materials[0].texture
    assert texture.wrap == ("clamp", "mirror") and texture.nearest


def test_a_skin_poses_its_vertices_and_the_node_does_not_count(tmp_path: Path) -> None:
    """Two joints, half and half: the middle of both; weights need not sum to one."""
    glb = Glb()
    bind = np.stack([np.eye(4), np.eye(4)])
    bind[1, 3, :3] = [0, -2, 0]  # column by column: the second joint rests at y = 2
    attributes = {
        "POSITION": glb.add([[0.0, 2, 0], [0, 2, 0], [0, 2, 0]]),
        "JOINTS_0": glb.add([[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], "u1"),
        "WEIGHTS_0": glb.add([[1.0, 0, 0, 0], [2, 0, 0, 0], [0.5, 0.5, 0, 0]]),
    }
    glb.tree["skins"] = [{"joints": [1, 2], "inverseBindMatrices": glb.add(bind.reshape(2, 16))}]
    mesh = glb.mesh({"attributes": attributes})
    joints = ({"translation": [10, 0, 0]}, {"translation": [0, 0, 7]})
    glb.nodes({"mesh": mesh, "skin": 0, "translation": [99, 99, 99]}, *joints, roots=[0, 1, 2])
    found = y_up(load(glb, tmp_path))
    torch.testing.assert_close(found, torch.tensor([[10.0, 2, 0], [0, 0, 7], [5, 1, 3.5]]))


def test_morph_weights_of_the_mesh_and_of_the_node(tmp_path: Path) -> None:
    glb = Glb()
    target = {"POSITION": glb.add([[0.0, 0, 1], [0, 0, 1], [0, 0, 1]])}
    mesh = glb.mesh(triangle(glb, targets=[target, target]), weights=[0.25, 0])
    glb.nodes({"mesh": mesh}, {"mesh": mesh, "weights": [0, 2]}, roots=[0, 1])
    depth = y_up(load(glb, tmp_path))[:, 2]
    torch.testing.assert_close(depth, torch.tensor([0.25] * 3 + [2.0] * 3))


def test_copies_by_instancing_and_a_tree_of_nodes_that_mirrors(tmp_path: Path) -> None:
    glb = Glb()
    glb.tree["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]
    copies = {"TRANSLATION": glb.add([[1.0, 0, 0], [2, 0, 0]]), "SCALE": glb.add([[1.0, 1, 1], [2, 2, 2]])}
    below = {"mesh": glb.mesh(triangle(glb)), "extensions": {"EXT_mesh_gpu_instancing": {"attributes": copies}}}
    glb.nodes({"camera": 0, "children": [1], "scale": [-1, 1, 1], "translation": [0, 0, 3]}, below)
    mesh = load(glb, tmp_path)
    x = y_up(mesh)[:, 0]
    torch.testing.assert_close(x, torch.tensor([-1.0, -2, -1, -2, -4, -2]))
    front = mesh.face_normals()  # a mirror turns faces round, so that they still look at +z of glTF
    torch.testing.assert_close(front, torch.tensor([[0.0, -1, 0]]).expand(2, 3))


def test_alpha_modes_emission_unlit_and_the_formats_defaults(tmp_path: Path) -> None:
    glb = Glb()
    glb.tree["materials"] = [
        {"alphaMode": "MASK", "alphaCutoff": 0.3, "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0.4]}},
        {"alphaMode": "BLEND", "emissiveFactor": [1, 0, 0.2140411],
         "extensions": {"KHR_materials_emissive_strength": {"emissiveStrength": 1}}},
        {"extensions": {"KHR_materials_unlit": {}}},
        {"extensions": {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [0, 1, 0, 1], "glossinessFactor": 1}}},
    ]  # fmt: skip
    parts = [triangle(glb, material=index) for index in range(4)] + [triangle(glb)]
    glb.nodes({"mesh": glb.mesh(*parts)})
    mask, blend, unlit, glossy, plain = load(glb, tmp_path).materials
    assert (mask.alpha_mode, mask.alpha_cutoff, mask.opacity) == ("mask", 0.3, 0.4)
    assert blend.alpha_mode == "blend" and blend.emission == pytest.approx((1, 0, 0.5), abs=1e-4)
    assert not unlit.lit and plain.lit and (plain.roughness, plain.metallic) == (1.0, 1.0)
    assert glossy.color == pytest.approx((0.0, 1.0, 0.0)) and (glossy.roughness, glossy.metallic) == (0.0, 0.0)


def test_a_gltf_with_files_beside_it_whose_names_are_encoded_and_with_data_in_itself(tmp_path: Path) -> None:
    glb = Glb()
    part = textured(glb)
    glb.nodes({"mesh": glb.mesh(part)})
    (tmp_path / "my texture.png").write_bytes(picture())
    (tmp_path / "two words.bin").write_bytes(glb.binary)
    glb.tree["images"] = [{"uri": "my%20texture.png"}]
    inside = "data:application/octet-stream;base64," + base64.b64encode(glb.binary).decode()
    for uri in ("two%20words.bin", inside):
        glb.tree["buffers"] = [{"byteLength": len(glb.binary), "uri": uri}]
        (tmp_path / "a.gltf").write_text(json.dumps(glb.tree))
        mesh = load_mesh(tmp_path / "a.gltf")
        assert len(mesh.faces) == 2 and mesh.materials[0].texture.image.shape == (1, 2, 3)


def test_sixteen_bits_of_grey_are_scaled_and_an_absent_texture_is_named(tmp_path: Path) -> None:
    glb = Glb()
    part = textured(glb)
    glb.nodes({"mesh": glb.mesh(part)})
    buffer = io.BytesIO()
    Image.fromarray(np.array([[32768, 65535]], np.uint16)).save(buffer, format="PNG")
    glb.tree["images"] = [{"bufferView": glb.view(buffer.getvalue())}]
    image = load(glb, tmp_path).materials[0].texture.image
    torch.testing.assert_close(image[0, :, 0], torch.tensor([0.5, 1.0]), atol=1e-4, rtol=0)
    glb.tree["images"] = [{"uri": "gone.png"}]
    with pytest.raises(AssetError, match=r"a\.glb.*gone\.png.*not there"):
        load(glb, tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    ({"extensionsRequired": ["EXT_new", "KHR_texture_basisu"]}, "requires EXT_new, KHR_texture_basisu"),
    ({"asset": {"version": "1.0"}}, "must be glTF 2"),
    ({"scenes": [{"nodes": [7]}]}, "nodes 7, of which there are 1"),
    ({"nodes": [{"mesh": 0, "children": [0]}]}, "two places of the tree"),
    ({"nodes": [{"mesh": 0, "matrix": [1e999] * 16}]}, "16 finite numbers"),
    ({"accessors": [{"componentType": 5126, "count": 9, "type": "VEC3", "bufferView": 0}]}, "does not fit"),
    ({"accessors": [{"componentType": 5126, "count": 10**9, "type": "VEC3"}]}, "at most 5000000 faces"),
    ({"bufferViews": [{"buffer": 0, "byteLength": 10**6}]}, "after its data"),
    ({"buffers": [{"byteLength": 1, "uri": "../../etc/passwd"}]}, "outside of its folder|in place"),
    ({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 1}]}]}, "at least one face"),
])  # fmt: skip
def test_what_is_wrong_or_not_read_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    glb = Glb()
    glb.nodes({"mesh": glb.mesh(triangle(glb))})
    glb.tree.update(change)
    path = glb.save(tmp_path / "a.glb")
    if "buffers" in change:
        path = tmp_path / "a.gltf"
        path.write_text(json.dumps({**glb.tree, **change}))
    with pytest.raises(AssetError, match=message):
        load_mesh(path)


def test_one_budget_for_all_textures_and_all_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glb = Glb()
    part = textured(glb)
    glb.tree["images"] *= 3
    glb.tree["textures"] = [{"source": i} for i in range(3)]
    glb.tree["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": i}}} for i in range(3)]
    glb.nodes({"mesh": glb.mesh(*({**part, "material": i} for i in range(3)))}, {"mesh": 0}, roots=[0, 1])
    assert len(load(glb, tmp_path).faces) == 12
    monkeypatch.setattr(limits, "TEXTURE_PIXELS", 5)
    with pytest.raises(AssetError, match="at most 5 pixels together"):
        load(glb, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(limits, "MESH_FACES", 11)
    with pytest.raises(AssetError, match="at most 11 faces, copies counted"):
        load(glb, tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_named_like_a_mesh_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.glb")
    with pytest.raises(AssetError, match="must be a file; it is a folder, a pipe or a device"):
        load_mesh(tmp_path / "a.glb")


def test_draco_is_decoded(tmp_path: Path) -> None:
    draco = pytest.importorskip("DracoPy")
    glb = Glb()
    points = np.array(SQUARE, np.float32)
    data = draco.encode(points, np.array([[0, 1, 2], [0, 2, 3]], np.uint32), quantization_bits=14)
    extension = {"bufferView": glb.view(data), "attributes": {"POSITION": 0}}
    primitive = {"attributes": {"POSITION": 0}, "extensions": {"KHR_draco_mesh_compression": extension}}
    glb.tree["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    glb.nodes({"mesh": glb.mesh(primitive)})
    mesh = load(glb, tmp_path)
    assert (
        len(mesh.faces) == 2
        and float((y_up(mesh).sort(0).values - torch.tensor(SQUARE).sort(0).values).abs().max()) < 1e-3
    )
