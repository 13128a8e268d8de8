"""STL files, opened by another library, by hand and by what prints them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from test_export import cube

from viewfold.scene.export import save_mesh
from viewfold.scene.mesh import Mesh


def test_trimesh_opens_the_shape_in_millimetres_with_z_up(tmp_path: Path) -> None:
    import trimesh

    mesh = cube((1.0, 0.0, 0.0), (0.1, -0.2, 0.3))
    part = trimesh.load_mesh(save_mesh(mesh, tmp_path / "a.stl"))
    low, high = mesh.vertices.amin(0).numpy(), mesh.vertices.amax(0).numpy()
    np.testing.assert_allclose(part.bounds, [1000 * low, 1000 * high], rtol=1e-6)
    assert part.is_watertight and part.volume > 0, "its faces look outward"
    np.testing.assert_allclose(part.volume, 300.0**3, rtol=1e-5)


def test_a_triangle_is_fifty_bytes_by_hand(tmp_path: Path) -> None:
    corners = torch.tensor([[0.0, 0.0, 0.0], [0.001, 0.0, 0.0], [0.0, 0.002, 0.0]])
    data = save_mesh(Mesh(vertices=corners, faces=torch.tensor([[0, 1, 2]])), tmp_path / "a.stl").read_bytes()
    assert len(data) == 80 + 4 + 50 and not data.startswith(b"solid") and b"millimetres" in data[:80]
    assert struct.unpack("<I12fH", data[80:]) == (1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0)
