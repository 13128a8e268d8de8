"""Files that we save, opened in Blender itself: where they stand, how they are shaded, what their materials are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lift_fakes
import numpy as np
import pytest
import torch
from lift_fakes import PerfectPrior

from viewfold.data.engines.blender import PROGRAM
from viewfold.lifting.asset import Asset3D
from viewfold.lifting.light import Bare
from viewfold.lifting.paint import PaintSettings
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.stages import FitSettings, LiftSettings, MeshSettings, lift
from viewfold.scene.export import save_mesh
from viewfold.scene.grid import GridSettings
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh
from viewfold.scene.standing import Standing

LOOK = """
import json, sys, bpy
bpy.ops.wm.read_factory_settings(use_empty=True)
path = sys.argv[-1]
{"obj": bpy.ops.wm.obj_import, "glb": bpy.ops.import_scene.gltf, "ply": bpy.ops.wm.ply_import,
 "stl": bpy.ops.wm.stl_import, "sdz": bpy.ops.wm.usd_import}[path[-3:]](filepath=path)
told = []

def texels(mesh):  # the base colour's picture at each corner; None where there is none
    for link in (l for m in mesh.materials if m and m.use_nodes for l in m.node_tree.links):
        if link.to_node.type == "BSDF_PRINCIPLED" and link.to_socket.name == "Base Color" and mesh.uv_layers.active:
            while link.from_node.type != "TEX_IMAGE":
                link = next(l for s in link.from_node.inputs for l in s.links if l.from_node.type != "VALUE")
            image = link.from_node.image
            (width, height), pixels = image.size, image.pixels[:]
            at = [(min(int(u.uv[0] * width), width - 1), min(int(u.uv[1] * height), height - 1))
                  for u in mesh.uv_layers.active.data]
            return [pixels[4 * (y * width + x):][:3] for x, y in at]

for found in bpy.data.objects:
    if found.type != "MESH":
        continue
    mesh = found.data
    colours = [list(n.inputs["Base Color"].default_value) for m in mesh.materials if m and m.use_nodes
               for n in m.node_tree.nodes if n.type == "BSDF_PRINCIPLED"]
    told.append({
        "name": found.name,
        "materials": [m.name for m in mesh.materials],
        "texels": texels(mesh),
        "points": [list(found.matrix_world @ v.co) for v in mesh.vertices],
        "smooth": [p.use_smooth for p in mesh.polygons],
        "normals": [list(found.matrix_world.to_3x3() @ n.vector) for n in mesh.corner_normals],
        "corners": [loop.vertex_index for loop in mesh.loops],
        "colours": colours,
        "vertex_colours": [[list(d.color) for d in a.data] for a in mesh.color_attributes if a.domain == "POINT"],
    })
print("told:" + json.dumps(told))
"""


def ball() -> Mesh:
    """A ball of 12 x 8 faces, half red and half blue."""
    rows, around = 9, 12
    down = torch.linspace(0.2, np.pi - 0.2, rows)
    turn = torch.arange(around) * (2 * np.pi / around)
    points = torch.stack([
        down.sin()[:, None] * turn.cos(), down.sin()[:, None] * turn.sin(), down.cos()[:, None].expand(-1, around)
    ], dim=-1).reshape(-1, 3)  # fmt: skip
    faces, which = [], []
    for row in range(rows - 1):
        for column in range(around):
            a, b = row * around + column, row * around + (column + 1) % around
            faces += [(a, a + around, b), (b, a + around, b + around)]
            which += [int(row >= rows // 2)] * 2
    materials = (Material(color=(1.0, 0.0, 0.0)), Material(color=(0.0, 0.0, 1.0)))
    return Mesh(vertices=points, faces=torch.tensor(faces), face_material=torch.tensor(which), materials=materials)


def look(path: Path, folder: Path) -> list[dict[str, Any]]:
    """Open a file in Blender, and return what there is of each mesh."""
    if not (program := os.environ.get(PROGRAM)):
        pytest.skip(f"{PROGRAM} names no Python with bpy")
    (folder / "look.py").write_text(LOOK)
    done = subprocess.run([program, str(folder / "look.py"), str(path)], capture_output=True, text=True, timeout=300)
    line = next((line for line in done.stdout.splitlines() if line.startswith("told:")), None)
    assert line is not None, done.stderr
    return json.loads(line.removeprefix("told:"))


def smallest_turn(part: dict[str, Any], center: Sequence[float] = (0.0, 0.0, 0.0)) -> float:
    """Return the least cosine between a corner's shading normal and the direction out of a ball."""
    at = np.array(part["points"])[part["corners"]] - center
    outward = at / np.linalg.norm(at, axis=1, keepdims=True)
    return float((outward * np.array(part["normals"])).sum(1).min())


