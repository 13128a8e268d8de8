"""Every program in examples/ runs as it stands and stays short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert list((tmp_path / "out" / "examples").iterdir())
