"""Normal maps: what a viewer decodes is the fine surface, in a frame that the file holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_reprojection import sphere
from torch import Tensor
from torch.nn.functional import normalize

from viewfold.camera import Cameras
from viewfold.scene.export import save_mesh
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize
from viewfold.scene.relief import bake_relief, fine_normals
from viewfold.scene.texture import Texels, unwrap
from viewfold.scene.vertex import split_normals, tangents


def square(uv: list[list[float]]) -> Mesh:
    """A unit square seen from above, x to the right and y up."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    return Mesh(vertices=corners, faces=torch.tensor([[0, 1, 2], [0, 2, 3]]), uv=torch.tensor(uv))


UP = torch.tensor([[0.0, 0.0, 1.0]]).expand(4, 3)


@pytest.mark.parametrize(
    ("uv", "tangent", "sign"),
    [
        ([[0.0, 0], [1, 0], [1, 1], [0, 1]], [1.0, 0, 0], 1.0),
        ([[1.0, 0], [0, 0], [0, 1], [1, 1]], [-1.0, 0, 0], -1.0),  # mirrored
        ([[0.0, 1], [0, 0], [1, 0], [1, 1]], [0.0, 1, 0], 1.0),  # a quarter turn
        ([[0.0, 1], [1, 1], [1, 0], [0, 0]], [1.0, 0, 0], -1.0),  # upside down
    ],
)
def test_tangents_run_along_u_and_their_sign_says_where_v_grows(uv: list, tangent: list, sign: float) -> None:
    made = tangents(square(uv), UP)
    torch.testing.assert_close(made, torch.tensor([*tangent, sign]).expand(4, 4))


def test_tangents_are_unit_and_across_the_normal_even_where_the_picture_has_no_area() -> None:
    made = tangents(square([[0.3, 0.3]] * 4), normalize(torch.randn(4, 3), dim=-1))
    assert bool(made.isfinite().all())
    normals = normalize(torch.tensor([[0.3, 0.2, 1.0], [1, 0, 0.1], [0, 1, 1], [-1, 1, 1]]), dim=-1)
    made = tangents(square([[0.0, 0], [1, 0], [1, 1], [0, 1]]), normals)
    torch.testing.assert_close(made[:, :3].norm(dim=-1), torch.ones(4))
    torch.testing.assert_close((made[:, :3] * normals).sum(-1), torch.zeros(4), atol=1e-5, rtol=0)


def octahedron(steps: int) -> Mesh:
    """A ball from an octahedron whose faces are cut in four `steps` times."""
    mesh = Mesh(
        vertices=torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]]),
        faces=torch.tensor([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]),
    )
    for _ in range(steps):
        a, b, c = mesh.vertices[mesh.faces].unbind(1)
        d, e, f = a + b, b + c, c + a
        corners = normalize(torch.stack([a, d, f, d, b, e, f, e, c, d, e, f], dim=1).reshape(-1, 3), dim=-1)
        points, index = corners.unique(dim=0, return_inverse=True)
        mesh = Mesh(vertices=points, faces=index.reshape(-1, 3))
    return replace(mesh, vertices=0.35 * normalize(mesh.vertices, dim=-1))


def decoded(path: Path) -> tuple[Tensor, Tensor]:
    """Return world normals, and where they are, of each texel's nearest vertex: as a viewer reads the file."""
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    tree, body = json.loads(data[20 : 20 + length]), data[28 + length :]

    def read(name: str) -> Tensor:
        accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"][name]]
        view, width = tree["bufferViews"][accessor["bufferView"]], int(accessor["type"][-1])
        raw = np.frombuffer(body, "<f4", accessor["count"] * width, view["byteOffset"])
        return torch.from_numpy(raw.copy()).reshape(-1, width)

    (material,) = tree["materials"]
    image = tree["images"][tree["textures"][material["normalTexture"]["index"]]["source"]]
    view = tree["bufferViews"][image["bufferView"]]
    from io import BytesIO

    from PIL import Image

    pixels = Image.open(BytesIO(body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]))
    texels = torch.from_numpy(np.asarray(pixels).copy()).float() / 127.5 - 1
    place, normal, tangent, uv = (read(n) for n in ("POSITION", "NORMAL", "TANGENT", "TEXCOORD_0"))
    size = texels.shape[0]
    column, row = ((uv[:, i] * size).long().clamp(0, size - 1) for i in (0, 1))  # glTF's v runs downwards
    local = texels[row, column]
    bitangent = torch.linalg.cross(normal, tangent[:, :3]) * tangent[:, 3:]
    world = local[:, :1] * tangent[:, :3] + local[:, 1:2] * bitangent + local[:, 2:] * normal
    return normalize(world, dim=-1), place


