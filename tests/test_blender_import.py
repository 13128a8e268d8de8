"""Files that we save, opened in Blender itself: where they stand, how they are shaded, what their materials are."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from viewfold.data.engines.blender import PROGRAM
from viewfold.scene.export import save_mesh
from viewfold.scene.material import Material
from viewfold.scene.mesh import Mesh

LOOK = """
import json, sys, bpy
bpy.ops.wm.read_factory_settings(use_empty=True)
path = sys.argv[-1]
{"obj": bpy.ops.wm.obj_import, "glb": bpy.ops.import_scene.gltf, "ply": bpy.ops.wm.ply_import,
 "stl": bpy.ops.wm.stl_import, "sdz": bpy.ops.wm.usd_import}[path[-3:]](filepath=path)
told = []
for found in bpy.data.objects:
    if found.type != "MESH":
        continue
    mesh = found.data
    colours = [list(n.inputs["Base Color"].default_value) for m in mesh.materials if m and m.use_nodes
               for n in m.node_tree.nodes if n.type == "BSDF_PRINCIPLED"]
    told.append({
        "points": [list(found.matrix_world @ v.co) for v in mesh.vertices],
        "smooth": [p.use_smooth for p in mesh.polygons],
        "normals": [list(found.matrix_world.to_3x3() @ n.vector) for n in mesh.corner_normals],
        "corners": [loop.vertex_index for loop in mesh.loops],
        "colours": colours,
        "vertex_colours": [a.name for a in mesh.color_attributes],
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


@pytest.mark.heavy
@pytest.mark.parametrize("suffix", ["obj", "glb", "ply", "stl", "usdz"])
def test_blender_sees_a_smooth_upright_coloured_ball(suffix: str, tmp_path: Path) -> None:
    if not (program := os.environ.get(PROGRAM)):
        pytest.skip(f"{PROGRAM} names no Python with bpy")
    if suffix == "usdz":
        pytest.importorskip("pxr")
    mesh = ball()
    path = save_mesh(mesh, tmp_path / f"ball.{suffix}")
    (tmp_path / "look.py").write_text(LOOK)
    done = subprocess.run([program, str(tmp_path / "look.py"), str(path)], capture_output=True, text=True, timeout=300)
    line = next((line for line in done.stdout.splitlines() if line.startswith("told:")), None)
    assert line is not None, done.stderr
    told = json.loads(line.removeprefix("told:"))
    points = np.concatenate([part["points"] for part in told]) * (0.001 if suffix == "stl" else 1)  # it is in mm
    assert np.allclose(points.min(0), mesh.vertices.numpy().min(0), atol=1e-4), "Blender's frame is ours: z up"
    assert np.allclose(points.max(0), mesh.vertices.numpy().max(0), atol=1e-4)
    for part in told if suffix != "stl" else []:  # which is flat and has no colour
        at = np.array(part["points"])[part["corners"]]
        outward = at / np.linalg.norm(at, axis=1, keepdims=True)
        assert all(part["smooth"])
        assert (outward * np.array(part["normals"])).sum(1).min() > 0.9, "shaded as a ball"
    if suffix == "ply":
        assert any(part["vertex_colours"] for part in told)
    elif suffix != "stl":
        colours = {tuple(round(c, 2) for c in colour[:3]) for part in told for colour in part["colours"]}
        assert {(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)} <= colours
