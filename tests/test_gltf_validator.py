"""Every GLB that we write, held to the standard by Khronos's own validator, a Node package."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from glb import Glb
from lift_fakes import PerfectPrior, ball, ball_views
from test_export import cube
from test_provenance import LABEL

from viewfold.data.toybox import sample_toy
from viewfold.lifting.light import Bare, Lighting
from viewfold.lifting.paint import PaintSettings
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.stages import FitSettings, LiftSettings, MeshSettings, lift
from viewfold.scene.export import save_mesh
from viewfold.scene.grid import GridSettings
from viewfold.scene.material import Material, Texture
from viewfold.scene.mesh import Mesh
from viewfold.scene.standing import Standing

pytestmark = pytest.mark.heavy

VALIDATOR = "gltf-validator@2.0.0-dev.3.10"

VALIDATE = """
const fs = require("fs"), validator = require("gltf-validator");
const bytes = new Uint8Array(fs.readFileSync(process.argv[2]));
validator.validateBytes(bytes, { maxIssues: 100 }).then((told) => console.log(JSON.stringify(told)));
"""

ALLOWED = {"IMAGE_NPOT_DIMENSIONS", "ACCESSOR_INDEX_TRIANGLE_DEGENERATE"}
"""Hints that are no fault: a picture as wide as was asked for, a face without area in a mesh as it was given."""

Validate = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> Validate:
    """Return what says everything that is found in a file, but for what is `ALLOWED`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the validator of glTF needs node and npm")
    folder = tmp_path_factory.mktemp("validator")
    subprocess.run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, VALIDATOR], check=True)
    (folder / "validate.js").write_text(VALIDATE)

    def validate(path: Path) -> list[str]:
        done = subprocess.run([node, folder / "validate.js", path], capture_output=True, text=True, check=True)
        issues = json.loads(done.stdout)["issues"]
        assert not issues["truncated"]
        found = [issue for issue in issues["messages"] if issue["code"] not in ALLOWED]
        return [f"{issue['code']}: {issue['message']} {issue.get('pointer')}" for issue in found]

    return validate


def test_the_validator_finds_what_is_wrong(complaints: Validate, tmp_path: Path) -> None:
    glb = Glb()
    glb.nodes({"mesh": glb.mesh({"attributes": {"POSITION": glb.add([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])}})})
    found = complaints(glb.save(tmp_path / "a.glb"))
    assert "MESH_PRIMITIVE_POSITION_ACCESSOR_WITHOUT_BOUNDS" in {line.partition(":")[0] for line in found}


@pytest.mark.parametrize(("light", "relief"), [(Bare(), True), (Bare(), False), (None, True)])
def test_what_is_lifted_is_valid(complaints: Validate, light: Lighting | None, relief: bool, tmp_path: Path) -> None:
    """With a normal map, without, and unlit, because the light in the views is not known."""
    settings = LiftSettings(
        representation=GridSettings(resolution=24, samples=24),
        fit=FitSettings(steps=12),
        polish=PolishSettings(steps=2),
        mesh=MeshSettings(resolution=24, faces=300, texture_size=64),
        paint=PaintSettings(light=light, relief=relief),
        standing=Standing(height=1.0, origin="base"),
    )
    known = PerfectPrior(lambda cameras, size: ball(cameras, size=size)[0])
    asset = lift(known, "a red ball, 球", views=ball_views(), settings=settings)
    path = replace(asset, label=LABEL).save(tmp_path / "ball.glb", turntable=False)
    assert complaints(path) == []
    (material,) = asset.mesh.materials
    assert (material.normal_texture is not None) == relief and material.lit == (light is not None)


IMAGE = torch.rand(5, 7, 4, generator=torch.Generator().manual_seed(0))
SQUARE = Mesh(
    vertices=torch.tensor([[-0.3, 0.0, -0.2], [0.3, 0.0, -0.2], [0.3, 0.0, 0.4], [-0.3, 0.0, 0.4]]),
    faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
    uv=torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
)
PAINTED = Material(texture=Texture(image=IMAGE[..., :3], wrap=("clamp", "mirror"), nearest=True))
BUMPY = replace(PAINTED, normal_texture=Texture(image=torch.tensor([0.5, 0.5, 1.0]).expand(4, 4, 3)))
SHINING = Material(
    emission=(0.2, 0.9, 0.0), emission_texture=Texture(image=IMAGE[..., :3]), roughness=0.2, metallic=1.0
)


def square(material: Material) -> Mesh:
    return replace(SQUARE, materials=(material,))


MESHES = {
    "plain": cube((1.0, 1.0, 1.0), (0.1, -0.1, 0.2)),
    "colours of vertices": replace(SQUARE, vertex_color=IMAGE[0, :4, :3], vertex_alpha=IMAGE[0, :4, 3]),
    "unlit": square(Material(color=(0.2, 0.4, 0.6), lit=False)),
    "glass": square(Material(texture=Texture(image=IMAGE), alpha_mode="blend", opacity=0.5)),
    "holes": square(Material(texture=Texture(image=IMAGE), alpha_mode="mask", alpha_cutoff=0.3)),
    "relief": square(BUMPY),
    "relief without an area in the picture": replace(square(BUMPY), uv=torch.zeros(4, 2)),
    "light": square(SHINING),
    "light elsewhere": replace(square(SHINING), emission_uv=torch.rand(4, 2)),
    "light, and nothing else has coordinates": replace(square(SHINING), uv=None, emission_uv=torch.rand(4, 2)),
    "pictures without coordinates": replace(
        SQUARE, uv=None, materials=(replace(BUMPY, emission=(1.0, 1.0, 1.0), emission_texture=PAINTED.texture),)
    ),
    "all together": Mesh.cat([
        *map(square, (Material(), PAINTED, BUMPY, SHINING, replace(PAINTED, lit=False))),
        replace(SQUARE, vertex_color=IMAGE[0, :4, :3]),
    ]),
    "a face without area": replace(SQUARE, faces=torch.tensor([[0, 1, 2], [0, 0, 3], [0, 2, 3]])),
    "more vertices than 16 bits count": Mesh(
        vertices=torch.rand(70_002, 3), faces=torch.arange(70_002).reshape(-1, 3), vertex_color=torch.rand(70_002, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MESHES)
def test_what_is_saved_is_valid(complaints: Validate, kind: str, tmp_path: Path) -> None:
    assert complaints(save_mesh(MESHES[kind], tmp_path / "a.glb", label=LABEL)) == []


@pytest.mark.parametrize("seed", range(8))
def test_toys_are_valid(complaints: Validate, seed: int, tmp_path: Path) -> None:
    assert complaints(save_mesh(sample_toy(seed).mesh(), tmp_path / "toy.glb")) == []