def test_a_viewer_sees_the_fine_ball_on_the_coarse_one(tmp_path: Path) -> None:
    """128 flat-looking faces with the normals of 8,192: read from the file as the format says."""
    coarse, fine = octahedron(2), octahedron(5)
    texels = Texels.of(unwrap(coarse, size=256), size=256)
    shown = bake_relief(texels, fine)
    mesh = replace(texels.mesh, materials=(Material(normal_texture=shown),))
    normals, place = decoded(save_mesh(mesh, tmp_path / "ball.glb"))
    error = (normals * normalize(place, dim=-1)).sum(-1).clamp(-1, 1).acos().rad2deg()
    assert float(error.max()) < 4 and float(error.mean()) < 1.5


def test_a_tilt_is_told_with_its_sides_the_right_way_round(tmp_path: Path) -> None:
    """A flat square whose fine surface leans by 20 degrees, to the right of the picture and then to its top."""
    for uv in ([[0.0, 0], [1, 0], [1, 1], [0, 1]], [[0.0, 1], [0, 0], [1, 0], [1, 1]]):
        for lean in (torch.tensor([0.34, 0.0, 0.94]), torch.tensor([0.0, 0.34, 0.94])):
            flat = square(uv)
            corners = flat.vertices.clone()
            corners[:, 2] = -(corners[:, :2] - 0.5) @ lean[:2] / lean[2]
            texels = Texels.of(flat, size=32)
            made = bake_relief(texels, replace(flat, vertices=corners))
            mesh = replace(flat, materials=(Material(normal_texture=made),))
            normals, _ = decoded(save_mesh(mesh, tmp_path / "lean.glb"))
            torch.testing.assert_close(normals, normalize(lean, dim=0).expand(4, 3), atol=0.02, rtol=0)


def test_the_back_of_a_thin_wall_and_overhangs_are_left_out() -> None:
    flat = square([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    texels = Texels.of(flat, size=16)
    back = replace(flat, vertices=flat.vertices - torch.tensor([0.0, 0.0, 0.001]), faces=flat.faces.flip(1))
    torch.testing.assert_close(fine_normals(texels, back), texels.normals)
    both = Mesh.cat([flat, back])
    torch.testing.assert_close(fine_normals(texels, both), texels.normals)


def test_a_surface_like_its_fine_one_has_a_flat_map() -> None:
    ball = sphere(n=24)
    texels = Texels.of(unwrap(ball, size=64), size=64)
    image = bake_relief(texels, ball).image
    aside = (image[..., :2] - 0.5).abs()
    assert float((image[..., 2] - 1).abs().max()) < 0.05 and float(aside.max()) < 0.2 and float(aside.mean()) < 0.02


def test_only_our_own_pictures_leave_it_out_and_the_file_is_read_again(tmp_path: Path) -> None:
    ball = unwrap(octahedron(2), size=64)
    bumpy = replace(ball, materials=(Material(normal_texture=Texture(image=torch.rand(64, 64, 3))),))
    view = Cameras.orbit(1)
    again = load_mesh(save_mesh(bumpy, tmp_path / "ball.glb"))
    for mesh in (bumpy, again):
        torch.testing.assert_close(rasterize(mesh, view, size=16).rgb, rasterize(ball, view, size=16).rgb)
    assert bumpy.materials[0].key != ball.materials[0].key
    moved = bumpy.materials[0].to("meta").normal_texture
    assert moved is not None and moved.image.device.type == "meta"
    for name in ("ball.obj", "ball.ply"):
        save_mesh(bumpy, tmp_path / name)


def test_split_vertices_keep_the_order_of_the_faces() -> None:
    """A texel finds its face's corners in the file by the number of the face."""
    ball = unwrap(octahedron(2), size=64)
    split, _ = split_normals(ball)
    torch.testing.assert_close(split.vertices[split.faces], ball.vertices[ball.faces])