@pytest.mark.heavy
@pytest.mark.parametrize("suffix", ["obj", "glb", "ply", "stl", "usdz"])
def test_blender_sees_a_smooth_upright_coloured_ball(suffix: str, tmp_path: Path) -> None:
    if suffix == "usdz":
        pytest.importorskip("pxr")
    mesh = ball()
    told = look(save_mesh(mesh, tmp_path / f"ball.{suffix}"), tmp_path)
    points = np.concatenate([part["points"] for part in told]) * (0.001 if suffix == "stl" else 1)  # it is in mm
    assert np.allclose(points.min(0), mesh.vertices.numpy().min(0), atol=1e-4), "Blender's frame is ours: z up"
    assert np.allclose(points.max(0), mesh.vertices.numpy().max(0), atol=1e-4)
    for part in told if suffix != "stl" else []:  # which is flat and has no colour
        assert all(part["smooth"]) and smallest_turn(part) > 0.9, "shaded as a ball"
    if suffix == "ply":
        assert any(part["vertex_colours"] for part in told)
    elif suffix != "stl":
        colours = {tuple(round(c, 2) for c in colour[:3]) for part in told for colour in part["colours"]}
        assert {(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)} <= colours


@pytest.fixture(scope="module")
def lifted() -> Asset3D:
    """A red ball with a blue top, lifted from true views of it, a metre tall."""
    settings = LiftSettings(
        representation=GridSettings(resolution=32, samples=32),
        fit=FitSettings(steps=40),
        polish=PolishSettings(steps=5),
        mesh=MeshSettings(resolution=32, faces=1000, texture_size=64),
        paint=PaintSettings(light=Bare(), relief=True),
        standing=Standing(height=1.0, origin="base"),
    )
    known = PerfectPrior(lambda cameras, size: lift_fakes.ball(cameras, size=size)[0])
    return lift(known, "a red ball, blue on top", views=lift_fakes.ball_views(n_views=8), settings=settings)


@pytest.mark.heavy
@pytest.mark.parametrize("suffix", ["obj", "glb", "ply", "stl", "usdz"])
def test_blender_sees_what_was_lifted_a_metre_tall_with_its_picture_on(
    suffix: str, lifted: Asset3D, tmp_path: Path
) -> None:
    if suffix == "usdz":
        pytest.importorskip("pxr")
    (part,) = look(lifted.save(tmp_path / f"file.{suffix}"), tmp_path)
    points = np.array(part["points"]) / (1000 if suffix == "stl" else 1)  # millimetres
    low, high = points.min(0), points.max(0)
    assert low == pytest.approx([-high[0], -high[1], 0], abs=1e-4), "it stands on the ground, about the z axis"
    assert high[2] == pytest.approx(1, abs=1e-4) and np.allclose(high[:2] * 2, 1, atol=0.1)
    if suffix == "stl":
        return
    assert all(part["smooth"]) and smallest_turn(part, (0, 0, 0.5)) > 0.8
    if suffix == "ply":
        colour, height = np.array(part["vertex_colours"][0])[:, :3], points[:, 2]
    else:
        assert part["name"].startswith("a_red_ball_blue_on_top")
        assert part["materials"] == ["a_red_ball_blue_on_top_0"]
        colour, height = np.array(part["texels"]), points[part["corners"], 2]
    # the blue begins at z = 0.15 of a ball of radius 0.35
    assert (colour[height > 0.85, 2] > colour[height > 0.85, 0] + 0.3).all(), "blue on top"
    assert (colour[height < 0.55, 0] > colour[height < 0.55, 2] + 0.3).all(), "red below"
