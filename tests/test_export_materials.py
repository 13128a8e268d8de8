"""What a saved mesh keeps of its materials: seen from the file as from memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from viewfold.camera import Cameras
from viewfold.errors import InputError
from viewfold.scene.export import save_mesh
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.meshfile import load_mesh
from viewfold.scene.rasterize import rasterize


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_a_file_keeps_glass_holes_light_and_colours_beside_a_texture(suffix: str, tmp_path: Path) -> None:
    """Drawn from the file as before; an OBJ's and a PLY's textures are small enough to be held by their vertices."""
    square = torch.tensor([[-0.3, 0.0, -0.3], [0.3, 0, -0.3], [0.3, 0, 0.3], [-0.3, 0, 0.3]])
    faces, uv = torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    parts = []
    for number, material in enumerate((
        Material(color=(0.9, 0.5, 0.5), texture=Texture(image=torch.full((2, 2, 3), 0.8), wrap=("clamp", "clamp"))),
        Material(color=(0.2, 0.2, 1.0), alpha_mode="blend", opacity=0.4),
        Material(color=(0.0, 0.0, 0.0), emission=(0.3, 0.6, 0.0)),
        Material(texture=Texture(image=torch.full((2, 2, 4), 0.5)), alpha_mode="blend"),
    )):  # fmt: skip
        shift = torch.tensor([0.15 * number, -0.1 * number, 0.1 * number])
        tint = torch.full((4, 3), 0.75)
        parts.append(Mesh(vertices=square + shift, faces=faces, uv=uv, vertex_color=tint, materials=(material,)))
    mesh = Mesh.cat(parts)
    view = Cameras.orbit(2, elevation_deg=10.0)
    before = rasterize(mesh, view, size=32)
    after = rasterize(load_mesh(save_mesh(mesh, tmp_path / f"a{suffix}")), view, size=32)
    assert float((before.rgb - after.rgb).abs().max()) < 0.02 and float((before.alpha - after.alpha).abs().max()) < 0.02


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
@pytest.mark.parametrize("opacity", [0.4, 0.6])
def test_a_threshold_of_alpha_is_applied(opacity: float, suffix: str, tmp_path: Path) -> None:
    """Alpha below the threshold is not there, above it is opaque: nothing of it becomes half transparent."""
    square = torch.tensor([[-0.3, 0.0, -0.3], [0.3, 0, -0.3], [0.3, 0, 0.3], [-0.3, 0, 0.3]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    image = torch.full((2, 2, 4), 0.75)
    for texture in (None, Texture(image=image)):
        cut = Material(color=(1.0, 0.0, 0.0), opacity=opacity, alpha_mode="mask", alpha_cutoff=0.44, texture=texture)
        behind = Mesh(vertices=square * 0.5 + 0.1, faces=faces, uv=torch.zeros(4, 2))
        mesh = Mesh.cat([Mesh(vertices=square, faces=faces, uv=torch.rand(4, 2), materials=(cut,)), behind])
        view = Cameras.orbit(1, elevation_deg=10.0)
        before = rasterize(mesh, view, size=24)
        after = rasterize(load_mesh(save_mesh(mesh, tmp_path / f"a{suffix}")), view, size=24)
        assert float((before.rgb - after.rgb).abs().max()) < 0.02
        assert float((before.alpha - after.alpha).abs().max()) < 0.02


def test_what_an_obj_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    corners = torch.rand(3, 3)
    mesh = Mesh(vertices=corners, faces=torch.tensor([[0, 1, 2]]), vertex_alpha=torch.ones(3))
    with pytest.raises(InputError, match="OBJ cannot hold alpha of vertices"):
        save_mesh(mesh, tmp_path / "a.obj")
