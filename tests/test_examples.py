"""Every program in examples/ runs as it stands and stays short."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_hand_off import check_hand_off

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHIPPED = ROOT / "src" / "viewfold" / "models" / "toybox" / "model_index.json"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_under_sixty_lines(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 60


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    if "vf.load(" in example.read_text() and not SHIPPED.is_file():
        pytest.skip("the shipped model is not in this checkout")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(example)], cwd=tmp_path, env=environment, check=True, timeout=600)
    MADE[example.stem](tmp_path / "out" / "examples")


def check_views(folder: Path, *, n_views: int, size: int, prompt: str) -> None:
    from viewfold.views import Views

    views = Views.load(folder)
    assert views.rgb.shape == (n_views, 3, size, size) and prompt in views.prompt
    assert float(views.rgb.std()) > 0.05, "something is drawn"
    assert len(set(map(tuple, views.cameras.position.tolist()))) == n_views


def check_asset(path: Path) -> None:
    from viewfold.scene.meshfile import load_mesh

    mesh, report = load_mesh(path), json.loads(path.with_suffix(".json").read_text())
    assert len(mesh.faces) > 100 and float(mesh.vertices.norm(dim=1).max()) < 0.9
    assert report["faces"] == len(mesh.faces) and mesh.materials[0].texture is not None


MADE = {
    "01_generate": lambda out: check_views(out / "views", n_views=4, size=64, prompt="a red mug"),
    "02_lift": lambda out: check_asset(out / "asset.glb"),
    "03_cameras": lambda out: check_views(out / "spiral", n_views=8, size=128, prompt="a "),
    "04_distil_your_prior": lambda out: check_asset(out / "grey.glb"),
    "05_hand_off": lambda out: check_hand_off(out / "hand-off"),
}
"""What each example leaves; a new one says it here."""
